//! SIMULATED TDX: a software stand-in for the TDX module and the quoting enclave.
//!
//! Everything here is forgeable by anyone: the keys are published in `pki/`. It exists so that the whole path, from launch to
//! verdict, runs on machines without TDX, under a trust anchor that no verifier takes for Intel's.
//! Two programs share this library: the simulator process on the host (feature `host`) and the shim that is `/init` of the
//! simulated guest image (feature `shim`). No release build of the agent or of `cofferd` contains any of it.
//!
//! ```text
//! guest: agent ── /sys/kernel/config/tsm, /sys/devices/virtual/misc/tdx_guest ── FUSE ── shim
//!                                                                                        │ vsock 1025 (`protocol`)
//! host:  coffer-tdx-sim: registers from the files that booted, RTMRs as extended, quotes under the published root
//! ```

#[cfg(feature = "host")]
pub mod collateral;
#[cfg(feature = "host")]
pub mod fault;
#[cfg(feature = "host")]
pub mod pki;
pub mod protocol;
#[cfg(feature = "host")]
pub mod qgs;
#[cfg(feature = "host")]
pub mod quote;
#[cfg(feature = "host")]
pub mod report;
#[cfg(feature = "host")]
pub mod serve;
#[cfg(feature = "host")]
pub mod td;
