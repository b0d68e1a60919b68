//! What the operating system gives: the only crate with unsafe code, each concern in a small file.
//!
//! * [`users`]: accounts and groups of the system; [`privileges`]: becoming another user, for good.
//! * [`lock`]: flock, fcntl and dot locks of mailboxes; [`pidfile`]: one daemon per pid file.
//! * [`durable`]: files that are there after a power failure.
//! * [`fds`]: open files handed to another process; [`daemon`]: leaving the terminal.
//! * [`hand_over`]: what root has made for another user; [`terminal`]: secrets that are typed.
//! * [`regex`]: POSIX regular expressions of the C library; [`lmdb`]: LMDB files opened for reading.
//! * [`host`]: name and addresses of this machine; [`crypt`]: its password hashes.
//! * [`memory`]: what the program need not keep in its address space.
//!
//! Every unsafe block says why it is sound. Nothing here knows about mail beyond these names.

#![allow(unsafe_code)]

pub mod crypt;
pub mod daemon;
pub mod durable;
pub mod fds;
pub mod hand_over;
pub mod host;
pub mod lmdb;
pub mod lock;
pub mod mapped;
pub mod memory;
pub mod pidfile;
pub mod privileges;
pub mod regex;
pub mod terminal;
pub mod users;

/// A nix error as an I/O error.
fn io(error: nix::Error) -> std::io::Error {
    std::io::Error::from_raw_os_error(error as i32)
}
