//! The settings that routing needs, read once.

use yamabiko_config::View;
use yamabiko_lookup::matchlist::{DomainList, StringList};
use yamabiko_lookup::{Hit, LookupError, Maps, ParentStyle, TableSet};

use crate::{LocalDomains, Mapper, Rewriter};

/// What a route is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Delivery.
    Mail,
    /// An address verification probe: the `address_verify_...` parameters in place of their namesakes.
    Verify,
}

/// Names of the parameters that differ by purpose.
pub(crate) struct Names {
    pub(crate) local_transport: &'static str,
    pub(crate) virtual_transport: &'static str,
    pub(crate) relay_transport: &'static str,
    pub(crate) default_transport: &'static str,
    pub(crate) relayhost: &'static str,
    pub(crate) sender_dependent_relayhost_maps: &'static str,
    pub(crate) sender_dependent_default_transport_maps: &'static str,
    pub(crate) transport_maps: &'static str,
}

impl Purpose {
    pub(crate) fn names(self) -> &'static Names {
        match self {
            Purpose::Mail => &Names {
                local_transport: "local_transport",
                virtual_transport: "virtual_transport",
                relay_transport: "relay_transport",
                default_transport: "default_transport",
                relayhost: "relayhost",
                sender_dependent_relayhost_maps: "sender_dependent_relayhost_maps",
                sender_dependent_default_transport_maps: "sender_dependent_default_transport_maps",
                transport_maps: "transport_maps",
            },
            Purpose::Verify => &Names {
                local_transport: "address_verify_local_transport",
                virtual_transport: "address_verify_virtual_transport",
                relay_transport: "address_verify_relay_transport",
                default_transport: "address_verify_default_transport",
                relayhost: "address_verify_relayhost",
                sender_dependent_relayhost_maps: "address_verify_sender_dependent_relayhost_maps",
                sender_dependent_default_transport_maps: "address_verify_sender_dependent_default_transport_maps",
                transport_maps: "address_verify_transport_maps",
            },
        }
    }
}

/// Resolves recipients by one configuration. Cloning shares the tables.
#[derive(Clone)]
pub struct Router {
    pub(crate) purpose: Purpose,
    pub(crate) mapper: Mapper,
    pub(crate) myhostname: String,
    pub(crate) empty_address_recipient: String,
    pub(crate) null_sender_transport_key: String,
    pub(crate) null_sender_relayhost_key: String,
    pub(crate) resolve_dequoted: bool,
    pub(crate) resolve_null_domain: bool,
    pub(crate) resolve_numeric_domain: bool,
    pub(crate) allow_min_user: bool,
    pub(crate) smtputf8: bool,
    pub(crate) show_table_name: bool,
    pub(crate) helpful_warnings: bool,
    pub(crate) virtual_alias_domains: StringList,
    pub(crate) virtual_mailbox_domains: StringList,
    pub(crate) relay_domains: DomainList,
    pub(crate) local_transport: String,
    pub(crate) virtual_transport: String,
    pub(crate) relay_transport: String,
    pub(crate) default_transport: String,
    pub(crate) relayhost: String,
    pub(crate) sender_dependent_relayhost_maps: Maps,
    pub(crate) sender_dependent_default_transport_maps: Maps,
    pub(crate) transport_maps: Maps,
    pub(crate) transport_parents: ParentStyle,
    pub(crate) relocated_maps: Maps,
    pub(crate) relocated_prefix: bool,
}

impl Router {
    /// Reads the configuration for deliveries. A table that cannot be opened makes the lookups that need it fail.
    pub fn new(view: &View, tables: &TableSet) -> Self {
        Self::for_purpose(Purpose::Mail, view, tables)
    }

    /// As [`Router::new`], for deliveries or for address verification.
    pub fn for_purpose(purpose: Purpose, view: &View, tables: &TableSet) -> Self {
        let names = purpose.names();
        let maps = |name: &str| Maps::open(tables, name, &view.text(name));
        let strings = |name: &str| StringList::new(tables, name, &view.text(name), false);
        let parents = view.list("parent_domain_matches_subdomains");
        let plain = |name: &str| parents.iter().any(|listed| listed == name);
        let (rewriter, local) = (Rewriter::new(view), LocalDomains::new(view, tables));
        Self {
            purpose,
            mapper: Mapper::new(rewriter, local, view.text("recipient_delimiter")),
            myhostname: view.text("myhostname"),
            empty_address_recipient: view.text("empty_address_recipient"),
            null_sender_transport_key: view.text("empty_address_default_transport_maps_lookup_key"),
            null_sender_relayhost_key: view.text("empty_address_relayhost_maps_lookup_key"),
            resolve_dequoted: view.bool("resolve_dequoted_address"),
            resolve_null_domain: view.bool("resolve_null_domain"),
            resolve_numeric_domain: view.bool("resolve_numeric_domain"),
            allow_min_user: view.bool("allow_min_user"),
            smtputf8: view.bool("smtputf8_enable"),
            show_table_name: view.bool("show_user_unknown_table_name"),
            helpful_warnings: view.bool("helpful_warnings"),
            virtual_alias_domains: strings("virtual_alias_domains"),
            virtual_mailbox_domains: strings("virtual_mailbox_domains"),
            relay_domains: DomainList::new(
                tables,
                "relay_domains",
                &view.text("relay_domains"),
                plain("relay_domains"),
            ),
            local_transport: view.text(names.local_transport),
            virtual_transport: view.text(names.virtual_transport),
            relay_transport: view.text(names.relay_transport),
            default_transport: view.text(names.default_transport),
            relayhost: view.text(names.relayhost),
            sender_dependent_relayhost_maps: maps(names.sender_dependent_relayhost_maps),
            sender_dependent_default_transport_maps: maps(names.sender_dependent_default_transport_maps),
            transport_maps: maps(names.transport_maps),
            transport_parents: if plain("transport_maps") { ParentStyle::Plain } else { ParentStyle::Dot },
            relocated_maps: maps("relocated_maps"),
            relocated_prefix: view.bool("relocated_prefix_enable"),
        }
    }

    /// Maps addresses by the same settings.
    pub fn mapper(&self) -> &Mapper {
        &self.mapper
    }

    /// Completes addresses by the same settings.
    pub fn rewriter(&self) -> &Rewriter {
        self.mapper.rewriter()
    }

    /// The local domains.
    pub fn local(&self) -> &LocalDomains {
        self.mapper.local()
    }

    /// A table answers from a socket, waited for with blocking calls: an event loop must resolve on a thread that may
    /// block.
    pub fn is_remote(&self) -> bool {
        let maps = [
            &self.sender_dependent_relayhost_maps,
            &self.sender_dependent_default_transport_maps,
            &self.transport_maps,
            &self.relocated_maps,
        ];
        maps.iter().any(|maps| maps.is_remote())
            || self.virtual_alias_domains.is_remote()
            || self.virtual_mailbox_domains.is_remote()
            || self.relay_domains.is_remote()
    }

    pub(crate) async fn find_mapping(&self, maps: &Maps, address: &str) -> Result<Option<Hit>, LookupError> {
        self.mapper.find(maps, address).await
    }
}
