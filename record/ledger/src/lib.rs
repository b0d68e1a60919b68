//! The fate ledger: one history for every recipient of every message, from acceptance to the last thing heard.
//!
//! * [`Entry`] is one thing that happened; [`What`] says what. Its key is (host, queue ID, recipient).
//! * [`Writer`] appends entries; each goes into the file of its day. [`Source`] keeps the engine and imports apart.
//! * [`Ledger`] answers: [`Ledger::histories`] for a [`Query`], [`Ledger::tallies`] for tables.
//! * [`judge`] makes a [`Verdict`] of a [`History`]: a pure function of entries and time.
//! * [`remote_id`] takes the next hop's queue ID out of its reply.
//!
//! Files are SQLite databases (`2026-11-22.live.db`) that anybody can look into: `SELECT * FROM entry`. They are only
//! appended to; how things are found in them without an index is told in `day.rs`. Dropping a day is unlinking a file.

mod day;
mod entry;
mod error;
mod keys;
mod query;
mod remote;
mod verdict;
mod writer;

pub use day::{Tally, TallyKey};
pub use entry::{Entry, ReportAction, What, domain_of, stage_word};
pub use error::Error;
pub use keys::Field;
pub use query::{History, LISTED, Ledger, Part, Query, by_state, split};
pub use remote::remote_id;
pub use verdict::{GUESS, State, Verdict, judge};
pub use writer::{Options, Source, Writer, civil, day_of, days_from};
