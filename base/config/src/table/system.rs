//! Names, directories, users, compatibility, commands: what an installation is.

use super::{Parameter, bool, choice, int, list, path, text, time};

pub(super) const PARAMETERS: &[Parameter] = &[
    list("alternate_config_directories", "").since("1.1").used_by("postdrop, postqueue, sendmail"),
    list("authorized_flush_users", "static:anyone").since("2.2").used_by("postqueue, sendmail"),
    list("authorized_mailq_users", "static:anyone").since("2.2").used_by("postqueue, sendmail"),
    list("authorized_submit_users", "static:anyone").since("2.2").used_by("postdrop, sendmail"),
    list("authorized_verp_clients", "").since("1.1").used_by("smtpd").obsolete(),
    path("command_directory", "/usr/sbin")
        .required()
        .since("1.0")
        .used_by("postfix, postfix-tls, postqueue, postscreen, sendmail, smtpd"),
    text("compatibility_level", "0").since("3.0").used_by("postfix"),
    path("config_directory", "/etc/postfix").since("1.0").used_by("all"),
    path("daemon_directory", "/usr/lib/postfix/sbin")
        .required()
        .since("1.0")
        .used_by("master, postfix, postmulti, sendmail"),
    path("data_directory", "/var/lib/postfix")
        .required()
        .since("2.5")
        .used_by("postfix, postfix-wrapper, proxymap, tlsmgr"),
    int("debug_peer_level", "2").at_least(1).since("1.0").used_by("qmqpd, sendmail, smtp, smtpd"),
    list("debug_peer_list", "").since("1.0").used_by("qmqpd, sendmail, smtp, smtpd"),
    text("debugger_command", "").since("1.0").used_by("master, sendmail"),
    text("default_privs", "nobody").required().since("1.0").used_by("local"),
    list("dns_servers", "").since("yamabiko 0.1").used_by("smtp, smtpd, verify"),
    int("dont_remove", "0").since("1.0").used_by("all"),
    bool("enable_idna2003_compatibility", "no").since("3.2").used_by("cleanup, qmqpd, smtp, smtpd, verify"),
    list("fast_flush_domains", "$relay_domains").since("1.0").used_by("flush, postqueue, sendmail"),
    time("fast_flush_purge_time", "7d").at_least(1).since("1.0").used_by("flush"),
    time("fast_flush_refresh_time", "12h").at_least(1).since("1.0").used_by("flush"),
    int("fault_injection_code", "0").since("1.1").used_by("all"),
    text("flush_service_name", "flush").required().since("2.0").used_by("all"),
    path("html_directory", "/usr/share/doc/postfix/html").required().since("2.1").used_by("postfix"),
    list(
        "import_environment",
        "MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ XAUTHORITY DISPLAY LANG=C POSTLOG_SERVICE POSTLOG_HOSTNAME",
    )
    .since("1.0")
    .used_by("all"),
    choice("info_log_address_format", "external").required().since("3.5").used_by("all"),
    list("known_tcp_ports", "lmtp=24, smtp=25, smtps=submissions=465, submission=587")
        .since("3.6")
        .used_by("master, smtp, smtpd"),
    text("mail_owner", "postfix").required().since("1.0").used_by("master, pipe, postfix, sendmail, smtpd, spawn"),
    path("mailq_path", "/usr/bin/mailq").required().since("1.1").used_by("postfix"),
    path("manpage_directory", "/usr/share/man").required().since("1.1").used_by("postfix"),
    list("master_service_disable", "").since("2.6").used_by("master"),
    path("meta_directory", "/etc/postfix").required().since("3.0").used_by("postfix, postmulti"),
    list("multi_instance_directories", "").since("2.6").used_by("postfix, postfix-wrapper, postmulti, sendmail"),
    bool("multi_instance_enable", "no").since("2.6").used_by("postfix, postfix-wrapper, postmulti"),
    text("multi_instance_group", "").since("2.6").used_by("postfix, postfix-wrapper, postmulti"),
    text("multi_instance_name", "").since("2.6").used_by("postfix, postfix-wrapper, postmulti"),
    path("multi_instance_wrapper", "").since("2.6").used_by("postfix, postfix-wrapper"),
    path("newaliases_path", "/usr/bin/newaliases").required().since("1.1").used_by("postfix"),
    list("non_bdb_custom_mapping", "").since("3.11").used_by("postfix-non-bdb"),
    list("non_bdb_migration_allow_root_prefixes", "/etc /usr/local/etc")
        .since("3.11")
        .used_by("nbdb_reindexd, postfix-non-bdb"),
    list("non_bdb_migration_allow_user_prefixes", "$data_directory /var/lib/mailman /var/lib/mailman3")
        .since("3.11")
        .used_by("nbdb_reindexd, postfix-non-bdb"),
    choice("non_bdb_migration_level", "disable").required().since("3.11").used_by("nbdb_reindexd, postfix-non-bdb"),
    bool("non_bdb_migration_log_redirect", "yes").since("3.11").used_by("all"),
    text("non_bdb_migration_service_name", "nbdb_reindex").since("3.11").used_by("all"),
    path("openssl_path", "openssl").required().since("3.1"),
    text("pickup_service_name", "pickup").required().since("2.0").used_by("all"),
    list("postmulti_control_commands", "reload flush").since("2.6").used_by("postmulti"),
    list("postmulti_start_commands", "start").since("2.6").used_by("postmulti"),
    list("postmulti_stop_commands", "stop abort drain quick-stop").since("2.6").used_by("postmulti"),
    int("process_id", "").computed().since("1.0").used_by("all"),
    path("process_id_directory", "pid").required().since("1.0").used_by("all"),
    text("process_name", "").computed().since("1.0").used_by("all"),
    path("queue_directory", "/var/spool/postfix").required().since("1.0").used_by("all"),
    path("readme_directory", "/usr/share/doc/postfix").required().since("1.1").used_by("postfix"),
    bool("respectful_logging", "${{$compatibility_level} <level {3.6} ? {no} : {yes}}")
        .since("3.6")
        .used_by("postscreen"),
    path("sample_directory", "/etc/postfix").required().since("1.1").used_by("postfix"),
    choice("sendmail_fix_line_endings", "always").required().since("2.9").used_by("sendmail"),
    path("sendmail_path", "/usr/sbin/sendmail").required().since("1.1").used_by("postfix"),
    text("service_name", "").computed().since("3.3").used_by("all"),
    text("setgid_group", "postdrop").required().since("1.1").used_by("postfix"),
    path("shlib_directory", "/usr/lib/postfix").required().since("3.0").used_by("postfix, postmulti"),
    text("showq_service_name", "showq").required().since("2.0").used_by("all"),
    bool("smtputf8_enable", "${{$compatibility_level} <level {1} ? {no} : {yes}}")
        .since("3.0")
        .used_by("cleanup, postalias, postmap, qmqpd, smtp, smtpd"),
    bool("strict_smtputf8", "no").since("3.0").used_by("smtpd"),
];
