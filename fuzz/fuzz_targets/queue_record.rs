//! Any bytes read as parts of the queue's log.
#![no_main]

#[path = "../../stage/queue/tests/bodies/queue_record.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::queue_record(data));
