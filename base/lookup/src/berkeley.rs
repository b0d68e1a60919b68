//! Reads Berkeley DB files (versions 4 and 5, hash and btree) that Postfix's `postmap` left; never writes them.
//!
//! All pages are walked and the pairs on them collected, which needs no knowledge of the hash function or the sort order.
//! The file may come from anywhere: every offset is checked, chains of overflow pages are bounded, and what is collected
//! can not exceed the file's own size.

const HASH_MAGIC: u32 = 0x0006_1561;
const BTREE_MAGIC: u32 = 0x0005_3162;
/// Page header, before the index of items.
const PAGE_HEADER: usize = 26;
const LEAF_BTREE: u8 = 5;
const LEAF_HASH: [u8; 2] = [2, 13];
const OVERFLOW: u8 = 7;

/// Keys and values as stored: with a terminating null byte where the writer stored one.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads all pairs of a file. The error says what is wrong with the file.
pub fn read(file: &[u8]) -> Result<Pairs, String> {
    let mut reader = Reader::new(file)?;
    let mut pairs = Vec::new();
    for number in 1..reader.pages {
        reader.page(number, &mut pairs)?;
    }
    Ok(pairs)
}

struct Reader<'a> {
    file: &'a [u8],
    page_size: usize,
    pages: usize,
    btree: bool,
    big_endian: bool,
    /// Bytes that may still be collected.
    budget: usize,
}

fn damaged(what: &str) -> String {
    format!("damaged Berkeley DB file: {what}; rebuild it with postmap")
}

fn number32(bytes: &[u8], at: usize, big_endian: bool) -> Option<u32> {
    let bytes = *bytes.get(at..)?.first_chunk::<4>()?;
    Some(if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
}

fn number16(bytes: &[u8], at: usize, big_endian: bool) -> Option<usize> {
    let bytes = *bytes.get(at..)?.first_chunk::<2>()?;
    Some(usize::from(if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }))
}

