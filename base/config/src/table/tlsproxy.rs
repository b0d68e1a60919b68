//! tlsproxy.

use super::{Parameter, bool, choice, int, list, path, tables, text, time};

pub(super) const PARAMETERS: &[Parameter] = &[
    path("tlsproxy_client_CAfile", "$smtp_tls_CAfile").since("3.4").used_by("tlsproxy"),
    path("tlsproxy_client_CApath", "$smtp_tls_CApath").since("3.4").used_by("tlsproxy"),
    path("tlsproxy_client_cert_file", "$smtp_tls_cert_file").since("3.4").used_by("tlsproxy"),
    list("tlsproxy_client_chain_files", "$smtp_tls_chain_files").since("3.4").used_by("tlsproxy"),
    path("tlsproxy_client_dcert_file", "$smtp_tls_dcert_file").since("3.4").used_by("tlsproxy"),
    path("tlsproxy_client_dkey_file", "$smtp_tls_dkey_file").since("3.4").used_by("tlsproxy"),
    path("tlsproxy_client_eccert_file", "$smtp_tls_eccert_file").since("3.4").used_by("tlsproxy"),
    path("tlsproxy_client_eckey_file", "$smtp_tls_eckey_file").since("3.4").used_by("tlsproxy"),
    bool("tlsproxy_client_enforce_tls", "$smtp_enforce_tls").since("3.4").used_by("tlsproxy"),
    choice("tlsproxy_client_fingerprint_digest", "$smtp_tls_fingerprint_digest")
        .required()
        .since("3.4")
        .used_by("tlsproxy"),
    path("tlsproxy_client_key_file", "$smtp_tls_key_file").since("3.4").used_by("tlsproxy"),
    choice("tlsproxy_client_level", "").since("3.4").used_by("tlsproxy").obsolete(),
    text("tlsproxy_client_loglevel", "$smtp_tls_loglevel").since("3.4").used_by("tlsproxy"),
    text("tlsproxy_client_loglevel_parameter", "smtp_tls_loglevel").since("3.4"),
    tables("tlsproxy_client_per_site", "$smtp_tls_per_site").since("3.4").used_by("tlsproxy"),
    tables("tlsproxy_client_policy", "").since("3.4").used_by("tlsproxy").obsolete(),
    tables("tlsproxy_client_policy_maps", "${tlsproxy_client_policy:$smtp_tls_policy_maps}")
        .since("3.7")
        .used_by("tlsproxy"),
    int("tlsproxy_client_scert_verifydepth", "$smtp_tls_scert_verifydepth").since("3.4").used_by("tlsproxy"),
    choice("tlsproxy_client_security_level", "${tlsproxy_client_level:$smtp_tls_security_level}")
        .since("3.7")
        .used_by("tlsproxy"),
    bool("tlsproxy_client_use_tls", "$smtp_use_tls").since("3.4").used_by("tlsproxy"),
    bool("tlsproxy_enforce_tls", "$smtpd_enforce_tls").since("2.8").used_by("tlsproxy"),
    text("tlsproxy_service_name", "tlsproxy").required().since("2.8").used_by("postscreen, smtp, smtpd"),
    path("tlsproxy_tls_CAfile", "$smtpd_tls_CAfile").since("2.8").used_by("tlsproxy"),
    path("tlsproxy_tls_CApath", "$smtpd_tls_CApath").since("2.8").used_by("tlsproxy"),
    bool("tlsproxy_tls_always_issue_session_ids", "$smtpd_tls_always_issue_session_ids")
        .since("2.8")
        .used_by("tlsproxy"),
    bool("tlsproxy_tls_ask_ccert", "$smtpd_tls_ask_ccert").since("2.8").used_by("tlsproxy"),
    int("tlsproxy_tls_ccert_verifydepth", "$smtpd_tls_ccert_verifydepth").since("2.8").used_by("tlsproxy"),
    path("tlsproxy_tls_cert_file", "$smtpd_tls_cert_file").since("2.8").used_by("tlsproxy"),
    list("tlsproxy_tls_chain_files", "$smtpd_tls_chain_files").since("3.4").used_by("tlsproxy"),
    choice("tlsproxy_tls_ciphers", "$smtpd_tls_ciphers").required().since("2.8").used_by("tlsproxy"),
    path("tlsproxy_tls_dcert_file", "$smtpd_tls_dcert_file").since("2.8").used_by("tlsproxy"),
    path("tlsproxy_tls_dh1024_param_file", "$smtpd_tls_dh1024_param_file").since("2.8").used_by("tlsproxy"),
    path("tlsproxy_tls_dh512_param_file", "$smtpd_tls_dh512_param_file").since("2.8").used_by("tlsproxy"),
    path("tlsproxy_tls_dkey_file", "$smtpd_tls_dkey_file").since("2.8").used_by("tlsproxy"),
    path("tlsproxy_tls_eccert_file", "$smtpd_tls_eccert_file").since("2.8").used_by("tlsproxy"),
    path("tlsproxy_tls_eckey_file", "$smtpd_tls_eckey_file").since("2.8").used_by("tlsproxy"),
    choice("tlsproxy_tls_eecdh_grade", "$smtpd_tls_eecdh_grade").required().since("2.8").used_by("tlsproxy"),
    bool("tlsproxy_tls_enable_rpk", "$smtpd_tls_enable_rpk").since("3.9").used_by("tlsproxy"),
    list("tlsproxy_tls_exclude_ciphers", "$smtpd_tls_exclude_ciphers").since("2.8").used_by("tlsproxy"),
    choice("tlsproxy_tls_fingerprint_digest", "$smtpd_tls_fingerprint_digest")
        .required()
        .since("2.8")
        .used_by("tlsproxy"),
    path("tlsproxy_tls_key_file", "$smtpd_tls_key_file").since("2.8").used_by("tlsproxy"),
    text("tlsproxy_tls_loglevel", "$smtpd_tls_loglevel").since("2.8").used_by("tlsproxy"),
    choice("tlsproxy_tls_mandatory_ciphers", "$smtpd_tls_mandatory_ciphers")
        .required()
        .since("2.8")
        .used_by("tlsproxy"),
    list("tlsproxy_tls_mandatory_exclude_ciphers", "$smtpd_tls_mandatory_exclude_ciphers")
        .since("2.8")
        .used_by("tlsproxy"),
    list("tlsproxy_tls_mandatory_protocols", "$smtpd_tls_mandatory_protocols").since("2.8").used_by("tlsproxy"),
    list("tlsproxy_tls_protocols", "$smtpd_tls_protocols").since("2.8").used_by("tlsproxy"),
    bool("tlsproxy_tls_req_ccert", "$smtpd_tls_req_ccert").since("2.8").used_by("tlsproxy"),
    choice("tlsproxy_tls_security_level", "$smtpd_tls_security_level").since("2.8").used_by("tlsproxy"),
    time("tlsproxy_tls_session_cache_timeout", "").since("2.8").obsolete(),
    bool("tlsproxy_use_tls", "$smtpd_use_tls").since("2.8").used_by("tlsproxy"),
    time("tlsproxy_watchdog_timeout", "10s").at_least(10).since("2.8").used_by("tlsproxy"),
];
