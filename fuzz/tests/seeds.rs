//! The seeds of the corpora, made from the fixtures of the verifier's tests and from the writers of each format. They must stand in
//! `corpus/` as they are made; `COFFER_BLESS=1` writes them.

#[allow(dead_code, reason = "the verifier's tests use all of it")]
#[path = "../../evidence/tests/support/boot_log.rs"]
mod boot_log;
#[allow(dead_code, reason = "the verifier's tests use all of it")]
#[path = "../../evidence/tests/rules/platform.rs"]
mod platform;
#[allow(dead_code, reason = "the verifier's tests use all of it")]
#[path = "../../evidence/tests/rules/session.rs"]
mod session;

mod seeds {
    pub(crate) mod evidence;
    pub(crate) mod images;
    pub(crate) mod links;
    pub(crate) mod policies;
    pub(crate) mod scripts;
    pub(crate) mod trees;
}

/// One file of a corpus: target, name, bytes.
#[derive(Clone)]
pub(crate) struct Seed(pub(crate) &'static str, pub(crate) String, pub(crate) Vec<u8>);

pub(crate) fn seed(target: &'static str, name: &str, bytes: Vec<u8>) -> Seed {
    Seed(target, format!("seed-{name}"), bytes)
}

#[test]
fn the_corpora_hold_the_seeds_that_the_code_makes() {
    let mut seeds = seeds::evidence::all();
    seeds.extend(seeds::images::all());
    seeds.extend(seeds::links::all());
    seeds.extend(seeds::policies::all());
    seeds.extend(seeds::scripts::all());
    seeds.extend(seeds::trees::all());
    let corpora = coffer_fuzz::fixtures::corpora();
    for target in coffer_fuzz::TARGETS {
        assert!(seeds.iter().any(|seed| seed.0 == target.name), "{} has no seed", target.name);
        let folder = corpora.join(target.name);
        let made: Vec<&Seed> = seeds.iter().filter(|seed| seed.0 == target.name).collect();
        if std::env::var_os("COFFER_BLESS").is_some() {
            std::fs::create_dir_all(&folder).expect("a corpus");
            for Seed(_, name, bytes) in &made {
                std::fs::write(folder.join(name), bytes).expect("write a seed");
            }
        }
        let there = std::fs::read_dir(&folder).expect("a corpus").map(|e| e.expect("an entry").file_name());
        for file in there.filter(|name| name.to_string_lossy().starts_with("seed-")) {
            let known = made.iter().any(|seed| *seed.1 == *file.to_string_lossy());
            assert!(known, "{}/{} is a seed that nothing makes", target.name, file.display());
        }
        for Seed(_, name, bytes) in made {
            let found = std::fs::read(folder.join(name)).unwrap_or_default();
            assert!(found == *bytes, "{}/{name} is not what the code makes; COFFER_BLESS=1 writes it", target.name);
        }
    }
}
