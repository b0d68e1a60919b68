#![no_main]
#![allow(dead_code)]

#[path = "../../protocol/address/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::address_path(data));
