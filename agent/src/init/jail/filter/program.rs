//! Compiles rules into a program of the classic BPF (linux/filter.h, linux/seccomp.h): a search for the call's number that halves what
//! is left with each step, and behind it what its arguments are held against.
//!
//! ```text
//!   architecture ─ number ─┬─ less ──> ...        each leaf: refuse, let through, or
//!                          └─ not ───> ...        case ─ test ─ test ─ errno;  case ...;  let through
//! ```

use super::rules::{Case, Is, Rule, Rules, Test};
use libc::{BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

// Where `seccomp_data` of `linux/seccomp.h` has what is asked for.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
const X86_64: u32 = 0xc000_003e;
/// Steps that a jump on a condition can skip.
const NEAR: usize = 255;

/// Numbers from this one on, until the next of these.
type Run<'a> = (u32, Leaf<'a>);

/// What calls of some numbers get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf<'a> {
    Errno(i32),
    Allow(&'a [Case]),
}

/// The program.
pub(super) fn compile(rules: &Rules) -> Vec<sock_filter> {
    let start =
        [load(ARCHITECTURE), jump(BPF_JEQ, X86_64, (1, 0)), answer(libc::SECCOMP_RET_KILL_PROCESS), load(NUMBER)];
    start.into_iter().chain(search(&runs(rules))).collect()
}

/// Numbers in their order, those next to one another that get the same answer together. They begin with 0, and the last goes on for ever.
fn runs(rules: &Rules) -> Vec<Run<'_>> {
    const UNKNOWN: Leaf<'_> = Leaf::Errno(libc::ENOSYS);
    let mut runs: Vec<Run<'_>> = Vec::new();
    let mut add = |from, leaf| {
        if runs.last().is_none_or(|(_, last)| *last != leaf) {
            runs.push((from, leaf));
        }
    };
    let mut next = 0;
    for (number, rule) in rules {
        if next < *number {
            add(next, UNKNOWN);
        }
        add(
            *number,
            match rule {
                Rule::Refuse(errno) => Leaf::Errno(*errno),
                Rule::Allow(cases) => Leaf::Allow(cases),
            },
        );
        next = number + 1;
    }
    add(next, UNKNOWN);
    runs
}

/// Finds the leaf of the loaded number.
fn search(runs: &[Run<'_>]) -> Vec<sock_filter> {
    if let [(_, only)] = runs {
        return leaf(*only);
    }
    let (less, not) = runs.split_at(runs.len() / 2);
    let from = not[0].0;
    let (less, not) = (search(less), search(not));
    let far = [jump(BPF_JGE, from, (0, 1)), skip(less.len())];
    let near = [jump(BPF_JGE, from, (less.len().min(NEAR), 0))];
    let step = if less.len() > NEAR { &far[..] } else { &near[..] };
    [step, &less, &not].concat()
}

fn leaf(leaf: Leaf<'_>) -> Vec<sock_filter> {
    match leaf {
        Leaf::Errno(errno) => vec![refuse(errno)],
        Leaf::Allow(cases) => cases.iter().flat_map(case).chain([answer(libc::SECCOMP_RET_ALLOW)]).collect(),
    }
}

/// Refuses when all tests apply, else goes on behind it.
fn case(case: &Case) -> Vec<sock_filter> {
    let steps = 2 * case.tests.len() + 1;
    let tests = case.tests.iter().enumerate().flat_map(|(at, Test { argument, is })| {
        let behind = steps - (2 * at + 2);
        let test = match is {
            Is::Equal(value) => jump(BPF_JEQ, *value, (0, behind)),
            Is::Not(value) => jump(BPF_JEQ, *value, (behind, 0)),
            Is::Having(bits) => jump(BPF_JSET, *bits, (0, behind)),
        };
        // The machine is little-endian: the lower half comes first.
        [load(ARGUMENTS + 8 * u32::from(*argument)), test]
    });
    tests.chain([refuse(case.errno)]).collect()
}

fn step(code: u32, (jt, jf): (usize, usize), k: u32) -> sock_filter {
    let near = |steps: usize| u8::try_from(steps).expect("a jump of at most 255 steps");
    sock_filter { code: code as u16, jt: near(jt), jf: near(jf), k }
}

fn load(offset: u32) -> sock_filter {
    step(BPF_LD | BPF_W | BPF_ABS, (0, 0), offset)
}

/// Skips that many steps when it is so, and when it is not.
fn jump(condition: u32, value: u32, skips: (usize, usize)) -> sock_filter {
    step(BPF_JMP | condition | BPF_K, skips, value)
}

fn skip(steps: usize) -> sock_filter {
    step(BPF_JMP | BPF_JA, (0, 0), u32::try_from(steps).expect("a program of at most 4,096 steps"))
}

fn answer(action: u32) -> sock_filter {
    step(BPF_RET | BPF_K, (0, 0), action)
}

fn refuse(errno: i32) -> sock_filter {
    answer(libc::SECCOMP_RET_ERRNO | errno.cast_unsigned() & libc::SECCOMP_RET_DATA)
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
