//! `coffer session cp`, both ways, and what a hostile guest may send.

use std::path::Path;
use std::process::Command;

use crate::fake::Cofferd;
use crate::{code, json, stderr};

fn names(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("entries");
    entries.map(|e| e.expect("an entry").path().expect("a path").display().to_string()).collect()
}

#[test]
fn a_work_tree_goes_up_without_what_git_ignores() {
    let host = Cofferd::start();
    let id = host.session();
    let tree = host.home().join("tree");
    std::fs::create_dir_all(tree.join("target")).expect("directories");
    std::fs::write(tree.join(".gitignore"), "target\n").expect("a file");
    std::fs::write(tree.join("target/big"), "x").expect("a file");
    std::fs::write(tree.join("new"), "x").expect("a file");
    assert!(Command::new("git").arg("init").arg("--quiet").arg(&tree).status().expect("git").success());

    let copied = host.command(&["session", "cp", "--json", ".", &format!("{id}:repo")]).current_dir(&tree).output();
    let copied = copied.expect("run coffer");
    assert_eq!(code(&copied), Some(0), "{}", stderr(&copied));
    assert_eq!(json(&copied)["left_out"], 1);
    assert!(stderr(&copied).contains("git ignores"), "{}", stderr(&copied));
    let up = names(&host.state().uploaded);
    assert!(up.contains(&"new".to_owned()) && up.contains(&".git/HEAD".to_owned()), "{up:?}");
    assert!(!up.iter().any(|name| name.contains("target")), "{up:?}");
    assert!(host.state().asked.contains(&"upload repo".to_owned()), "{:?}", host.state().asked);

    let all = host.run(&["session", "cp", "--all", "tree", &format!("{id}:/workspace/repo")]);
    assert_eq!(code(&all), Some(0), "{}", stderr(&all));
    assert!(names(&host.state().uploaded).contains(&"target/big".to_owned()));
}

#[test]
fn a_file_goes_up_under_the_name_that_is_meant() {
    let host = Cofferd::start();
    let id = host.session();
    std::fs::write(host.home().join("a.txt"), "x").expect("a file");
    let cases = [
        ("", "upload ", "a.txt"),
        ("b.txt", "upload ", "b.txt"),
        ("directory", "upload directory", "a.txt"),
        ("new/", "upload new/", "a.txt"),
        ("deep/er/b.txt", "upload deep/er", "b.txt"),
    ];
    for (remote, asked, name) in cases {
        host.state().asked.clear();
        let copied = host.run(&["session", "cp", "a.txt", &format!("{id}:{remote}")]);
        assert_eq!(code(&copied), Some(0), "{remote}: {}", stderr(&copied));
        assert!(host.state().asked.contains(&asked.to_owned()), "{remote}: {:?}", host.state().asked);
        assert_eq!(names(&host.state().uploaded), [name], "{remote}");
    }
}

#[test]
fn an_upload_that_cannot_be_finished_does_not_end_in_good_order() {
    let host = Cofferd::start();
    let id = host.session();
    let tree = host.home().join("tree");
    std::fs::create_dir(&tree).expect("a directory");
    std::fs::write(tree.join("a"), vec![7; 20_000_000]).expect("a file");
    // More than a transfer may carry: found out while packing, when much has gone up already (the queue holds less than `a`).
    std::fs::File::create(tree.join("b")).and_then(|file| file.set_len(2 << 30)).expect("a sparse file");
    let copied = host.run(&["session", "cp", "tree", &format!("{id}:x")]);
    assert_eq!(code(&copied), Some(1));
    assert!(stderr(&copied).contains("at most"), "{}", stderr(&copied));
    // A server is told of a stream that was cancelled as of one that ended: what came is then no whole archive, and refused.
    host.until_asked_one_of(&["upload reset", "upload done"]);
    let arrived = host.state().uploaded.len() as u64;
    assert!(arrived < 2 << 30, "`b` says that it has 2 GiB, and {arrived} bytes arrived");
    assert_eq!(code(&host.run(&["session", "cp", "/no/such/file", &format!("{id}:x")])), Some(74));
}

#[test]
fn a_refusal_in_the_middle_of_an_upload_is_what_is_told() {
    let host = Cofferd::start();
    let id = host.session();
    let tree = host.home().join("tree");
    std::fs::create_dir(&tree).expect("a directory");
    std::fs::write(tree.join("a"), vec![7; 20_000_000]).expect("a file");
    let copied = host.run(&["session", "cp", "tree", &format!("{id}:refused")]);
    assert_eq!(code(&copied), Some(69));
    assert!(stderr(&copied).contains("NO_SPACE: the workspace is full"), "{}", stderr(&copied));
    assert!(stderr(&copied).contains(&format!("{id}:refused")), "{}", stderr(&copied));
    let copied = host.run(&["session", "cp", "tree", &format!("{id}:changed")]);
    assert_eq!(code(&copied), Some(1), "the guest saw other bytes: {}", stderr(&copied));
}

