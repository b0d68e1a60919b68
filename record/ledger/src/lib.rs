//! The fate ledger: one history for every recipient of every message, from acceptance to the last thing heard.
//!
//! * [`Entry`] is one thing that happened; [`What`] says what. Its key is (host, queue ID, recipient).
//! * [`Writer`] appends entries; each goes into the file of its day. [`Source`] keeps the engine and imports apart.
//! * [`Ledger`] answers: [`Ledger::histories`] for a [`Query`], [`Ledger::tallies`] for tables.
//! * [`judge`] makes a [`Verdict`] of a [`History`]: a pure function of entries and time.
//! * [`Feed`] is the line into the ledger of a running engine; [`Recorder`] makes entries of what stages say; [`Journal`]
//!   keeps what is on its way when the process is killed.
//! * [`remote_id`] takes the next hop's queue ID out of its reply.
//!
//! Files are SQLite databases (`2026-11-22.live.db`) that anybody can look into: `SELECT * FROM entry`. They are only
//! appended to; how things are found in them without an index is told in `day.rs`. Dropping a day is unlinking a file.

// An entry is some 600 bytes and is handed on several times between whoever tells of it and the file.
#![allow(clippy::vec_box)]

mod classify;
mod day;
mod entry;
mod error;
mod feed;
mod journal;
pub mod json;
mod keep;
mod keys;
pub mod late;
mod origin;
mod query;
pub mod record;
mod recorder;
mod remote;
pub mod suppress;
mod verdict;
mod writer;

pub use classify::{analyzer, may_have_a_reason, reason_of, stage_of};
pub use day::{Tally, TallyKey};
pub use entry::{Entry, ReportAction, What, domain_of, stage_word};
pub use error::Error;
pub use feed::{Feed, GATHER, Listener, Surroundings};
pub use journal::Journal;
pub use keep::{Retention, backup, check, retire};
pub use keys::{Field, matches};
pub use origin::{Origin, Trusted};
pub use query::{History, LISTED, Ledger, Part, Query, by_state, split};
pub use recorder::{Input, Recorder, entry_of};
pub use remote::remote_id;
pub use verdict::{FAR, GUESS, SURE, State, UNPROVEN, Verdict, claim, is_doubtful, judge};
pub use writer::{Options, Source, Writer, civil, day_of, days_from};
