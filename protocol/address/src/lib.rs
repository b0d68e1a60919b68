//! Local parts, domains, reverse-paths, forward-paths: parse, compare, write.
//!
//! * An address in memory is a `str` in *internal* form: the local part unquoted, no angle brackets, `""` for the null
//!   reverse-path. [`quote`] makes the external form that goes on the wire or into a header; [`unquote`] takes it back.
//! * [`split_domain`] and [`split_extension`] take an internal address apart.
//! * [`path::parse`] reads the argument of `MAIL FROM:` and `RCPT TO:`, as leniently as Postfix does.
//! * [`header::AddressList`] reads the value of a `To:`-like header, lets the addresses be replaced, and writes the
//!   header back as Postfix formats it.
//! * [`domain`] says what is a domain, and compares domains.
//!
//! Real mailboxes break RFC 5321 (`..da.me.@docomo.ne.jp`, `a..b@ezweb.ne.jp`): nothing here refuses them. Everything
//! is linear in the length of its input, and nothing panics.

pub mod domain;
pub mod header;
pub mod path;
mod quoting;
mod split;
mod token;
mod verp;

pub use quoting::{quote, quote_strictly, unquote};
pub use split::{ExtensionRules, join_extension, split_domain, split_extension, split_extension_with, strip_extension};
pub use verp::verp_sender;
