//! `coffer-image`: builds, measures and verifies the guest image. Data on stdout, progress and errors on stderr.
//! Exit status: 0 done or verified, 1 not the image its publisher signed or with findings of the lint, 64 usage, 69 no packages to be had,
//! 74 reading or writing, 78 a lock or key that does not fit.

mod build;
mod looking;
mod progress;

use anyhow::{Context as _, Result, bail};
use build::{Ingredients, Packages, Programs};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand};
use coffer_evidence::manifest::Profile;
use coffer_evidence::sign::PublicKey;
use coffer_image::acpi::{PhysicalBits, Source};
use coffer_image::cache::Cache;
use coffer_image::debian::lock::{Lock, LockError, is_package_name};
use coffer_image::debian::{DebianError, store::StoreError};
use coffer_image::publisher::{self, Origin, PublisherError};
use coffer_image::reference_values::ValuesError;
use coffer_image::{image, paths};
use ed25519_dalek::SigningKey;
use progress::Progress;
use serde_json::json;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
    /// Compute the registers that a TD booted from an image shows; prints them as signed JSON
    Measure(MeasureArgs),
    /// Check that a directory is the image its publisher signed
    Verify(VerifyArgs),
    /// Look for what no guest may have, in the bytes of an image
    Lint(LintArgs),
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
    #[command(flatten)]
    tables: TableArgs,
    /// Debian packages that go into the root besides its own, separated by commas
    #[arg(long = "packages", value_name = "NAMES", value_delimiter = ',', conflicts_with = "from_oci")]
    added: Vec<String>,
    /// An OCI image layout, a directory or a tar file, whose files are the root instead
    #[arg(long, value_name = "PATH")]
    from_oci: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    packages: PackageArgs,
}

/// Where the ACPI part of RTMR0 comes from, tdx profile.
#[derive(Debug, Args)]
struct TableArgs {
    /// The ACPI tables QEMU generates, copied from a guest, by shape [default: by a run of the kit's QEMU]
    #[arg(long, value_name = "DIR")]
    acpi: Option<PathBuf>,
    /// Bits of a physical address on the hosts, for such a run
    #[arg(long, value_name = "N", default_value = "52", conflicts_with = "acpi")]
    phys_bits: PhysicalBits,
}

#[derive(Debug, Args)]
struct LintArgs {
    /// The image's directory
    directory: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
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
    #[command(flatten)]
    tables: TableArgs,
    /// The public key of who signed the image, 64 hex digits [default: that of the key that signs the values]
    #[arg(long, value_name = "KEY")]
    publisher: Option<PublicKey>,
    /// The key that signs the values; made if it is not there [default: publisher.key in the configuration directory]
    #[arg(long, value_name = "FILE")]
    publisher_key: Option<PathBuf>,
    /// Print the values alone, unsigned
    #[arg(long, conflicts_with = "publisher_key")]
    unsigned: bool,
    /// Where packages and what is made of them are kept [default: the user's cache directory]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
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
        Action::Measure(args) => looking::measure(args),
        Action::Verify(args) => looking::verify(&args),
        Action::Lint(args) => looking::lint(&args),
        Action::Kit(args) => {
            let progress = Progress::start();
            let kit = gather(args.packages, &[], &progress)?.qemu_kit(&progress)?;
            print(args.json, kit.directory(), || json!({ "directory": kit.directory() }));
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
        acpi: Source::given(args.profile, args.tables.acpi.as_deref()),
        bits: args.tables.phys_bits,
        oci: args.from_oci,
        agent: build::read_program(&args.agent, "--agent")?,
        shim: args.shim.as_deref().map(|path| build::read_program(path, "--shim")).transpose()?,
    };
    let mut added = args.added;
    added.sort();
    added.dedup();
    if let Some(odd) = added.iter().find(|name| !is_package_name(name)) {
        bail!("expected names of Debian packages in --packages, found {odd:?}");
    }
    if !added.is_empty() && args.packages.locked.is_some() {
        bail!("expected --packages or --locked, found both: a lock names every package of its image already");
    }
    let key = publisher_key(args.publisher_key, &progress)?;
    let out = args.out.map_or_else(paths::images, Ok)?;
    let ingredients = gather(args.packages, &added, &progress)?;
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

/// The key that signs, made and announced if there is none.
fn publisher_key(path: Option<PathBuf>, progress: &Progress) -> Result<SigningKey> {
    let path = path.map_or_else(paths::publisher_key, Ok)?;
    let (key, origin) = publisher::key(&path)?;
    if origin == Origin::Made {
        progress.step(&format!("made a publisher key: {}; keep it, and pin {}", path.display(), PublicKey::of(&key)));
    }
    Ok(key)
}

fn gather(args: PackageArgs, added: &[String], progress: &Progress) -> Result<Ingredients> {
    let packages = match args.locked {
        None => Packages::Newest(added.to_vec()),
        Some(path) => {
            let bytes = fs::read(&path).with_context(|| format!("reading the lock {}", path.display()))?;
            Packages::Locked(Lock::parse(&bytes).with_context(|| format!("the lock {}", path.display()))?)
        }
    };
    let directory = args.cache.map_or_else(paths::cache, Ok)?;
    let cache = Cache::open(&directory, || progress.step("waiting for another build to end"))?;
    Ingredients::gather(cache, args.mirror, packages, progress)
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
    let of_another = |cause: &ValuesError| matches!(cause, ValuesError::Publisher { .. } | ValuesError::Changed { .. });
    if error.chain().filter_map(|cause| cause.downcast_ref()).any(of_another) {
        return 1;
    }
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
