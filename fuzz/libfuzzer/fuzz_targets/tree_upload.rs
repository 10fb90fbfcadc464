//! The target `tree_upload` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| coffer_fuzz::run("tree_upload", data));
