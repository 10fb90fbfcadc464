//! `coffer-image`: builds, measures and verifies the guest image. Data on stdout, progress and errors on stderr.
//! Exit status: 0 done or verified, 1 not the image its publisher signed, 64 usage, 69 no packages to be had,
//! 74 reading or writing, 78 a lock or key that does not fit.

mod build;
mod progress;

use anyhow::{Context as _, Result, bail};
use build::{Ingredients, Packages, Programs};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand};
use coffer_evidence::manifest::{ImageManifest, Profile};
use coffer_evidence::sign::PublicKey;
use coffer_image::cache::Cache;
use coffer_image::check::{self, Check, Outcome};
use coffer_image::debian::lock::{Lock, LockError};
use coffer_image::debian::{DebianError, store::StoreError};
use coffer_image::manifest::{self, Booted};
use coffer_image::publisher::{self, Origin, PublisherError};
use coffer_image::{image, paths};
use coffer_measurement::AcpiTables;
use progress::Progress;
use serde_json::json;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// The lock that `--locked` without a file means: the one checked in, seen from the repository's root.
const LOCK: &str = "guest-image/image.lock";

/// Builds, measures and verifies Coffer's guest image
#[derive(Debug, Parser)]
#[command(name = "coffer-image", version)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build an image and the QEMU kit; prints the image's directory
    Build(BuildArgs),
    /// Compute the registers that a TD booted from an image shows; prints JSON
    Measure(MeasureArgs),
    /// Check that a directory is the image its publisher signed
    Verify(VerifyArgs),
    /// Make the QEMU kit alone; prints its directory
    Kit(KitArgs),
}

#[derive(Debug, Args)]
struct BuildArgs {
    /// The kind of host it is for
    #[arg(long, default_value = "simulated", value_parser = PossibleValuesParser::new(["simulated", "tdx"]).map(profile))]
    profile: Profile,
    /// Directory of images [default: images in the state directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The agent: a static program
    #[arg(long, value_name = "PATH")]
    agent: PathBuf,
    /// The simulator's shim: a static program; the simulated profile needs it
    #[arg(long, value_name = "PATH")]
    shim: Option<PathBuf>,
    /// The key that signs the image; made if it is not there [default: publisher.key in the configuration directory]
    #[arg(long, value_name = "FILE")]
    publisher_key: Option<PathBuf>,
    /// The ACPI tables QEMU generates, copied from a guest; the tdx profile needs them
    #[arg(long, value_name = "DIR")]
    acpi: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    packages: PackageArgs,
}

#[derive(Debug, Args)]
struct KitArgs {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    packages: PackageArgs,
}

#[derive(Debug, Args)]
struct MeasureArgs {
    /// The image's directory
    directory: PathBuf,
    /// The ACPI tables QEMU generates, copied from a guest; the tdx profile needs them
    #[arg(long, value_name = "DIR")]
    acpi: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// The image's directory
    directory: PathBuf,
    /// The publisher's public key, 64 hex digits [default: publisher.pub in the configuration directory]
    #[arg(long, value_name = "KEY")]
    publisher: Option<PublicKey>,
    /// The ACPI tables QEMU generates, copied from a guest
    #[arg(long, value_name = "DIR")]
    acpi: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct PackageArgs {
    /// Where packages and what is made of them are kept [default: the user's cache directory]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// The Debian archive to fetch from [default: the one of the host's apt configuration]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Use exactly the packages of a lock
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = LOCK)]
    locked: Option<PathBuf>,
}

fn profile(name: String) -> Profile {
    if name == Profile::Tdx.as_str() { Profile::Tdx } else { Profile::Simulated }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let status = if error.use_stderr() { 64 } else { 0 };
            drop(error.print());
            return ExitCode::from(status);
        }
    };
    match run(cli.command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("coffer-image: {error:#}");
            if let Some(advice) = advice(&error) {
                eprintln!("coffer-image: {advice}");
            }
            ExitCode::from(status_of(&error))
        }
    }
}

