#![no_main]
#![allow(dead_code)]

#[path = "../../base/config/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::main_cf(data));