impl<'a> Reader<'a> {
    fn new(file: &'a [u8]) -> Result<Self, String> {
        let kind = |big_endian| match number32(file, 12, big_endian) {
            Some(HASH_MAGIC) => Some((false, big_endian)),
            Some(BTREE_MAGIC) => Some((true, big_endian)),
            _ => None,
        };
        let (btree, big_endian) =
            kind(false).or_else(|| kind(true)).ok_or_else(|| damaged("neither a hash nor a btree file"))?;
        let page_size = number32(file, 20, big_endian).unwrap_or(0) as usize;
        if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
            return Err(damaged("page size"));
        }
        // Offsets 24 and 26 are inside: the page size was read beyond them... as single bytes they are asked for again.
        let (encrypted, flags) = (file.get(24).copied().unwrap_or(0), file.get(26).copied().unwrap_or(0));
        if encrypted != 0 || flags & 1 != 0 {
            return Err("encrypted or checksummed Berkeley DB files are not read; rebuild it with postmap".to_owned());
        }
        let pages = file.len() / page_size;
        Ok(Self { file, page_size, pages, btree, big_endian, budget: file.len() })
    }

    fn bytes_of(&self, number: usize) -> Option<&'a [u8]> {
        let start = number.checked_mul(self.page_size)?;
        self.file.get(start..start.checked_add(self.page_size)?)
    }

    fn page(&mut self, number: usize, pairs: &mut Pairs) -> Result<(), String> {
        let Some(page) = self.bytes_of(number) else { return Ok(()) };
        let kind = page.get(25).copied().unwrap_or(0);
        if !(self.btree && kind == LEAF_BTREE || !self.btree && LEAF_HASH.contains(&kind)) {
            return Ok(());
        }
        let entries = number16(page, 20, self.big_endian).unwrap_or(0);
        if PAGE_HEADER + entries * 2 > page.len() {
            return Err(damaged("more items on a page than fit"));
        }
        let mut items = 0..entries / 2;
        for pair in &mut items {
            let (key, value) = if self.btree {
                (self.btree_item(page, pair * 2)?, self.btree_item(page, pair * 2 + 1)?)
            } else {
                (self.hash_item(page, pair * 2)?, self.hash_item(page, pair * 2 + 1)?)
            };
            if let (Some(key), Some(value)) = (key, value) {
                pairs.push((key, value));
            }
        }
        Ok(())
    }

    fn offset(&self, page: &[u8], index: usize) -> Result<usize, String> {
        let offset = number16(page, PAGE_HEADER + index * 2, self.big_endian);
        // The largest page has 65536 bytes, which its offsets cannot say and need not.
        offset.filter(|&offset| offset >= PAGE_HEADER && offset < page.len()).ok_or_else(|| damaged("item offset"))
    }

    fn take(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        self.budget = self.budget.checked_sub(bytes.len()).ok_or_else(|| damaged("items overlap"))?;
        Ok(bytes.to_vec())
    }

    /// An item of a hash page: it reaches to where the item before it begins.
    fn hash_item(&mut self, page: &[u8], index: usize) -> Result<Option<Vec<u8>>, String> {
        let start = self.offset(page, index)?;
        let end = if index == 0 { page.len() } else { self.offset(page, index - 1)? };
        let item = page.get(start..end).filter(|item| !item.is_empty()).ok_or_else(|| damaged("item length"))?;
        match item.first() {
            Some(1) => self.take(item.get(1..).unwrap_or_default()).map(Some),
            Some(3) => self.overflow(item).map(Some),
            _ => Err("Berkeley DB file with duplicate keys is not read; rebuild it with postmap".to_owned()),
        }
    }

    /// An item of a btree leaf: length, type, bytes. `None`: deleted.
    fn btree_item(&mut self, page: &[u8], index: usize) -> Result<Option<Vec<u8>>, String> {
        let start = self.offset(page, index)?;
        let item = page.get(start..).unwrap_or_default();
        let length = number16(item, 0, self.big_endian).ok_or_else(|| damaged("item length"))?;
        let kind = item.get(2).copied().ok_or_else(|| damaged("item type"))?;
        if kind & 0x80 != 0 {
            return Ok(None);
        }
        match kind {
            1 => {
                let bytes = item.get(3..3 + length).ok_or_else(|| damaged("item length"))?;
                self.take(bytes).map(Some)
            }
            3 => self.overflow(item).map(Some),
            _ => Err("Berkeley DB file with duplicate keys is not read; rebuild it with postmap".to_owned()),
        }
    }

    /// An item that lies on pages of its own: page number at 4, whole length at 8.
    fn overflow(&mut self, item: &[u8]) -> Result<Vec<u8>, String> {
        let (Some(first), Some(length)) = (number32(item, 4, self.big_endian), number32(item, 8, self.big_endian))
        else {
            return Err(damaged("overflow item"));
        };
        let length = length as usize;
        self.budget = self.budget.checked_sub(length).ok_or_else(|| damaged("items overlap"))?;
        let mut value = Vec::with_capacity(length);
        let mut number = first as usize;
        while value.len() < length {
            let page = self.bytes_of(number).filter(|page| number != 0 && page.get(25) == Some(&OVERFLOW));
            let page = page.ok_or_else(|| damaged("overflow page"))?;
            let here = number16(page, 22, self.big_endian).unwrap_or(0);
            let bytes = page.get(PAGE_HEADER..PAGE_HEADER + here).filter(|bytes| !bytes.is_empty());
            // At least one byte on each page, so the loop ends.
            value.extend_from_slice(bytes.ok_or_else(|| damaged("overflow page length"))?);
            number = number32(page, 16, self.big_endian).unwrap_or(0) as usize;
        }
        value.truncate(length);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const FILES: [&[u8]; 2] = [include_bytes!("../tests/data/hash.db"), include_bytes!("../tests/data/btree.db")];

    #[test]
    fn files_of_postmap() {
        for file in FILES {
            // Postfix stores the terminating null bytes.
            let text = |mut bytes: Vec<u8>| {
                assert_eq!(bytes.pop(), Some(0));
                bytes
            };
            let pairs: HashMap<Vec<u8>, Vec<u8>> =
                read(file).unwrap().into_iter().map(|(key, value)| (text(key), text(value))).collect();
            // 120 keys, one of them deleted again, and three more.
            assert_eq!(pairs.len(), 122);
            assert_eq!(pairs[&b"key0@example.com"[..]], b"value 0");
            assert_eq!(pairs[&b"key119@example.com"[..]], b"value 119");
            assert!(!pairs.contains_key(&b"key7@example.com"[..]));
            assert_eq!(pairs[&b"middle"[..]], vec![b'm'; 5000]);
            let big: Vec<String> = (0..1500).map(|n| format!("word{n}")).collect();
            assert_eq!(pairs[&b"big"[..]], big.join(" ").as_bytes());
            assert_eq!(pairs["é.example".as_bytes()], "ümlaut".as_bytes());
        }
        let aliases: HashMap<Vec<u8>, Vec<u8>> =
            read(include_bytes!("../tests/data/aliases.db")).unwrap().into_iter().collect();
        assert_eq!(aliases[&b"root\0"[..]], b"a, b\0");
    }

    #[test]
    fn damage_is_an_error_never_a_panic() {
        assert!(read(b"").is_err());
        assert!(read(&[0; 4096]).is_err());
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for round in 0..600 {
            let mut bad = FILES[round % 2].to_vec();
            for _ in 0..1 + next() % 8 {
                // Most damage goes where structure is: page headers and item indexes.
                let page = next() as usize % (bad.len() / 512);
                let at = page * 512 + next() as usize % if next() % 2 == 0 { 40 } else { 512 };
                bad[at] = next() as u8;
            }
            if next() % 4 == 0 {
                bad.truncate(next() as usize % bad.len());
            }
            if let Ok(pairs) = read(&bad) {
                let size: usize = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
                assert!(size <= bad.len());
            }
        }
    }
}
