#![no_main]
#![allow(dead_code)]

#[path = "../../record/ledger/tests/fuzz/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::ledger_journal(data));
