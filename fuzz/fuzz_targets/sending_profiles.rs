#![no_main]
#![allow(dead_code)]

#[path = "../../program/engine/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::sending_profiles(data));
