//! The appraisal policy: everything that a verifier pins, in one TOML file. There is no hidden trust store beside it.
//!
//! ```toml
//! anchor = "intel"                    # or "simulated", or the name of a file with a root certificate in DER
//! publishers = ["<64 hex digits>"]    # Ed25519 keys that may sign image manifests
//! owners = ["<64 hex digits>"]        # Ed25519 keys that may sign intents
//! minimum_svn = 1                     # of the image
//! minimum_evaluation_data_number = 17
//! tcb_statuses = ["UpToDate"]         # this is the default
//! tcb_grace_days = 0                  # how long an out-of-date platform counts as if it were not
//! refused_advisories = ["INTEL-SA-01036"]
//! dynamic_platform = true             # whether the platform may be so: all three default to true
//! cached_keys = true
//! smt = true
//! [[platforms]]
//! id = "<32 hex digits>"              # platform instance id or PPID
//! name = "rack 7"
//! region = "eu-central"
//! [expect]
//! session = "<uuid>"
//! owner = "<64 hex digits>"
//! instance = "<64 hex digits>"
//! mrtd = "<96 hex digits>"            # also rtmr0 to rtmr3, mrseam, mrconfigid, mrowner, mrownerconfig
//! ```
//! Unknown keys are refused. What is left out is not judged, except for `tcb_statuses`. The file's JSON schema is
//! `docs/appraisal-policy.schema.json`, which tests hold to this parser (`tests/corpus/schemas.rs`).

use std::str::FromStr;

use serde::Deserialize;

use super::anchor::TrustAnchor;
use super::endorsed::VerifiedQuote;
use super::platform_policy::{Allowed, GRACE_DAYS_MAX, PlatformPolicy, TcbStatus};
use super::registers::{ExpectedRegister, RegisterName};
use crate::ids::{Digest256, InstanceId, SessionId};
use crate::sign::PublicKey;

/// A policy file longer than this, in bytes, is refused unread.
pub const MAX_POLICY_BYTES: usize = 1024 * 1024;

/// Why a text is not an appraisal policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Over [`MAX_POLICY_BYTES`].
    #[error("appraisal policy of {0} bytes; at most {MAX_POLICY_BYTES} are read")]
    TooLarge(usize),
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("appraisal policy: {0}")]
    Toml(String),
    /// A value with the right type and a wrong form.
    #[error("appraisal policy: {key} {value:?}: expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// As found.
        value: String,
        /// What it must look like.
        expected: &'static str,
    },
}

/// One platform on the list of those whose place is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownPlatform {
    /// PPID or platform instance id.
    pub id: Vec<u8>,
    /// What people call it.
    pub name: String,
    /// Where it stands.
    pub region: String,
}

/// What the user of the verifier expects of this one bundle.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expectations {
    /// The session.
    pub session: Option<SessionId>,
    /// The key that signed the intent.
    pub owner: Option<PublicKey>,
    /// The TD instance.
    pub instance: Option<InstanceId>,
    /// A checkpoint note seen during the session: the bundle's log must extend it.
    pub seen_note: Option<String>,
    /// Registers of the TD: RTMR3 as it is in the last quote, all others as they are in every quote.
    pub registers: Vec<ExpectedRegister>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Anchor {
    Named(TrustAnchor),
    File { name: String, der: Option<Vec<u8>> },
}

