//! LMDB files, opened for reading as Postfix writes them: one file, no subdirectory, the unnamed database.

use std::path::Path;

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, WithoutTls};

/// An LMDB file open for reading.
pub struct Lmdb {
    env: Env<WithoutTls>,
    database: Database<Bytes, Bytes>,
}

fn words(error: heed::Error) -> String {
    match error {
        heed::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// One key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

impl Lmdb {
    /// Opens the file. The file must not be overwritten in place by anything but LMDB while it is open.
    pub fn open(path: &Path) -> Result<Self, String> {
        // The library cannot open a name without a directory.
        let path = &std::path::absolute(path).map_err(|error| error.to_string())?;
        let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
        // Room for growth by others; LMDB maps at least what the file says.
        let map = usize::try_from(length).unwrap_or(usize::MAX / 2).saturating_mul(2).max(16 << 20);
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map.next_multiple_of(4096)).max_readers(512);
        // NO_LOCK: as Postfix opens its tables; a writer replaces pages, never those a reader sees, unless it is two
        // transactions ahead: readers here are short.
        // SAFETY: flags that only touch how the file is opened; consistency is LMDB's copy-on-write.
        unsafe { options.flags(EnvFlags::NO_SUB_DIR | EnvFlags::READ_ONLY | EnvFlags::NO_LOCK) };
        // SAFETY: the file is mapped; what must not happen (being truncated by others) is the documented condition.
        let env = unsafe { options.open(path) }.map_err(words)?;
        let txn = env.read_txn().map_err(words)?;
        let database = env.open_database::<Bytes, Bytes>(&txn, None).map_err(words)?;
        drop(txn);
        let database = database.ok_or("no database in it")?;
        Ok(Self { env, database })
    }

    /// The value of a key. LMDB knows no empty keys.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        if key.is_empty() || key.len() > 511 {
            return Ok(None);
        }
        let txn = self.env.read_txn().map_err(words)?;
        let value = self.database.get(&txn, key).map_err(words)?;
        Ok(value.map(<[u8]>::to_vec))
    }

    /// All pairs, in the order of their keys.
    pub fn entries(&self) -> Result<Vec<Pair>, String> {
        let txn = self.env.read_txn().map_err(words)?;
        let pairs = self.database.iter(&txn).map_err(words)?;
        pairs.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(words)).collect()
    }
}

/// Writes a new LMDB file at `path` (which must not exist) with these pairs; the last of equal keys stays.
pub fn write(path: &Path, pairs: &[Pair]) -> Result<(), String> {
    let path = &std::path::absolute(path).map_err(|error| error.to_string())?;
    let size: usize = pairs.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
    let mut options = EnvOpenOptions::new();
    // Pages are half empty at worst; large values take whole pages.
    options.map_size((size.saturating_mul(4) + pairs.len() * 8192 / 4 + (16 << 20)).next_multiple_of(4096));
    // SAFETY: flags that only touch how the file is opened; nobody else knows the new file.
    unsafe { options.flags(EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK) };
    // SAFETY: a new file that nobody else has open.
    let env = unsafe { options.open(path) }.map_err(words)?;
    let mut txn = env.write_txn().map_err(words)?;
    let database: Database<Bytes, Bytes> = env.create_database(&mut txn, None).map_err(words)?;
    for (key, value) in pairs {
        database.put(&mut txn, key, value).map_err(words)?;
    }
    txn.commit().map_err(words)?;
    env.force_sync().map_err(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.lmdb");
        let pairs: Vec<Pair> = (0..500).map(|n| (format!("k{n}").into_bytes(), vec![b'v'; 10 + n * 20])).collect();
        write(&path, &pairs).unwrap();
        let open = Lmdb::open(&path).unwrap();
        for (key, value) in &pairs {
            assert_eq!(open.get(key).unwrap().as_ref(), Some(value));
        }
        assert_eq!(open.get(b"none").unwrap(), None);
        assert_eq!(open.get(b"").unwrap(), None);
        assert_eq!(open.entries().unwrap().len(), 500);
        assert!(Lmdb::open(&dir.path().join("none")).is_err());
        std::fs::write(dir.path().join("bad"), vec![7; 10000]).unwrap();
        assert!(Lmdb::open(&dir.path().join("bad")).is_err());
    }
}
