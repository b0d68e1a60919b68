//! Logging.

use super::{Parameter, choice, list, path, text, time};

pub(super) const PARAMETERS: &[Parameter] = &[
    choice("log_format", "postfix").one_of(&["postfix", "json"]).since("yamabiko 0.1").used_by("all"),
    text("mail_name", "Yamabiko").required().since("1.0").used_by("bounce, smtpd"),
    text("mail_release_date", "20240304").required().since("3.12").used_by("all"),
    text("mail_version", "3.7.11").required().since("3.12").used_by("all"),
    path("maillog_file", "").since("3.4").used_by("postfix, postlog, postlogd"),
    path("maillog_file_compressor", "gzip").required().since("3.4").used_by("postfix"),
    text("maillog_file_permissions", "0600").required().since("3.9").used_by("postlog, postlogd"),
    list("maillog_file_prefixes", "/var, /dev/stdout").required().since("3.4").used_by("postfix"),
    text("maillog_file_rotate_suffix", "%Y%m%d-%H%M%S").required().since("3.4").used_by("postfix"),
    text("postlog_service_name", "postlog").required().since("3.4").used_by("postfix, postlog"),
    time("postlogd_watchdog_timeout", "10s").at_least(10).since("3.4").used_by("postlogd"),
    choice("syslog_facility", "mail").required().since("1.0").used_by("all"),
    text("syslog_name", "${multi_instance_name?{$multi_instance_name}:{postfix}}")
        .required()
        .since("1.1")
        .used_by("all"),
];
