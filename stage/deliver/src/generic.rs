//! `smtp_generic_maps`: addresses in envelope and headers replaced as the message leaves, so that `user@host.local`
//! goes out as an address the world can answer to.

use yamabiko_address::header::AddressList;
use yamabiko_lookup::{LookupError, Maps};
use yamabiko_message::Fields;
use yamabiko_route::Mapper;

/// The maps and what they need.
pub struct Generic {
    maps: Maps,
    mapper: Mapper,
    propagate: bool,
}

impl Generic {
    /// `propagate`: `propagate_unmatched_extensions` has `generic`. `None` when there are no maps.
    pub fn new(maps: Maps, mapper: Mapper, propagate: bool) -> Option<Self> {
        (!maps.is_empty()).then_some(Self { maps, mapper, propagate })
    }

    /// The address that takes the place of `address` (internal form); the first one where a table has several. The
    /// null address stays.
    pub async fn address(&self, address: &str) -> Result<String, LookupError> {
        if address.is_empty() {
            return Ok(String::new());
        }
        let found = self.mapper.map_address(&self.maps, address, self.propagate).await?;
        Ok(found.and_then(|list| list.into_iter().next()).unwrap_or_else(|| address.to_owned()))
    }

    /// The header block (with its line ends, without the empty line) with addresses replaced; `None` when nothing
    /// changes. Only fields in which an address changes are written anew.
    pub async fn header(&self, block: &[u8]) -> Result<Option<Vec<u8>>, LookupError> {
        let mut out: Option<Vec<u8>> = None;
        // Bytes of the block that are in `out` already.
        let mut copied = 0;
        for field in Fields::of(block).iter() {
            if field.known().and_then(|known| known.role()).is_none() {
                continue;
            }
            let mut list = AddressList::parse(field.value());
            let mut new = Vec::new();
            for address in list.addresses() {
                new.push(self.address(address).await?);
            }
            if !list.set_addresses(new) {
                continue;
            }
            // The field is a part of the block.
            let start = field.raw().as_ptr() as usize - block.as_ptr() as usize;
            let name = String::from_utf8_lossy(field.name());
            let out = out.get_or_insert_with(|| Vec::with_capacity(block.len() + 64));
            out.extend_from_slice(block.get(copied..start).unwrap_or_default());
            out.extend_from_slice(&list.to_header(&name).text);
            copied = start + field.raw().len();
        }
        if let Some(out) = &mut out {
            out.extend_from_slice(block.get(copied..).unwrap_or_default());
        }
        Ok(out)
    }
}
