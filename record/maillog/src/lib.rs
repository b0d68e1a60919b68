//! Mail logs read: lines in, typed entries out.
//!
//! * [`lines::Lines`] cuts a stream into lines in bounded memory, and says where each ends, so that reading can go on there.
//! * [`head::Head`] is what stands before the text, in any form a syslog, journald, multilog or Exim wrote it.
//! * [`clock::Clock`] makes moments of times that have no year, for each host apart.
//! * [`Entry`] is one line understood; [`What`] says what happened, the same for Postfix, sendmail, qmail and Exim.
//! * [`reader::Reader`] puts these together and counts what it could not read ([`reader::Counts`]).
//! * [`join::Join`] follows messages through their lines: queue IDs that are used again, senders, TLS, deliveries of qmail.
//! * [`reply::Said`] takes the text of an outcome apart: who said what, at which stage.
//! * [`summary::Summary`] counts what pflogsumm counts.
//!
//! No clock, no file, no network: what is now, the zone and the year are arguments. Time is linear in the input, memory is
//! bounded, nothing panics on any input, and nothing is dropped in silence.

#![warn(missing_docs)]

pub mod clock;
mod entry;
mod exim;
pub mod head;
pub mod join;
mod json;
pub mod lines;
mod postfix;
mod qmail;
pub mod reader;
pub mod reply;
mod sendmail;
pub mod summary;
mod take;

pub use entry::{Attempt, Client, Content, Entry, Notice, Outcome, Refusal, Severity, System, Tls, What};
