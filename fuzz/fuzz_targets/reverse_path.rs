#![no_main]
#![allow(dead_code)]

#[path = "../../base/token/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::reverse_path(data));
