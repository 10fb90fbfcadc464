//! What calls take on this machine, without a guest and without emulation: the same init, jail and observer, no agent, no notary and
//! no link. `scripts/bench native` runs it, in turn with one that records nothing.

#[path = "../tests/bench/mod.rs"]
mod bench;

use bench::{LONG, bench};
use coffer_agent::init::calls::Report;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Of each, in one run.
const STARTS: usize = 200;
/// A repository of 5,000 files in 100 directories, committed.
const MAKE: &str = "set -e; mkdir src; cd src; git init -q; git config user.name a; git config user.email a@b
i=0; while [ $i -lt 100 ]; do mkdir $i; j=0; while [ $j -lt 50 ]; do printf \"$i $j %s\\\\n\" a b c d e f g h i j >$i/$j.txt; j=$((j+1)); done; i=$((i+1)); done
git add .; git commit -q -m all";

fn starts() {
    let mut bench = bench!();
    let (mut calls, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let begun = Instant::now();
        let report = bench.start(&["/usr/bin/true"], ".", LONG);
        assert!(matches!(report, Report::Started(1, _)), "{report:?}");
        assert_eq!(bench.exited().code, Some(0));
        calls.push(begun.elapsed());
        let begun = Instant::now();
        assert!(Command::new("/usr/bin/true").stdin(Stdio::null()).status().unwrap().success());
        floor.push(begun.elapsed());
    }
    println!("figure: start {} {}", median(calls).as_micros(), median(floor).as_micros());
}

fn clone() {
    let mut bench = bench!();
    assert_eq!(bench.run(MAKE, LONG).0.code, Some(0));
    let mut times = Vec::new();
    for _ in 0..15 {
        assert_eq!(bench.run("rm -rf dst", LONG).0.code, Some(0));
        let begun = Instant::now();
        assert_eq!(bench.run("git clone -q src dst", LONG).0.code, Some(0));
        times.push(begun.elapsed());
        let rows = bench.record().0.files().count();
        assert_eq!(rows > 10_000, cfg!(not(feature = "unwatched")), "{rows} rows");
    }
    println!("figure: clone {}", median(times).as_micros());
}

fn main() {
    starts();
    clone();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
