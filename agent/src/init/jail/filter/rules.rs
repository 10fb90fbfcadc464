//! What is answered to which system call, for which arguments.

use super::calls::{LISTED, NEVER};
use std::collections::BTreeMap;

/// What a call of one number gets: the errno of the first case that applies, else it is let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rule {
    /// Never let through.
    Refuse(i32),
    /// Let through but in these cases.
    Allow(Vec<Case>),
}

/// Arguments that are refused: all tests apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) tests: Vec<Test>,
    pub(super) errno: i32,
}

/// A test of the lower 32 bits of an argument: all that the kernel reads of those that are tested here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Test {
    /// 0 to 5.
    pub(super) argument: u8,
    pub(super) is: Is,
}

/// How it must be for a case to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    Equal(u32),
    Not(u32),
    /// At least one of these bits is set.
    Having(u32),
}

/// Answers to all calls; what is not among them gets `ENOSYS`.
pub(super) type Rules = BTreeMap<u32, Rule>;

/// Socket families that a tool has.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// What it may ask over netlink: its own network's addresses, and its own sockets.
const NETLINK: [i32; 2] = [libc::NETLINK_ROUTE, libc::NETLINK_SOCK_DIAG];
/// Flags of `clone` that make namespaces.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;
/// `MFD_EXEC` of `linux/memfd.h`: a file in memory that can be executed.
const MFD_EXEC: u32 = 0x10;
/// `F_SETDELEG` of `linux/fcntl.h`: a lease by another name.
const F_SETDELEG: u32 = 1040;
/// `TIOCSTI` and `TIOCLINUX` of `asm-generic/ioctls.h` and `linux/tiocl.h`: typing into another's terminal.
const TYPING: [u32; 2] = [0x5412, 0x541c];
/// Execution domains that change nothing, or only what `uname` says; the last one asks for the present one.
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

fn test(argument: u8, is: Is) -> Test {
    Test { argument, is }
}

fn refused(tests: Vec<Test>) -> Case {
    Case { tests, errno: libc::EPERM }
}

/// All of them.
pub(super) fn rules() -> Rules {
    let listed = LISTED.iter().map(|number| (*number, Rule::Allow(Vec::new())));
    let never = NEVER.iter().map(|number| (*number, Rule::Refuse(libc::EPERM)));
    let numbered = |(number, rule): (i64, Rule)| (u32::try_from(number).expect("a number of a system call"), rule);
    let mut rules: Rules = listed.chain(never).map(numbered).collect();
    for (number, cases) in arguments() {
        rules.extend([numbered((number, Rule::Allow(cases)))]);
    }
    rules
}

/// The calls whose arguments count.
fn arguments() -> [(i64, Vec<Case>); 7] {
    let others = |argument, known: &[u32]| known.iter().map(|known| test(argument, Is::Not(*known))).collect();
    let families = FAMILIES.map(i32::cast_unsigned);
    let no_family = Case { tests: others(0, &families), errno: libc::EAFNOSUPPORT };
    let netlink = test(0, Is::Equal(libc::AF_NETLINK.cast_unsigned()));
    let others_of_netlink: Vec<Test> = others(2, &NETLINK.map(i32::cast_unsigned));
    let socket = vec![no_family.clone(), refused([vec![netlink], others_of_netlink].concat())];
    // Who may only read a file could hold up its writers with a lease; the observer's must be its own.
    let leases = [libc::F_SETLEASE.cast_unsigned(), F_SETDELEG];
    let either =
        |argument, values: [u32; 2]| values.map(|value| refused(vec![test(argument, Is::Equal(value))])).into();
    [
        (libc::SYS_socket, socket),
        (libc::SYS_socketpair, vec![no_family]),
        (libc::SYS_clone, vec![refused(vec![test(0, Is::Having(NAMESPACES.cast_unsigned()))])]),
        (libc::SYS_memfd_create, vec![refused(vec![test(1, Is::Having(MFD_EXEC))])]),
        (libc::SYS_fcntl, either(1, leases)),
        (libc::SYS_ioctl, either(1, TYPING)),
        (libc::SYS_personality, vec![refused(others(0, &PERSONALITIES))]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_listed_and_never() {
        assert!(NEVER.iter().all(|number| !LISTED.contains(number)));
        assert!(arguments().iter().all(|(number, _)| LISTED.contains(number)), "arguments of what is not listed");
    }
}
