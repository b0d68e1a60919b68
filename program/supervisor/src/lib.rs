//! The supervisor: reads root-owned configuration, binds ports, starts the rest; never sees mail.
//!
//! One thread, no asynchronous runtime. It holds the listening sockets, so that neither a reload nor an engine that
//! dies loses a connection that waits; it starts the engine as `mail_owner` and workers as the users who get mail.
//!
//! What it can reach if taken over: everything, when it was started as root. So it reads only its own configuration
//! files, the files of TLS keys that these name (which it hands to the engine without looking into them), the signals, after
//! a crash the end of the log (lines of that process, as they are), and the few typed wishes of [`yamabiko_ipc::boss`], which it checks against its own knowledge.
//! What the engine can reach through it: a worker under the ID of any user but root; that is what delivering local
//! mail means.
//!
//! Started by an ordinary user, everything runs under that user's ID with the same code.

mod children;
mod crashes;
mod identity;
mod keys;
mod layout;
mod listeners;
mod piped;
mod run;
mod spawned;

pub use crashes::{Untold, place_of};
pub use identity::{Embedded, embedded};
pub use layout::{Instance, PidFile, StartError, hand_over_ledger, lay_out_instance, running_pid};
pub use listeners::addresses_wanted as addresses;
pub use run::{Start, run};
