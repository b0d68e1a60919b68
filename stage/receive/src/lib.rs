//! The SMTP server (Postfix: smtpd): dialogue, restrictions, admission.
//!
//! * [`Session`] is the dialogue with one client: a state machine without I/O, bytes in, [`Action`]s out.
//! * [`Policy`] answers its questions: restriction lists compiled once per configuration, evaluated with asynchronous
//!   lookups, every decision with parameter, element and what matched.
//! * [`Settings`] is what a service of master.cf is configured to be. A reload swaps it for new sessions.
//! * [`Admission`] is what the engine does: names, a durable place for messages, ETRN.
//! * [`verification`] remembers what was learned of addresses by asking where they are delivered (Postfix: verify).
//! * [`Limits`] counts clients (Postfix: anvil).
//! * [`Service`] and [`serve`] run it over tokio; [`converse`] is one session over any stream.
//!
//! What can be relied on: `250` after a message only when [`Admission::submit`] said so; nothing a client sends makes a
//! session panic, hang or grow without bound; our own trouble is answered with a code of class 4.

mod admission;
pub mod before_queue;
mod driver;
mod filter;
mod footer;
mod limits;
mod peer;
mod restrict;
mod sasl;
pub mod screen;
mod session;
mod settings;
mod tls;
mod transcript;
pub mod upstream;
pub mod verification;

pub use admission::{Accepted, Admission, BeginCall, Etrn, Later, Refusal, Spf, SpfVerdict, on_disk};
pub use driver::{Service, ServiceParts, Shutdown, converse, report_limits, serve};
pub use filter::{FilterStep, Filtering};
pub use footer::Footer;
pub use limits::{Counted, Limits, MOST_CLIENTS, Peak, Range, Ticket};
pub use peer::{Discard, NameStatus, Peer, Standing, look_up};
pub use restrict::{
    Check, CheckState, Effects, Facts, ListAnswers, Matched, Outcome, Policy, Record, Said, Step, TlsFacts,
    policy_action,
};
pub use sasl::{Backend, SaslSettings, Verdict};
pub use session::{Action, AuthStep, Session, Surroundings};
pub use settings::{BareNewline, ErrorClasses, Pressure, Settings, SettingsError};
pub use tls::{TlsSettings, TlsSource};
