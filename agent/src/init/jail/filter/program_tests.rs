//! The compiled program against the same rules as the rust-vmm project's compiler has them, for every number that there is: an
//! independent reading. Both run in an interpreter of the instructions that they use.

use super::*;
use crate::init::jail::filter::rules;
use proptest::prelude::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::{BTreeMap, BTreeSet};

/// A system call, as a filter sees it.
#[derive(Debug, Clone, Copy)]
struct Asked {
    architecture: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Asked {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            16..64 => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
            _ => panic!("a load from {offset}"),
        }
    }
}

/// What the kernel does with a program. Steps are (code, jt, jf, k).
fn run(program: &[(u16, u8, u8, u32)], asked: &Asked) -> u32 {
    let (mut at, mut loaded) = (0, 0);
    loop {
        let (code, jt, jf, k) = program[at];
        at += 1;
        let mut jump = |applies: bool| at += usize::from(if applies { jt } else { jf });
        match code {
            0x20 => loaded = asked.word(k),
            0x54 => loaded &= k,
            0x05 => at += k as usize,
            0x15 => jump(loaded == k),
            0x25 => jump(loaded > k),
            0x35 => jump(loaded >= k),
            0x45 => jump(loaded & k != 0),
            0x06 => return k,
            _ => panic!("an instruction {code:#x}"),
        }
    }
}

fn ours() -> Vec<(u16, u8, u8, u32)> {
    compile(&rules::rules()).iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect()
}

/// The rules as three filters of the library: what is listed, and by errno what is refused.
struct Theirs([BpfProgram; 3]);

impl Theirs {
    fn compile() -> Self {
        let mut listed = BTreeMap::new();
        let mut refused: BTreeMap<i32, BTreeMap<i64, Vec<SeccompRule>>> = BTreeMap::new();
        for (number, rule) in rules::rules() {
            match rule {
                Rule::Refuse(errno) => drop(refused.entry(errno).or_default().insert(number.into(), Vec::new())),
                Rule::Allow(cases) => {
                    listed.insert(number.into(), Vec::new());
                    for Case { tests, errno } in cases {
                        let rules = refused.entry(errno).or_default().entry(number.into()).or_default();
                        rules.extend(Self::rule(&tests));
                    }
                }
            }
        }
        let filter = |rules, mismatch, matched| {
            SeccompFilter::new(rules, mismatch, matched, TargetArch::x86_64).unwrap().try_into().unwrap()
        };
        let errno = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
        let mut of = |number| filter(refused.remove(&number).unwrap(), SeccompAction::Allow, errno(number));
        let (families, never) = (of(libc::EAFNOSUPPORT), of(libc::EPERM));
        assert!(refused.is_empty(), "errors that this test does not know");
        Self([filter(listed, errno(libc::ENOSYS), SeccompAction::Allow), families, never])
    }

    /// One rule, or as many as it has bits: the library knows all of some bits, not any.
    fn rule(tests: &[Test]) -> Vec<SeccompRule> {
        let condition = |argument, operation, value: u32| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value.into()).unwrap()
        };
        if let [Test { argument, is: Is::Having(bits) }] = *tests {
            let bits = (0..32).map(|at| 1 << at).filter(|bit| bits & bit != 0);
            let one = |bit: u32| condition(argument, SeccompCmpOp::MaskedEq(bit.into()), bit);
            return bits.map(|bit| SeccompRule::new(vec![one(bit)]).unwrap()).collect();
        }
        let conditions = tests.iter().map(|Test { argument, is }| match is {
            Is::Equal(value) => condition(*argument, SeccompCmpOp::Eq, *value),
            Is::Not(value) => condition(*argument, SeccompCmpOp::Ne, *value),
            Is::Having(_) => panic!("bits beside another test"),
        });
        vec![SeccompRule::new(conditions.collect()).unwrap()]
    }

    /// What the kernel makes of several filters, the one that was installed last first: the strictest answer, of equals the first.
    fn answer(&self, asked: &Asked) -> u32 {
        let run = |program: &BpfProgram| {
            let steps: Vec<_> = program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
            run(&steps, asked)
        };
        let strictness = |answer: &u32| (*answer & libc::SECCOMP_RET_ACTION_FULL).cast_signed();
        self.0.iter().rev().map(run).min_by_key(strictness).unwrap()
    }
}

/// Every number that x86-64 has, those of its other calling convention, and what is at the edges.
fn numbers() -> impl Iterator<Item = u32> {
    (0..1024).chain(0x4000_0000..0x4000_0400).chain([u32::MAX - 1, u32::MAX, 0x7fff_ffff, 0x8000_0000])
}

