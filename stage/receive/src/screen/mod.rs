//! postscreen: clients are looked at before they get a server (Postfix: postscreen, dnsblog).
//!
//! * [`Screen`] is one client's way through the tests: a state machine without I/O. It is told what the client does, what
//!   lists in DNS say and what time it is; it says what to do [`Next`] and what to log.
//! * [`Cache`] remembers who passed, and until when.
//! * [`ScreenSettings`] is what `postscreen_...` says.
//! * [`Screener`] and [`serve_screened`] run it over tokio, and hand clients that pass over to the SMTP service of type
//!   `pass`.
//!
//! Bounded: at most `postscreen_pre_queue_limit` clients are tested at once, each with a line of input; the cache keeps
//! [`MOST_CLIENTS`](cache::MOST_CLIENTS).

mod cache;
mod dialogue;
mod driver;
mod machine;
mod settings;
mod sites;
mod store;

pub use cache::{Cache, Stamps, Test};
pub use driver::{Screener, ScreenerParts, serve_screened};
pub use machine::{Circumstances, Line, Next, Screen};
pub use settings::{Access, Reaction, ScreenSettings};
pub use sites::{Score, Sites};
