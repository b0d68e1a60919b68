//! DNS and name service.

use super::{Parameter, bool, choice, list, tables, text};

pub(super) const PARAMETERS: &[Parameter] = &[
    bool("allow_srv_lookup_fallback", "no").since("3.8").used_by("smtp"),
    bool("disable_dns_lookups", "no").since("1.0").used_by("smtp"),
    bool("dns_ncache_ttl_fix_enable", "no").since("3.1").used_by("postscreen"),
    text("dnssec_probe", "ns:.").since("3.6").used_by("smtp"),
    bool("ignore_mx_lookup_error", "no").since("1.0").used_by("smtp"),
    bool("ignore_srv_lookup_error", "no").since("3.8").used_by("smtp"),
    tables("lmtp_dns_reply_filter", "").since("3.0").used_by("smtp"),
    list("lmtp_dns_resolver_options", "").since("2.8").used_by("smtp"),
    choice("lmtp_dns_support_level", "").since("2.11").used_by("smtp"),
    list("lmtp_host_lookup", "dns").required().since("2.3").used_by("smtp"),
    tables("smtp_dns_reply_filter", "").since("3.0").used_by("smtp"),
    list("smtp_dns_resolver_options", "").since("2.8").used_by("smtp"),
    choice("smtp_dns_support_level", "").since("2.11").used_by("smtp"),
    list("smtp_host_lookup", "dns").required().since("2.1").used_by("smtp"),
    tables("smtpd_dns_reply_filter", "").since("3.0").used_by("smtpd"),
    list("use_srv_lookup", "").since("3.8").used_by("smtp"),
];
