#![no_main]
#![allow(dead_code)]

#[path = "../../base/mailauth/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::results_field(data));
