//! What holds for servers at certain addresses: `smtp_discard_ehlo_keyword_address_maps`, `smtp_pix_workaround_maps`.

use yamabiko_config::View;
use yamabiko_lookup::{Maps, TableSet};

use crate::settings::{Discard, Pix, Protocol, Settings};

/// The tables, asked by address.
#[derive(Default)]
pub(crate) struct Quirks {
    discard: Option<Maps>,
    pix: Option<Maps>,
}

/// What they say of one server.
#[derive(Clone, Debug, Default)]
pub struct Quirk {
    /// Instead of `smtp_discard_ehlo_keywords`.
    pub discard: Option<Discard>,
    /// Instead of `smtp_pix_workarounds`.
    pub pix: Option<Pix>,
}

impl Quirks {
    pub(crate) fn read(view: &View, protocol: Protocol, tables: &TableSet) -> Self {
        let open = |name: &str| {
            let maps = Maps::open(tables, name, &view.text(name));
            (!maps.is_empty()).then_some(maps)
        };
        match protocol {
            Protocol::Smtp => {
                Self { discard: open("smtp_discard_ehlo_keyword_address_maps"), pix: open("smtp_pix_workaround_maps") }
            }
            Protocol::Lmtp => {
                Self { discard: open("lmtp_discard_lhlo_keyword_address_maps"), pix: open("lmtp_pix_workaround_maps") }
            }
        }
    }

    /// What holds for the server at an address. An error is a line for the log.
    pub(crate) async fn of(&self, address: &str, settings: &Settings) -> Result<Quirk, String> {
        let find = async |maps: &Option<Maps>| match maps {
            None => Ok(None),
            Some(maps) => {
                let found = maps.find(address).await;
                found.map_err(|error| format!("{} map lookup error for {address}: {error}", maps.title()))
            }
        };
        let words = |text: &str| {
            let words = text.split([',', ' ', '\t', '\r', '\n']).filter(|word| !word.is_empty());
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        Ok(Quirk {
            discard: find(&self.discard).await?.map(|text| Discard::of(words(&text))),
            pix: find(&self.pix).await?.map(|text| settings.pix.with(&words(&text))),
        })
    }
}
