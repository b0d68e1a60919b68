//! Short explanations of parameters, for help pages and reports: those that people set, and those that are ours.

/// Name and sentence, sorted by name.
static ABOUT: &[(&str, &str)] = &[
    ("2bounce_notice_recipient", "Who gets a notice when the notice of a failure could not be delivered."),
    ("alias_database", "The tables that newaliases builds."),
    ("alias_maps", "The tables of local aliases, looked up at delivery."),
    ("allow_percent_hack", "Read user%domain as user@domain when the part after @ is ours."),
    ("always_bcc", "An address that gets a copy of every message."),
    ("append_at_myorigin", "Complete an address without domain with @$myorigin."),
    ("append_dot_mydomain", "Complete a domain without a dot with .$mydomain."),
    ("arc_sealing_identity", "Who seals mail of strangers with ARC: `selector domain /file/with/key`; empty: nobody."),
    ("arc_trusted_sealers", "Domains whose ARC seal counts more than a failure of DMARC."),
    (
        "authentication_results_hostname",
        "Our name in Authentication-Results: fields; such fields of others with it are taken out.",
    ),
    (
        "backscatter_recipient_limit",
        "How many messages with the null sender and without a token of ours one recipient gets in backscatter_time_unit; 0 for no limit.",
    ),
    ("backscatter_time_unit", "The time over which backscatter_recipient_limit counts."),
    ("biff", "Tell a user's terminal about new mail."),
    (
        "bounce_from_domain",
        "The domain in From: of notices, and in the first sentence of qmail's; empty: $myorigin, for qmail's $myhostname.",
    ),
    ("bounce_from_user", "The user in From: of notices; empty: as the template says, MAILER-DAEMON."),
    ("bounce_hold_limit", "How many notices beyond a limit are kept on hold; more are only counted and listed."),
    ("bounce_japanese_charset", "The character set of notices in Japanese."),
    (
        "bounce_language",
        "The languages of notices, in order; `original` stands for that of the message they are about.",
    ),
    (
        "bounce_language_directory",
        "A directory with files LANGUAGE.cf like bounce_template_file, for more languages or other words.",
    ),
    ("bounce_language_maps", "Tables with the languages of notices by the sender who gets them."),
    ("bounce_queue_lifetime", "How long a notice of failure is tried. The default unit is days."),
    (
        "bounce_rate_client_limit",
        "How many notices mail of one client may cause in bounce_rate_time_unit; 0 for no limit.",
    ),
    ("bounce_rate_domain_limit", "How many notices one domain gets in bounce_rate_time_unit; 0 for no limit."),
    ("bounce_rate_time_unit", "The time over which bounce_rate_client_limit and bounce_rate_domain_limit count."),
    ("bounce_requires", "Send notices only about mail that was authenticated, local or aligned; empty: about all."),
    ("bounce_size_limit", "How many bytes of the original message a notice returns."),
    ("bounce_style", "The form of notices of failure: postfix, or qmail for QSBMF."),
    ("bounce_template_file", "A file with the texts of notices."),
    ("canonical_maps", "Tables that rewrite addresses in envelopes and headers."),
    ("compatibility_level", "The release whose defaults are wanted; without it the oldest ones are in force."),
    ("daemon_directory", "Where Postfix keeps its daemons; nothing is read from there."),
    ("data_directory", "Where the program keeps what it may write besides the queue."),
    (
        "default_destination_concurrency_limit",
        "Deliveries at once to one destination, for transports without a limit of their own.",
    ),
    (
        "default_destination_rate_delay",
        "A pause between deliveries to one destination; above zero they go one at a time.",
    ),
    ("default_destination_recipient_limit", "Recipients in one delivery, for transports without a limit of their own."),
    ("default_process_limit", "How many sessions of one service may be open at once."),
    (
        "default_sending_profiles",
        "Receivers whose limits are kept: names of shipped profiles, all, files; for transports without TRANSPORT_sending_profiles.",
    ),
    ("default_session_message_limit", "Messages in one session with a server; 0 for no limit."),
    ("default_site_adaptive_limits", "Learn from the replies of receiving sites how fast they want their mail."),
    (
        "default_site_concurrency_limit",
        "Deliveries at once to one receiving site, whatever the domain; 0 for no limit.",
    ),
    ("default_site_rate_delay", "The time from the start of a delivery to a receiving site to the start of the next."),
    (
        "default_site_session_pause",
        "The time from the end of a session with a receiving site to the start of the next.",
    ),
    ("default_transport", "The transport for everywhere else."),
    ("defer_transports", "Transports whose mail waits until the queue is flushed by hand."),
    (
        "delay_warning_time",
        "After how long a sender is told that mail is still waiting; 0 for never. The default unit is hours.",
    ),
    ("disable_vrfy_command", "Do not answer VRFY."),
    (
        "dkim_signing_table",
        "Tables from an author's domain to `selector domain /file/with/key`: who signs mail of our own users.",
    ),
    (
        "dns_servers",
        "Name servers to ask (ADDRESS or ADDRESS:PORT) in place of those of /etc/resolv.conf. Read at start.",
    ),
    ("double_bounce_sender", "The sender of notices to the postmaster; notices about these are not sent."),
    ("enable_long_queue_ids", "Long queue ids. Ours are always long."),
    ("fallback_transport", "A transport for recipients that are unknown here."),
    ("forward_path", "The files that hold a user's own forwarding."),
    ("header_size_limit", "The longest header, continuation lines included."),
    ("home_mailbox", "A mailbox or (ending in /) a maildir below the user's home."),
    ("hopcount_limit", "How many Received headers make a loop."),
    ("inet_interfaces", "The addresses on which mail is received."),
    ("inet_protocols", "IPv4, IPv6 or both."),
    ("initial_destination_concurrency", "Deliveries at once to a destination that has not been tried yet."),
    (
        "late_bounce_analysis",
        "Read bounces, complaints and automatic replies that come in, and enter them into the ledger.",
    ),
    (
        "late_bounce_disposition",
        "What happens to a bounce that was read and belongs to a message of ours: deliver, or discard once it is entered.",
    ),
    (
        "late_bounce_trusted_hosts",
        "Hosts, domains and networks whose reports are believed although they have nothing to do with the message.",
    ),
    (
        "ledger_directory",
        "Where the history of every recipient is kept. In $data_directory, or the engine cannot write.",
    ),
    ("ledger_enable", "Keep a history of every recipient, for `yamabiko fate`."),
    ("ledger_queue_limit", "How many events may wait for the ledger; more are counted and left out. Mail never waits."),
    (
        "ledger_quiet_time",
        "After how long without bad news a message that the next hop took is presumed delivered. The default unit is days.",
    ),
    ("ledger_retention_time", "How long histories are kept. The default unit is days."),
    ("ledger_success_retention_time", "How long histories that went well are kept. The default unit is days."),
    ("line_length_limit", "The longest line of a message that is kept in one piece."),
    ("local_delivery_style", "What stands in home directories: postfix (.forward), qmail (.qmail), or both."),
    ("local_recipient_maps", "Tables with all local users and aliases; empty: do not check."),
    ("log_format", "What log lines look like: as Postfix writes them, or one JSON object each."),
    ("luser_relay", "Where mail for unknown local users goes."),
    ("mail_name", "The name of the mail system in greetings, headers and notices."),
    ("mail_owner", "The user that owns the queue and runs most of the program."),
    ("mail_spool_directory", "The directory of users' mailboxes."),
    ("mailbox_command", "A command that delivers to users, run as the user."),
    ("mailbox_size_limit", "The largest mailbox file; 0 for no limit."),
    ("mailbox_transport", "A transport for all local users."),
    ("maillog_file", "A file to log to instead of the system's log; /dev/stdout when started in the foreground."),
    ("masquerade_domains", "Domains whose host names are hidden."),
    ("maximal_backoff_time", "The longest pause between two attempts."),
    ("maximal_queue_lifetime", "How long a message is tried. The default unit is days."),
    ("message_size_limit", "The largest message, in bytes; 0 for no limit."),
    (
        "metrics_listen_address",
        "The address and port, 127.0.0.1:9125, where Prometheus reads counters; empty for none.",
    ),
    ("minimal_backoff_time", "The shortest pause between two attempts."),
    ("mydestination", "The domains that are delivered to users of this machine."),
    ("mydomain", "The domain of this machine."),
    ("myhostname", "The full name of this machine."),
    ("mynetworks", "The clients that may send anywhere."),
    ("mynetworks_style", "How mynetworks is found when it is not set: host, subnet or class."),
    ("myorigin", "The domain of mail that is posted on this machine."),
    ("notify_channel_classes", "The classes of notify_classes that are told by a second way too."),
    ("notify_channel_file", "A file below $data_directory that gets one line of JSON for each such trouble."),
    (
        "notify_channel_service",
        "A private spawn service of master.cf that reads one line of JSON for each such trouble.",
    ),
    ("notify_channel_url", "An http: address to which a JSON object is posted for each such trouble."),
    ("notify_classes", "The kinds of trouble that the postmaster is told of."),
    ("notify_digest_classes", "The classes of notify_classes whose notices come as summaries after the first."),
    (
        "notify_digest_interval",
        "The time from the first notice of a class to its first summary; it doubles while there is more.",
    ),
    ("notify_digest_maximal_interval", "The longest time between two summaries."),
    (
        "notify_hourly_limit",
        "How many notices and summaries the postmaster gets in an hour; what is beyond is summed up. 0 for no limit.",
    ),
    ("owner_request_special", "Treat owner-name and name-request as they are, not as addresses with an extension."),
    ("parent_domain_matches_subdomains", "The lists in which a domain stands for its subdomains too."),
    ("propagate_unmatched_extensions", "The tables whose results inherit the extension of the address looked up."),
    ("proxy_interfaces", "Addresses of a gateway that forwards mail to us: they are ours."),
    ("qmail_alias_user", "The user whose .qmail-NAME files are for addresses that are no user's; empty for none."),
    (
        "qmail_control_directory",
        "A directory with qmail's control files: bouncefrom, bouncehost, doublebounceto, doublebouncehost, queuelifetime.",
    ),
    (
        "qmail_default_delivery",
        "What an empty .qmail file means, ./Maildir/ for example; empty: what mailbox_command, home_mailbox and their kin say.",
    ),
    ("queue_directory", "Where the queue is."),
    ("queue_minfree", "Bytes that must stay free for mail to be accepted."),
    ("queue_run_delay", "How often deferred mail is looked at."),
    (
        "queue_stall_warn_time",
        "How long a write to the queue may take before the disk counts as hanging: then mail is told to come later. 0 is for ever.",
    ),
    ("recipient_bcc_maps", "Tables that add a recipient by recipient."),
    ("recipient_delimiter", "The characters that part a user's name from an extension."),
    ("relay_domains", "Domains that we accept mail for and pass on."),
    ("relay_recipient_maps", "Tables with the recipients of relay_domains."),
    ("relayhost", "The host that takes all mail for elsewhere."),
    ("relocated_maps", "Tables of users who have moved."),
    ("sender_dependent_relayhost_maps", "Tables that choose the relay host by sender."),
    ("signed_sender_domains", "The sender domains whose reverse-paths get a signed token."),
    ("signed_sender_key_file", "The keys of signed reverse-paths; made at start where it is not there."),
    ("signed_sender_lifetime", "How long a bounce may come back to a signed reverse-path."),
    ("signed_sender_per_recipient", "Give every recipient a signed reverse-path of its own."),
    ("smtp_bind_address", "The address that outgoing IPv4 connections come from."),
    ("smtp_fallback_relay", "Hosts to try when a destination cannot be reached."),
    ("smtp_generic_maps", "Tables that rewrite local addresses in mail that leaves."),
    ("smtp_helo_name", "The name we greet other servers with."),
    ("smtpd_banner", "The text after 220."),
    ("smtpd_client_connection_count_limit", "Connections at once from one client."),
    ("smtpd_client_restrictions", "Who may connect."),
    ("smtpd_data_restrictions", "What is checked at DATA."),
    ("smtpd_delay_reject", "Refuse at RCPT TO what could be refused earlier."),
    ("smtpd_error_sleep_time", "A pause after a client's error."),
    ("smtpd_forbid_bare_newline", "What to do with lines that end in a bare newline: smuggled mail hides behind them."),
    ("smtpd_forbid_unauth_pipelining", "End sessions of clients that talk before they may."),
    ("smtpd_hard_error_limit", "Errors after which a session ends."),
    ("smtpd_helo_required", "Ask for HELO or EHLO before MAIL."),
    ("smtpd_recipient_limit", "Recipients of one message."),
    ("smtpd_recipient_restrictions", "Which recipients are refused, besides relaying."),
    ("smtpd_relay_restrictions", "Who may send to recipients that are not ours."),
    ("smtpd_restriction_classes", "Names of own lists of restrictions."),
    (
        "smtpd_sender_authentication",
        "What is found out about mail of strangers and written into Authentication-Results:: spf, dkim, dmarc, arc.",
    ),
    ("smtpd_sender_restrictions", "Which senders are refused."),
    ("smtpd_timeout", "How long a client may be silent."),
    ("soft_bounce", "Turn every failure into a delay, for trying things out."),
    ("strict_rfc821_envelopes", "Take addresses of MAIL and RCPT only with their angle brackets."),
    (
        "suppression_act_at",
        "Where suppressed recipients are kept back: submission, delivery; empty: nowhere, only listed.",
    ),
    ("suppression_enable", "Put addresses that failed onto the suppression list, by suppression_rules_file."),
    (
        "suppression_report_checks",
        "Let no report suppress an address that comes from a host which has nothing to do with the message.",
    ),
    ("suppression_rules_file", "Which failures suppress an address, and for how long; empty: the built-in rules."),
    ("syslog_name", "The first part of a log line's program name."),
    ("transport_maps", "Tables that choose transport and next hop by recipient."),
    ("undisclosed_recipients_header", "The header added to mail without recipients in its headers."),
    (
        "unsigned_bounce_action",
        "What happens to mail from the null sender to signed_sender_domains without a token: accept, reject, tag or hold.",
    ),
    ("virtual_alias_domains", "Domains of which every address is an alias."),
    ("virtual_alias_maps", "Tables of aliases for addresses of any domain."),
    ("virtual_gid_maps", "The group that owns a virtual mailbox."),
    ("virtual_mailbox_base", "The directory below which virtual mailboxes are."),
    ("virtual_mailbox_domains", "Domains whose mailboxes belong to no user of the machine."),
    ("virtual_mailbox_maps", "Tables of the mailboxes of virtual_mailbox_domains."),
    ("virtual_uid_maps", "The user that owns a virtual mailbox."),
];

/// One sentence about the named parameter; empty where none is written.
pub(super) fn about(name: &str) -> &'static str {
    match ABOUT.binary_search_by_key(&name, |(own, _)| own) {
        Ok(index) => ABOUT.get(index).map_or("", |(_, text)| text),
        Err(_) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_and_in_the_table() {
        assert!(ABOUT.is_sorted_by_key(|(name, _)| *name));
        for (name, _) in ABOUT {
            assert!(super::super::parameter(name).is_some(), "{name}");
            assert!(!about(name).is_empty());
        }
    }
}
