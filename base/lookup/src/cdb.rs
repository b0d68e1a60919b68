//! D. J. Bernstein's constant database, read and written: the index of `hash:`, `btree:` and `cdb:` tables.
//!
//! Readable by every cdb program, and theirs by us. The reader trusts nothing: every offset is checked, every search is
//! bounded by the size of its hash table. Files are limited to 4 GB by the format.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

/// A file up to this size is held in memory; a larger one is read as it is asked.
const IN_MEMORY: u64 = 16 << 20;
const HEADER: usize = 2048;

fn hash(key: &[u8]) -> u32 {
    key.iter().fold(5381u32, |hash, &byte| (hash.wrapping_shl(5).wrapping_add(hash)) ^ u32::from(byte))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged cdb file: {what}; rebuild it with postmap"))
}

enum Source {
    Memory(Vec<u8>),
    File(File, u64),
}

/// An open cdb file.
pub struct CdbReader {
    source: Source,
}

impl CdbReader {
    /// Reads from an open file. Fails with `InvalidData` for a file that is too short to be one.
    pub fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        if length < HEADER as u64 {
            return Err(damaged("no header"));
        }
        if length > IN_MEMORY {
            return Ok(Self { source: Source::File(file, length) });
        }
        let mut content = Vec::with_capacity(length as usize);
        // A file that grows while it is read must not take all memory.
        file.take(IN_MEMORY).read_to_end(&mut content)?;
        Self::from_bytes(content)
    }

    /// Reads from memory.
    pub fn from_bytes(content: Vec<u8>) -> io::Result<Self> {
        if content.len() < HEADER {
            return Err(damaged("no header"));
        }
        Ok(Self { source: Source::Memory(content) })
    }

    fn length(&self) -> u64 {
        match &self.source {
            Source::Memory(content) => content.len() as u64,
            Source::File(_, length) => *length,
        }
    }

    fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = at.checked_add(length as u64).filter(|&end| end <= self.length());
        if end.is_none() {
            return Err(damaged("a record points outside the file"));
        }
        match &self.source {
            // Inside, as checked above; what lies in memory fits in usize.
            Source::Memory(content) => {
                Ok(content.get(at as usize..at as usize + length).ok_or_else(|| damaged("short"))?.to_vec())
            }
            Source::File(file, _) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, at)?;
                Ok(bytes)
            }
        }
    }

    fn pair(&self, at: u64) -> io::Result<(u32, u32)> {
        let mut bytes = [0u8; 8];
        match &self.source {
            Source::Memory(content) => {
                let slice = usize::try_from(at).ok().and_then(|at| content.get(at..at.checked_add(8)?));
                bytes.copy_from_slice(slice.ok_or_else(|| damaged("a number lies outside the file"))?);
            }
            Source::File(file, _) => file.read_exact_at(&mut bytes, at)?,
        }
        let number = |part: &[u8]| part.iter().rev().fold(0u32, |sum, &byte| sum << 8 | u32::from(byte));
        let (first, second) = bytes.split_at(4);
        Ok((number(first), number(second)))
    }

    /// The first value of `key`.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let hash = hash(key);
        let (table, slots) = self.pair(u64::from(hash & 255) * 8)?;
        if slots == 0 {
            return Ok(None);
        }
        if u64::from(table) + u64::from(slots) * 8 > self.length() {
            return Err(damaged("a hash table lies outside the file"));
        }
        let start = (hash >> 8) % slots;
        for step in 0..slots {
            let slot = (u64::from(start) + u64::from(step)) % u64::from(slots);
            let (found, at) = self.pair(u64::from(table) + slot * 8)?;
            if at == 0 {
                return Ok(None);
            }
            if found == hash {
                let (key_length, value_length) = self.pair(u64::from(at))?;
                if key_length as usize == key.len() && self.read(u64::from(at) + 8, key.len())? == key {
                    let value = u64::from(at) + 8 + u64::from(key_length);
                    return self.read(value, value_length as usize).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// Every pair, in the order written.
    pub fn entries(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut end = self.length();
        for bucket in 0..256 {
            end = end.min(u64::from(self.pair(bucket * 8)?.0));
        }
        let mut entries = Vec::new();
        let mut at = HEADER as u64;
        while at + 8 <= end {
            let (key_length, value_length) = self.pair(at)?;
            let key = self.read(at + 8, key_length as usize)?;
            at += 8 + u64::from(key_length);
            let value = self.read(at, value_length as usize)?;
            at += u64::from(value_length);
            entries.push((key, value));
        }
        Ok(entries)
    }
}

/// Collects pairs and writes a cdb file.
#[derive(Default)]
pub struct CdbWriter {
    records: Vec<u8>,
    slots: Vec<(u32, u32)>,
}

impl CdbWriter {
    /// Nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pair. Fails when the file would exceed 4 GB.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let at = HEADER as u64 + self.records.len() as u64;
        // Two slots of eight bytes are written per record.
        let total = at + 8 + key.len() as u64 + value.len() as u64 + 16 * (self.slots.len() as u64 + 1);
        let (Ok(at), true) = (u32::try_from(at), total <= u64::from(u32::MAX)) else {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a cdb file cannot exceed 4 GB"));
        };
        self.slots.push((hash(key), at));
        // Both lengths are below `total`.
        self.records.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.records.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.records.extend_from_slice(key);
        self.records.extend_from_slice(value);
        Ok(())
    }

    /// Writes the whole file.
    pub fn finish(self, mut to: impl Write) -> io::Result<()> {
        let mut buckets: Vec<Vec<(u32, u32)>> = vec![Vec::new(); 256];
        for slot in self.slots {
            // 256 buckets, index below 256.
            buckets[(slot.0 & 255) as usize].push(slot);
        }
        let mut header = Vec::with_capacity(HEADER);
        let mut tables = Vec::new();
        let start = HEADER + self.records.len();
        for bucket in &buckets {
            let size = bucket.len() * 2;
            header.extend_from_slice(&((start + tables.len()) as u32).to_le_bytes());
            header.extend_from_slice(&(size as u32).to_le_bytes());
            let mut table = vec![(0u32, 0u32); size];
            for &(hash, at) in bucket {
                let mut slot = (hash >> 8) as usize % size;
                // Half of the slots stay empty, so a free one is found.
                while table[slot].1 != 0 {
                    slot = (slot + 1) % size;
                }
                table[slot] = (hash, at);
            }
            for (hash, at) in table {
                tables.extend_from_slice(&hash.to_le_bytes());
                tables.extend_from_slice(&at.to_le_bytes());
            }
        }
        to.write_all(&header)?;
        to.write_all(&self.records)?;
        to.write_all(&tables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = CdbWriter::new();
        for (key, value) in pairs {
            writer.add(key.as_bytes(), value.as_bytes()).unwrap();
        }
        let mut file = Vec::new();
        writer.finish(&mut file).unwrap();
        file
    }

    #[test]
    fn round_trip() {
        let pairs: Vec<(String, String)> = (0..2000).map(|n| (format!("key{n}"), format!("value {}", n * 7))).collect();
        let borrowed: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let reader = CdbReader::from_bytes(written(&borrowed)).unwrap();
        for (key, value) in &pairs {
            assert_eq!(reader.get(key.as_bytes()).unwrap().as_deref(), Some(value.as_bytes()));
        }
        assert_eq!(reader.get(b"none").unwrap(), None);
        assert_eq!(reader.get(b"").unwrap(), None);
        assert_eq!(reader.entries().unwrap().len(), 2000);
        assert_eq!(CdbReader::from_bytes(written(&[])).unwrap().get(b"x").unwrap(), None);
    }

    #[test]
    fn damage_is_an_error_or_nothing_never_a_panic() {
        let good = written(&[("alpha", "one"), ("beta", "two"), ("gamma", "three")]);
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut bad = good.clone();
            let at = random as usize % bad.len();
            bad[at] = (random >> 32) as u8;
            if random & 7 == 0 {
                bad.truncate(at);
            }
            if let Ok(reader) = CdbReader::from_bytes(bad) {
                let _ = reader.get(b"alpha");
                let _ = reader.get(b"beta");
                let _ = reader.entries();
            }
        }
    }
}
