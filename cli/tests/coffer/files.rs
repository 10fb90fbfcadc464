//! `coffer session ls`, `stat`, `rm`, `mv`, `mkdir`, and `watch` with a path.

use crate::fake::Cofferd;
use crate::{code, json, stderr, stdout};

#[test]
fn a_listing_is_whole_and_its_names_control_no_terminal() {
    let host = Cofferd::start();
    let id = host.session();
    let listed = host.run(&["session", "ls", &id, "/workspace/src", "-d", "3"]);
    assert_eq!(code(&listed), Some(0), "{}", stderr(&listed));
    assert_eq!(stdout(&listed), "a\\u{1b}[2J\nb\nb/\\u{fffd}\n");
    assert!(stderr(&listed).contains("directories that may not be read: 1"), "{}", stderr(&listed));
    assert!(host.state().asked.ends_with(&["list src 3 ".to_owned(), "list src 3 next".to_owned()]));

    let long = host.run(&["session", "ls", "-l", &id]);
    let lines = stdout(&long);
    assert!(lines.starts_with("-rw-r--r--             7  "), "{lines}");
    assert!(lines.ends_with("  b/\\u{fffd} -> /etc\\n\n"), "{lines}");

    let shown = json(&host.run(&["session", "ls", "--json", &id]));
    assert_eq!(shown["entries"].as_array().map(Vec::len), Some(3));
    assert_eq!(shown["entries"][0]["name"], "a\u{1b}[2J");
    assert_eq!(shown["entries"][1]["kind"], "directory");
    assert_eq!(shown["entries"][2]["name_bytes"], "622fff");
    assert_eq!(shown["unreadable"], 1);
}

#[test]
fn a_guest_that_turns_its_pages_for_ever_is_told_and_left() {
    let host = Cofferd::start();
    let id = host.session();
    let listed = host.run(&["session", "ls", &id, "endless"]);
    assert_eq!(code(&listed), Some(1));
    assert!(stderr(&listed).contains("expected the next page of a listing"), "{}", stderr(&listed));
    let listed = host.run(&["session", "ls", &id, "ever-new"]);
    assert_eq!(code(&listed), Some(1));
    assert!(stderr(&listed).contains("expected at most 256 pages"), "{}", stderr(&listed));
    for depth in ["0", "65"] {
        assert_eq!(code(&host.run(&["session", "ls", &id, "-d", depth])), Some(64), "{depth}");
    }
}

#[test]
fn what_is_at_a_path_is_shown_and_nothing_is_a_failure() {
    let host = Cofferd::start();
    let id = host.session();
    let found = host.run(&["session", "stat", &id, "directory", "evil\u{1b}[2J", "missing\r"]);
    assert_eq!(code(&found), Some(1));
    let lines = stdout(&found);
    assert!(lines.starts_with('d') && lines.contains("  evil\\u{1b}[2J\n") && !lines.contains('\u{1b}'), "{lines}");
    assert!(stderr(&found).contains("nothing is at missing\\r"), "{}", stderr(&found));
    let shown = json(&host.run(&["session", "stat", "--json", &id, "directory"]));
    assert_eq!((&shown["name"], &shown["kind"]), (&"directory".into(), &"directory".into()));
}

#[test]
fn removing_moving_and_making_ask_for_what_the_flags_say() {
    let host = Cofferd::start();
    let id = host.session();
    let rows: [(&[&str], &str, u8); 9] = [
        (&["rm", "directory"], "remove directory false", 1),
        (&["rm", "-r", "directory"], "remove directory true", 0),
        (&["rm", "/workspace/file"], "remove file false", 0),
        (&["mv", "a", "taken"], "move a taken false", 1),
        (&["mv", "-f", "a", "taken"], "move a taken true", 0),
        (&["mv", "/workspace/a", "b"], "move a b false", 0),
        (&["mkdir", "a"], "mkdir a false", 0),
        (&["mkdir", "-p", "a/b"], "mkdir a/b true", 0),
        (&["cp", "-r"], "", 64),
    ];
    for (words, asked, status) in rows {
        let (command, rest) = words.split_first().expect("a command");
        let ended = host.run(&[&["session", command, &id], rest].concat());
        assert_eq!(code(&ended), Some(i32::from(status)), "{words:?}: {}", stderr(&ended));
        assert_eq!(stdout(&ended), "", "{words:?}");
        if !asked.is_empty() {
            assert_eq!(host.state().asked.last().map(String::as_str), Some(asked), "{words:?}");
        }
    }
    let refused = host.run(&["session", "rm", &id, "directory"]);
    assert!(stderr(&refused).contains("directory") && stderr(&refused).contains("WRONG_KIND"), "{}", stderr(&refused));
    assert_eq!(json(&host.run(&["session", "rm", "-r", "--json", &id, "a", "b"]))["removed"], 24);
    assert_eq!(json(&host.run(&["session", "mkdir", "-p", "--json", &id, "a", "b"]))["made"], 4);
}

#[test]
fn a_watch_is_told_line_by_line_to_its_end() {
    let host = Cofferd::start();
    let id = host.session();
    let watched = host.run(&["session", "watch", &id, "src", "-r", "--timeout", "5s"]);
    assert_eq!(code(&watched), Some(0), "{}", stderr(&watched));
    assert_eq!(host.state().asked.last().map(String::as_str), Some("watch src true 5000"));
    assert_eq!(stdout(&watched), "moved     a/ -> b\\r/\n");
    let notes = stderr(&watched);
    assert!(notes.contains("changes were missed") && notes.contains("changes told: 1; ended: timeout"), "{notes}");

    let shown = host.run(&["session", "watch", "--json", &id, "src"]);
    let lines: Vec<serde_json::Value> =
        stdout(&shown).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!((&lines[0]["change"]["kind"], &lines[0]["change"]["moved_from"]), (&"moved".into(), &"a".into()));
    assert!(lines[1].get("lagged").is_some());
    assert_eq!((&lines[2]["ended"]["end"], &lines[2]["ended"]["changes"]), (&"timeout".into(), &1.into()));

    let cut = host.run(&["session", "watch", &id, "cut"]);
    assert_eq!(code(&cut), Some(1));
    assert!(stderr(&cut).contains("expected the watch to say how it ended"), "{}", stderr(&cut));
}
