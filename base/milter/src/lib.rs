//! The mail server's side of the milter protocol (Sendmail's, versions 2, 3, 4 and 6): programs that are asked about
//! each step of a mail transaction, and may refuse it or change the message.
//!
//! * [`Milters`] is what `smtpd_milters` or `non_smtpd_milters` say: filters in order, time limits, what is done when one
//!   does not answer, which macros they get.
//! * [`Session`] is one client's conversation with all of them: [`Session::connect`], [`Session::helo`], [`Session::mail`],
//!   [`Session::rcpt`], [`Session::data`], [`Session::content`]. Each gives a [`Verdict`].
//! * [`Message`] is what [`Session::content`] shows to the filters, one after the other, and what they made of it.
//! * [`packet`] is the wire format, without I/O.
//!
//! A filter that fails, stalls or talks nonsense is left out for the rest of the connection, and the configured default
//! action is the answer (`milter_default_action`). Nothing it sends is believed without a look: sizes are bounded,
//! header fields and addresses are checked before they become part of a message.

mod link;
mod macros;
mod message;
pub mod packet;
mod session;
mod settings;

pub use macros::Macros;
pub use message::{Change, Message};
pub use session::{Client, Session, Verdict};
pub use settings::{DefaultAction, Milters};
