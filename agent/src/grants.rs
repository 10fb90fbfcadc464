//! The process `grants`: reads the policy on its standard input and writes to its standard output what the kernel is to allow
//! each identity that it is started with. So init need not know the policy's language, and the process that parses what
//! clients send has no say in it. It has no other descriptor and no privilege, and ends when it is done.

use crate::frames::Frame as _;
use crate::frames::grant::{EXACT, Granted};
use coffer_policy::{Access, IdentityName, Policy, Reach};
use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

/// Runs as `grants`, for these identities.
pub fn run(identities: &[OsString]) -> ExitCode {
    crate::inherited::harden();
    let mut policy = String::new();
    let outcome = io::stdin().lock().read_to_string(&mut policy).and_then(|_| {
        let all = granted(&policy, identities).map_err(io::Error::other)?;
        let mut out = io::stdout().lock();
        all.iter().try_for_each(|granted| out.write_all(&granted.encode()))?;
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

/// The grants of each identity, in the order they are asked for.
fn granted(policy: &str, identities: &[OsString]) -> Result<Vec<Granted>, String> {
    let policy = Policy::parse(policy).map_err(|problems| problems.to_string())?;
    let of = |name: &OsString| {
        let name = name.to_string_lossy();
        let identity: IdentityName = name.parse().map_err(|error| format!("{name}: {error}"))?;
        let grants = policy.grants(&identity);
        let access = grants.iter().map(|grant| {
            let exact = if grant.reach == Reach::Exact { EXACT } else { 0 };
            [grant.access.iter().map(|access| number(*access)).sum::<u64>() + exact]
        });
        let paths = grants.iter().map(|grant| grant.path.to_string());
        Ok(Granted { identity: name.into_owned(), paths: paths.collect(), access: access.collect() })
    };
    identities.iter().map(of).collect()
}

/// The number of [`Granted::access`].
const fn number(access: Access) -> u64 {
    match access {
        Access::Read => 1,
        Access::Write => 2,
        Access::Delete => 4,
        Access::Execute => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_those_of_the_policy_for_each_identity() {
        let policy = r#"
            @id("a") permit (principal == Identity::"a", action == Action::"file.read", resource in Path::"/workspace/x");
            @id("b") permit (principal == Identity::"b", action == Action::"exec", resource == Program::"/usr/bin/git");
            @id("c") permit (principal == Identity::"b", action in Action::"file", resource in Path::"/workspace");
        "#;
        let found = granted(policy, &["a".into(), "b".into(), "nobody".into()]).unwrap();
        let of = |at: usize| found[at].paths.iter().map(String::as_str).zip(found[at].access.iter().map(|one| one[0]));
        assert_eq!(of(0).collect::<Vec<_>>(), [("/workspace/x", 1)]);
        assert_eq!(of(1).collect::<Vec<_>>(), [("/usr/bin/git", 8 + EXACT), ("/workspace", 7)]);
        assert_eq!(of(2).count(), 0);
        assert!(granted("no policy", &["a".into()]).is_err());
        assert!(granted(policy, &["No Name".into()]).is_err());
    }
}
