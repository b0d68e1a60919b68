//! Parameters named after a delivery transport: `TRANSPORT_destination_concurrency_limit` and its kin (facts of qmgr(8),
//! pipe(8), spawn(8)). Their defaults are ordinary parameters.

use super::Kind;

/// A family of parameters, one per transport.
#[derive(Debug, Clone, Copy)]
pub struct TransportParameter {
    /// What follows the transport's name and an underscore.
    pub suffix: &'static str,
    /// Default, unexpanded.
    pub default: &'static str,
    /// Kind and range of the value.
    pub kind: Kind,
    /// Which transports have it.
    pub of: Of,
}

/// Which services have a parameter named after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Everything the queue manager hands mail to.
    Transports,
    /// Services that run pipe(8) or spawn(8).
    Commands,
}

const INT: Kind = Kind::Int { min: 0, max: 0 };
const INT_FROM_1: Kind = Kind::Int { min: 1, max: 0 };
const TIME: Kind = Kind::Time { min: 0, max: 0 };
const TIME_FROM_1: Kind = Kind::Time { min: 1, max: 0 };
const TEXT: Kind = Kind::Text { min: 1, max: 0 };
const ANY_TEXT: Kind = Kind::Text { min: 0, max: 0 };

const fn of_transports(suffix: &'static str, default: &'static str, kind: Kind) -> TransportParameter {
    TransportParameter { suffix, default, kind, of: Of::Transports }
}

static PARAMETERS: &[TransportParameter] = &[
    of_transports("delivery_slot_cost", "$default_delivery_slot_cost", INT),
    of_transports("delivery_slot_discount", "$default_delivery_slot_discount", Kind::Int { min: 0, max: 100 }),
    of_transports("delivery_slot_loan", "$default_delivery_slot_loan", INT),
    of_transports(
        "destination_concurrency_failed_cohort_limit",
        "$default_destination_concurrency_failed_cohort_limit",
        INT,
    ),
    of_transports("destination_concurrency_limit", "$default_destination_concurrency_limit", INT),
    of_transports(
        "destination_concurrency_negative_feedback",
        "$default_destination_concurrency_negative_feedback",
        TEXT,
    ),
    of_transports(
        "destination_concurrency_positive_feedback",
        "$default_destination_concurrency_positive_feedback",
        TEXT,
    ),
    of_transports("destination_rate_delay", "$default_destination_rate_delay", TIME),
    of_transports("destination_recipient_limit", "$default_destination_recipient_limit", INT),
    of_transports("extra_recipient_limit", "$default_extra_recipient_limit", INT),
    of_transports("initial_destination_concurrency", "$initial_destination_concurrency", INT_FROM_1),
    of_transports("minimum_delivery_slots", "$default_minimum_delivery_slots", INT),
    of_transports("recipient_limit", "$default_recipient_limit", INT),
    of_transports("recipient_refill_delay", "$default_recipient_refill_delay", TIME_FROM_1),
    of_transports("recipient_refill_limit", "$default_recipient_refill_limit", INT_FROM_1),
    of_transports("sending_profiles", "$default_sending_profiles", ANY_TEXT),
    of_transports("session_message_limit", "$default_session_message_limit", INT),
    of_transports("site_adaptive_limits", "$default_site_adaptive_limits", Kind::Bool),
    of_transports("site_concurrency_limit", "$default_site_concurrency_limit", INT),
    of_transports("site_rate_delay", "$default_site_rate_delay", TIME),
    of_transports("site_session_pause", "$default_site_session_pause", TIME),
    TransportParameter { suffix: "time_limit", default: "$command_time_limit", kind: TIME_FROM_1, of: Of::Commands },
    of_transports("transport_rate_delay", "$default_transport_rate_delay", TIME),
];

/// All families.
pub fn transport_parameters() -> &'static [TransportParameter] {
    PARAMETERS
}

/// What the program does with `TRANSPORT_suffix`; `None` when the name is of no family.
pub(crate) fn transport_status(name: &str) -> Option<super::Status> {
    let of_family = |family: &TransportParameter| {
        name.strip_suffix(family.suffix).and_then(|before| before.strip_suffix('_')).is_some_and(|t| !t.is_empty())
    };
    PARAMETERS.iter().any(of_family).then(|| super::later::status(name))
}

/// The family with this suffix.
pub fn transport_parameter(suffix: &str) -> Option<&'static TransportParameter> {
    PARAMETERS.iter().find(|parameter| parameter.suffix == suffix)
}
