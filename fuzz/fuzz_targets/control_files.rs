#![no_main]
#![allow(dead_code)]

#[path = "../../stage/bounce/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::control_files(data));
