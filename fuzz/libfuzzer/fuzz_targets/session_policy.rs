//! The target `session_policy` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| coffer_fuzz::run("session_policy", data));
