//! Bounces read: whatever comes back, from any mail system, in any shape and language, becomes facts.
//!
//! * [`Analyzer::analyze`] takes one message and gives an [`Analysis`]: what it is, and a [`Finding`] for each recipient.
//! * [`Analyzer::classify`] takes one SMTP [`Reply`] with its stage and remote host and gives a [`Verdict`].
//! * [`Analyzer::analyze_event`] takes what a provider posts as JSON (Amazon SES and SNS, SendGrid, Mailgun).
//! * A [`Finding`] says its [`Reason`], and by which [`Evidence`], of which rule and weight, and how sure it is.
//! * [`Rules`] are the phrases, read from rule files: the embedded ones, and the user's own beside them.
//!
//! No clock, no file, no network: bytes in, values out, the same for the same bytes. Time is linear in the message and
//! memory is bounded by it; nothing panics on any input.

mod analyzer;
mod assemble;
mod autoreply;
mod civil;
mod decide;
mod draft;
mod dsn;
mod event;
mod feedback;
mod finding;
mod mail;
mod needle;
mod original;
mod phrases;
mod plain;
mod reading;
mod reason;
mod rules;
mod systems;
mod text;
mod transcript;
mod wait;

pub use analyzer::{Analyzer, Reply, Stage, Verdict};
pub use finding::{Action, Analysis, Date, Diagnostic, Evidence, EvidenceKind, Finding, Kind};
pub use reason::{Reason, UnknownReason};
pub use rules::{Rule, RuleError, Rules};
pub use wait::hinted_wait;
