//! Names that newer Postfix calls deprecated: still understood, reported with the name to use instead.

/// Old name, new name. An empty new name means: leave it unset.
static REPLACEMENTS: &[(&str, &str)] = &[
    ("authorized_verp_clients", "smtpd_authorized_verp_clients"),
    ("disable_dns_lookups", "smtp_dns_support_level"),
    ("fallback_relay", "smtp_fallback_relay"),
    ("lmtp_cname_overrides_servername", ""),
    ("lmtp_enforce_tls", "lmtp_tls_security_level"),
    ("lmtp_per_record_deadline", "lmtp_per_request_deadline"),
    ("lmtp_tls_enforce_peername", "lmtp_tls_security_level"),
    ("lmtp_tls_per_site", "lmtp_tls_policy_maps"),
    ("lmtp_use_tls", "lmtp_tls_security_level"),
    ("postscreen_blacklist_action", "postscreen_denylist_action"),
    ("postscreen_dnsbl_ttl", "postscreen_dnsbl_max_ttl"),
    ("postscreen_dnsbl_whitelist_threshold", "postscreen_dnsbl_allowlist_threshold"),
    ("postscreen_enforce_tls", "postscreen_tls_security_level"),
    ("postscreen_use_tls", "postscreen_tls_security_level"),
    ("postscreen_whitelist_interfaces", "postscreen_allowlist_interfaces"),
    ("smtp_cname_overrides_servername", ""),
    ("smtp_enforce_tls", "smtp_tls_security_level"),
    ("smtp_per_record_deadline", "smtp_per_request_deadline"),
    ("smtp_tls_enforce_peername", "smtp_tls_security_level"),
    ("smtp_tls_per_site", "smtp_tls_policy_maps"),
    ("smtp_use_tls", "smtp_tls_security_level"),
    ("smtpd_client_connection_limit_exceptions", "smtpd_client_event_limit_exceptions"),
    ("smtpd_enforce_tls", "smtpd_tls_security_level"),
    ("smtpd_per_record_deadline", "smtpd_per_request_deadline"),
    ("smtpd_tls_dh1024_param_file", ""),
    ("smtpd_tls_eecdh_grade", ""),
    ("smtpd_use_tls", "smtpd_tls_security_level"),
    ("tlsproxy_client_enforce_tls", "tlsproxy_client_security_level"),
    ("tlsproxy_client_level", "tlsproxy_client_security_level"),
    ("tlsproxy_client_policy", "tlsproxy_client_policy_maps"),
    ("tlsproxy_client_use_tls", "tlsproxy_client_security_level"),
    ("tlsproxy_enforce_tls", "tlsproxy_tls_security_level"),
    ("tlsproxy_use_tls", "tlsproxy_tls_security_level"),
    ("virtual_maps", "virtual_alias_maps"),
];

/// The name to use instead of a deprecated one; empty: leave it unset. `None` when `name` is not deprecated.
pub fn replacement(name: &str) -> Option<&'static str> {
    REPLACEMENTS.iter().find(|(old, _)| *old == name).map(|(_, new)| *new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_are_in_the_table() {
        for (old, new) in REPLACEMENTS {
            assert!(super::super::parameter(old).is_some(), "{old}");
            assert!(new.is_empty() || super::super::parameter(new).is_some(), "{new}");
        }
    }
}
