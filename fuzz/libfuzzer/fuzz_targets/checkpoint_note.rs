//! The target `checkpoint_note` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| coffer_fuzz::run("checkpoint_note", data));
