//! postscreen and its helpers.

use super::{Parameter, bool, choice, int, list, path, raw, size, tables, text, time};

pub(super) const PARAMETERS: &[Parameter] = &[
    time("dnsblog_reply_delay", "0s").since("2.8").used_by("dnsblog"),
    text("dnsblog_service_name", "dnsblog").required().since("2.8").used_by("postscreen"),
    list("postscreen_access_list", "permit_mynetworks").since("2.8").used_by("postscreen"),
    list(
        "postscreen_allowlist_interfaces",
        "${postscreen_whitelist_interfaces?{$postscreen_whitelist_interfaces}:{static:all}}",
    )
    .since("3.6")
    .used_by("postscreen"),
    choice("postscreen_bare_newline_action", "ignore").required().since("2.8").used_by("postscreen"),
    bool("postscreen_bare_newline_enable", "no").since("2.8").used_by("postscreen"),
    time("postscreen_bare_newline_ttl", "30d").at_least(1).since("2.8").used_by("postscreen"),
    choice("postscreen_blacklist_action", "").since("2.8").used_by("postscreen").obsolete(),
    time("postscreen_cache_cleanup_interval", "12h").since("2.8").used_by("postscreen"),
    tables("postscreen_cache_map", "btree:$data_directory/postscreen_cache")
        .since("2.8")
        .used_by("postscreen, proxymap"),
    time("postscreen_cache_retention_time", "7d").at_least(1).since("2.8").used_by("postscreen"),
    int("postscreen_client_connection_count_limit", "$smtpd_client_connection_count_limit")
        .since("2.8")
        .used_by("postscreen"),
    int("postscreen_command_count_limit", "20").at_least(1).since("2.8").used_by("postscreen"),
    tables("postscreen_command_filter", "").since("2.8").used_by("postscreen"),
    time("postscreen_command_time_limit", "${stress?{10}:{300}}s").at_least(1).since("2.8").used_by("postscreen"),
    choice("postscreen_denylist_action", "${postscreen_blacklist_action?{$postscreen_blacklist_action}:{ignore}}")
        .required()
        .since("3.6")
        .used_by("postscreen"),
    bool("postscreen_disable_vrfy_command", "$disable_vrfy_command").since("2.8").used_by("postscreen"),
    tables("postscreen_discard_ehlo_keyword_address_maps", "$smtpd_discard_ehlo_keyword_address_maps")
        .since("2.8")
        .used_by("postscreen"),
    list("postscreen_discard_ehlo_keywords", "$smtpd_discard_ehlo_keywords").since("2.8").used_by("postscreen"),
    choice("postscreen_dnsbl_action", "ignore").required().since("2.8").used_by("postscreen"),
    int(
        "postscreen_dnsbl_allowlist_threshold",
        "${postscreen_dnsbl_whitelist_threshold?{$postscreen_dnsbl_whitelist_threshold}:{0}}",
    )
    .at_least(i32::MIN as i64)
    .since("3.6")
    .used_by("postscreen"),
    time("postscreen_dnsbl_max_ttl", "${postscreen_dnsbl_ttl?{$postscreen_dnsbl_ttl}:{1}}h")
        .at_least(1)
        .since("3.1")
        .used_by("postscreen"),
    time("postscreen_dnsbl_min_ttl", "60s").at_least(1).since("3.1").used_by("postscreen"),
    tables("postscreen_dnsbl_reply_map", "").since("2.8").used_by("postscreen"),
    list("postscreen_dnsbl_sites", "").since("2.8").used_by("dnsblog, postscreen"),
    int("postscreen_dnsbl_threshold", "1").at_least(1).since("2.8").used_by("postscreen"),
    time("postscreen_dnsbl_timeout", "10s").at_least(1).since("3.0").used_by("postscreen"),
    time("postscreen_dnsbl_ttl", "").since("2.8").obsolete(),
    int("postscreen_dnsbl_whitelist_threshold", "")
        .at_least(i32::MIN as i64)
        .since("2.11")
        .used_by("postscreen")
        .obsolete(),
    bool("postscreen_enforce_tls", "$smtpd_enforce_tls").since("2.8").used_by("postscreen"),
    raw("postscreen_expansion_filter", "$smtpd_expansion_filter").required().since("2.8").used_by("postscreen"),
    list("postscreen_forbidden_commands", "$smtpd_forbidden_commands").since("2.8").used_by("postscreen, proxymap"),
    choice("postscreen_greet_action", "ignore").required().since("2.8").used_by("postscreen"),
    text("postscreen_greet_banner", "$smtpd_banner").since("2.8").used_by("postscreen"),
    time("postscreen_greet_ttl", "1d").at_least(1).since("2.8").used_by("postscreen"),
    time("postscreen_greet_wait", "${stress?{2}:{6}}s").at_least(1).since("2.8").used_by("postscreen"),
    bool("postscreen_helo_required", "$smtpd_helo_required").since("2.8").used_by("postscreen"),
    choice("postscreen_non_smtp_command_action", "drop").required().since("2.8").used_by("postscreen"),
    bool("postscreen_non_smtp_command_enable", "no").since("2.8").used_by("postscreen"),
    time("postscreen_non_smtp_command_ttl", "30d").at_least(1).since("2.8").used_by("postscreen"),
    choice("postscreen_pipelining_action", "enforce").required().since("2.8").used_by("postscreen"),
    bool("postscreen_pipelining_enable", "no").since("2.8").used_by("postscreen"),
    time("postscreen_pipelining_ttl", "30d").at_least(1).since("2.8").used_by("postscreen"),
    int("postscreen_post_queue_limit", "$default_process_limit").since("2.8").used_by("postscreen"),
    int("postscreen_pre_queue_limit", "$default_process_limit").since("2.8").used_by("postscreen"),
    raw("postscreen_reject_footer", "$smtpd_reject_footer").since("2.8").used_by("postscreen"),
    tables("postscreen_reject_footer_maps", "$smtpd_reject_footer_maps").since("3.4").used_by("postscreen"),
    time("postscreen_starttls_timeout", "$smtpd_starttls_timeout").at_least(1).since("3.12").used_by("postscreen"),
    path("postscreen_tls_CAfile", "$smtpd_tls_CAfile").since("3.12").used_by("postscreen"),
    path("postscreen_tls_CApath", "$smtpd_tls_CApath").since("3.12").used_by("postscreen"),
    bool("postscreen_tls_always_issue_session_ids", "$smtpd_tls_always_issue_session_ids")
        .since("3.12")
        .used_by("postscreen"),
    bool("postscreen_tls_ask_ccert", "$smtpd_tls_ask_ccert").since("3.12").used_by("postscreen"),
    int("postscreen_tls_ccert_verifydepth", "$smtpd_tls_ccert_verifydepth").since("3.12").used_by("postscreen"),
    path("postscreen_tls_cert_file", "$smtpd_tls_cert_file").since("3.12").used_by("postscreen"),
    list("postscreen_tls_chain_files", "$smtpd_tls_chain_files").since("3.12").used_by("postscreen"),
    choice("postscreen_tls_ciphers", "$smtpd_tls_ciphers").required().since("3.12").used_by("postscreen"),
    path("postscreen_tls_dcert_file", "$smtpd_tls_dcert_file").since("3.12").used_by("postscreen"),
    path("postscreen_tls_dh1024_param_file", "$smtpd_tls_dh1024_param_file").since("3.12").used_by("postscreen"),
    path("postscreen_tls_dh512_param_file", "$smtpd_tls_dh512_param_file").since("3.12").used_by("postscreen"),
    path("postscreen_tls_dkey_file", "$smtpd_tls_dkey_file").since("3.12").used_by("postscreen"),
    path("postscreen_tls_eccert_file", "$smtpd_tls_eccert_file").since("3.12").used_by("postscreen"),
    path("postscreen_tls_eckey_file", "$smtpd_tls_eckey_file").since("3.12").used_by("postscreen"),
    choice("postscreen_tls_eecdh_grade", "$smtpd_tls_eecdh_grade").required().since("3.12").used_by("postscreen"),
    bool("postscreen_tls_enable_rpk", "$smtpd_tls_enable_rpk").since("3.12").used_by("postscreen"),
    list("postscreen_tls_exclude_ciphers", "$smtpd_tls_exclude_ciphers").since("3.12").used_by("postscreen"),
    choice("postscreen_tls_fingerprint_digest", "$smtpd_tls_fingerprint_digest")
        .required()
        .since("3.12")
        .used_by("postscreen"),
    path("postscreen_tls_key_file", "$smtpd_tls_key_file").since("3.12").used_by("postscreen"),
    text("postscreen_tls_loglevel", "$smtpd_tls_loglevel").since("3.12").used_by("postscreen"),
    tables("postscreen_tls_loglevel_maps", "$smtpd_tls_loglevel_maps").since("3.12").used_by("postscreen"),
    choice("postscreen_tls_mandatory_ciphers", "$smtpd_tls_mandatory_ciphers")
        .required()
        .since("3.12")
        .used_by("postscreen"),
    list("postscreen_tls_mandatory_exclude_ciphers", "$smtpd_tls_mandatory_exclude_ciphers")
        .since("3.12")
        .used_by("postscreen"),
    list("postscreen_tls_mandatory_protocols", "$smtpd_tls_mandatory_protocols").since("3.12").used_by("postscreen"),
    list("postscreen_tls_protocols", "$smtpd_tls_protocols").since("3.12").used_by("postscreen"),
    bool("postscreen_tls_req_ccert", "$smtpd_tls_req_ccert").since("3.12").used_by("postscreen"),
    choice("postscreen_tls_security_level", "$smtpd_tls_security_level").since("2.8").used_by("postscreen"),
    size("postscreen_tls_trace_size_limit", "$smtpd_tls_trace_size_limit").since("3.12").used_by("postscreen"),
    choice("postscreen_upstream_proxy_protocol", "").since("2.10").used_by("postscreen"),
    time("postscreen_upstream_proxy_timeout", "5s").at_least(1).since("2.10").used_by("postscreen"),
    bool("postscreen_use_tls", "$smtpd_use_tls").since("2.8").used_by("postscreen"),
    time("postscreen_watchdog_timeout", "10s").at_least(10).since("2.8").used_by("postscreen"),
    list("postscreen_whitelist_interfaces", "").since("2.9").obsolete(),
];