/// A parsed appraisal policy. Empty lists pin nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppraisalPolicy {
    digest: Digest256,
    anchor: Anchor,
    /// Keys that may sign image manifests.
    pub publishers: Vec<PublicKey>,
    /// Keys that may sign intents.
    pub owners: Vec<PublicKey>,
    /// Platforms whose place is known.
    pub platforms: Vec<KnownPlatform>,
    /// Lowest image security version.
    pub minimum_svn: Option<u64>,
    /// What is asked of the platform behind each quote.
    pub platform: PlatformPolicy,
    /// Expectations, held together with those of the command line.
    pub expect: Expectations,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    anchor: String,
    #[serde(default)]
    publishers: Vec<String>,
    #[serde(default)]
    owners: Vec<String>,
    #[serde(default)]
    platforms: Vec<PlatformEntry>,
    minimum_svn: Option<u64>,
    minimum_evaluation_data_number: Option<u64>,
    tcb_statuses: Option<Vec<TcbStatus>>,
    tcb_grace_days: Option<u64>,
    #[serde(default)]
    refused_advisories: Vec<String>,
    dynamic_platform: Option<bool>,
    cached_keys: Option<bool>,
    smt: Option<bool>,
    #[serde(default)]
    expect: ExpectTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlatformEntry {
    id: String,
    #[serde(default)]
    name: String,
    region: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ExpectTable {
    session: Option<String>,
    owner: Option<String>,
    instance: Option<String>,
    mrtd: Option<String>,
    rtmr0: Option<String>,
    rtmr1: Option<String>,
    rtmr2: Option<String>,
    rtmr3: Option<String>,
    mrseam: Option<String>,
    mrconfigid: Option<String>,
    mrowner: Option<String>,
    mrownerconfig: Option<String>,
}

impl AppraisalPolicy {
    /// Parses the text of a policy file. An `anchor` that names a file is resolved with [`AppraisalPolicy::with_anchor_file`];
    /// until then no root is trusted.
    ///
    /// # Errors
    /// [`PolicyError`] for an unknown key or a malformed value.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLarge(text.len()));
        }
        let file: PolicyFile = toml::from_str(text).map_err(|error| PolicyError::Toml(error.message().to_owned()))?;
        let platform = parse_platform_policy(&file)?;
        Ok(AppraisalPolicy {
            digest: Digest256::of(text.as_bytes()),
            anchor: parse_anchor(file.anchor)?,
            publishers: parse_keys("publishers", &file.publishers)?,
            owners: parse_keys("owners", &file.owners)?,
            platforms: file.platforms.into_iter().map(parse_platform).collect::<Result<_, _>>()?,
            minimum_svn: file.minimum_svn,
            platform,
            expect: parse_expectations(&file.expect)?,
        })
    }

    /// SHA-256 of the policy text.
    #[must_use]
    pub fn digest(&self) -> &Digest256 {
        &self.digest
    }

    /// The file that `anchor` names and that has not been supplied yet, if it names one.
    #[must_use]
    pub fn anchor_file(&self) -> Option<&str> {
        match &self.anchor {
            Anchor::File { name, der: None } => Some(name),
            Anchor::File { der: Some(_), .. } | Anchor::Named(_) => None,
        }
    }

    /// Supplies the contents of [`AppraisalPolicy::anchor_file`]; changes nothing for a named anchor.
    #[must_use]
    pub fn with_anchor_file(mut self, contents: Vec<u8>) -> Self {
        if let Anchor::File { der, .. } = &mut self.anchor {
            *der = Some(contents);
        }
        self
    }

    /// The listed platform that a quote is from, by its PPID or its platform instance id.
    #[must_use]
    pub fn platform_of(&self, quote: &VerifiedQuote) -> Option<&KnownPlatform> {
        let instance = quote.platform_instance_id().map(<[u8; 16]>::as_slice);
        self.platforms.iter().find(|known| known.id == quote.ppid() || Some(known.id.as_slice()) == instance)
    }

    /// The trusted root: one, or none while the anchor's file is missing.
    #[must_use]
    pub fn anchors(&self) -> Vec<TrustAnchor> {
        match &self.anchor {
            Anchor::Named(anchor) => vec![anchor.clone()],
            Anchor::File { der, .. } => der.iter().cloned().map(TrustAnchor::Der).collect(),
        }
    }
}

fn parse_platform_policy(file: &PolicyFile) -> Result<PlatformPolicy, PolicyError> {
    let defaults = PlatformPolicy::default();
    let grace = file.tcb_grace_days.unwrap_or(0);
    if grace > GRACE_DAYS_MAX {
        return Err(PolicyError::Value {
            key: "tcb_grace_days",
            value: grace.to_string(),
            expected: "at most 3650 days",
        });
    }
    if let Some(id) = file.refused_advisories.iter().find(|id| !id.to_ascii_uppercase().starts_with("INTEL-SA-")) {
        let expected = "an advisory of Intel, as INTEL-SA-01036";
        return Err(PolicyError::Value { key: "refused_advisories", value: id.clone(), expected });
    }
    let allowed = |value: Option<bool>| if value == Some(false) { Allowed::No } else { Allowed::Yes };
    Ok(PlatformPolicy {
        tcb_statuses: file.tcb_statuses.clone().unwrap_or(defaults.tcb_statuses),
        tcb_grace_days: grace,
        minimum_evaluation_data_number: file.minimum_evaluation_data_number,
        refused_advisories: file.refused_advisories.clone(),
        dynamic_platform: allowed(file.dynamic_platform),
        cached_keys: allowed(file.cached_keys),
        smt: allowed(file.smt),
    })
}

