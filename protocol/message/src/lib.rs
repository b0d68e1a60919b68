//! Headers and MIME read and written without changing bytes nobody asked to change.
//!
//! * [`Fields`] walks over the header fields of a message in memory without copying; [`FieldName`] knows the names that
//!   mean something to a mail server.
//! * [`mime::MimeState`] takes a message of any size line by line and says which line is which: header of the message, of
//!   a part, of a forwarded message, body. [`downgrade::Downgrade`] uses it to make quoted-printable of 8-bit parts for
//!   servers without 8BITMIME.
//! * [`date::rfc5322`] writes dates; [`mbox`] quotes `From ` lines; [`header_block`] cuts a message to its headers.
//!
//! A message has LF line ends and is bytes, not text: nothing here needs it to be UTF-8, nothing refuses it, and nothing
//! is slower than linear.

pub mod date;
pub mod downgrade;
mod field;
pub mod mbox;
pub mod mime;
mod name;

pub use field::{Field, FieldIter, Fields, Separator, count_received, field_name_len, header_block, unfold};
pub use name::{AddressRole, DROPPED_BY_DEFAULT, FieldName};
