//! TLS for the server and the client; the only place where rustls is used.
//!
//! * [`Stream`] is a connection in the clear or encrypted.

mod stream;

pub use stream::Stream;
