//! Creating a session: what the user chooses, the owner's signature, and the wait until it is Ready.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use coffer_client::Client;
use coffer_client::intents::{self, Wish};
use coffer_client::keys::{self, KeyName};
use coffer_evidence::ids::{Identity, SessionId};
use coffer_evidence::intent::{Limits, RecordRequired};
use coffer_evidence::sign::PublicKey;
use coffer_policy::texts;
use coffer_proto::control::v1::{Phase, Platform, Session};

use crate::command::Context;
use crate::exit::{UNAVAILABLE, USAGE, failure};
use crate::image::{self, Chosen};
use crate::output::{Output, printable};
use crate::session::{outcome_word, phase_word, reason_word};
use crate::time::parse_duration;
use crate::{key, session, session_policy};

/// What a user chooses of a session.
#[derive(Clone, Debug, Args)]
pub(crate) struct Wanted {
    /// The image: its digest, the first 8 or more digits of it, or its name [default: cofferd's default]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// What each identity of the session may do [default: `coffer policy default` prints it]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The identities of the session, each with a key of its own [default: those that the policy names, else `default`]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = parse_identity)]
    identities: Vec<Identity>,
    /// End a call when what it does with files cannot be recorded in full
    #[arg(long)]
    require_record: bool,
    /// Refuse a host that would only simulate TDX
    #[arg(long)]
    require_tdx: bool,
    /// How long the session may live [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// How long it may be idle [default: 15m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    idle: Option<Duration>,
    /// Whom the host accounts it to
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    tenant: String,
    /// The deployment, part of the log's name
    #[arg(long, default_value = "local", value_name = "NAME")]
    audience: String,
    /// The least security version that the image may have
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "SVN")]
    minimum_svn: u64,
}

/// A session as it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Created {
    pub(crate) id: SessionId,
    pub(crate) image: Chosen,
    pub(crate) owner: PublicKey,
    pub(crate) session: Session,
}

impl Wanted {
    /// Signs and asks. Returns before the session is Ready.
    pub(crate) async fn create(self, context: &Context, client: &Client) -> anyhow::Result<Created> {
        let (policy, identities) = self.policy(&context.output)?;
        let limits = self.limits()?;
        let directory = keys::directory()?;
        let (owner, origin) = keys::load_or_make(&directory, &KeyName::Owner)?;
        key::tell_if_made(&context.output, &KeyName::Owner, &origin);
        let public = |name: Identity| -> anyhow::Result<_> {
            Ok((name.clone(), key::public(&context.output, &KeyName::Identity(name))?))
        };
        let identities = identities.into_iter().map(public).collect::<anyhow::Result<_>>()?;
        let image = image::choose(client, self.image.as_deref()).await?;
        match image.platform {
            Platform::Simulated if self.require_tdx => {
                let title = &image.title;
                let message =
                    format!("expected an image for TDX, found that {title} is for the simulator: --image another");
                return Err(failure(UNAVAILABLE, message));
            }
            Platform::Simulated => context.output.note(SIMULATED),
            Platform::Tdx | Platform::Unspecified => {}
        }
        let wish = Wish {
            image: image.digest,
            policy,
            audience: self.audience,
            tenant: self.tenant,
            limits,
            minimum_svn: self.minimum_svn,
            identities,
            record: if self.require_record { RecordRequired::Yes } else { RecordRequired::No },
        };
        let signed = intents::sign(wish, &owner)?;
        let session = client.create(&signed).await?;
        Ok(Created { id: signed.session, image, owner: PublicKey::of(&owner), session })
    }

    /// The text, and the identities of the session: all that the text names are among them.
    fn policy(&self, output: &Output) -> anyhow::Result<(Vec<u8>, BTreeSet<Identity>)> {
        let mut identities: BTreeSet<Identity> = self.identities.iter().cloned().collect();
        let Some(path) = &self.policy else {
            if identities.is_empty() {
                identities.insert(Identity::default_name());
            }
            return Ok((texts::DEFAULT.into(), identities));
        };
        let (text, policy) = session_policy::read(output, path)?;
        session_policy::warn(output, path, &policy);
        let named = policy.identities();
        if identities.is_empty() {
            // A name of a policy is one of an intent: both have the same form.
            identities.extend(named.keys().filter_map(|name| Identity::new(name.as_str()).ok()));
        }
        if identities.is_empty() {
            identities.insert(Identity::default_name());
        }
        let is_known = |name: &str| identities.iter().any(|identity| identity.to_string() == name);
        if let Some((name, place)) = named.iter().find(|(name, _)| !is_known(name.as_str())) {
            let file = path.display();
            let known = identities.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let message = format!("{file}:{place}: expected an identity of this session, {known}, found `{name}`");
            return Err(failure(USAGE, message));
        }
        Ok((text.into(), identities))
    }

    fn limits(&self) -> anyhow::Result<Limits> {
        let seconds = |duration: Option<Duration>, default: u64| duration.map_or(default, |d| d.as_secs());
        let default = Limits::default();
        let limits =
            Limits { ttl_s: seconds(self.ttl, default.ttl_s), idle_s: seconds(self.idle, default.idle_s), ..default };
        if limits.are_within_maxima() {
            Ok(limits)
        } else {
            Err(failure(USAGE, "expected --ttl and --idle of at least 1s"))
        }
    }
}

fn parse_identity(text: &str) -> Result<Identity, String> {
    Identity::new(text).map_err(|error| error.to_string())
}

const SIMULATED: &str = "SIMULATED: this image runs on a simulator of TDX. Everything works; nothing is confidential, and \
anyone can forge the evidence.";

impl Created {
    /// Waits until it is Ready, and says why when it will not be.
    pub(crate) async fn ready(&self, context: &Context, client: &Client) -> anyhow::Result<Session> {
        let session = session::wait(context, client, &self.id, Phase::Ready).await.context("wait for the session")?;
        if session.phase() == Phase::Ready { Ok(session) } else { Err(not_ready(&self.id, &session)) }
    }
}

/// Why a session is not Ready and will not be.
pub(crate) fn not_ready(id: &SessionId, session: &Session) -> anyhow::Error {
    let mut message = format!("expected session {id} to become ready, found it {}", phase_word(session.phase()));
    for word in [outcome_word(session.outcome()), reason_word(session.reason())].into_iter().flatten() {
        message.push_str(&format!(", {word}"));
    }
    if !session.message.is_empty() {
        message.push_str(&format!(": {}", printable(&session.message)));
    }
    failure(UNAVAILABLE, message)
}
