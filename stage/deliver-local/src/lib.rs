//! Aliases, `.forward`, mailbox, maildir and commands: local(8) and virtual(8).
//!
//! Two halves that run under different IDs and share one vocabulary, [`job`]:
//!
//! * the [`agent`] runs in the engine. It reads what belongs to the system (alias tables, `virtual_mailbox_maps`),
//!   decides what is to happen, and gives every job to a worker;
//! * the [`worker`] runs as the recipient, in a process of its own. It is the only place where files in somebody's home
//!   are opened and somebody's commands are run, and it knows nothing but the job it was given.
//!
//! The engine never opens a user's file; the worker never decides about a message.

pub mod agent;
pub mod dot_qmail;
pub mod job;
pub mod worker;
