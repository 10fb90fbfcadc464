//! The image for TDX hosts: the same agent, nothing of the simulator, no console, and a manifest that its publisher signed.
//! One whole build out of the packages in the user's cache, without the network.

mod warm;

use coffer_evidence::dsse::Envelope;
use coffer_evidence::manifest::{ImageManifest, Profile};
use coffer_image::cache::Cache;
use coffer_image::debian::lock::{Lock, Set};
use coffer_image::kit::Kit;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use warm::coffer_image;

/// The agent as `scripts/build` leaves it; any program where there is none.
fn agent() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/x86_64-unknown-linux-gnu/guest/coffer-agent");
    if built.exists() { built } else { "/bin/true".into() }
}

/// Name and mode of each entry of a newc archive.
fn entries(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let (mut found, mut rest) = (Vec::new(), archive);
    loop {
        let mut reader = cpio::newc::Reader::new(rest).unwrap();
        if reader.entry().is_trailer() {
            return found;
        }
        let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut content).unwrap();
        found.push((name, mode, content));
        rest = reader.finish().unwrap();
    }
}

#[test]
fn the_tdx_image_holds_the_agent_and_nothing_of_the_simulator() {
    let Some(warm) = warm::warm_cache() else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let cache = warm::own_cache(dir.path(), &warm);
    let locked = format!("--locked={}", warm::lock_of(&warm).display());
    let (out, key) = (at("images"), at("publisher.key"));
    let mut build: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"build", &"--profile", &"tdx", &locked, &"--cache", &cache];
    let agent = agent();
    build.extend::<[&dyn AsRef<std::ffi::OsStr>; 6]>([&"--out", &out, &"--publisher-key", &key, &"--agent", &agent]);
    // The tables come from a run of the kit's QEMU.
    let built = coffer_image(&build);
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    assert!(built.status.success() && said.contains("booting QEMU for the ACPI tables of shape s1"), "{said}");
    let image = PathBuf::from(String::from_utf8(built.stdout).unwrap().trim_end());
    let acpi = fs::read_dir(at("cache/acpi")).unwrap().next().unwrap().unwrap().path();
    let tables = fs::read(acpi.join("s1/acpi/tables")).unwrap();
    for table in ["FACP", "APIC", "MCFG"] {
        assert!(tables.windows(4).any(|window| window == table.as_bytes()), "no {table}: the firmware was not run");
    }
    // A second run gives the same bytes, and so the same image; processors with other addresses do not.
    fs::remove_dir_all(at("cache/acpi")).unwrap();
    let again = coffer_image(&build);
    assert_eq!(PathBuf::from(String::from_utf8(again.stdout).unwrap().trim_end()), image);
    build.extend::<[&dyn AsRef<std::ffi::OsStr>; 2]>([&"--phys-bits", &"40"]);
    let other = coffer_image(&build);
    assert_ne!(PathBuf::from(String::from_utf8(other.stdout).unwrap().trim_end()), image);

    let publisher = fs::read_to_string(key.with_extension("pub")).unwrap();
    let publisher = publisher.trim_end();
    let verified = coffer_image(&[&"verify", &image, &"--publisher", &publisher, &"--acpi", &acpi]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let envelope = coffer_image::check::open(&image).unwrap();
    let manifest = ImageManifest::parse(envelope.unverified_payload()).unwrap();
    assert_eq!((manifest.profile, manifest.svn), (Profile::Tdx, coffer_image::manifest::SVN));
    assert_eq!(manifest.shapes.keys().collect::<Vec<_>>(), ["s1"]);

    // What is left of the variable store has the digest that event logs of quoted TDs have for an empty one.
    let firmware = fs::read(image.join("firmware.fd")).unwrap();
    let sections = coffer_measurement::Tdvf::parse(&firmware).unwrap();
    let store =
        sections.sections().iter().find(|s| s.kind == coffer_measurement::SectionKind::ConfigurationVolume).unwrap();
    assert!(hex::encode(coffer_measurement::sha384(store.data)).starts_with("344bc51c980ba621aaa00da3ed7436f7"));

    // The same values, computed from the image alone and signed.
    let values = |more: &[&dyn AsRef<std::ffi::OsStr>]| {
        let mut measure: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"measure", &image, &"--acpi", &acpi];
        measure.extend(more);
        let output = coffer_image(&measure);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout.trim_ascii_end().to_vec()
    };
    let signed = Envelope::parse(&values(&[&"--publisher-key", &key])).unwrap();
    let payload = signed.verify(&publisher.parse().unwrap(), coffer_image::reference_values::PAYLOAD_TYPE).unwrap();
    assert_eq!(payload, values(&[&"--unsigned", &"--publisher", &publisher]));
    let values: serde_json::Value = serde_json::from_slice(payload).unwrap();
    assert_eq!(values["shapes"], serde_json::to_value(&manifest.shapes).unwrap());
    assert_eq!(values["files"]["vmlinuz"], manifest.digests.kernel);
    assert_eq!((&values["schema"], &values["profile"]), (&"coffer/reference-values/v1".into(), &"tdx".into()));

    // Of an image that another signed, or with a changed file, nothing is run or signed; and looking leaves the kit alone.
    let kits = at("cache/qemu");
    let current = fs::read_link(kits.join("current")).unwrap();
    let refused = |directory: &Path, signer: &str, words: &str| {
        let signer = at(signer);
        let output = coffer_image(&[&"measure", &directory, &"--publisher-key", &signer, &"--cache", &at("none")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && output.stdout.is_empty() && said.contains(words), "{said}");
        assert!(!at("none").exists(), "packages of an image that is not signed were asked for");
    };
    refused(&image, "another.key", "expected an image that");
    let changed = at("changed");
    for name in ["firmware.fd", "vmlinuz", "initrd.img", "cmdline", "image.lock"] {
        drop(fs::remove_dir_all(&changed));
        fs::create_dir(&changed).unwrap();
        for entry in fs::read_dir(&image).unwrap().map(Result::unwrap) {
            fs::copy(entry.path(), changed.join(entry.file_name())).unwrap();
        }
        let bytes = fs::read(changed.join(name)).unwrap();
        fs::write(changed.join(name), [&bytes[..], b"\n"].concat()).unwrap();
        refused(&changed, "publisher.key", &format!("{name} to have the SHA-256"));
    }
    fs::remove_file(kits.join("current")).unwrap();
    symlink("the user's own", kits.join("current")).unwrap();
    let looked = coffer_image(&[&"measure", &image, &"--publisher-key", &key, &"--cache", &cache]);
    assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stderr));
    assert_eq!(fs::read_link(kits.join("current")).unwrap(), Path::new("the user's own"));
    let digest = current.to_str().unwrap().rsplit('.').next().unwrap();
    assert!(digest.len() >= 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", current.display());

    let command_line = fs::read_to_string(image.join("cmdline")).unwrap();
    let words: Vec<&str> = command_line.split(' ').collect();
    assert!(words.contains(&"coffer.profile=tdx") && words.contains(&"8250.nr_uarts=0"), "{command_line}");
    assert!(!words.iter().any(|word| word.starts_with("console=") || word.starts_with("earlyprintk")));

    let entries = entries(&initramfs(&at("cache"), &image));
    let content = |name: &str| &entries.iter().find(|(found, ..)| found == name).unwrap().2;
    assert_eq!(
        (content("init").as_slice(), content("etc/coffer/svn").as_slice()),
        (&b"/coffer-agent"[..], &b"1\n"[..])
    );
    assert!(*content("coffer-agent") == fs::read(&agent).unwrap(), "the agent, byte for byte");
    let mut modules = content("etc/coffer/modules").split(|byte| *byte == b'\n');
    assert!(modules.any(|line| line == b"/lib/modules/tdx_guest.ko"), "what only a TD has is insisted on");
    for (name, _, bytes) in &entries {
        assert!(!["fuse", "shim", "sim"].iter().any(|word| name.contains(word)), "{name}");
        for mark in [&b"SIMULATED"[..], b"coffer-shim", b"coffer-tdx-sim"] {
            assert!(!bytes.windows(mark.len()).any(|window| window == mark), "{name}");
        }
    }
}

/// The image's initramfs, unpacked by the package set's own zstd.
fn initramfs(cache: &Path, image: &Path) -> Vec<u8> {
    let cache = Cache::open(cache, || ()).unwrap();
    let lock = Lock::parse(&fs::read(image.join("image.lock")).unwrap()).unwrap();
    let directory = cache.directory().join("root/tools-of-test");
    let (tools, _) = Kit::unpack(&lock, Set::Tools, &cache.store().unwrap(), directory).unwrap();
    let output = tools.command("usr/bin/zstd").arg("-dc").arg(image.join("initrd.img")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
