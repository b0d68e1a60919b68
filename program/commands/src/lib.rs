//! sendmail, postqueue, postsuper, postcat, postconf, postmap and the others.
//!
//! Each command is a module with `run`; what all of them begin with is in [`context`], how options are read in
//! [`getopt`]. They speak to a running engine over the control socket and to nobody else; [`offline`] reads and changes
//! the queue when there is none.

#![deny(clippy::print_stdout)]

#[macro_use]
mod say;

pub mod analyze;
pub mod context;
pub mod dkim;
pub mod fate;
pub mod getopt;
pub mod import;
pub mod install;
pub mod ledger_place;
pub mod limits;
pub mod listing;
pub mod offline;
pub mod passwd;
pub mod postcat;
pub mod postconf;
pub mod postfix;
pub mod postlog;
pub mod postmap;
pub mod postqueue;
pub mod postsuper;
pub mod qmail;
pub mod qshape;
pub mod queue_tool;
pub mod queue_view;
pub mod report;
pub mod sendmail;
pub mod stream;
pub mod suppress;
pub mod tls_report;
pub mod verify;
