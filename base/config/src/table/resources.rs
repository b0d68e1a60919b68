//! Process, file and time limits.

use super::{Parameter, int, size, text, time};

pub(super) const PARAMETERS: &[Parameter] = &[
    time("application_event_drain_time", "100s").at_least(1).since("2.1").used_by("postkick"),
    time("daemon_timeout", "18000s").at_least(1).since("1.0").used_by("all"),
    int("default_process_limit", "100").at_least(1).since("1.0").used_by("master"),
    int("delay_logging_resolution_limit", "2").between(0, 6).since("2.3").used_by("all"),
    int("fork_attempts", "5").at_least(1).since("1.0").used_by("postlock, sendmail"),
    time("fork_delay", "1s").at_least(1).since("1.0").used_by("postlock, sendmail"),
    time("ipc_idle", "5s").at_least(1).since("1.0").used_by("all"),
    time("ipc_timeout", "3600s").at_least(1).since("1.0").used_by("all"),
    time("ipc_ttl", "1000s").at_least(1).since("2.1").used_by("all"),
    time("max_idle", "100s").at_least(1).since("1.0").used_by("all"),
    int("max_use", "100").at_least(1).since("1.0").used_by("all"),
    time("service_throttle_time", "60s").at_least(1).since("1.0").used_by("master"),
    text("stress", "").since("2.5").used_by("smtpd"),
    size("tcp_windowsize", "0").since("2.6").used_by("smtp, smtpd"),
    time("trigger_timeout", "10s").at_least(1).since("1.0").used_by("postdrop, postqueue"),
];
