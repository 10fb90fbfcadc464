//! The gRPC interfaces of Coffer, generated from `proto/`. Nothing else lives here: no conversions, no defaults,
//! no validation. Bytes fields are `bytes::Bytes`.
#![allow(missing_docs, reason = "generated code carries the comments of the .proto files where they exist")]

/// `coffer.control.v1`: sessions, evidence and images, served by `cofferd`.
pub mod control {
    #[allow(unreachable_pub, clippy::all, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("coffer.control.v1");
    }
}

/// `coffer.guest.v1`: tool calls, served by the agent in the guest.
pub mod guest {
    #[allow(unreachable_pub, clippy::all, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("coffer.guest.v1");
    }
}

/// The compiled descriptors, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/coffer.fds"));
