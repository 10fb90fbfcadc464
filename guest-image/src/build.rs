//! `coffer-image build`: from packages, agent and shim to the files of an image. What each step does is in its module;
//! here is their order.

use crate::progress::Progress;
use anyhow::{Context as _, Result, bail};
use coffer_evidence::manifest::Profile;
use coffer_image::acpi::{self, PhysicalBits};
use coffer_image::cache::Cache;
use coffer_image::cmdline::command_line;
use coffer_image::debian::Archive;
use coffer_image::debian::apt::Expiry;
use coffer_image::debian::lock::{Lock, Set, Source};
use coffer_image::debian::store::Store;
use coffer_image::image::Parts;
use coffer_image::initramfs::{self, About, Init};
use coffer_image::kernel::Unpacked;
use coffer_image::kit::{self, Kit, Made};
use coffer_image::manifest::{Builds, SVN};
use coffer_image::oci::{Dropped, Limits, OciImage};
use coffer_image::rootfs::Content;
use coffer_image::{firmware, rootfs};
use coffer_measurement::Shape;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the firmware lies in its package.
const FIRMWARE: &str = "usr/share/ovmf/OVMF.inteltdx.ms.fd";
/// An image is trusted for a year after the newest package in it was built, in seconds.
const TRUSTED_FOR: u64 = 365 * 24 * 3600;

/// Which packages to use.
#[derive(Debug, Clone)]
pub(crate) enum Packages {
    /// The newest of the archive, and these in the root besides its own.
    Newest(Vec<String>),
    /// Exactly those of a lock.
    Locked(Lock),
}

/// What an image is made of besides packages.
#[derive(Debug)]
pub(crate) struct Programs {
    /// Its kind.
    pub(crate) profile: Profile,
    /// Where the ACPI part of RTMR0 comes from; by a run of the kit's QEMU if nothing is said.
    pub(crate) acpi: Option<acpi::Source>,
    /// Of the processors of the hosts, for such a run.
    pub(crate) bits: PhysicalBits,
    /// An OCI image layout whose files are the root, instead of packages.
    pub(crate) oci: Option<PathBuf>,
    /// The agent.
    pub(crate) agent: Vec<u8>,
    /// The simulator's shim, which the simulated profile needs.
    pub(crate) shim: Option<Vec<u8>>,
}

/// The packages of one run: named, fetched, and the tools among them unpacked.
#[derive(Debug)]
pub(crate) struct Ingredients {
    cache: Cache,
    store: Store,
    lock: Lock,
}

impl Ingredients {
    /// Names and fetches the packages.
    pub(crate) fn gather(
        cache: Cache,
        mirror: Option<String>,
        packages: Packages,
        progress: &Progress,
    ) -> Result<Self> {
        let store = cache.store()?;
        let expiry = match &packages {
            Packages::Newest(_) => Expiry::AsOnHost,
            Packages::Locked(_) => Expiry::Ignored,
        };
        let archive = Archive::new(cache.directory().join("lists"), mirror, store.clone(), expiry);
        let lock = match packages {
            Packages::Locked(lock) => lock,
            Packages::Newest(added) => {
                progress.step("naming the packages");
                archive.resolve(&added)?
            }
        };
        let missing = store.missing(lock.packages());
        if !missing.is_empty() {
            let bytes: u64 = missing.iter().map(|package| package.size).sum();
            progress.step(&format!("fetching {} packages, {} MB", missing.len(), bytes / 1_000_000));
        }
        archive.fetch(&lock)?;
        Ok(Self { cache, store, lock })
    }

    /// Makes the QEMU kit the one that VMs are started with.
    pub(crate) fn qemu_kit(&self, progress: &Progress) -> Result<Kit> {
        let kit = self.unpacked_qemu(progress)?;
        kit::make_current(&kit)?;
        Ok(kit)
    }

    fn unpacked_qemu(&self, progress: &Progress) -> Result<Kit> {
        let (kit, made) = kit::make_qemu(&self.lock, &self.store, self.cache.directory())?;
        if made == Made::Now {
            progress.step(&format!("unpacked the QEMU kit: {}", kit.directory().display()));
        }
        Ok(kit)
    }

