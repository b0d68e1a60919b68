//! Any bytes read as a message's own file, or as a side index.
#![no_main]

#[path = "../../stage/queue/tests/bodies/queue_file.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::queue_file(data));
