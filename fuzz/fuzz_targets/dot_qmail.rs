#![no_main]
#![allow(dead_code)]

#[path = "../../stage/deliver-local/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::dot_qmail(data));
