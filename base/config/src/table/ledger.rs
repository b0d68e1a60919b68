//! What became of messages: the ledger, late bounces, suppression, metrics. Ours alone.

use super::{Parameter, bool, choice, int, list, path, text, time};

pub(super) const PARAMETERS: &[Parameter] = &[
    choice("late_bounce_disposition", "deliver").one_of(&["deliver", "discard"]).since("yamabiko 0.1").used_by("all"),
    bool("late_bounce_analysis", "yes").since("yamabiko 0.1").used_by("all"),
    list("late_bounce_trusted_hosts", "").since("yamabiko 0.1").used_by("all"),
    path("ledger_directory", "$data_directory/ledger").length(1, 0).since("yamabiko 0.1").used_by("all"),
    bool("ledger_enable", "yes").since("yamabiko 0.1").used_by("all"),
    int("ledger_queue_limit", "100000").between(1000, 10_000_000).since("yamabiko 0.1").used_by("all"),
    time("ledger_quiet_time", "7d").since("yamabiko 0.1").used_by("all"),
    time("ledger_retention_time", "90d").since("yamabiko 0.1").used_by("all"),
    time("ledger_success_retention_time", "30d").since("yamabiko 0.1").used_by("all"),
    text("metrics_listen_address", "").since("yamabiko 0.1").used_by("all"),
    list("suppression_act_at", "").since("yamabiko 0.1").used_by("all"),
    bool("suppression_enable", "no").since("yamabiko 0.1").used_by("all"),
    bool("suppression_report_checks", "yes").since("yamabiko 0.1").used_by("all"),
    path("suppression_rules_file", "").since("yamabiko 0.1").used_by("all"),
];
