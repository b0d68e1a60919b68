//! Log lines made from typed events, the places they go, and the way back.
//!
//! * [`mod@line`] writes an [`Event`](yamabiko_envelope::Event) as Postfix writes it, to the letter: log tools key on it.
//! * [`json`] writes the same event as one JSON object with typed fields (`log_format = json`).
//! * [`Header`] is what stands before the text: time, host, service, process.
//! * [`Destination`] names a place (file, stdout, syslog socket), [`Target`] is that place opened.
//! * [`Logger`] is the [`EventSink`](yamabiko_envelope::EventSink) of a daemon: `emit` only queues the event; one
//!   thread formats and writes, one write per batch. [`append`] is the short way for commands that log a line or two.
//! * [`read`] takes lines apart again, ours and Postfix's.
//!
//! Promises: an event emitted is written unless the target fails or stays behind for longer than a queue of
//! [`Options::capacity`] events can hold; what is lost is counted and said in the log. Text from peers is made
//! printable before it is written, and a line has an end ([`line::MAX_TEXT`]).

#![warn(missing_docs)]

mod delay;
mod header;
pub mod json;
pub mod line;
mod logger;
pub mod read;
mod setup;
mod target;

pub use delay::push_delay;
pub use header::{Header, Host, Prefix};
pub use logger::{Form, Logger, Options, append};
pub use setup::Setup;
pub use target::{DEV_LOG, Destination, Target, facility};