fn parse_anchor(text: String) -> Result<Anchor, PolicyError> {
    match text.as_str() {
        "intel" => Ok(Anchor::Named(TrustAnchor::Intel)),
        "simulated" => Ok(Anchor::Named(TrustAnchor::Simulated)),
        "" => Err(PolicyError::Value { key: "anchor", value: text, expected: "intel, simulated or a file name" }),
        _ => Ok(Anchor::File { name: text, der: None }),
    }
}

fn parse_key(key: &'static str, text: &str) -> Result<PublicKey, PolicyError> {
    PublicKey::from_str(text).map_err(|_| PolicyError::Value {
        key,
        value: text.to_owned(),
        expected: "an Ed25519 public key as 64 hexadecimal digits",
    })
}

fn parse_keys(key: &'static str, texts: &[String]) -> Result<Vec<PublicKey>, PolicyError> {
    texts.iter().map(|text| parse_key(key, text)).collect()
}

fn parse_platform(entry: PlatformEntry) -> Result<KnownPlatform, PolicyError> {
    match hex::decode(&entry.id) {
        Ok(id) if id.len() == 16 => Ok(KnownPlatform { id, name: entry.name, region: entry.region }),
        _ => Err(PolicyError::Value {
            key: "platforms.id",
            value: entry.id,
            expected: "a PPID or platform instance id as 32 hexadecimal digits",
        }),
    }
}

fn parse_expectations(table: &ExpectTable) -> Result<Expectations, PolicyError> {
    let session = table.session.as_ref().map(|text| {
        SessionId::from_str(text).map_err(|_| PolicyError::Value {
            key: "expect.session",
            value: text.clone(),
            expected: "a UUID",
        })
    });
    let instance = table.instance.as_ref().map(|text| {
        InstanceId::from_str(text).map_err(|_| PolicyError::Value {
            key: "expect.instance",
            value: text.clone(),
            expected: "64 hexadecimal digits",
        })
    });
    let owner = table.owner.as_ref().map(|text| parse_key("expect.owner", text));
    Ok(Expectations {
        session: session.transpose()?,
        owner: owner.transpose()?,
        instance: instance.transpose()?,
        seen_note: None,
        registers: parse_registers(table)?,
    })
}

fn parse_registers(table: &ExpectTable) -> Result<Vec<ExpectedRegister>, PolicyError> {
    let given = [
        (RegisterName::Mrtd, &table.mrtd),
        (RegisterName::Rtmr0, &table.rtmr0),
        (RegisterName::Rtmr1, &table.rtmr1),
        (RegisterName::Rtmr2, &table.rtmr2),
        (RegisterName::Rtmr3, &table.rtmr3),
        (RegisterName::MrSeam, &table.mrseam),
        (RegisterName::MrConfigId, &table.mrconfigid),
        (RegisterName::MrOwner, &table.mrowner),
        (RegisterName::MrOwnerConfig, &table.mrownerconfig),
    ];
    let given = given.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
    given
        .map(|(name, text)| {
            ExpectedRegister::parse(name, text).ok_or_else(|| PolicyError::Value {
                key: "expect, a register",
                value: text.clone(),
                expected: "96 hexadecimal digits",
            })
        })
        .collect()
}

