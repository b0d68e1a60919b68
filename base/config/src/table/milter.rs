//! Milters.

use super::{Parameter, choice, list, tables, text, time};

pub(super) const PARAMETERS: &[Parameter] = &[
    time("milter_command_timeout", "30s").at_least(1).since("2.3").used_by("cleanup, smtpd"),
    list("milter_connect_macros", "j {daemon_name} {daemon_addr} v _").since("2.3").used_by("cleanup, smtpd"),
    time("milter_connect_timeout", "30s").at_least(1).since("2.3").used_by("cleanup, smtpd"),
    time("milter_content_timeout", "300s").at_least(1).since("2.3").used_by("cleanup, smtpd"),
    list("milter_data_macros", "i").since("2.3").used_by("cleanup, smtpd"),
    choice("milter_default_action", "tempfail").required().since("2.3").used_by("cleanup, smtpd"),
    list("milter_end_of_data_macros", "i").since("2.3").used_by("cleanup, smtpd"),
    list("milter_end_of_header_macros", "i").since("2.5").used_by("cleanup, smtpd"),
    tables("milter_header_checks", "").since("2.7").used_by("cleanup"),
    list("milter_helo_macros", "{tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer}")
        .since("2.3")
        .used_by("cleanup, smtpd"),
    text("milter_macro_daemon_name", "$myhostname").required().since("2.3").used_by("cleanup, smtpd"),
    list("milter_macro_defaults", "").since("3.1").used_by("cleanup, smtpd"),
    text("milter_macro_v", "$mail_name $mail_version").required().since("2.3").used_by("cleanup, smtpd"),
    list("milter_mail_macros", "i {auth_type} {auth_authen} {auth_author} {mail_addr} {mail_host} {mail_mailer}")
        .since("2.3")
        .used_by("cleanup, smtpd"),
    choice("milter_protocol", "6").required().since("2.3").used_by("cleanup, smtpd"),
    list("milter_rcpt_macros", "i {rcpt_addr} {rcpt_host} {rcpt_mailer}").since("2.3").used_by("cleanup, smtpd"),
    list("milter_unknown_command_macros", "").since("2.3").used_by("cleanup, smtpd"),
    list("non_smtpd_milters", "").since("2.3").used_by("cleanup"),
    tables("smtpd_milter_maps", "").since("3.2").used_by("smtpd"),
    list("smtpd_milters", "").since("2.3").used_by("smtpd"),
];
