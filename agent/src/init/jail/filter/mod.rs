//! What a tool may ask of the kernel: a closed list of system calls, and in a few of them a closed list of arguments. One filter,
//! compiled once, installed by each tool before it executes its program.
//!
//! ```text
//!   x86-64?           no ─> the process ends   other numbers mean other calls
//!   never a tool's?  yes ─> EPERM              mounts, namespaces, keys, bpf, io_uring, clocks, modules ...
//!   listed?           no ─> ENOSYS             programs fall back to what they did on older kernels
//!   its arguments?    no ─> EPERM, or EAFNOSUPPORT for a socket, as if the kernel had no such family: no vsock, no packet, no AF_ALG
//! ```
//! | part | file |
//! |---|---|
//! | numbers | `calls.rs` |
//! | arguments | `rules.rs` |
//! | the program of it | `program.rs` |
//!
//! Written here and not taken from a library: those compile one comparison for each call. The kernel runs a new filter once for every
//! call that there is, and that alone was a quarter of what starting a program took.

mod calls;
mod program;
mod rules;

/// The compiled filter.
#[derive(Debug)]
pub struct Filter(pub(in super::super) Vec<libc::sock_filter>);

impl Filter {
    /// Compiles it.
    #[must_use]
    pub fn compile() -> Self {
        Self(program::compile(&rules::rules()))
    }
}
