//! The guest's initramfs: the agent, what starts first, the kernel modules and the list they are loaded by.
//! A newc archive whose bytes depend on its contents alone: sorted, no times, one owner. Compression is the caller's.

use crate::kernel::modules::{Module, Need};
use cpio::newc::{Builder, trailer};
use std::collections::BTreeMap;
use std::io;

/// Larger than this, compressed, an initramfs is refused (DESIGN §13), in bytes.
pub const COMPRESSED_MAX: usize = 12 << 20;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_777;
/// Where the root and the kernel's file systems are mounted, and what the files below need.
pub(crate) const DIRECTORIES: [&str; 11] =
    ["dev", "etc", "etc/coffer", "lib", "lib/modules", "newroot", "proc", "root", "run", "sys", "tmp"];

/// What `/init` is.
#[derive(Debug, Clone, Copy)]
pub enum Init<'a> {
    /// The agent itself: the kernel's own TDX files are there.
    Agent,
    /// The simulator's shim, which serves those files and then becomes the agent.
    Shim(&'a [u8]),
}

/// What the guest is told of its image, below `/etc/coffer`. It is measured with the archive.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Version, compared with the intent's minimum.
    pub svn: u64,
    /// Names of the shapes that the manifest has registers for.
    pub shapes: &'a [&'a str],
}

/// The archive, uncompressed.
pub fn build(agent: &[u8], init: Init<'_>, about: About<'_>, modules: &[Module]) -> io::Result<Vec<u8>> {
    let mut entries: BTreeMap<String, (u32, Vec<u8>)> = BTreeMap::new();
    for name in DIRECTORIES {
        entries.insert(name.into(), (DIRECTORY, Vec::new()));
    }
    entries.insert("coffer-agent".into(), (PROGRAM, agent.to_vec()));
    let init = match init {
        Init::Agent => (LINK, b"/coffer-agent".to_vec()),
        Init::Shim(shim) => (PROGRAM, shim.to_vec()),
    };
    entries.insert("init".into(), init);
    for module in modules {
        entries.insert(path_of(module), (FILE, module.bytes.clone()));
    }
    entries.insert("etc/coffer/modules".into(), (FILE, list(modules).into_bytes()));
    entries.insert("etc/coffer/svn".into(), (FILE, format!("{}\n", about.svn).into_bytes()));
    let shapes: String = about.shapes.iter().map(|shape| format!("{shape}\n")).collect();
    entries.insert("etc/coffer/shapes".into(), (FILE, shapes.into_bytes()));
    write(&entries)
}

/// `/etc/coffer/modules`: one absolute path a line in load order, `?` before those that may fail, an empty line between
/// groups that do not depend on each other.
fn list(modules: &[Module]) -> String {
    let line = |module: &Module| {
        let mark = if module.need == Need::Optional { "?" } else { "" };
        format!("{mark}/{}\n", path_of(module))
    };
    let groups = modules.chunk_by(|one, next| one.group == next.group);
    groups.map(|group| group.iter().map(line).collect::<String>()).collect::<Vec<_>>().join("\n")
}

fn path_of(module: &Module) -> String {
    format!("lib/modules/{}.ko", module.name)
}

fn write(entries: &BTreeMap<String, (u32, Vec<u8>)>) -> io::Result<Vec<u8>> {
    let mut archive = Vec::new();
    // A BTreeMap gives the names sorted, so a directory before what is in it.
    for (number, (name, (mode, content))) in entries.iter().enumerate() {
        let length = u32::try_from(content.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let links = if *mode == DIRECTORY { 2 } else { 1 };
        let builder = Builder::new(name).ino(number as u32 + 1).mode(*mode).nlink(links).mtime(0).uid(0).gid(0);
        let mut writer = builder.write(archive, length);
        io::Write::write_all(&mut writer, content)?;
        archive = writer.finish()?;
    }
    trailer(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Vec<Module> {
        let module =
            |name: &str, need, group| Module { name: name.into(), need, bytes: name.as_bytes().to_vec(), group };
        vec![
            module("vsock", Need::Required, 0),
            module("dm_mod", Need::Required, 1),
            module("tdx_guest", Need::Optional, 1),
        ]
    }

    const ABOUT: About<'_> = About { svn: 7, shapes: &["s1", "m4"] };

    /// Name, mode, modification time and content of each entry.
    fn read(archive: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut rest = archive;
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return found;
            }
            let entry = reader.entry().clone();
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content).unwrap();
            found.push((entry.name().to_owned(), entry.mode(), entry.mtime(), content));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn the_archive_is_sorted_timeless_and_the_same_each_time() {
        let archive = build(b"agent", Init::Shim(b"shim"), ABOUT, &modules()).unwrap();
        assert_eq!(archive, build(b"agent", Init::Shim(b"shim"), ABOUT, &modules()).unwrap());
        let entries = read(&archive);
        assert!(entries.is_sorted_by_key(|(name, ..)| name.clone()));
        assert!(entries.iter().all(|(_, _, mtime, _)| *mtime == 0));
        let content = |wanted: &str| {
            entries.iter().find(|(name, ..)| name == wanted).map(|(.., content)| content.clone()).unwrap()
        };
        assert_eq!(content("init"), b"shim");
        assert_eq!(content("coffer-agent"), b"agent");
        assert_eq!(
            content("etc/coffer/modules"),
            b"/lib/modules/vsock.ko\n\n/lib/modules/dm_mod.ko\n?/lib/modules/tdx_guest.ko\n"
        );
        assert_eq!(content("lib/modules/vsock.ko"), b"vsock");
        assert_eq!(content("etc/coffer/svn"), b"7\n");
        assert_eq!(content("etc/coffer/shapes"), b"s1\nm4\n");
    }

    #[test]
    fn without_a_shim_init_is_a_link_to_the_agent_and_nothing_else_differs() {
        let tdx = read(&build(b"agent", Init::Agent, ABOUT, &modules()).unwrap());
        let simulated = read(&build(b"agent", Init::Shim(b"shim"), ABOUT, &modules()).unwrap());
        let differing: Vec<_> = tdx.iter().zip(&simulated).filter(|(one, other)| one != other).collect();
        assert_eq!(differing.len(), 1);
        assert_eq!(*differing[0].0, ("init".to_owned(), LINK, 0, b"/coffer-agent".to_vec()));
    }
}
