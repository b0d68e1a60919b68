#![no_main]
#![allow(dead_code)]

#[path = "../../stage/receive/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::proxy_header(data));
