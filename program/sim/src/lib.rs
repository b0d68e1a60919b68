//! Receivers and senders for rehearsals, on the loopback only.
//!
//! * `yamabiko sim PROFILE...`: the receiving side of the world. A [`profile::Profile`] is a kind of receiver: how many
//!   sessions it lets a client have, how many messages in one, at what rate, and in which words it refuses. What becomes
//!   of a recipient is said by the address itself ([`behaviour::Behaviour`]: `unknown-17@...`, `full-3@...`). A
//!   [`site::Site`] is a profile at work; a [`session::Session`] is one conversation, without I/O; [`dns`] answers for the
//!   domains; [`later`] sends what real receivers send hours afterwards: bounces of several systems, complaints,
//!   automatic replies. [`tally::Tally`] counts exactly what was seen and writes it as JSON.
//! * `yamabiko source`: sends messages with unique numbers and writes down what became of each at the door.
//! * `yamabiko sim --verdict`: joins the two: nothing lost, nothing twice, every recipient as its address said.
//!
//! Nothing here is used by the mail server itself.

pub mod behaviour;
pub mod certificate;
mod client;
pub mod dns;
pub mod later;
pub mod profile;
pub mod serve;
pub mod session;
pub mod site;
pub mod source;
pub mod tally;
pub mod verdict;

pub use serve::run;
pub use source::run as run_source;
