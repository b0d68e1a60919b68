//! Notices: bounces, delays, double bounces, VERP.

use super::{Parameter, bool, list, path, size, text, time};

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
];
