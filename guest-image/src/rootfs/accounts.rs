//! The few files that Debian's maintainer scripts would make, as text: users, groups, hosts. No file is written here.

/// A user with a group of the same name and number.
struct Account {
    name: &'static str,
    id: u32,
    home: &'static str,
    shell: &'static str,
}

/// The users of the guest (DESIGN §14). Nobody can log in; only a tool's identity has a shell, for tools that ask.
const ACCOUNTS: [Account; 9] = [
    Account { name: "root", id: 0, home: "/root", shell: "/bin/false" },
    Account { name: "notary", id: 900, home: "/", shell: "/bin/false" },
    Account { name: "agent", id: 901, home: "/", shell: "/bin/false" },
    Account { name: "gateway", id: 902, home: "/", shell: "/bin/false" },
    Account { name: "warden", id: 903, home: "/", shell: "/bin/false" },
    Account { name: "grants", id: 904, home: "/", shell: "/bin/false" },
    Account { name: "observer", id: 905, home: "/", shell: "/bin/false" },
    Account { name: "default", id: 10_000, home: "/workspace", shell: "/bin/bash" },
    Account { name: "nobody", id: 65_534, home: "/nonexistent", shell: "/bin/false" },
];

/// Group of terminals, which devpts is mounted with.
const TTY: u32 = 5;

/// `/etc/passwd`: passwords are `*`, there is no shadow file.
pub(super) fn passwd() -> String {
    ACCOUNTS.iter().map(|Account { name, id, home, shell }| format!("{name}:*:{id}:{id}::{home}:{shell}\n")).collect()
}

/// `/etc/group`.
pub(super) fn group() -> String {
    let own = ACCOUNTS.iter().map(|account| {
        let name = if account.name == "nobody" { "nogroup" } else { account.name };
        format!("{name}:*:{}:\n", account.id)
    });
    own.chain([format!("tty:*:{TTY}:\n")]).collect()
}

/// Further files of `/etc`, by name.
pub(super) const FILES: [(&str, &str); 6] = [
    ("hosts", "127.0.0.1 localhost coffer\n::1 localhost\n"),
    ("hostname", "coffer\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n"),
    // The guest has no network: names are resolved by the egress broker.
    ("resolv.conf", ""),
    ("machine-id", ""),
    ("shells", "/bin/sh\n/bin/bash\n"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_of_the_design_has_its_number_and_no_password() {
        let passwd = passwd();
        for line in [
            "root:*:0:0::/root:/bin/false",
            "notary:*:900:900::/:/bin/false",
            "agent:*:901:901::/:/bin/false",
            "gateway:*:902:902::/:/bin/false",
            "warden:*:903:903::/:/bin/false",
            "grants:*:904:904::/:/bin/false",
            "observer:*:905:905::/:/bin/false",
            "default:*:10000:10000::/workspace:/bin/bash",
            "nobody:*:65534:65534::/nonexistent:/bin/false",
        ] {
            assert!(passwd.lines().any(|found| found == line), "{line}");
        }
        assert_eq!(passwd.lines().count(), 9);
    }

    #[test]
    fn every_users_group_exists() {
        let group = group();
        for line in passwd().lines() {
            let gid = line.split(':').nth(3).unwrap();
            assert!(group.lines().any(|found| found.split(':').nth(2) == Some(gid)), "{line}");
        }
    }
}
