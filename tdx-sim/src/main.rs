//! SIMULATED: the host side of the TDX simulator. Everything it signs is forgeable by anyone (`tdx-sim/pki/README.md`).
//! Data goes to stdout, what people should know to stderr.

use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use coffer_measurement::{AcpiTables, Inputs, Registers, Shape, measure, rules};
use coffer_tdx_sim::collateral::collateral;
use coffer_tdx_sim::fault::{Fault, Plan};
use coffer_tdx_sim::protocol::Register;
use coffer_tdx_sim::td::{CreationInputs, SimulatedTd};
use coffer_tdx_sim::{pki, qgs, serve};

/// Exit status for bad usage; clap's own is 2.
const USAGE: u8 = 64;

#[derive(Parser)]
#[command(
    name = "coffer-tdx-sim",
    version,
    about = "SIMULATED: a software stand-in for TDX. Its evidence proves nothing."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the registers and quotes of one simulated TD on a unix socket
    Serve {
        /// The socket; it must not exist
        #[arg(long)]
        socket: PathBuf,
        #[command(flatten)]
        boot: Boot,
        /// MRCONFIGID: 96 hex digits
        #[arg(long, value_parser = register)]
        mrconfigid: Register,
        /// MROWNER: 96 hex digits
        #[arg(long, value_parser = register)]
        mrowner: Register,
        /// MROWNERCONFIG: 96 hex digits
        #[arg(long, value_parser = register)]
        mrownerconfig: Register,
        /// For tests: quotes go wrong on purpose: busy, stall or short
        #[arg(long)]
        fault: Option<Fault>,
        /// For tests: how many quotes are good before that
        #[arg(long, default_value_t = 0, requires = "fault")]
        fault_after: u32,
    },
    /// Print the registers that these files lead to, as JSON
    Measure {
        #[command(flatten)]
        boot: Boot,
    },
    /// Print collateral for simulated quotes, as JSON
    Collateral {
        /// Time of issue in unix seconds [default: now]
        #[arg(long)]
        at: Option<u64>,
    },
    /// Answer as Intel's quote generation service does, on a unix socket: quotes over simulated reports
    Qgs {
        /// The socket; it must not exist
        #[arg(long)]
        socket: PathBuf,
    },
    /// Print the simulator's root certificate, PEM
    Root,
    /// Write the published PKI, keys included
    #[command(hide = true)]
    MakePki {
        /// The directory
        #[arg(long)]
        out: PathBuf,
    },
}

/// What QEMU is given.
#[derive(Args)]
struct Boot {
    /// The file given to -bios
    #[arg(long)]
    firmware: PathBuf,
    /// The file given to -kernel
    #[arg(long)]
    kernel: PathBuf,
    /// The file given to -initrd
    #[arg(long)]
    initrd: PathBuf,
    /// A file that holds exactly the bytes given to -append
    #[arg(long)]
    cmdline: PathBuf,
    /// Processors and memory: s1
    #[arg(long)]
    shape: Shape,
}

impl Boot {
    fn measure(&self) -> anyhow::Result<Registers> {
        let (firmware, kernel) = (read(&self.firmware)?, read(&self.kernel)?);
        let (initrd, command_line) = (read(&self.initrd)?, read(&self.cmdline)?);
        let inputs = Inputs {
            firmware: &firmware,
            kernel: &kernel,
            initrd: &initrd,
            command_line: &command_line,
            shape: self.shape,
            acpi: AcpiTables::Simulated,
            rules: &rules::DIRECT_BOOT,
        };
        measure(&inputs).context("measure the files")
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

fn register(text: &str) -> Result<Register, String> {
    let bytes = hex::decode(text).ok().and_then(|bytes| Register::try_from(bytes).ok());
    bytes.ok_or_else(|| format!("expected 96 hex digits, found {} characters", text.chars().count()))
}

fn main() -> std::process::ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let status = if error.use_stderr() { USAGE } else { 0 };
            drop(error.print());
            return status.into();
        }
    };
    match run(arguments.command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coffer-tdx-sim: SIMULATED: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve { socket, boot, mrconfigid, mrowner, mrownerconfig, fault, fault_after } => {
            let inputs = CreationInputs { mr_config_id: mrconfigid, mr_owner: mrowner, mr_owner_config: mrownerconfig };
            let td = SimulatedTd::new(&boot.measure()?, &inputs);
            let listener = UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
            eprintln!("coffer-tdx-sim: SIMULATED TDX: anyone can forge its evidence");
            if let Some(fault) = fault {
                eprintln!("coffer-tdx-sim: SIMULATED fault of quotes: {fault:?}, after {fault_after} good ones");
            }
            print(b"coffer-tdx-sim: ready\n")?;
            serve::serve(&listener, td, fault.map(|fault| Plan { fault, after: fault_after }))
                .context("accept the guest's connection")
        }
        Command::Measure { boot } => {
            let registers = boot.measure()?;
            eprintln!("coffer-tdx-sim: SIMULATED: ACPI tables are not measured");
            let json = serde_json::json!({
                "mrtd": hex::encode(registers.mrtd),
                "rtmr0": hex::encode(registers.rtmr0),
                "rtmr1": hex::encode(registers.rtmr1),
                "rtmr2": hex::encode(registers.rtmr2),
            });
            print(format!("{json}\n").as_bytes())
        }
        Command::Collateral { at } => {
            let at = match at {
                Some(at) => at,
                None => SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs(),
            };
            let mut json = collateral(at)?.to_json();
            if json.is_empty() {
                bail!("the collateral has no JSON form");
            }
            json.push(b'\n');
            eprintln!("coffer-tdx-sim: SIMULATED collateral, issued at {at}");
            print(&json)
        }
        Command::Qgs { socket } => {
            let listener = UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
            eprintln!("coffer-tdx-sim: SIMULATED quote generation service: its quotes prove nothing");
            print(b"coffer-tdx-sim: ready\n")?;
            qgs::serve(&listener).context("accept a connection")
        }
        Command::Root => {
            eprintln!("coffer-tdx-sim: SIMULATED root: its private key is public");
            print(pki::pem(pki::ROOT_DER).as_bytes())
        }
        Command::MakePki { out } => {
            for (name, bytes) in pki::make()?.entries() {
                let path = out.join(name);
                std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
            }
            Ok(())
        }
    }
}

fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).context("write to stdout")
}