    /// Makes the files of an image.
    pub(crate) fn parts(&self, programs: &Programs, progress: &Progress) -> Result<Parts> {
        let Programs { profile, acpi, bits, oci, agent, shim } = programs;
        let directory =
            self.cache.directory().join("root").join(format!("tools-{}", &self.lock.set_digest(Set::Tools)[..16]));
        let (tools, _) = Kit::unpack(&self.lock, Set::Tools, &self.store, directory)?;
        let kernel = Unpacked::get(&self.lock, &self.store, self.cache.directory())?;
        let cache = self.cache.directory();
        let oci = oci.as_deref().map(|path| OciImage::open(path, &cache.join("root"), Limits::BUILD)).transpose()?;
        let content = oci.as_ref().map_or(Content::Packages, Content::Oci);
        let (root, made) = rootfs::build(&self.lock, content, &self.store, &tools, cache)?;
        if made == Made::Now {
            progress.step(&format!("made the root file system: {} MB", fs::metadata(root.erofs())?.len() / 1_000_000));
        }
        let Dropped { set_id, attributes } = root.dropped;
        if root.dropped != Dropped::default() {
            progress
                .step(&format!("dropped of the OCI image: set-id bits of {set_id} files, attributes of {attributes}"));
        }
        let init = match (profile, shim.as_deref()) {
            (Profile::Tdx, _) => Init::Agent,
            (Profile::Simulated, Some(shim)) => Init::Shim(shim),
            (Profile::Simulated, None) => {
                bail!("expected --shim PATH for the simulated profile, found none: build coffer-tdx-shim and name it")
            }
        };
        let modules = kernel.modules(&tools, *profile)?;
        let shapes: Vec<&str> = Shape::ALL.iter().map(|shape| shape.name()).collect();
        let about = About { svn: SVN, shapes: &shapes };
        let initrd = compress(&tools, &initramfs::build(agent, init, about, &modules)?)?;
        if initrd.len() > initramfs::COMPRESSED_MAX {
            bail!(
                "expected an initramfs of at most {} bytes, found {}: build agent and shim with the guest profile",
                initramfs::COMPRESSED_MAX,
                initrd.len()
            );
        }
        progress.step(&format!(
            "made the initramfs: Linux {}, {} modules, {} KB",
            kernel.version,
            modules.len(),
            initrd.len() / 1000
        ));
        let (firmware, vmlinuz) = (self.firmware()?, kernel.vmlinuz()?);
        let acpi = match acpi {
            Some(given) => given.clone(),
            None => self.acpi(&firmware, &vmlinuz, *bits, progress)?,
        };
        let source =
            |name: &str, bytes: &[u8]| Source { name: name.into(), sha256: hex::encode(Sha256::digest(bytes)) };
        let mut sources = vec![source("coffer-agent", agent)];
        if let Init::Shim(shim) = init {
            sources.push(source("coffer-tdx-shim", shim));
        }
        if let Some(oci) = &oci {
            sources.push(Source { name: "oci-manifest".into(), sha256: oci.manifest_digest().to_owned() });
        }
        let lock = if oci.is_some() { self.lock.without(Set::Root) } else { self.lock.clone() };
        Ok(Parts {
            profile: *profile,
            acpi,
            firmware,
            kernel: vmlinuz,
            initrd,
            command_line: command_line(&root.hash, *profile),
            root_hash: root.hash,
            root: root.erofs(),
            verity: root.verity(),
            builds: Builds::of(&lock),
            not_after: self.newest(&lock)? + TRUSTED_FOR,
            lock: lock.with_sources(sources).to_bytes(),
        })
    }

    /// ACPI tables as this kit's QEMU makes them, by a run or as an earlier one left them.
    pub(crate) fn acpi(
        &self,
        firmware: &[u8],
        kernel: &[u8],
        bits: PhysicalBits,
        progress: &Progress,
    ) -> Result<acpi::Source> {
        let kit = self.unpacked_qemu(progress)?;
        let name = acpi::directory_name(&self.lock.set_digest(Set::Qemu), firmware, kernel, bits);
        let directory = self.cache.directory().join("acpi").join(name);
        let ran = acpi::Ran { kit: &kit, firmware, kernel, bits };
        let say = |shape: Shape| progress.step(&format!("booting QEMU for the ACPI tables of shape {shape}"));
        Ok(acpi::run(ran, &directory, say)?)
    }

    fn firmware(&self) -> Result<Vec<u8>> {
        let unpacked = tempfile::Builder::new().prefix(".partial-").tempdir_in(self.cache.directory().join("root"))?;
        self.store.unpack(self.lock.set(Set::Firmware), unpacked.path())?;
        let path = unpacked.path().join(FIRMWARE);
        let stock =
            fs::read(&path).with_context(|| format!("expected {FIRMWARE} in the firmware package, found none"))?;
        Ok(firmware::clear_keys(&stock)?)
    }

    /// When the newest package of `lock` that ends up in the guest was built.
    fn newest(&self, lock: &Lock) -> Result<u64> {
        let mut newest = 0;
        for set in [Set::Firmware, Set::Kernel, Set::Root] {
            for package in lock.set(set) {
                newest = newest.max(self.store.built_at(package)?);
            }
        }
        Ok(newest)
    }
}

/// zstd by the package set's own program: another version may give other bytes.
fn compress(tools: &Kit, archive: &[u8]) -> Result<Vec<u8>> {
    let mut command: Command = tools.command("usr/bin/zstd");
    command.args(["-q", "-19", "--single-thread", "--no-progress", "-c"]);
    let mut input = tempfile::tempfile()?;
    input.write_all(archive)?;
    std::io::Seek::rewind(&mut input)?;
    let output =
        command.stdin(Stdio::from(input)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    if !output.status.success() {
        bail!("expected zstd to succeed, found {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// Reads one of the programs that go into the image.
pub(crate) fn read_program(path: &Path, option: &str) -> Result<Vec<u8>> {
    let bytes =
        fs::read(path).with_context(|| format!("reading the program that {option} names, {}", path.display()))?;
    if bytes.is_empty() {
        bail!("expected a program in {} ({option}), found an empty file", path.display());
    }
    Ok(bytes)
}
