//! Suppression: addresses that are not mailed again, why, since when and until when.
//!
//! * [`Rules`] say which failures, how often within which time, and for how long ([`rules`]). What says nothing about the
//!   address (filters, blocks, authentication, content) can never suppress one.
//! * [`List`] keeps the addresses with their evidence, and strikes of those that are not there yet.
//! * [`table`] is the list as a lookup table, `suppression:`.
//! * [`foreign`] reads lists of others.

pub mod foreign;
mod list;
mod rules;
pub mod table;

pub use list::{List, Suppressed};
pub use rules::{BUILT_IN, NEVER, Rule, RuleError, Rules};

/// The list's file in a ledger's directory.
pub const FILE: &str = "suppression.db";
