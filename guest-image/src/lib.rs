//! The parts of `coffer-image`: Debian packages without root, the root file system with its verity tree, the
//! initramfs, the firmware, the command line, and the signed description of them all. The order of a build is in the
//! binary.

pub mod acpi;
pub mod cache;
pub mod check;
pub mod cmdline;
pub mod debian;
pub mod digest;
pub mod firmware;
pub mod image;
pub mod initramfs;
pub mod inspect;
pub mod kernel;
pub mod kit;
pub mod lint;
pub mod manifest;
pub mod oci;
pub mod paths;
pub mod process;
pub mod publisher;
pub mod reference_values;
pub mod rootfs;
pub mod verity;
