//! Turns a directory of unpacked Debian packages into the guest's root: what the guest does not need goes, what
//! maintainer scripts would have made is made, and every mode is one of a few, so that the umask and the user who
//! unpacked do not show.

use super::accounts;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// Not in the image: documentation, locales (C.UTF-8 lies elsewhere and stays), package management, other init systems.
const DROPPED: [&str; 61] = [
    "boot",
    "etc/alternatives",
    "etc/apt",
    "etc/bash_completion.d",
    "etc/cron.d",
    "etc/cron.daily",
    "etc/debconf.conf",
    "etc/default",
    "etc/dpkg",
    "etc/init.d",
    "etc/kernel",
    "etc/logrotate.d",
    "etc/rc0.d",
    "etc/rc1.d",
    "etc/rc2.d",
    "etc/rc3.d",
    "etc/rc4.d",
    "etc/rc5.d",
    "etc/rc6.d",
    "etc/rcS.d",
    "etc/rmt",
    "etc/skel",
    "etc/sysctl.d",
    "etc/systemd",
    "etc/update-motd.d",
    "home",
    "media",
    "mnt",
    "opt",
    "srv",
    "usr/games",
    "usr/include",
    "usr/lib/binfmt.d",
    "usr/lib/systemd",
    "usr/lib/sysusers.d",
    "usr/lib/tmpfiles.d",
    "usr/lib/udev",
    "usr/share/applications",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/debconf",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/dpkg",
    "usr/share/gitweb",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/menu",
    "usr/share/pixmaps",
    "usr/share/polkit-1",
    "var/backups",
    "var/cache",
    "var/lib/dpkg",
    "var/lib/systemd",
    "var/local",
    "var/lock",
    "var/log",
    "var/run",
    "var/spool",
];
/// Mount points and directories of the running system.
const MADE: [&str; 12] = [
    "dev",
    "etc",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "var/cache",
    "var/lib",
    "var/log",
    "workspace",
    "usr/local/bin",
];
/// Links that update-alternatives or a maintainer script would make: name, target, and the file that must exist for it.
const LINKS: [(&str, &str, &str); 10] = [
    ("usr/bin/sh", "dash", "usr/bin/dash"),
    ("usr/bin/awk", "gawk", "usr/bin/gawk"),
    ("usr/bin/nawk", "gawk", "usr/bin/gawk"),
    ("usr/bin/pager", "less", "usr/bin/less"),
    ("usr/bin/which", "which.debianutils", "usr/bin/which.debianutils"),
    ("etc/mtab", "../proc/self/mounts", "etc"),
    ("etc/ssl/cert.pem", "certs/ca-certificates.crt", "etc/ssl/certs"),
    ("var/lock", "../run/lock", "run"),
    ("var/run", "../run", "run"),
    // What tools write must lie where the scrub unmounts it.
    ("var/tmp", "../tmp", "tmp"),
];
/// The same for packages that were added: only where the target is and the name is not.
const ADDED_LINKS: [(&str, &str); 5] = [
    ("usr/bin/cc", "gcc"),
    ("usr/bin/c++", "g++"),
    ("usr/bin/c99", "c99-gcc"),
    ("usr/bin/c89", "c89-gcc"),
    ("usr/bin/fakeroot", "fakeroot-sysv"),
];
/// Directories of a running system, of which somebody else's files can hold nothing that the guest would see.
const EMPTIED: [&str; 6] = ["dev", "proc", "run", "sys", "tmp", "workspace"];
/// The directories that are links into /usr.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];
const CERTIFICATES: &str = "usr/share/ca-certificates";
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// Why the root could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Reading or writing a file of the tree.
    #[error("making the root file system: {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The packages are not laid out as expected.
    #[error(
        "expected {expected} in the unpacked packages, found {found}: the packages changed; the image's recipe must follow"
    )]
    Layout {
        /// What was expected.
        expected: String,
        /// What was there.
        found: &'static str,
    },
}

