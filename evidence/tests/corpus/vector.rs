//! One vector: a bundle, what the verifier is asked, and what it must answer.

use coffer_evidence::bundle::{self, Parts};
use coffer_evidence::private::{Access, Identities, access};
use coffer_evidence::verify::{
    AcceptPrefix, AcceptSimulated, Accepted, AnyOwner, AppraisalPolicy, EverySignature, Expectations, Options, Report,
    Rule, Verdict, verify_bundle,
};

use crate::session::AT;

/// A flag of `coffer evidence verify`.
#[derive(Clone)]
pub(crate) enum Flag {
    Simulated,
    Prefix,
    AnyOwner,
    EverySignature,
    Session(String),
    Owner(String),
    Instance(String),
    /// The text of the note; on a command line the flag names a file.
    Seen(String),
    /// The text of a file of age identities; on a command line the flag names the file.
    Identity(&'static str),
}

/// A check, by its rule and its name.
pub(crate) type Row = (Rule, &'static str);

#[derive(Clone)]
pub(crate) struct Vector {
    pub(crate) name: String,
    /// What differs from a session that nobody touched.
    pub(crate) change: String,
    pub(crate) bundle: Vec<u8>,
    pub(crate) policy: Option<String>,
    pub(crate) at: u64,
    pub(crate) flags: Vec<Flag>,
    pub(crate) verdict: Verdict,
    pub(crate) accepted: Accepted,
    /// The one check in the way; none of an accepted bundle.
    pub(crate) decides: Option<Row>,
}

/// A sealed and accepted one, until something else is said.
pub(crate) fn vector(name: impl Into<String>, change: impl Into<String>, bundle: Vec<u8>) -> Vector {
    Vector {
        name: name.into(),
        change: change.into(),
        bundle,
        policy: None,
        at: AT,
        flags: vec![Flag::Simulated],
        verdict: Verdict::Sealed,
        accepted: Accepted::Yes,
        decides: None,
    }
}

/// The same from parts.
pub(crate) fn of(name: impl Into<String>, change: impl Into<String>, parts: &Parts) -> Vector {
    vector(name, change, bundle::write(parts))
}

impl Vector {
    /// Something present is wrong.
    pub(crate) fn refused(self, rule: Rule, check: &'static str) -> Self {
        Self { verdict: Verdict::Invalid, accepted: Accepted::No, decides: Some((rule, check)), ..self }
    }

    /// Something needed is missing.
    pub(crate) fn missing(self, rule: Rule, check: &'static str) -> Self {
        Self { verdict: Verdict::Indeterminate, accepted: Accepted::CannotTell, decides: Some((rule, check)), ..self }
    }

    /// Genuine, and the policy says no.
    pub(crate) fn rejected(self, rule: Rule, check: &'static str) -> Self {
        Self { accepted: Accepted::No, decides: Some((rule, check)), ..self }
    }

    /// Genuine, and the policy cannot tell.
    pub(crate) fn unsettled(self, rule: Rule, check: &'static str) -> Self {
        Self { accepted: Accepted::CannotTell, decides: Some((rule, check)), ..self }
    }

    /// A prefix instead of the whole.
    pub(crate) fn aborted(self) -> Self {
        Self { verdict: Verdict::Aborted, ..self }
    }

    pub(crate) fn policy(self, text: impl Into<String>) -> Self {
        Self { policy: Some(text.into()), ..self }
    }

    pub(crate) fn at(self, at: u64) -> Self {
        Self { at, ..self }
    }

    pub(crate) fn flag(mut self, flag: Flag) -> Self {
        self.flags.push(flag);
        self
    }

    /// Asked without `--accept-simulated`.
    pub(crate) fn unflagged(self) -> Self {
        Self { flags: Vec::new(), ..self }
    }

    pub(crate) fn options(&self) -> Options {
        options(&self.bundle, self.policy.as_deref(), self.at, &self.flags)
    }

    pub(crate) fn judge(&self) -> Report {
        verify_bundle(&self.bundle, &self.options())
    }
}

/// In the verifier's terms. A policy that names a certificate names the one of `third_root`.
pub(crate) fn options(bundle: &[u8], policy: Option<&str>, at: u64, flags: &[Flag]) -> Options {
    let policy = policy.map(|text| {
        let policy = AppraisalPolicy::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        policy.with_anchor_file(crate::certificates::third_root())
    });
    let mut options = Options { at, policy, ..Options::default() };
    for flag in flags {
        let expect: &mut Expectations = &mut options.expect;
        match flag {
            Flag::Simulated => options.accept_simulated = AcceptSimulated::Yes,
            Flag::Prefix => options.accept_prefix = AcceptPrefix::Yes,
            Flag::AnyOwner => options.any_owner = AnyOwner::Yes,
            Flag::EverySignature => options.every_signature = EverySignature::Yes,
            Flag::Session(id) => expect.session = Some(id.parse().expect("a session")),
            Flag::Owner(key) => expect.owner = Some(key.parse().expect("an owner")),
            Flag::Instance(id) => expect.instance = Some(id.parse().expect("an instance")),
            Flag::Seen(note) => expect.seen_note = Some(note.clone()),
            Flag::Identity(file) => options.access = opened_by(file, bundle),
        }
    }
    options
}

/// As the command does it: the identities are tried on `private.age` of a bundle whose framing holds.
fn opened_by(file: &str, bundle: &[u8]) -> Access {
    let identities = Identities::parse(file).expect("identities");
    let bundle = bundle::read(bundle);
    bundle.map_or(Access::NoIdentity, |bundle| access(bundle.member("private.age"), &identities))
}
