//! The target `appraisal_policy` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| coffer_fuzz::run("appraisal_policy", data));
