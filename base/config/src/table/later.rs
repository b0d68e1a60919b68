//! Which parameters do not act yet, by the work that will bring them to life, and which never will. To switch a group on,
//! take its line out of [`LATER`].
//!
//! A pattern is a name, or a name with one `*`. The first match counts.

use super::Status;

/// A group of parameters that waits for the same work.
#[derive(Debug)]
pub struct Group {
    /// The work, as it is named in reports.
    pub work: &'static str,
    /// Names and patterns.
    pub patterns: &'static [&'static str],
}

const TLS: Group = Group {
    work: "TLS",
    patterns: &[
        "smtp_tls_*",
        "lmtp_tls_*",
        "smtpd_tls_*",
        "tls_*",
        "tlsmgr_service_name",
        "smtp_use_tls",
        "smtp_enforce_tls",
        "lmtp_use_tls",
        "lmtp_enforce_tls",
        "smtpd_use_tls",
        "smtpd_enforce_tls",
        "smtp_starttls_timeout",
        "lmtp_starttls_timeout",
        "smtpd_starttls_timeout",
        "smtp_tlsrpt_*",
        "lmtp_tlsrpt_*",
        "*_log_tls_feature_status",
        "*_requiretls_policy",
        "requiretls_*",
        "openssl_path",
        "smtp_cname_overrides_servername",
        "lmtp_cname_overrides_servername",
    ],
};

const TLSPROXY: Group = Group { work: "TLS in postscreen", patterns: &["tlsproxy_*", "postscreen_tls_*"] };

const SASL: Group = Group {
    work: "SASL authentication",
    patterns: &[
        "smtp_sasl_*",
        "lmtp_sasl_*",
        "smtpd_sasl_*",
        "cyrus_sasl_config_path",
        "broken_sasl_auth_clients",
        "smtp_send_dummy_mail_auth",
        "smtpd_relay_before_recipient_restrictions_sasl",
        "smtp_sender_dependent_authentication",
        "lmtp_sender_dependent_authentication",
    ],
};

const MILTER: Group = Group {
    work: "milters",
    patterns: &["milter_*", "smtpd_milters", "smtpd_milter_maps", "non_smtpd_milters", "internal_mail_filter_classes"],
};

const POLICY: Group = Group { work: "policy delegation", patterns: &["smtpd_policy_service_*"] };

const POSTSCREEN: Group = Group { work: "postscreen", patterns: &["postscreen_*", "dnsblog_*"] };

const CONTENT: Group = Group {
    work: "content checks",
    patterns: &[
        "header_checks",
        "mime_header_checks",
        "nested_header_checks",
        "body_checks",
        "body_checks_size_limit",
        "smtp_header_checks",
        "smtp_mime_header_checks",
        "smtp_nested_header_checks",
        "smtp_body_checks",
        "lmtp_header_checks",
        "lmtp_mime_header_checks",
        "lmtp_nested_header_checks",
        "lmtp_body_checks",
        "smtpd_proxy_*",
        "default_filter_nexthop",
        "force_mime_input_conversion",
    ],
};

const VERIFY: Group = Group { work: "address verification", patterns: &["address_verify_*", "unverified_*"] };

const RBL: Group = Group { work: "DNS block lists", patterns: &["default_rbl_reply", "rbl_reply_maps", "maps_rbl_*"] };

const PROXY: Group = Group { work: "the PROXY protocol", patterns: &["smtpd_upstream_proxy_*"] };

const OTHER: Group = Group {
    work: "later work",
    patterns: &["qmqpd_*", "multi_instance_*", "use_srv_lookup", "*_srv_lookup*", "non_bdb_*", "socketmap_*"],
};

/// What is still to come, by work.
pub const LATER: &[&Group] =
    &[&TLSPROXY, &TLS, &SASL, &MILTER, &POLICY, &POSTSCREEN, &CONTENT, &VERIFY, &RBL, &PROXY, &OTHER];

/// Parameters without effect here, with the reason.
pub const IGNORED: &[(&str, &str)] = &[
    ("berkeley_db_*", "Berkeley DB is not used: tables have an index of their own"),
    ("lmdb_map_size", "tables have an index of their own"),
    ("ipc_*", "the stages are one program"),
    ("max_idle", "there are no idle daemon processes to end"),
    ("max_use", "daemon processes need no replacement"),
    ("service_throttle_time", "the stages are one program"),
    ("trigger_timeout", "the stages are one program"),
    ("fork_*", "there is no process per session"),
    ("anvil_status_update_time", "counters are in the same process"),
    ("*_service_name", "the stages are one program"),
    ("connection_cache_*", "connections are kept by the client itself"),
    ("lmtp_cache_connection", "connections are kept by the client itself"),
    ("fast_flush_refresh_time", "mail for a destination is found in the queue itself"),
    ("fast_flush_purge_time", "mail for a destination is found in the queue itself"),
    ("proxy_*_maps", "tables are opened by the program itself"),
    ("hash_queue_*", "the queue is a log, not directories"),
    ("in_flow_delay", "acceptance is paced by the queue's log"),
    ("qmgr_clog_warn_time", "there is no clogged active queue to warn of"),
    ("shlib_directory", "there are no plugins"),
    ("meta_directory", "there are no packaging files"),
    ("strict_mailbox_ownership_sun", "not needed"),
    ("sun_mailtool_compatibility", "kept by Postfix for a program of 1995"),
    ("backwards_bounce_logfile_compatibility", "the queue is a log, not files"),
];

/// What the program does with the parameter `name`.
pub(super) fn status(name: &str) -> Status {
    for group in LATER {
        if group.patterns.iter().any(|pattern| matches(pattern, name)) {
            return Status::NotYet(group.work);
        }
    }
    match IGNORED.iter().find(|(pattern, _)| matches(pattern, name)) {
        Some((_, reason)) => Status::Ignored(reason),
        None => Status::Honoured,
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => {
            name.len() >= before.len() + after.len()
                && name.starts_with(before)
                && name.ends_with(after.trim_end_matches('*'))
        }
    }
}
