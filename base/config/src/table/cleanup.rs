//! What cleanup does with a message: checks, rewriting of headers, limits.

use super::{Parameter, bool, choice, int, list, size, tables, text};

pub(super) const PARAMETERS: &[Parameter] = &[
    bool("always_add_missing_headers", "no").since("2.6").used_by("cleanup"),
    text("always_bcc", "").since("1.0").used_by("cleanup"),
    tables("body_checks", "").since("1.0").used_by("cleanup"),
    size("body_checks_size_limit", "51200").since("2.0").used_by("cleanup"),
    list("canonical_classes", "envelope_sender, envelope_recipient, header_sender, header_recipient")
        .required()
        .since("2.2")
        .used_by("cleanup"),
    tables("canonical_maps", "").since("1.0").used_by("cleanup, proxymap, smtpd"),
    bool("cleanup_replace_stray_cr_lf", "yes").since("3.9").used_by("cleanup"),
    text("cleanup_service_name", "cleanup").required().since("2.0").used_by("all"),
    text("content_filter", "").since("1.0").used_by("pickup, qmqpd, smtpd"),
    bool("detect_8bit_encoding_header", "yes").since("2.5").used_by("cleanup"),
    bool("disable_mime_input_processing", "no").since("2.0").used_by("cleanup"),
    bool("disable_mime_output_conversion", "no").since("2.0").used_by("smtp"),
    int("duplicate_filter_limit", "1000").since("1.0").used_by("cleanup, local, showq"),
    text("empty_address_recipient", "MAILER-DAEMON").required().since("1.0").used_by("cleanup, showq, trivial-rewrite"),
    bool("enable_original_recipient", "yes").since("2.1").used_by("cleanup, local, pipe, virtual"),
    int("extract_recipient_limit", "").since("1.0").obsolete(),
    bool("force_mime_input_conversion", "no").since("3.9").used_by("cleanup"),
    text("full_name_encoding_charset", "utf-8").required().since("3.10").used_by("cleanup"),
    int("header_address_token_limit", "10240").at_least(1).since("2.0").used_by("cleanup"),
    tables("header_checks", "").since("1.0").used_by("cleanup"),
    choice("header_from_format", "standard").required().since("3.3").used_by("bounce, cleanup, smtp, smtpd"),
    size("header_size_limit", "102400").at_least(1).since("1.0").used_by("cleanup"),
    int("hopcount_limit", "50").at_least(1).since("1.0").used_by("cleanup, qmqpd, sendmail"),
    list("internal_mail_filter_classes", "").since("2.3").used_by("bounce, smtp, smtpd"),
    size("line_length_limit", "2048").at_least(512).since("1.0").used_by("pickup, postscreen, qmqpd, smtpd"),
    list("local_header_rewrite_clients", "permit_inet_interfaces").since("2.2").used_by("smtpd"),
    list("message_drop_headers", "bcc, content-length, resent-bcc, return-path").since("3.0").used_by("cleanup"),
    text("message_reject_characters", "").since("2.3").used_by("cleanup"),
    size("message_size_limit", "10240000").since("1.0").used_by("cleanup, qmqpd, smtpd"),
    text("message_strip_characters", "").since("2.3").used_by("cleanup"),
    size("mime_boundary_length_limit", "2048").at_least(1).since("2.0").used_by("cleanup, smtp"),
    tables("mime_header_checks", "$header_checks").since("2.0").used_by("cleanup"),
    int("mime_nesting_limit", "100").at_least(1).since("2.0").used_by("cleanup, smtp"),
    tables("nested_header_checks", "$header_checks").since("2.0").used_by("cleanup"),
    choice("non_empty_end_of_header_action", "fix_quietly").required().since("3.11").used_by("cleanup"),
    list("receive_override_options", "").since("2.1").used_by("pickup, qmqpd, smtpd"),
    tables("recipient_bcc_maps", "").since("2.1").used_by("cleanup"),
    list("recipient_canonical_classes", "envelope_recipient, header_recipient")
        .required()
        .since("2.2")
        .used_by("cleanup"),
    tables("recipient_canonical_maps", "").since("1.0").used_by("cleanup, proxymap, smtpd"),
    text("remote_header_rewrite_domain", "").since("2.2").used_by("cleanup, sendmail, trivial-rewrite"),
    tables("sender_bcc_maps", "").since("2.1").used_by("cleanup"),
    list("sender_canonical_classes", "envelope_sender, header_sender").required().since("2.2").used_by("cleanup"),
    tables("sender_canonical_maps", "").since("1.0").used_by("cleanup, proxymap, smtpd"),
    list("smtputf8_autodetect_classes", "sendmail, verify")
        .required()
        .since("3.0")
        .used_by("bounce, cleanup, qmqpd, smtp, smtpd, verify"),
    bool("strict_7bit_headers", "no").since("2.0").used_by("cleanup"),
    bool("strict_8bitmime", "no").since("2.0").used_by("cleanup"),
    bool("strict_8bitmime_body", "no").since("2.0").used_by("cleanup"),
    bool("strict_mime_encoding_domain", "no").since("2.0").used_by("cleanup"),
    size("virtual_alias_address_length_limit", "1000").at_least(1).since("3.0").used_by("cleanup"),
    list("virtual_alias_domains", "$virtual_alias_maps")
        .since("2.0")
        .used_by("proxymap, smtpd, trivial-rewrite, virtual"),
    int("virtual_alias_expansion_limit", "1000").at_least(1).since("2.1").used_by("cleanup"),
    tables("virtual_alias_maps", "$virtual_maps")
        .since("2.0")
        .used_by("cleanup, proxymap, smtpd, trivial-rewrite, virtual"),
    int("virtual_alias_recursion_limit", "1000").at_least(1).since("2.1").used_by("cleanup"),
    tables("virtual_maps", "").since("1.0").used_by("cleanup").obsolete(),
];