/// Makes the root out of the unpacked packages in `root`.
pub fn finish(root: &Path) -> Result<(), TreeError> {
    // What a compiler is there for is useless without headers.
    let compiler = root.join("usr/bin/cpp").exists() || root.join("usr/bin/gcc").symlink_metadata().is_ok();
    for name in DROPPED.into_iter().filter(|name| !compiler || *name != "usr/include") {
        remove(&root.join(name))?;
    }
    merge_usr(root)?;
    for name in MADE {
        let path = root.join(name);
        fs::create_dir_all(&path).map_err(io_error(&path))?;
    }
    write_certificates(root)?;
    for (name, text) in accounts::FILES {
        write(&root.join("etc").join(name), text)?;
    }
    write(&root.join("etc/passwd"), &accounts::passwd())?;
    write(&root.join("etc/group"), &accounts::group())?;
    for (name, target, needs) in LINKS {
        if !root.join(needs).exists() {
            return Err(TreeError::Layout { expected: needs.into(), found: "nothing" });
        }
        let path = root.join(name);
        remove(&path)?;
        symlink(target, &path).map_err(io_error(&path))?;
    }
    for (name, target) in ADDED_LINKS {
        let (path, target_path) = (root.join(name), root.join("usr/bin").join(target));
        if target_path.symlink_metadata().is_ok() && path.symlink_metadata().is_err() {
            symlink(target, &path).map_err(io_error(&path))?;
        }
    }
    set_modes(root)?;
    set_mode(&root.join("root"), 0o700)
}

/// Makes a root out of somebody else's files in `root`: the mount points, users and hosts of the guest take the place of
/// theirs, and no mode is kept but who may execute. What it lacks it lacks.
pub fn adapt(root: &Path) -> Result<(), TreeError> {
    for name in EMPTIED {
        remove(&root.join(name))?;
    }
    for name in MADE {
        let path = root.join(name);
        let mut part = root.to_owned();
        for component in Path::new(name) {
            part.push(component);
            if part.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
                let expected = format!("a directory /{}", part.strip_prefix(root).unwrap_or(&part).display());
                return Err(TreeError::Layout { expected, found: "something else" });
            }
        }
        fs::create_dir_all(&path).map_err(io_error(&path))?;
    }
    for (name, text) in accounts::FILES {
        write(&root.join("etc").join(name), text)?;
    }
    write(&root.join("etc/passwd"), &accounts::passwd())?;
    write(&root.join("etc/group"), &accounts::group())?;
    // Others' passwords.
    for name in ["shadow", "gshadow", "shadow-", "gshadow-", "passwd-", "group-"] {
        remove(&root.join("etc").join(name))?;
    }
    for (name, target) in
        [("etc/mtab", "../proc/self/mounts"), ("var/lock", "../run/lock"), ("var/run", "../run"), ("var/tmp", "../tmp")]
    {
        let path = root.join(name);
        remove(&path)?;
        symlink(target, &path).map_err(io_error(&path))?;
    }
    set_modes(root)?;
    set_mode(&root.join("root"), 0o700)
}

/// Debian's base-files brings the links; a package that still ships a real /bin would have replaced one.
fn merge_usr(root: &Path) -> Result<(), TreeError> {
    for name in MERGED {
        let path = root.join(name);
        let target = Path::new("usr").join(name);
        if !root.join(&target).is_dir() {
            return Err(TreeError::Layout { expected: target.display().to_string(), found: "no such directory" });
        }
        match fs::read_link(&path) {
            Ok(found) if found == target => {}
            Ok(_) => {
                return Err(TreeError::Layout { expected: format!("/{name} -> usr/{name}"), found: "another link" });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                symlink(&target, &path).map_err(io_error(&path))?;
            }
            Err(_) => {
                return Err(TreeError::Layout { expected: format!("/{name} -> usr/{name}"), found: "a directory" });
            }
        }
    }
    Ok(())
}

/// All of Mozilla's roots, as `update-ca-certificates` would join them.
fn write_certificates(root: &Path) -> Result<(), TreeError> {
    let directory = root.join(CERTIFICATES);
    let mut files = Vec::new();
    walk(&directory, &mut |path, _| {
        if path.extension().is_some_and(|extension| extension == "crt") {
            files.push(path.to_owned());
        }
        Ok(())
    })?;
    files.sort();
    if files.is_empty() {
        return Err(TreeError::Layout { expected: format!("certificates in {CERTIFICATES}"), found: "none" });
    }
    let mut bundle = String::new();
    for path in files {
        let text = fs::read_to_string(&path).map_err(io_error(&path))?;
        bundle.push_str(text.trim_end());
        bundle.push('\n');
    }
    let certs = root.join("etc/ssl/certs");
    fs::create_dir_all(&certs).map_err(io_error(&certs))?;
    write(&root.join(BUNDLE), &bundle)?;
    remove(&directory)
}

