//! The text forms of tables, the rules of regexp, pcre and cidr tables, and cdb files, from any bytes.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use yamabiko_lookup::text::{Entry, read};
use yamabiko_lookup::{CdbReader, CdbWriter, Format, Options, TableSet};

fuzz_target!(|data: &[u8]| {
    for format in [Format::Map, Format::Alias] {
        let mut writer = CdbWriter::new();
        let mut pairs = Vec::new();
        read(data, format, |entry| {
            if let Entry::Pair(pair) = entry {
                writer.add(pair.key.as_bytes(), pair.value.as_bytes()).unwrap();
                pairs.push(pair);
            }
        });
        let mut file = Vec::new();
        writer.finish(&mut file).unwrap();
        let reader = CdbReader::from_bytes(file).unwrap();
        for pair in &pairs {
            assert!(reader.get(pair.key.as_bytes()).unwrap().is_some());
        }
    }
    if let Ok(reader) = CdbReader::from_bytes(data.to_vec()) {
        let _ = reader.get(b"key");
        let _ = reader.entries();
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let set = TableSet::new(Options { notify: Arc::new(|_| {}), ..Options::default() });
        for kind in ["cidr", "regexp", "pcre", "inline", "static", "randmap"] {
            if let Ok(table) = set.open(&format!("{kind}:{text}")) {
                let _ = pollster::block_on(table.lookup("192.0.2.1"));
            }
        }
    }
});
