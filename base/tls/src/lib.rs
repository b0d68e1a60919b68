//! TLS for the server and the client; the only place where rustls is used.
//!
//! * [`ServerOptions`] is what main.cf says, [`Server`] is that made ready with its keys, and does handshakes.
//! * [`Session`] is what was agreed upon, with Postfix's words for the log and the `Received:` field.
//! * [`PeerCertificate`] is what restrictions can ask about the other side.
//! * [`Stream`] is a connection in the clear or encrypted: STARTTLS changes it in the middle of a session.
//! * [`Clock`] keeps a connection's deadlines without entering each of them into the runtime's timers.
//! * [`Files`] is where keys come from: they are readable by root alone, and whoever uses them is not root.
//!
//! * [`ClientOptions`] and [`Client`] are the client's side; a [`Demand`] says what one connection must prove, and
//!   [`Secured`] what it has.
//!
//! What can be relied on: a fault in keys or settings is a [`Fault`] that names the file; a peer that is no TLS or lies is a
//! [`Failure`], never a panic; whoever presents a certificate has its key.

mod authorities;
mod certificate;
mod choice;
mod client;
mod client_options;
mod clock;
mod digest;
mod host_names;
mod judge;
mod keys;
mod library;
mod names;
mod options;
mod server;
mod session;
mod stream;
mod watched;
mod web;

pub use certificate::{KeyKind, PeerCertificate, read_any};
pub use client::{Client, Demand, Presented, Secured};
pub use client_options::{ClientLevel, ClientOptions};
pub use clock::Clock;
pub use digest::Digest;
pub use judge::{Anchors, Proof, Tlsa};
pub use keys::{Disk, Fault, Files, Handed};
pub use library::{LIBRARY, public_key_algorithms};
pub use names::{Cipher, Signature};
pub use options::{Level, LogMask, ServerOptions};
pub use server::{Failure, Server, SniKeys};
pub use session::{Session, comment};
pub use stream::{Guarded, Stream};
pub use web::{AUTHORITIES, Web, unproved, web};