/// Directories 0755, programs 0755, other files 0644: no set-uid, no set-gid, nothing that anybody but root may write.
/// The places where tools may write are mounted by the guest itself.
fn set_modes(root: &Path) -> Result<(), TreeError> {
    set_mode(root, 0o755)?;
    walk(root, &mut |path, kind| {
        if kind.is_symlink() {
            return Ok(());
        }
        let mode = fs::symlink_metadata(path).map_err(io_error(path))?.permissions().mode();
        set_mode(path, if kind.is_dir() || mode & 0o111 != 0 { 0o755 } else { 0o644 })
    })
}

fn walk(
    directory: &Path,
    visit: &mut impl FnMut(&Path, fs::FileType) -> Result<(), TreeError>,
) -> Result<(), TreeError> {
    for entry in fs::read_dir(directory).map_err(io_error(directory))? {
        let entry = entry.map_err(io_error(directory))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(io_error(&entry.path()))?);
        // Its mode may be one that its owner cannot read: first the mode, then what is inside.
        visit(&path, kind)?;
        if kind.is_dir() {
            walk(&path, visit)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), TreeError> {
    let result = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    result.map_err(io_error(path))
}

fn write(path: &Path, text: &str) -> Result<(), TreeError> {
    remove(path)?;
    fs::write(path, text).map_err(io_error(path))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), TreeError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(io_error(path))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> TreeError {
    let path = path.to_owned();
    move |source| TreeError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the packages would leave behind, in small.
    fn unpacked() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in [
            "usr/bin",
            "usr/sbin",
            "usr/lib/locale/C.utf8",
            "usr/lib64",
            "usr/share/doc/x",
            "usr/share/ca-certificates/mozilla",
        ] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["dash", "gawk", "less", "which.debianutils", "su"] {
            fs::write(root.join("usr/bin").join(name), "").unwrap();
            set_mode(&root.join("usr/bin").join(name), 0o755).unwrap();
        }
        set_mode(&root.join("usr/bin/su"), 0o4755).unwrap();
        for name in ["var/tmp", "tmp", "run/lock"] {
            fs::create_dir_all(root.join(name)).unwrap();
            set_mode(&root.join(name), 0o1777).unwrap();
        }
        fs::write(root.join("usr/share/ca-certificates/mozilla/b.crt"), "B\n\n").unwrap();
        fs::write(root.join("usr/share/ca-certificates/mozilla/a.crt"), "A\n").unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        dir
    }

    #[test]
    fn the_root_has_what_maintainer_scripts_would_make_and_no_set_uid_program() {
        let dir = unpacked();
        finish(dir.path()).unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("usr/bin/su"), 0o755);
        assert_eq!(fs::read_link(dir.path().join("var/tmp")).unwrap(), Path::new("../tmp"));
        assert_eq!(mode("etc/passwd"), 0o644);
        assert_eq!(fs::read_link(dir.path().join("usr/bin/sh")).unwrap(), Path::new("dash"));
        assert_eq!(fs::read_link(dir.path().join("lib64")).unwrap(), Path::new("usr/lib64"));
        assert_eq!(fs::read_to_string(dir.path().join(BUNDLE)).unwrap(), "A\nB\n");
        assert!(dir.path().join("workspace").is_dir());
        assert!(dir.path().join("usr/lib/locale/C.utf8").is_dir());
        assert!(!dir.path().join("usr/share/doc").exists());
        walk(dir.path(), &mut |path, kind| {
            let mode = fs::symlink_metadata(path).unwrap().permissions().mode();
            assert!(kind.is_symlink() || mode & 0o022 == 0, "{} has mode {mode:o}", path.display());
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn a_package_that_brings_its_own_bin_directory_is_noticed() {
        let dir = unpacked();
        fs::remove_file(dir.path().join("bin")).unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        assert!(matches!(finish(dir.path()), Err(TreeError::Layout { .. })));
    }
}
