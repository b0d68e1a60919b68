//! What RFC 5321 and its extensions say on the wire, for both sides of the conversation: bytes in, values out.
//!
//! * [`command`]: the words of a command line ([`command::Tokens`]), the parameters of MAIL and RCPT, and writing them.
//! * [`reply`]: replies read piecewise ([`reply::ReplyParser`]) and written ([`reply::put`]).
//! * [`capability`]: what an EHLO reply says the server can do.
//! * [`data`]: the content between DATA and the final dot, each direction in one pass over the bytes: CRLF with dots
//!   doubled on the wire, LF in memory. [`data::DataDecoder`] also reads BDAT chunks.
//! * [`xtext`]: the quoting of ENVID, ORCPT, AUTH and XCLIENT values.
//!
//! Nothing here does I/O, reads a clock, panics, or uses more than linear time; memory is bounded by what the caller
//! hands in and by the limits documented at the types.

pub mod capability;
pub mod command;
pub mod data;
pub mod reply;
pub mod xtext;