/// Every value that a rule names, its neighbours, and every bit alone.
fn values() -> Vec<u64> {
    let named = rules::rules().into_values().filter_map(|rule| match rule {
        Rule::Allow(cases) => Some(cases),
        Rule::Refuse(_) => None,
    });
    let tests = named.flatten().flat_map(|case| case.tests);
    let values = tests.map(|test| match test.is {
        Is::Equal(value) | Is::Not(value) | Is::Having(value) => u64::from(value),
    });
    let near = values.flat_map(|value| [value.wrapping_sub(1), value, value + 1, value | 1 << 32, value << 32]);
    near.chain((0..64).map(|bit| 1 << bit)).collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn every_number_gets_what_the_library_would_answer() {
    let (ours, theirs) = (ours(), Theirs::compile());
    let mut answers = BTreeSet::new();
    for number in numbers() {
        for architecture in [X86_64, 0x4000_0003] {
            let asked = Asked { architecture, number, arguments: [0; 6] };
            let answer = run(&ours, &asked);
            assert_eq!(answer, theirs.answer(&asked), "{asked:x?}");
            answers.insert(answer);
        }
    }
    let errno = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
    let all = [
        libc::SECCOMP_RET_KILL_PROCESS,
        errno(libc::EPERM),
        errno(libc::ENOSYS),
        errno(libc::EAFNOSUPPORT),
        libc::SECCOMP_RET_ALLOW,
    ];
    assert_eq!(answers, all.into());
}

#[test]
fn every_argument_that_counts_gets_what_the_library_would_answer() {
    let (ours, theirs, values) = (ours(), Theirs::compile(), values());
    let counts = |rule: &Rule| matches!(rule, Rule::Allow(cases) if !cases.is_empty());
    let numbers: Vec<u32> =
        rules::rules().into_iter().filter(|(_, rule)| counts(rule)).map(|(number, _)| number).collect();
    assert!(numbers.len() > 5 && values.len() > 64);
    let mut refused = BTreeSet::new();
    for number in numbers {
        for (first, second) in values.iter().flat_map(|first| values.iter().map(move |second| (*first, *second))) {
            let arguments = [first, second, second, first, first, second];
            let asked = Asked { architecture: X86_64, number, arguments };
            let answer = run(&ours, &asked);
            assert_eq!(answer, theirs.answer(&asked), "{asked:x?}");
            if answer != libc::SECCOMP_RET_ALLOW {
                refused.insert(number);
            }
        }
    }
    assert_eq!(refused.len(), 7, "a rule that refuses nothing");
}

proptest! {
    #[test]
    fn any_call_gets_what_the_library_would_answer(
        architecture in prop_oneof![Just(X86_64), any::<u32>()],
        number in prop_oneof![0_u32..512, any::<u32>()],
        arguments in any::<[u64; 6]>(),
    ) {
        let asked = Asked { architecture, number, arguments };
        prop_assert_eq!(run(&ours(), &asked), Theirs::compile().answer(&asked));
    }
}

#[test]
fn the_program_is_short_and_so_is_the_way_through_it() {
    let ours = ours();
    assert!(ours.len() < 400, "{} steps; the kernel takes 4,096, and time for each", ours.len());
    let longest = |number| {
        let (mut at, mut steps) = (0, 0);
        let asked = Asked { architecture: X86_64, number, arguments: [0; 6] };
        loop {
            let (code, jt, jf, k) = ours[at];
            steps += 1;
            at += match code {
                0x06 => return steps,
                0x05 => 1 + k as usize,
                0x35 => 1 + usize::from(if asked.number >= k { jt } else { jf }),
                _ if code & 7 == 5 => 1 + usize::from(jt),
                _ => 1,
            };
        }
    };
    assert!(numbers().map(longest).max().unwrap() <= 32);
}

/// Programs in which the search has to jump far.
#[test]
fn a_search_finds_every_number_of_many_rules() {
    let cases =
        |number: u32| vec![Case { tests: vec![Test { argument: 0, is: Is::Equal(number) }; 15], errno: libc::EPERM }];
    let rules: Rules = (0..100).map(|number| (3 * number, Rule::Allow(cases(number)))).collect();
    let program: Vec<_> = compile(&rules).iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
    assert!(program.len() < 4096);
    for number in 0..400 {
        let answer = |argument| run(&program, &Asked { architecture: X86_64, number, arguments: [argument; 6] });
        let refused = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
        if number % 3 == 0 && number < 300 {
            assert_eq!(answer(u64::from(number / 3)), refused(libc::EPERM));
            assert_eq!(answer(u64::from(number / 3 + 1)), libc::SECCOMP_RET_ALLOW);
        } else {
            assert_eq!(answer(0), refused(libc::ENOSYS));
        }
    }
}
