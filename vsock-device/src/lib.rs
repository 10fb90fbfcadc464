//! A vhost-user vsock device: one process per session, in its own jail. It parses what a hostile guest puts on the
//! rings, so nothing in `cofferd` has to. See [`mux`] for the host side, [`connection`] for the state machine,
//! [`device`] for the rings.

pub mod connection;
pub mod device;
mod host_socket;
pub mod mux;
pub mod packet;
