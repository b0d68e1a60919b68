//! What a transport setting says: `transport:nexthop`, either part optional (transport(5)).

/// Transport and next hop under construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) transport: String,
    pub(crate) nexthop: String,
}

impl Way {
    /// From a parameter such as `relay_transport`: a next hop in it replaces `nexthop`.
    pub(crate) fn from_setting(setting: &str, nexthop: &str) -> Self {
        let (transport, explicit) = split(setting);
        Self {
            transport: transport.to_owned(),
            nexthop: if explicit.is_empty() { nexthop } else { explicit }.to_owned(),
        }
    }

    /// Applies a value of `transport_maps`. A transport without a next hop sets the next hop back to the recipient's
    /// domain, because its syntax is the transport's own affair; `:` alone changes nothing.
    pub(crate) fn update(&mut self, value: &str, domain: &str) {
        let (transport, nexthop) = split(value);
        if !transport.is_empty() {
            transport.clone_into(&mut self.transport);
        }
        if !nexthop.is_empty() {
            nexthop.clone_into(&mut self.nexthop);
        } else if !transport.is_empty() {
            let no_reason = matches!(transport, "error" | "retry");
            if no_reason { "Address is undeliverable" } else { domain }.clone_into(&mut self.nexthop);
        }
    }
}

fn split(value: &str) -> (&str, &str) {
    value.split_once(':').unwrap_or((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_and_table_values() {
        for (setting, transport, nexthop) in [
            ("smtp", "smtp", "d.test"),
            ("smtp:", "smtp", "d.test"),
            ("smtp:[192.0.2.1]:25", "smtp", "[192.0.2.1]:25"),
            ("local:mx.test", "local", "mx.test"),
            ("lmtp:unix:private/dovecot-lmtp", "lmtp", "unix:private/dovecot-lmtp"),
        ] {
            let way = Way::from_setting(setting, "d.test");
            assert_eq!((&*way.transport, &*way.nexthop), (transport, nexthop), "{setting}");
        }
        for (value, transport, nexthop) in [
            (":", "smtp", "[relay]"),
            ("", "smtp", "[relay]"),
            (":other", "smtp", "other"),
            ("uucp", "uucp", "d.test"),
            ("smtp:", "smtp", "d.test"),
            ("smtp:[x]:2525", "smtp", "[x]:2525"),
            ("error", "error", "Address is undeliverable"),
            ("retry:", "retry", "Address is undeliverable"),
            ("error:5.1.2 closed: for good", "error", "5.1.2 closed: for good"),
            ("discard:", "discard", "d.test"),
        ] {
            let mut way = Way { transport: "smtp".into(), nexthop: "[relay]".into() };
            way.update(value, "d.test");
            assert_eq!((&*way.transport, &*way.nexthop), (transport, nexthop), "{value}");
        }
    }
}
