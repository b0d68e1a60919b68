//! Delivery on this machine: local, virtual, pipe.

use super::{Parameter, bool, choice, int, list, path, raw, size, tables, text, time};

pub(super) const PARAMETERS: &[Parameter] = &[
    tables("alias_database", "hash:/etc/aliases").since("1.0").used_by("postalias, sendmail"),
    tables("alias_maps", "hash:/etc/aliases").since("1.0").used_by("local, proxymap, smtpd"),
    list("allow_mail_to_commands", "alias, forward").since("1.0").used_by("local"),
    list("allow_mail_to_files", "alias, forward").since("1.0").used_by("local"),
    bool("allow_min_user", "no").since("1.0").used_by("oqmgr, qmgr, trivial-rewrite"),
    bool("biff", "yes").since("1.0").used_by("local"),
    raw("command_execution_directory", "").since("2.2").used_by("local"),
    text("command_expansion_filter", "1234567890!@%-_=+:,./abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
        .required()
        .since("1.0")
        .used_by("local"),
    time("command_time_limit", "1000s").at_least(1).since("1.0").used_by("local, pipe, spawn"),
    int("deliver_lock_attempts", "20").at_least(1).since("1.0").used_by("bounce, local, postlock, virtual"),
    time("deliver_lock_delay", "1s").at_least(1).since("1.0").used_by("bounce, local, postlock, virtual"),
    text(
        "execution_directory_expansion_filter",
        "1234567890!@%-_=+:,./abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    )
    .required()
    .since("2.2")
    .used_by("local"),
    bool("expand_owner_alias", "no").since("1.0").used_by("local"),
    list("export_environment", "TZ MAIL_CONFIG LANG").since("1.0").used_by("local, pipe, spawn"),
    text("fallback_transport", "").since("1.0").used_by("local"),
    tables("fallback_transport_maps", "").since("2.3").used_by("local"),
    text("forward_expansion_filter", "1234567890!@%-_=+:,./abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
        .required()
        .since("1.0")
        .used_by("local"),
    raw("forward_path", "$home/.forward${recipient_delimiter}${extension}, $home/.forward")
        .since("1.0")
        .used_by("local"),
    bool("frozen_delivered_to", "yes").since("2.3").used_by("local"),
    path("home_mailbox", "").since("1.0").used_by("local"),
    choice("local_delivery_style", "postfix")
        .one_of(&["postfix", "qmail", "both"])
        .since("yamabiko 0.1")
        .used_by("local"),
    path("local_command_shell", "").since("1.0").used_by("local"),
    tables("local_delivery_status_filter", "$default_delivery_status_filter").since("3.0").used_by("local"),
    tables("local_recipient_maps", "proxy:unix:passwd.byname $alias_maps").since("1.0").used_by("proxymap, smtpd"),
    raw("luser_relay", "").since("1.0").used_by("local"),
    path("mail_spool_directory", "/var/mail").since("1.0").used_by("local, virtual"),
    raw("mailbox_command", "").since("1.0").used_by("local"),
    tables("mailbox_command_maps", "").since("1.1").used_by("local"),
    list("mailbox_delivery_lock", "fcntl, dotlock").required().since("1.0").used_by("local, postlock"),
    size("mailbox_size_limit", "51200000").since("1.0").used_by("local"),
    text("mailbox_transport", "").since("1.0").used_by("local"),
    tables("mailbox_transport_maps", "").since("2.3").used_by("local"),
    bool("owner_request_special", "yes").since("1.0").used_by("local, virtual"),
    tables("pipe_delivery_status_filter", "$default_delivery_status_filter").since("3.0").used_by("pipe"),
    list("prepend_delivered_header", "command, file, forward").since("1.0").used_by("local"),
    list("propagate_unmatched_extensions", "canonical, virtual").since("1.0").used_by("cleanup, local, smtp, virtual"),
    text("qmail_alias_user", "alias").since("yamabiko 0.1").used_by("local"),
    raw("qmail_default_delivery", "").since("yamabiko 0.1").used_by("local"),
    text("recipient_delimiter", "").since("1.0").used_by("local, pipe, postdrop, smtpd, trivial-rewrite"),
    bool("require_home_directory", "no").since("1.0").used_by("local"),
    bool("reset_owner_alias", "no").since("2.8").used_by("local"),
    time("stale_lock_time", "500s").at_least(1).since("1.0").used_by("local, postlock, virtual"),
    bool("strict_mailbox_ownership", "yes").since("2.5").used_by("local, virtual"),
    bool("sun_mailtool_compatibility", "no").since("1.0").used_by("local"),
    tables("virtual_delivery_status_filter", "$default_delivery_status_filter").since("3.0").used_by("virtual"),
    tables("virtual_gid_maps", "").since("1.0").used_by("virtual"),
    path("virtual_mailbox_base", "").required().since("1.0").used_by("virtual"),
    list("virtual_mailbox_domains", "$virtual_mailbox_maps")
        .since("2.0")
        .used_by("proxymap, smtpd, trivial-rewrite, virtual"),
    size("virtual_mailbox_limit", "51200000").since("1.0").used_by("virtual"),
    list("virtual_mailbox_lock", "fcntl, dotlock").required().since("1.0").used_by("virtual"),
    tables("virtual_mailbox_maps", "").since("1.0").used_by("proxymap, smtpd, trivial-rewrite, virtual"),
    int("virtual_minimum_uid", "100").at_least(1).since("1.0").used_by("virtual"),
    text("virtual_transport", "virtual").required().since("2.0").used_by("trivial-rewrite, virtual"),
    tables("virtual_uid_maps", "").since("1.0").used_by("virtual"),
];
