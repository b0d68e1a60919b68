#![no_main]
#![allow(dead_code)]

#[path = "../../program/sim/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::receivers(data));