#[cfg(test)]
#[path = "../../tests/support/refused_policies.rs"]
mod refused_policies;

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PublicKey {
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        PublicKey::from_bytes(key.as_bytes()).unwrap()
    }

    #[test]
    fn a_whole_policy_is_read_and_its_digest_is_that_of_its_bytes() {
        let text = format!(
            "anchor = \"simulated\"\npublishers = [\"{0}\"]\nowners = [\"{0}\"]\nminimum_svn = 3\n\
             minimum_evaluation_data_number = 17\ntcb_statuses = [\"UpToDate\", \"SWHardeningNeeded\"]\n\
             [[platforms]]\nid = \"00112233445566778899aabbccddeeff\"\nname = \"rack 7\"\nregion = \"eu\"\n\
             [expect]\nsession = \"00112233-4455-6677-8899-aabbccddeeff\"\nowner = \"{0}\"\ninstance = \"{1}\"\n",
            key(),
            "ab".repeat(32)
        );
        let policy = AppraisalPolicy::parse(&text).unwrap();
        assert_eq!(policy.digest(), &Digest256::of(text.as_bytes()));
        assert_eq!(policy.anchors(), [TrustAnchor::Simulated]);
        assert_eq!(policy.publishers, [key()]);
        assert_eq!(policy.owners, [key()]);
        assert_eq!(policy.platforms.len(), 1);
        assert_eq!((policy.minimum_svn, policy.platform.minimum_evaluation_data_number), (Some(3), Some(17)));
        assert_eq!(policy.platform.tcb_statuses, [TcbStatus::UpToDate, TcbStatus::SWHardeningNeeded]);
        assert!(policy.expect.session.is_some() && policy.expect.owner.is_some() && policy.expect.instance.is_some());
    }

    #[test]
    fn an_unknown_key_a_missing_anchor_and_malformed_values_are_refused() {
        let good = "anchor = \"intel\"\n";
        assert!(AppraisalPolicy::parse(good).is_ok());
        for (wrong, _) in super::refused_policies::REFUSED {
            assert!(AppraisalPolicy::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_asked_of_platforms_and_registers_is_read() {
        let text = format!(
            "anchor = \"intel\"\ntcb_grace_days = 30\nrefused_advisories = [\"INTEL-SA-01036\"]\n\
             dynamic_platform = false\ncached_keys = false\nsmt = false\n[expect]\nmrtd = \"{0}\"\nrtmr3 = \"{0}\"\n",
            "0a".repeat(48)
        );
        let policy = AppraisalPolicy::parse(&text).unwrap();
        let no = Allowed::No;
        assert_eq!(
            policy.platform,
            PlatformPolicy {
                tcb_grace_days: 30,
                refused_advisories: vec!["INTEL-SA-01036".into()],
                dynamic_platform: no,
                cached_keys: no,
                smt: no,
                ..PlatformPolicy::default()
            }
        );
        let names: Vec<RegisterName> = policy.expect.registers.iter().map(|register| register.name).collect();
        assert_eq!(names, [RegisterName::Mrtd, RegisterName::Rtmr3]);
    }

    #[test]
    fn an_anchor_file_that_was_not_supplied_trusts_no_root() {
        let policy = AppraisalPolicy::parse("anchor = \"root.der\"").unwrap();
        assert_eq!(policy.anchor_file(), Some("root.der"));
        assert_eq!(policy.anchors(), []);
        let policy = policy.with_anchor_file(vec![1, 2, 3]);
        assert_eq!(policy.anchor_file(), None);
        assert_eq!(policy.anchors(), [TrustAnchor::Der(vec![1, 2, 3])]);
    }

    #[test]
    fn without_a_list_only_an_up_to_date_platform_is_accepted() {
        let policy = AppraisalPolicy::parse("anchor = \"intel\"").unwrap();
        assert_eq!(policy.platform, PlatformPolicy::default());
        assert_eq!(policy.platform.tcb_statuses, [TcbStatus::UpToDate]);
    }

    #[test]
    fn a_policy_ends_at_its_cap_and_an_anchor_is_what_its_name_says() {
        let padded = |length: usize| {
            let text = "anchor = \"intel\"\n#";
            format!("{text}{}", "x".repeat(length - text.len()))
        };
        assert_eq!(MAX_POLICY_BYTES, 1_048_576);
        let whole = AppraisalPolicy::parse(&padded(MAX_POLICY_BYTES)).expect("a policy");
        assert_eq!(whole.anchors(), [TrustAnchor::Intel]);
        let longer = AppraisalPolicy::parse(&padded(MAX_POLICY_BYTES + 1));
        assert!(matches!(longer, Err(PolicyError::TooLarge(found)) if found == MAX_POLICY_BYTES + 1), "{longer:?}");
        let file = AppraisalPolicy::parse("anchor = \"intel.der\"\n").expect("a policy");
        assert_eq!(file.anchors(), [], "until the file is read no root is trusted");
    }
}
