#![no_main]
#![allow(dead_code)]

#[path = "../../stage/schedule/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::learned_limits(data));
