//! TLS of the SMTP server.

use super::{Parameter, bool, choice, int, list, path, size, tables, text, time};

pub(super) const PARAMETERS: &[Parameter] = &[
    tables("relay_clientcerts", "").since("2.2").used_by("smtpd"),
    bool("smtpd_enforce_tls", "no").since("2.2").used_by("postscreen, smtpd, tlsproxy"),
    time("smtpd_starttls_timeout", "${stress?{10}:{300}}s").at_least(1).since("2.2").used_by("postscreen, smtpd"),
    path("smtpd_tls_CAfile", "").since("2.2").used_by("postscreen, smtpd, tlsproxy"),
    path("smtpd_tls_CApath", "").since("2.2").used_by("postscreen, smtpd, tlsproxy"),
    bool("smtpd_tls_always_issue_session_ids", "yes").since("2.3").used_by("postscreen, smtpd, tlsproxy"),
    bool("smtpd_tls_ask_ccert", "no").since("2.2").used_by("postscreen, smtpd, tlsproxy"),
    bool("smtpd_tls_auth_only", "no").since("2.2").used_by("smtpd"),
    int("smtpd_tls_ccert_verifydepth", "9").since("2.2").used_by("postscreen, smtpd, tlsproxy"),
    path("smtpd_tls_cert_file", "").since("2.2").used_by("postfix-tls, postscreen, smtpd, tlsproxy"),
    list("smtpd_tls_chain_files", "").since("3.4").used_by("postscreen, smtpd, tlsproxy"),
    text("smtpd_tls_cipherlist", "").since("2.2").used_by("smtpd").obsolete(),
    choice("smtpd_tls_ciphers", "medium").required().since("2.6").used_by("postscreen, smtpd, tlsproxy"),
    path("smtpd_tls_dcert_file", "").since("2.2").used_by("postscreen, smtpd, tlsproxy"),
    path("smtpd_tls_dh1024_param_file", "").since("2.2").used_by("postscreen, smtpd, tlsproxy"),
    path("smtpd_tls_dh512_param_file", "").since("2.2").used_by("postscreen, smtpd, tlsproxy"),
    path("smtpd_tls_dkey_file", "$smtpd_tls_dcert_file").since("2.2").used_by("postscreen, smtpd, tlsproxy"),
    path("smtpd_tls_eccert_file", "").since("2.6").used_by("postfix-tls, postscreen, smtpd, tlsproxy"),
    path("smtpd_tls_eckey_file", "$smtpd_tls_eccert_file")
        .since("2.6")
        .used_by("postfix-tls, postscreen, smtpd, tlsproxy"),
    choice("smtpd_tls_eecdh_grade", "auto").required().since("2.6").used_by("postscreen, smtpd, tlsproxy"),
    bool("smtpd_tls_enable_rpk", "no").since("3.9").used_by("postscreen, smtpd, tlsproxy"),
    list("smtpd_tls_exclude_ciphers", "").since("2.3").used_by("postscreen, smtpd, tlsproxy"),
    choice("smtpd_tls_fingerprint_digest", "${{$compatibility_level} <level {3.6} ? {md5} : {sha256}}")
        .required()
        .since("2.5")
        .used_by("postscreen, smtpd, tlsproxy"),
    path("smtpd_tls_key_file", "$smtpd_tls_cert_file").since("2.2").used_by("postfix-tls, postscreen, smtpd, tlsproxy"),
    text("smtpd_tls_loglevel", "0").since("2.2").used_by("postfix-tls, postscreen, smtpd, tlsmgr, tlsproxy"),
    tables("smtpd_tls_loglevel_maps", "").since("3.12").used_by("postscreen, smtpd"),
    choice("smtpd_tls_mandatory_ciphers", "medium").required().since("2.3").used_by("postscreen, smtpd, tlsproxy"),
    list("smtpd_tls_mandatory_exclude_ciphers", "").since("2.3").used_by("postscreen, smtpd, tlsproxy"),
    list("smtpd_tls_mandatory_protocols", ">=TLSv1").since("2.3").used_by("postscreen, smtpd, tlsproxy"),
    list("smtpd_tls_protocols", ">=TLSv1").since("2.6").used_by("postscreen, smtpd, tlsproxy"),
    bool("smtpd_tls_received_header", "no").since("2.2").used_by("postfix-tls, smtpd"),
    bool("smtpd_tls_req_ccert", "no").since("2.2").used_by("postscreen, smtpd, tlsproxy"),
    choice("smtpd_tls_security_level", "").since("2.3").used_by("postfix-tls, postscreen, smtpd, tlsproxy"),
    tables("smtpd_tls_session_cache_database", "").since("2.2").used_by("tlsmgr"),
    time("smtpd_tls_session_cache_timeout", "3600s").between(0, 8640000).since("2.2").used_by("tlsmgr"),
    size("smtpd_tls_trace_size_limit", "102400").since("3.12").used_by("postscreen, smtpd"),
    bool("smtpd_tls_wrappermode", "no").since("2.2").used_by("smtpd"),
    bool("smtpd_use_tls", "no").since("2.2").used_by("postscreen, smtpd, tlsproxy"),
];
