#![no_main]
#![allow(dead_code)]

#[path = "../../program/commands/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::mbox_split(data));
