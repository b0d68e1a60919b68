//! Address verification probes.

use super::{Parameter, bool, int, tables, text, time};

pub(super) const PARAMETERS: &[Parameter] = &[
    time("address_verify_cache_cleanup_interval", "12h").since("2.7").used_by("verify"),
    text("address_verify_default_transport", "$default_transport")
        .required()
        .since("2.1")
        .used_by("trivial-rewrite, verify"),
    text("address_verify_local_transport", "$local_transport")
        .required()
        .since("2.1")
        .used_by("trivial-rewrite, verify"),
    tables("address_verify_map", "btree:$data_directory/verify_cache").since("2.1").used_by("proxymap, verify"),
    bool("address_verify_negative_cache", "yes").since("2.1").used_by("verify"),
    time("address_verify_negative_expire_time", "3d").at_least(1).since("2.1").used_by("verify"),
    time("address_verify_negative_refresh_time", "3h").at_least(1).since("2.1").used_by("verify"),
    int("address_verify_pending_request_limit", "5000").at_least(1).since("3.1").used_by("oqmgr, qmgr"),
    int("address_verify_poll_count", "${stress?{1}:{3}}").at_least(1).since("2.1").used_by("smtpd"),
    time("address_verify_poll_delay", "3s").at_least(1).since("2.1").used_by("smtpd"),
    time("address_verify_positive_expire_time", "31d").at_least(1).since("2.1").used_by("verify"),
    time("address_verify_positive_refresh_time", "7d").at_least(1).since("2.1").used_by("verify"),
    text("address_verify_relay_transport", "$relay_transport")
        .required()
        .since("2.1")
        .used_by("trivial-rewrite, verify"),
    text("address_verify_relayhost", "$relayhost").since("2.1").used_by("trivial-rewrite, verify"),
    text("address_verify_sender", "$double_bounce_sender").since("2.1").used_by("smtpd, verify"),
    tables("address_verify_sender_dependent_default_transport_maps", "$sender_dependent_default_transport_maps")
        .since("2.7")
        .used_by("trivial-rewrite, verify"),
    tables("address_verify_sender_dependent_relayhost_maps", "$sender_dependent_relayhost_maps")
        .since("2.3")
        .used_by("trivial-rewrite, verify"),
    time("address_verify_sender_ttl", "0s").since("2.9").used_by("smtpd, verify"),
    text("address_verify_service_name", "verify").required().since("2.1").used_by("all"),
    tables("address_verify_transport_maps", "$transport_maps").since("2.1").used_by("trivial-rewrite, verify"),
    text("address_verify_virtual_transport", "$virtual_transport")
        .required()
        .since("2.1")
        .used_by("trivial-rewrite, verify"),
];
