//! Whether an address is known (Postfix: `reject_unlisted_recipient`, `reject_unlisted_sender` in smtpd).

use yamabiko_config::View;
use yamabiko_lookup::{LookupError, Maps, TableSet, split_list};
use yamabiko_status::EnhancedStatus;

use crate::{Class, Mapper, Resolved};

/// Whose address is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Envelope sender.
    Sender,
    /// Envelope recipient.
    Recipient,
}

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    /// It is known, or its class has no list.
    Listed,
    /// It is not. Refuse with `code` (already looked up in the parameter of its class), `status` and
    /// `<ADDRESS>: Recipient address rejected: TEXT`.
    Unlisted {
        /// Its class.
        class: Class,
        /// SMTP reply code: 550, 450 or what `unknown_..._reject_code` says.
        code: u16,
        /// Enhanced status code; for senders x.1.0 in place of x.1.1. Its class may not agree with `code`.
        status: EnhancedStatus,
        /// `User unknown in local recipient table`, or what the `error` or `retry` transport says.
        text: String,
    },
}

/// The lists of known addresses of one configuration.
#[derive(Clone)]
pub struct Lists {
    mapper: Mapper,
    recipient_canonical_maps: Maps,
    sender_canonical_maps: Maps,
    canonical_maps: Maps,
    virtual_alias_maps: Maps,
    /// In two kinds of tables: accounts and aliases.
    local_recipient_maps: Vec<Maps>,
    virtual_mailbox_maps: Maps,
    relay_recipient_maps: Maps,
    double_bounce_sender: String,
    show_table_name: bool,
    local_code: u16,
    virtual_alias_code: u16,
    virtual_mailbox_code: u16,
    relay_code: u16,
}

impl Lists {
    /// Reads the maps of canonical addresses, aliases and recipients, and the reply codes.
    pub fn new(view: &View, tables: &TableSet, mapper: Mapper) -> Self {
        let maps = |name: &str| Maps::open(tables, name, &view.text(name));
        let code = |name: &str| u16::try_from(view.int(name)).unwrap_or(550);
        Self {
            mapper,
            recipient_canonical_maps: maps("recipient_canonical_maps"),
            sender_canonical_maps: maps("sender_canonical_maps"),
            canonical_maps: maps("canonical_maps"),
            virtual_alias_maps: maps("virtual_alias_maps"),
            local_recipient_maps: local_recipient_maps(view, tables),
            virtual_mailbox_maps: maps("virtual_mailbox_maps"),
            relay_recipient_maps: maps("relay_recipient_maps"),
            double_bounce_sender: view.text("double_bounce_sender"),
            show_table_name: view.bool("show_user_unknown_table_name"),
            local_code: code("unknown_local_recipient_reject_code"),
            virtual_alias_code: code("unknown_virtual_alias_reject_code"),
            virtual_mailbox_code: code("unknown_virtual_mailbox_reject_code"),
            relay_code: code("unknown_relay_recipient_reject_code"),
        }
    }

    /// Whether the address that `resolved` is about is known. An error is a temporary failure.
    pub async fn check(&self, party: Party, resolved: &Resolved) -> Result<Listing, LookupError> {
        let address = &*resolved.recipient;
        // What is mapped to something else is taken for known.
        let mapped = [&self.recipient_canonical_maps, &self.canonical_maps, &self.virtual_alias_maps];
        for maps in mapped.into_iter().chain((party == Party::Sender).then_some(&self.sender_canonical_maps)) {
            if self.mapper.find(maps, address).await?.is_some() {
                return Ok(Listing::Listed);
            }
        }
        let unknown = if party == Party::Sender { (1, 0) } else { (1, 1) };
        if let Some(refusal) = resolved.refusal() {
            let default = if refusal.permanent { EnhancedStatus::permanent } else { EnhancedStatus::transient };
            let status =
                EnhancedStatus::split(&resolved.nexthop).map_or(default(unknown.0, unknown.1), |(status, _)| status);
            let code = match resolved.class {
                _ if !refusal.permanent => 450,
                Class::VirtualAlias => self.virtual_alias_code,
                _ => 550,
            };
            let text = refusal.text.to_owned();
            return Ok(Listing::Unlisted { class: resolved.class, code, status, text });
        }
        let (maps, code, table) = match resolved.class {
            Class::Local if self.is_built_in(address) => return Ok(Listing::Listed),
            Class::Local => (&*self.local_recipient_maps, self.local_code, "local recipient"),
            Class::VirtualMailbox => {
                (std::slice::from_ref(&self.virtual_mailbox_maps), self.virtual_mailbox_code, "virtual mailbox")
            }
            Class::Relay => (std::slice::from_ref(&self.relay_recipient_maps), self.relay_code, "relay recipient"),
            Class::VirtualAlias | Class::Default => return Ok(Listing::Listed),
        };
        if maps.iter().all(Maps::is_empty) {
            return Ok(Listing::Listed);
        }
        for maps in maps {
            if self.mapper.find(maps, address).await?.is_some() {
                return Ok(Listing::Listed);
            }
        }
        let text =
            if self.show_table_name { format!("User unknown in {table} table") } else { "User unknown".to_owned() };
        let status = EnhancedStatus::permanent(unknown.0, unknown.1);
        Ok(Listing::Unlisted { class: resolved.class, code, status, text })
    }

    /// Addresses that the mail system itself writes or reads.
    fn is_built_in(&self, address: &str) -> bool {
        let local = address.split_once('@').map_or("", |(local, _)| local);
        [&*self.double_bounce_sender, "postmaster", "mailer-daemon"].iter().any(|name| local.eq_ignore_ascii_case(name))
    }
}

/// `local_recipient_maps` holds alias tables beside others; the text of an alias table has a format of its own.
fn local_recipient_maps(view: &View, tables: &TableSet) -> Vec<Maps> {
    const NAME: &str = "local_recipient_maps";
    fn bare(spec: &str) -> &str {
        spec.strip_prefix("proxy:").unwrap_or(spec)
    }
    let text = view.text(NAME);
    let aliases = format!("{} {}", view.text("alias_maps"), view.text("alias_database"));
    let alias_specs: Vec<&str> = split_list(&aliases).into_iter().map(bare).collect();
    let (alias, other): (Vec<&str>, Vec<&str>) =
        split_list(&text).into_iter().partition(|spec| alias_specs.contains(&bare(spec)));
    let mut out = Vec::new();
    if !other.is_empty() {
        out.push(Maps::open(tables, NAME, &other.join(" ")));
    }
    if !alias.is_empty() {
        out.push(Maps::open_aliases(tables, NAME, &alias.join(" ")));
    }
    out
}
