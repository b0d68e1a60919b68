#![no_main]
#![allow(dead_code)]

#[path = "../../protocol/smtp/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::smtp_data(data));
