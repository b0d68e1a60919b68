#![no_main]
#![allow(dead_code)]

#[path = "../../record/analyze/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::hinted_wait(data));
