//! The SMTP and LMTP client, and the agents that deliver nothing.
//!
//! * [`SmtpAgent`] carries out a delivery of a transport whose program is `smtp` or `lmtp`: [`SmtpAgent::deliver`]
//!   takes a request and gives an attempt with an outcome for every recipient. One agent per transport; it keeps the
//!   connections of that transport that wait for more mail.
//! * [`Settings`] is what the service is configured to do, [`Generic`] and [`Policy`] are its tables.
//! * [`Conversation`](conversation::Conversation) is the dialogue itself, without I/O; [`nexthop`] and [`hosts`] say
//!   where to go.
//! * [`Memory`] is what is known of secure transport beyond one configuration: [`sts`] for MTA-STS, [`tlsrpt`] for TLS reports.
//! * [`Simple`] is discard(8), error(8) and retry.
//!
//! Texts of reasons and log lines are Postfix's. Every outcome keeps the stage of the conversation it came from and the
//! server's reply. Trouble of our own always defers.
//!
//! Everything that is decided for one server by its address or name is decided before anything is said to it ([`Terms`],
//! the tables of `quirks`).

mod agent;
pub mod command;
mod connection;
mod content;
pub mod conversation;
mod expect;
mod filter;
pub mod finger;
mod generic;
pub mod hosts;
mod https;
mod login;
mod names;
pub mod nexthop;
mod policy;
mod pool;
mod quirks;
mod report;
mod requiretls;
mod secure;
mod session;
pub mod settings;
mod simple;
mod starttls;
pub mod sts;
mod talk;
pub mod tlsrpt;
mod transcript;
pub mod visit;

#[doc(hidden)]
pub use https::read_for_fuzzing;

pub use agent::{Around, PassOn, RandomSource, SmtpAgent};
pub use generic::Generic;
pub use policy::{Logins, Policy, Terms, Tls, Wish, fetching};
pub use secure::Memory;
pub use settings::{Protocol, Settings};
pub use simple::Simple;
pub use transcript::{ClientTrouble, TellTrouble};
