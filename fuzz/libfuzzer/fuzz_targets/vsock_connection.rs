//! The target `vsock_connection` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| coffer_fuzz::run("vsock_connection", data));
