#![no_main]
#![allow(dead_code)]

#[path = "../../protocol/report/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::template_file(data));
