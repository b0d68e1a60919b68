//! TLS for the server and the client; the only place where rustls is used.
//!
//! * [`Stream`] is a connection in the clear or encrypted.
//! * [`Clock`] keeps a connection's deadlines without entering each of them into the runtime's timers.

mod clock;
mod stream;

pub use clock::Clock;
pub use stream::Stream;
