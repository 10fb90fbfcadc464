//! Numbers and names that the three processes, the image and the host agree on. No logic.

/// The version of the agent that goes into the open map (`agent svn`): raised with every security fix.
pub const AGENT_SVN: u64 = 1;

/// The CID under which the host is reached.
pub const HOST_CID: u32 = 2;
/// Host port of the control connection: hello, ready, sealed.
pub const PORT_CONTROL: u32 = 1024;
/// Host port of the record mirror.
pub const PORT_MIRROR: u32 = 1027;
/// Guest port of the tool service.
pub const PORT_TOOLS: u32 = 1030;

/// Uid and gid of the notary.
pub const UID_NOTARY: u32 = 900;
/// Uid and gid of the agent.
pub const UID_AGENT: u32 = 901;
/// Uid and gid of wardens, the first processes of the calls' namespaces.
pub const UID_WARDEN: u32 = 903;
/// Uid and gid of the process that reads the policy for init.
pub const UID_GRANTS: u32 = 904;
/// Uid and gid of the observer.
pub const UID_OBSERVER: u32 = 905;
/// Uid and gid of identity 0; identity n has this plus n.
pub const UID_IDENTITY: u32 = 10_000;
/// Most identities in one session: the intent's own limit is lower; this bounds the uid range.
pub const IDENTITIES_MAX: usize = 256;

/// First descriptor of the notary: its socket to init.
pub const FD_NOTARY_INIT: i32 = 3;
/// The notary's socket to the agent.
pub const FD_NOTARY_AGENT: i32 = 4;
/// RTMR3, open for reading and extending.
pub const FD_NOTARY_RTMR3: i32 = 5;
/// The boot disk, as it was read.
pub const FD_NOTARY_BOOT: i32 = 6;
/// The other measurement files, in the order of `notary::registers::FILES`.
pub const FD_NOTARY_REGISTERS: i32 = 7;
/// First descriptor of the agent: its socket to init.
pub const FD_AGENT_INIT: i32 = 3;
/// The agent's socket to the notary.
pub const FD_AGENT_NOTARY: i32 = 4;
/// The firmware's event log; empty where there is none.
pub const FD_AGENT_CCEL: i32 = 5;
/// First descriptor of the observer: its socket to init.
pub const FD_OBSERVER_INIT: i32 = 3;

/// Where tools work; also their HOME.
pub const WORKSPACE: &str = "/workspace";
/// Inodes of the workspace.
pub const WORKSPACE_INODES: u64 = 200_000;
/// Milliseconds without a change after which a watch ends: a watch that is forgotten holds its session open no longer.
pub const WATCH_IDLE_MS: u64 = 15 * 60 * 1000;
/// Where tools may put temporary files.
pub const TMP: &str = "/tmp";
/// The search path of tools; also the one a bare program name is resolved with, whatever the call's own PATH says.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the kernel (or the simulated image's shim) shows the TD's registers.
pub const MEASUREMENTS: &str = "/sys/devices/virtual/misc/tdx_guest/measurements";
/// Where report directories are made.
pub const TSM_REPORTS: &str = "/sys/kernel/config/tsm/report";

/// Where the initramfs holds the image's version and shapes.
pub const IMAGE: &str = "/etc/coffer";

/// Serial of the disk that holds the erofs root.
pub const DISK_ROOT: &str = "coffer-root";
/// Serial of the disk that holds the verity tree.
pub const DISK_VERITY: &str = "coffer-verity";
/// Serial of the disk that holds config and policy.
pub const DISK_BOOT: &str = "coffer-boot";
