//! Notices: bounces, delays, double bounces, VERP.

use super::{Parameter, bool, choice, int, list, path, size, tables, text, time};

pub(super) const PARAMETERS: &[Parameter] = &[
    text("2bounce_notice_recipient", "postmaster").required().since("1.0").used_by("bounce, error"),
    bool("backwards_bounce_logfile_compatibility", "yes").since("2.1").used_by("bounce"),
    text("bounce_notice_recipient", "postmaster").required().since("1.0").used_by("bounce, error, smtpd"),
    text("bounce_service_name", "bounce").required().since("2.0").used_by("all"),
    size("bounce_size_limit", "50000").at_least(1).since("1.0").used_by("bounce, sendmail"),
    path("bounce_template_file", "").since("2.3").used_by("bounce, postconf"),
    bool("confirm_delay_cleared", "no").since("3.0").used_by("oqmgr, qmgr"),
    text("default_verp_delimiters", "+=").length(2, 2).since("1.1").used_by("sendmail, smtpd"),
    text("defer_service_name", "defer").required().since("2.0").used_by("all"),
    text("delay_notice_recipient", "postmaster").required().since("1.0").used_by("bounce"),
    time("delay_warning_time", "0h").since("1.0").used_by("bounce, cleanup, sendmail"),
    bool("disable_verp_bounces", "no").since("1.1").used_by("cleanup, oqmgr, qmgr"),
    text("double_bounce_sender", "double-bounce").required().since("1.0").used_by("discard, error, smtpd"),
    bool("enable_errors_to", "").since("2.1").used_by("cleanup").obsolete(),
    bool("enable_threaded_bounces", "no").since("3.6").used_by("bounce"),
    text("error_notice_recipient", "postmaster").required().since("1.0").used_by("smtp, smtpd"),
    time("maximal_queue_lifetime", "5d").between(0, 8640000).since("1.0").used_by("bounce, oqmgr, qmgr"),
    list("notify_classes", "resource, software").since("1.0").used_by("bounce, error, smtp, smtpd"),
    bool("requiretls_redact_dsn", "yes").since("3.11").used_by("bounce"),
    bool("soft_bounce", "no").since("1.0").used_by("cleanup, postscreen, qmqpd, smtpd"),
    text("trace_service_name", "trace").required().since("2.1").used_by("all"),
    text("undisclosed_recipients_header", "").since("1.0").used_by("cleanup"),
    text("verp_delimiter_filter", "-=+").required().since("1.1").used_by("qmqpd, sendmail, smtpd"),
    // Ours: qmail's words, languages, calm, signed reverse-paths.
    int("backscatter_recipient_limit", "0").since("yamabiko 0.1").used_by("smtpd"),
    time("backscatter_time_unit", "1h").between(1, 0).since("yamabiko 0.1").used_by("smtpd"),
    text("bounce_from_domain", "").since("yamabiko 0.1").used_by("bounce"),
    text("bounce_from_user", "").since("yamabiko 0.1").used_by("bounce"),
    int("bounce_hold_limit", "1000").since("yamabiko 0.1").used_by("bounce"),
    choice("bounce_japanese_charset", "utf-8")
        .one_of(&["utf-8", "iso-2022-jp"])
        .since("yamabiko 0.1")
        .used_by("bounce"),
    list("bounce_language", "").since("yamabiko 0.1").used_by("bounce"),
    path("bounce_language_directory", "").since("yamabiko 0.1").used_by("bounce"),
    tables("bounce_language_maps", "").since("yamabiko 0.1").used_by("bounce"),
    int("bounce_rate_client_limit", "0").since("yamabiko 0.1").used_by("bounce"),
    int("bounce_rate_domain_limit", "0").since("yamabiko 0.1").used_by("bounce"),
    time("bounce_rate_time_unit", "1h").between(1, 0).since("yamabiko 0.1").used_by("bounce"),
    list("bounce_requires", "").since("yamabiko 0.1").used_by("bounce"),
    choice("bounce_style", "postfix").one_of(&["postfix", "qmail"]).since("yamabiko 0.1").used_by("bounce"),
    list("notify_channel_classes", "").since("yamabiko 0.1").used_by("bounce, smtp, smtpd"),
    path("notify_channel_file", "").since("yamabiko 0.1").used_by("bounce, smtp, smtpd"),
    text("notify_channel_service", "").since("yamabiko 0.1").used_by("bounce, smtp, smtpd"),
    text("notify_channel_url", "").since("yamabiko 0.1").used_by("bounce, smtp, smtpd"),
    list("notify_digest_classes", "").since("yamabiko 0.1").used_by("bounce, smtp, smtpd"),
    time("notify_digest_interval", "10m").between(1, 0).since("yamabiko 0.1").used_by("bounce, smtp, smtpd"),
    time("notify_digest_maximal_interval", "1d").between(1, 0).since("yamabiko 0.1").used_by("bounce, smtp, smtpd"),
    int("notify_hourly_limit", "0").since("yamabiko 0.1").used_by("bounce, smtp, smtpd"),
    path("qmail_control_directory", "").since("yamabiko 0.1").used_by("bounce, qmgr"),
    list("signed_sender_domains", "").since("yamabiko 0.1").used_by("qmgr, smtpd"),
    path("signed_sender_key_file", "$data_directory/signed_sender.keys").since("yamabiko 0.1").used_by("qmgr, smtpd"),
    time("signed_sender_lifetime", "30d").between(3600, 0).since("yamabiko 0.1").used_by("smtpd"),
    bool("signed_sender_per_recipient", "yes").since("yamabiko 0.1").used_by("qmgr"),
    choice("unsigned_bounce_action", "accept")
        .one_of(&["accept", "reject", "tag", "hold"])
        .since("yamabiko 0.1")
        .used_by("smtpd"),
];
