//! Berkeley DB files from any bytes: no panic, and never more than the file holds.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(pairs) = yamabiko_lookup::berkeley::read(data) {
        let size: usize = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(size <= data.len());
    }
});