fn run(action: Action) -> Result<ExitCode> {
    match action {
        Action::Build(args) => build_image(args),
        Action::Measure(args) => measure(&args),
        Action::Verify(args) => verify(&args),
        Action::Kit(args) => {
            let progress = Progress::start();
            let kit = gather(args.packages, &progress)?.qemu_kit(&progress)?;
            print(args.json, &kit, || json!({ "directory": kit }));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn build_image(args: BuildArgs) -> Result<ExitCode> {
    let progress = Progress::start();
    // What the user named is looked at before minutes are spent.
    if args.profile == Profile::Simulated && args.shim.is_none() {
        bail!("expected --shim PATH for the simulated profile, found none: build coffer-tdx-shim and name it");
    }
    let programs = Programs {
        profile: args.profile,
        acpi: manifest::acpi(args.profile, args.acpi.as_deref())?,
        agent: build::read_program(&args.agent, "--agent")?,
        shim: args.shim.as_deref().map(|path| build::read_program(path, "--shim")).transpose()?,
    };
    let key_path = args.publisher_key.map_or_else(paths::publisher_key, Ok)?;
    let (key, origin) = publisher::key(&key_path)?;
    if origin == Origin::Made {
        progress.step(&format!(
            "made a publisher key: {}; keep it, and pin {}",
            key_path.display(),
            PublicKey::of(&key)
        ));
    }
    let out = args.out.map_or_else(paths::images, Ok)?;
    let ingredients = gather(args.packages, &progress)?;
    ingredients.qemu_kit(&progress)?;
    let parts = ingredients.parts(&programs, &progress)?;
    let image = image::write(&parts, &key, &out)?;
    progress.step(&format!("image {}, signed by {}", &image.digest[..12], PublicKey::of(&key)));
    print(
        args.json,
        &image.directory,
        || json!({ "directory": image.directory, "digest": image.digest, "publisher": PublicKey::of(&key).to_string() }),
    );
    Ok(ExitCode::SUCCESS)
}

fn gather(args: PackageArgs, progress: &Progress) -> Result<Ingredients> {
    let packages = match args.locked {
        None => Packages::Newest,
        Some(path) => {
            let bytes = fs::read(&path).with_context(|| format!("reading the lock {}", path.display()))?;
            Packages::Locked(Lock::parse(&bytes).with_context(|| format!("the lock {}", path.display()))?)
        }
    };
    let directory = args.cache.map_or_else(paths::cache, Ok)?;
    let cache = Cache::open(&directory, || progress.step("waiting for another build to end"))?;
    Ingredients::gather(cache, args.mirror, packages, progress)
}

fn measure(args: &MeasureArgs) -> Result<ExitCode> {
    let read = |name: &str| fs::read(args.directory.join(name)).with_context(|| format!("reading {name} of the image"));
    let (firmware, kernel) = (read("firmware.fd")?, read("vmlinuz")?);
    let (initrd, command_line) = (read("initrd.img")?, read("cmdline")?);
    let tdx = command_line.split(|&byte| byte == b' ').any(|word| word == b"coffer.profile=tdx");
    let acpi = manifest::acpi(if tdx { Profile::Tdx } else { Profile::Simulated }, args.acpi.as_deref())?;
    let booted = Booted { firmware: &firmware, kernel: &kernel, initrd: &initrd, command_line: &command_line };
    let shapes: serde_json::Map<_, _> = manifest::registers(booted, acpi)?
        .into_iter()
        .map(|(shape, registers)| {
            let value = json!({
                "mrtd": hex::encode(registers.mrtd),
                "rtmr0": hex::encode(registers.rtmr0),
                "rtmr1": hex::encode(registers.rtmr1),
                "rtmr2": hex::encode(registers.rtmr2),
            });
            (shape, value)
        })
        .collect();
    println!("{}", json!(shapes));
    Ok(ExitCode::SUCCESS)
}

fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    let publisher = match args.publisher {
        Some(key) => key,
        None => own_public_key()?,
    };
    let profile = ImageManifest::parse(check::open(&args.directory)?.unverified_payload())?.profile;
    let acpi: Option<AcpiTables> = args.acpi.as_deref().map(|path| manifest::acpi(profile, Some(path))).transpose()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let checks = check::check(&args.directory, &publisher, acpi, now)?;
    let failed = checks.iter().any(|check| check.result == Outcome::Fail);
    if args.json {
        println!("{}", json!({ "verified": !failed, "publisher": publisher.to_string(), "checks": checks }));
    } else {
        for Check { name, result, reason } in &checks {
            let mark = match result {
                Outcome::Pass => "ok  ",
                Outcome::Fail => "FAIL",
                Outcome::NotEvaluated => "-   ",
            };
            println!("{mark} {name}{}{reason}", if reason.is_empty() { "" } else { ": " });
        }
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// The public half beside the user's own publisher key.
fn own_public_key() -> Result<PublicKey> {
    let path = paths::publisher_key()?.with_extension("pub");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("expected --publisher KEY or a publisher key of your own ({})", path.display()))?;
    text.trim_end().parse().with_context(|| format!("the public key {}", path.display()))
}

fn print(as_json: bool, directory: &Path, object: impl FnOnce() -> serde_json::Value) {
    if as_json {
        println!("{}", object());
    } else {
        println!("{}", directory.display());
    }
}

fn status_of(error: &anyhow::Error) -> u8 {
    let caused_by = |test: fn(&(dyn std::error::Error + 'static)) -> bool| error.chain().any(test);
    if caused_by(|cause| cause.is::<LockError>() || cause.is::<PublisherError>()) {
        return 78;
    }
    if caused_by(|cause| matches!(cause.downcast_ref(), Some(StoreError::Download { .. })) || cause.is::<DebianError>())
    {
        return 69;
    }
    74
}

/// What the causes have in common with a full disk, whoever noticed it.
fn advice(error: &anyhow::Error) -> Option<&'static str> {
    let full = error.chain().any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        kind == Some(io::ErrorKind::StorageFull) || cause.to_string().contains("No space left on device")
    });
    full.then_some("the disk is full: a build needs about 2 GB in the cache directory (--cache DIR uses another)")
}
