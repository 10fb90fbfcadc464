//! How long a policy takes to parse, and a call to decide: for the texts of this crate, on this machine.

use std::time::{Duration, Instant};

use coffer_policy::{Action, Ask, Policy, Resource, Usage, texts};

fn each(times: u32, work: impl Fn()) -> Duration {
    let start = Instant::now();
    (0..times).for_each(|_| work());
    start.elapsed() / times
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = Resource::Path("/workspace/src/deep/in/the/tree/lib.rs".parse()?);
    let ask = Ask::new("coder".parse()?, Action::FileWrite, path, Usage::default())?;
    let first = Instant::now();
    Policy::parse(texts::TEAM)?;
    println!("first parse of all, with the schema: {:?}", first.elapsed());
    for (name, text) in [("default", texts::DEFAULT), ("coder", texts::CODER), ("team", texts::TEAM)] {
        let policy = Policy::parse(text)?;
        let parse = each(100, || drop(std::hint::black_box(Policy::parse(text))));
        let decide = each(10_000, || drop(std::hint::black_box(policy.decide(&ask))));
        println!("{name}: {} bytes, {} rules: parse {parse:?}, decide {decide:?}", text.len(), policy.rules().len());
    }
    Ok(())
}