#[test]
fn pipes_sockets_and_devices_are_told_and_alone_they_are_an_error() {
    let host = Cofferd::start();
    let id = host.session();
    let tree = host.home().join("tree");
    std::fs::create_dir(&tree).expect("a directory");
    std::fs::write(tree.join("file"), "x").expect("a file");
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).expect("a socket");
    let copy = || host.run(&["session", "cp", "--json", "tree", &format!("{id}:x")]);
    let copied = copy();
    assert_eq!((code(&copied), &json(&copied)["left_out"]), (Some(0), &1.into()), "{}", stderr(&copied));
    assert!(stderr(&copied).contains("left out socket: a pipe, a socket or a device"), "{}", stderr(&copied));
    assert_eq!(names(&host.state().uploaded), ["file"]);
    // Git lists none of them, but ignores none either.
    assert!(Command::new("git").arg("init").arg("--quiet").arg(&tree).status().expect("git").success());
    let copied = copy();
    assert_eq!(json(&copied)["left_out"], 1);
    assert!(stderr(&copied).contains("left out socket:") && !stderr(&copied).contains("git ignores"));

    host.state().asked.clear();
    let device = host.run(&["session", "cp", "/dev/null", &format!("{id}:n")]);
    assert_eq!(code(&device), Some(74));
    assert!(stderr(&device).contains("a device at /dev/null"), "{}", stderr(&device));
    assert!(host.state().asked.is_empty(), "{:?}", host.state().asked);
    let pipe = host.run(&["session", "cp", &format!("{id}:pipe"), "pipe"]);
    assert_eq!(code(&pipe), Some(74));
    assert!(stderr(&pipe).contains(&format!("{id}:pipe")), "{}", stderr(&pipe));
    assert!(!host.home().join("pipe").exists());
}

#[test]
fn trees_and_files_come_down() {
    let host = Cofferd::start();
    let id = host.session();
    let down = |remote: &str, local: &str| host.run(&["session", "cp", &format!("{id}:{remote}"), local]);
    assert_eq!(code(&down("tree", "out")), Some(0));
    let read = |path: &str| std::fs::read_to_string(host.home().join(path)).expect("the file");
    assert_eq!(read("out/a/file"), "content");
    assert_eq!(std::fs::read_link(host.home().join("out/link")).expect("the link"), Path::new("a/file"));
    assert_eq!(code(&down("file", "copy")), Some(0));
    assert_eq!(read("copy"), "content");
    assert_eq!(code(&down("file", "out")), Some(0));
    assert_eq!(read("out/file"), "content");
    let gone = down("gone", "x");
    assert_eq!(code(&gone), Some(1));
    assert!(stderr(&gone).contains(&format!("{id}:gone")), "{}", stderr(&gone));
    assert_eq!(code(&down("empty", "empty")), Some(0));
    assert!(host.home().join("empty").is_dir());
    assert_ne!(code(&down("cut", "x")), Some(0), "no trailer");
    assert_ne!(code(&down("changed", "x")), Some(0), "the guest sent other bytes");
}

#[test]
fn a_hostile_archive_writes_nothing_outside_and_is_told() {
    let host = Cofferd::start();
    let id = host.session();
    for name in ["above", "sideways", "absolute", "device", "hard", "through"] {
        let target = host.home().join(name).join("target");
        let copied = host.run(&["session", "cp", &format!("{id}:{name}"), target.to_str().expect("text")]);
        assert_eq!(code(&copied), Some(1), "{name}");
        assert!(stderr(&copied).contains("refused to unpack"), "{name}: {}", stderr(&copied));
        assert!(
            !host.home().join(name).join("above").exists() && !Path::new("/tmp/coffer-absolute").exists(),
            "{name}"
        );
        assert!(!target.join("file").exists(), "{name}");
    }
    let copied = host.run(&["session", "cp", "--json", &format!("{id}:links"), "links"]);
    assert_eq!(code(&copied), Some(0), "{}", stderr(&copied));
    assert_eq!(stderr(&copied).matches("leads out of the target").count(), 2, "{}", stderr(&copied));
    assert!(stderr(&copied).contains("left out 3 entries that are pipes, sockets or devices"), "{}", stderr(&copied));
    assert_eq!(json(&copied)["left_out"], 5);
    let links = host.home().join("links");
    assert!(links.join("file").exists());
    assert!(links.join("etc").symlink_metadata().is_err() && links.join("up").symlink_metadata().is_err());
}
