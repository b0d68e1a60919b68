//! Limits per client and the anvil counters.

use super::{Parameter, int, list, time};

pub(super) const PARAMETERS: &[Parameter] = &[
    time("anvil_rate_time_unit", "60s").at_least(1).since("2.2").used_by("anvil"),
    time("anvil_status_update_time", "600s").at_least(1).since("2.2").used_by("anvil"),
    int("smtpd_client_auth_rate_limit", "0").since("3.1").used_by("smtpd"),
    int("smtpd_client_connection_count_limit", "50").since("2.2").used_by("postscreen, smtpd"),
    // Empty, though documented otherwise: smtpd_client_event_limit_exceptions would see a value and be empty itself.
    list("smtpd_client_connection_limit_exceptions", "").since("2.1").obsolete(),
    int("smtpd_client_connection_rate_limit", "0").since("2.2").used_by("smtpd"),
    list("smtpd_client_event_limit_exceptions", "${smtpd_client_connection_limit_exceptions:$mynetworks}")
        .since("2.2")
        .used_by("smtpd"),
    int("smtpd_client_ipv4_prefix_length", "32").between(0, 32).since("3.8").used_by("smtpd"),
    int("smtpd_client_ipv6_prefix_length", "84").between(0, 128).since("3.8").used_by("smtpd"),
    int("smtpd_client_message_rate_limit", "0").since("2.2").used_by("smtpd"),
    int("smtpd_client_new_tls_session_rate_limit", "0").since("2.3").used_by("smtpd"),
    int("smtpd_client_recipient_rate_limit", "0").since("2.2").used_by("smtpd"),
];
