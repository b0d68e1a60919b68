#![no_main]
#![allow(dead_code)]

#[path = "../../base/sasl/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::sasl_exchange(data));
