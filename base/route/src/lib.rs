//! For an address: rewritten form, class, transport, next-hop destination (Postfix: trivial-rewrite, and what smtpd and
//! cleanup share with it).
//!
//! * [`Rewriter`] completes an address: `user` becomes `user@$myorigin`.
//! * [`LocalDomains`] says which domains end here.
//! * [`Mapper`] puts an address through maps: canonical, virtual alias, generic.
//! * [`Router`] resolves a recipient: [`Resolved`] is its [`Class`], transport and next hop, and which setting chose
//!   each, so that the same run can explain itself.
//! * [`Lists`] says whether a recipient is known.
//!
//! No I/O of its own: tables answer, and trouble with a table is a `LookupError`, which means "try again later" and never
//! "no". Everything is linear in the length of the address.

mod listed;
mod local;
mod map;
mod resolve;
mod rewrite;
mod router;
mod tokens;
mod transport;

pub use listed::{Listing, Lists, Party};
pub use local::LocalDomains;
pub use map::Mapper;
pub use resolve::{Because, Class, Refusal, Resolved};
pub use rewrite::Rewriter;
pub use router::{Purpose, Router};
