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

const OTHER: Group = Group {
    work: "later work",
    patterns: &[
        "qmqpd_*",
        "multi_instance_*",
        "postmulti_*",
        "non_bdb_*",
        "sendmail_fix_line_endings",
        "maillog_file_compressor",
        "maillog_file_permissions",
        "full_name_encoding_charset",
        "enable_idna2003_compatibility",
        "master_service_disable",
        "dont_remove",
        "debugger_command",
    ],
};

/// What is still to come, by work.
pub const LATER: &[&Group] = &[&OTHER];

/// Parameters without effect here, with the reason.
pub const IGNORED: &[(&str, &str)] = &[
    ("smtpd_tls_dh*_param_file", "there is no key exchange over finite fields"),
    ("smtpd_tls_dcert_file", "there are no DSA certificates"),
    ("smtpd_tls_dkey_file", "there are no DSA certificates"),
    ("smtpd_tls_cipherlist", "smtpd_tls_exclude_ciphers can leave ciphers out"),
    ("smtpd_tls_ciphers", "all ciphers that are there are of high grade"),
    ("smtpd_tls_mandatory_ciphers", "all ciphers that are there are of high grade"),
    ("smtpd_tls_eecdh_grade", "elliptic curves are always used; tls_eecdh_auto_curves names them"),
    ("smtpd_tls_enable_rpk", "raw public keys are not there"),
    ("smtpd_tls_session_cache_database", "sessions are resumed by tickets, and kept in memory for others"),
    ("smtpd_tls_always_issue_session_ids", "session IDs are always issued"),
    ("smtpd_tls_trace_size_limit", "traces are a feature of OpenSSL's"),
    ("tls_trace_rate_limit", "traces are a feature of OpenSSL's"),
    ("tls_*_cipherlist", "all ciphers that are there are of high grade"),
    ("tls_config_*", "they are settings of OpenSSL's"),
    ("tls_disable_workarounds", "it is about faults of OpenSSL"),
    ("tls_daemon_random_bytes", "random numbers come from the system"),
    ("tls_random_*", "random numbers come from the system"),
    ("tls_eecdh_strong_curve", "tls_eecdh_auto_curves names the curves"),
    ("tls_eecdh_ultra_curve", "tls_eecdh_auto_curves names the curves"),
    ("tls_ffdhe_auto_groups", "there is no key exchange over finite fields"),
    ("tls_fast_shutdown_enable", "a closing peer is waited for two seconds at most"),
    ("tls_legacy_public_key_fingerprints", "fingerprints of public keys are as Postfix 2.9.6 makes them"),
    ("tls_session_ticket_cipher", "tickets are encrypted with AES-256"),
    ("*mtp_tls_dcert_file", "there are no DSA certificates"),
    ("*mtp_tls_dkey_file", "there are no DSA certificates"),
    ("*mtp_tls_cipherlist", "smtp_tls_exclude_ciphers can leave ciphers out"),
    ("*mtp_tls_ciphers", "all ciphers that are there are of high grade"),
    ("*mtp_tls_mandatory_ciphers", "all ciphers that are there are of high grade"),
    ("*mtp_tlsrpt_socket_name", "reports are collected and sent by the program itself"),
    ("*mtp_tlsrpt_skip_reused_handshakes", "only new handshakes are counted"),
    ("*mtp_tls_enable_rpk", "raw public keys are not there"),
    ("*mtp_tls_session_cache_database", "sessions are kept in memory and resumed"),
    ("*mtp_tls_scert_verifydepth", "chains of any sensible length are verified"),
    ("*mtp_tls_block_early_mail_reply", "it is about renegotiation of TLS, which is not there"),
    ("openssl_path", "there is no OpenSSL"),
    ("*mtp_tls_trace_size_limit", "traces are a feature of OpenSSL's"),
    ("tls_dane_digest_agility", "the best digest that a server publishes always counts"),
    ("tls_dane_trust_anchor_digest_enable", "digests of authorities always count"),
    ("*mtp_sasl_type", "the mechanisms are our own"),
    ("*mtp_sasl_path", "the mechanisms are our own"),
    ("cyrus_sasl_config_path", "the mechanisms are our own"),
    ("smtpd_sasl_application_name", "it is a setting of Cyrus SASL's"),
    ("smtpd_sasl_local_domain", "it is a setting of Cyrus SASL's"),
    ("application_event_drain_time", "the stages are one program"),
    ("daemon_timeout", "the stages are one program"),
    ("qmgr_daemon_timeout", "the stages are one program"),
    ("qmgr_ipc_timeout", "the stages are one program"),
    ("qmgr_fudge_factor", "only Postfix's oldest queue manager reads it"),
    ("tlsproxy_client_*", "the SMTP client's own smtp_tls_... settings count"),
    ("tlsproxy_use_tls", "postscreen_tls_security_level says it"),
    ("tlsproxy_enforce_tls", "postscreen_tls_security_level says it"),
    ("tlsproxy_tls_security_level", "postscreen_tls_security_level says it"),
    ("postscreen_tls_dh*", "there is no key exchange over finite fields"),
    ("tlsproxy_tls_dh*", "there is no key exchange over finite fields"),
    ("*_tls_dcert_file", "there are no DSA certificates"),
    ("*_tls_dkey_file", "there are no DSA certificates"),
    ("*_tls_ciphers", "all ciphers that are there are of high grade"),
    ("*_tls_mandatory_ciphers", "all ciphers that are there are of high grade"),
    ("*_tls_eecdh_grade", "elliptic curves are always used; tls_eecdh_auto_curves names them"),
    ("*_tls_enable_rpk", "raw public keys are not there"),
    ("*_tls_always_issue_session_ids", "session IDs are always issued"),
    ("*_tls_trace_size_limit", "traces are a feature of OpenSSL's"),
    ("tlsproxy_tls_session_cache_timeout", "smtpd_tls_session_cache_timeout counts"),
    ("postscreen_watchdog_timeout", "the stages are one program"),
    ("tlsproxy_watchdog_timeout", "the stages are one program"),
    ("dnsblog_reply_delay", "an aid for those who worked on Postfix"),
    ("postlogd_watchdog_timeout", "the log is written by a thread of the program"),
    ("fault_injection_code", "an aid for those who worked on Postfix"),
    ("dns_ncache_ttl_fix_enable", "the resolver needs no such fix"),
    ("queue_file_attribute_count_limit", "the queue is a log, not files"),
    ("smtpd_delay_open_until_valid_rcpt", "nothing is written before the end of data"),
    ("debug_peer_level", "the dialogue of the peers in debug_peer_list is logged, at every level"),
    ("daemon_table_open_error_is_fatal", "a table that cannot be opened makes lookups fail, and mail waits"),
    ("berkeley_db_*", "Berkeley DB is not used: tables have an index of their own"),
    ("lmdb_map_size", "tables have an index of their own"),
    ("ipc_*", "the stages are one program"),
    ("max_use", "daemon processes need no replacement"),
    ("service_throttle_time", "the stages are one program"),
    ("trigger_timeout", "the stages are one program"),
    ("fork_*", "there is no process per session"),
    ("*_service_name", "the stages are one program"),
    ("connection_cache_status_update_time", "connections are kept by the client itself"),
    ("connection_cache_protocol_timeout", "connections are kept by the client itself"),
    ("lmtp_cache_connection", "connections are kept by the client itself"),
    ("fast_flush_refresh_time", "mail for a destination is found in the queue itself"),
    ("fast_flush_purge_time", "mail for a destination is found in the queue itself"),
    ("proxy_*_maps", "tables are opened by the program itself"),
    ("hash_queue_*", "the queue is a log, not directories"),
    ("in_flow_delay", "acceptance is paced by the queue's log"),
    ("shlib_directory", "there are no plugins"),
    ("meta_directory", "there are no packaging files"),
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

pub(super) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => {
            name.len() >= before.len() + after.len()
                && name.starts_with(before)
                && name.ends_with(after.trim_end_matches('*'))
        }
    }
}
