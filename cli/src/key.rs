//! `coffer key`: this user's keys, and telling when one is made.

use coffer_client::keys::{self, KeyName, Origin};
use coffer_evidence::ids::Identity;
use coffer_evidence::sign::PublicKey;
use serde::Serialize;

use crate::exit::Status;
use crate::output::{Form, Output};

#[derive(Serialize)]
struct Shown {
    owner: String,
    identity: String,
    directory: String,
}

/// Tells where a new key is, and what it is for.
pub(crate) fn tell_if_made(output: &Output, name: &KeyName, origin: &Origin) {
    if let Origin::Made(path) = origin {
        let what = match name {
            KeyName::Owner => "an owner key, which signs what sessions are meant to be".to_owned(),
            KeyName::Identity(name) => format!("a key of identity `{name}`, which will sign its calls"),
        };
        output.note(format_args!("made {what}: {}; keep it private", path.display()));
    }
}

/// The public half, of a key that is made when there is none.
pub(crate) fn public(output: &Output, name: &KeyName) -> anyhow::Result<PublicKey> {
    let (key, origin) = keys::public(&keys::directory()?, name)?;
    tell_if_made(output, name, &origin);
    Ok(key)
}

/// `coffer key show`
pub(crate) fn show(output: &Output) -> anyhow::Result<Status> {
    let directory = keys::directory()?;
    let default = KeyName::Identity(Identity::default_name());
    let (owner, identity) = (public(output, &KeyName::Owner)?, public(output, &default)?);
    match output.form {
        Form::Json => output.json(&Shown {
            owner: owner.to_string(),
            identity: identity.to_string(),
            directory: directory.display().to_string(),
        })?,
        Form::People => {
            output.line(format_args!("owner     {owner}"))?;
            output.line(format_args!("identity  {identity}"))?;
        }
    }
    Ok(Status::DONE)
}

#[cfg(test)]
pub(crate) mod tests {
    //! A key for other tests.

    use super::*;

    pub(crate) fn owner(directory: &std::path::Path) -> PublicKey {
        keys::public(directory, &KeyName::Owner).expect("a new key").0
    }
}
