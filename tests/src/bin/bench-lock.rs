//! `bench-lock LOCK MORE`: prints a lock with the packages of both, for an image that holds more than the product's. What the
//! first has, stays. `coffer-image` checks what it gets.

use anyhow::Context as _;
use serde_json::Value;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [lock, more] = arguments.as_slice() else { anyhow::bail!("usage: bench-lock LOCK MORE") };
    let read = |path: &str| -> anyhow::Result<Value> {
        let bytes = std::fs::read(path).with_context(|| format!("read {path}"))?;
        serde_json::from_slice(&bytes).with_context(|| format!("parse {path}"))
    };
    let (mut lock, mut more) = (read(lock)?, read(more)?);
    let all = lock["packages"].as_array_mut().context("expected packages in the lock")?;
    let name = |package: &Value| [&package["set"], &package["name"]].map(|word| word.as_str().map(str::to_owned));
    for package in more["packages"].as_array_mut().context("expected more packages")?.drain(..) {
        if !all.iter().any(|there| name(there) == name(&package)) {
            all.push(package);
        }
    }
    all.sort_by_key(name);
    println!("{}", serde_json::to_string_pretty(&lock)?);
    Ok(())
}
