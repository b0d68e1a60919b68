//! What our processes and commands say to each other.
//!
//! * [`frame`]: the one framing, over any stream socket: length, kind, payload. Bounded before anything is allocated.
//! * [`control`]: commands (`postqueue`, `postsuper`, `sendmail`, ...) to the engine, over the control socket below the
//!   queue directory. The engine knows the caller's user ID from the kernel, so no command needs to be setuid.
//! * [`listing`]: the queue as the engine lists it, in frames of their own kind.
//! * [`boss`]: supervisor and engine, over a socket pair that also carries open sockets.
//!
//! Messages are JSON inside frames: none of this is on the path of a message over SMTP. Every conversation begins with
//! the protocol version; another version is refused with a clear message (a command of a newer release that talks to
//! the engine of an older one).

pub mod boss;
pub mod control;
pub mod frame;
pub mod listing;

/// Version of the conversations below. Raised when a message changes its meaning: 2 since listings come in frames of their
/// own, 3 since a change to many messages first says how many they are, and waits for a word.
pub const VERSION: u32 = 3;
