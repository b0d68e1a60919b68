//! Delivery status notifications composed and parsed (RFC 3464; Postfix's layout to the byte).
//!
//! * [`Template`] is what varies from kind to kind: From, Subject, charset and the text for people. [`Templates`] reads
//!   `bounce_template_file` and holds the built-in ones.
//! * [`Notice`] with its [`RecipientReport`]s is everything that stands in one notice; [`Notice::compose`] writes it.
//! * [`Qsbmf`] is qmail's form of a notice, [`SessionNotice`] the one about a session; [`headers_only`] makes one smaller.
//! * [`language`] has the texts that are shipped, and what a sender can do by reason.
//! * [`parse`] reads such a notice back: whatever is composed here can be read here, and a test proves it.
//! * [`structure`] finds the parts of any message from the wild, [`decode`] makes text of them; `record/analyze` builds on these.
//!
//! Pure: dates, identifiers and the original message are arguments.

mod compose;
pub mod decode;
pub mod language;
pub mod parse;
mod qsbmf;
mod session;
mod shrink;
pub mod structure;
mod template;
mod wrap;

pub use compose::{BodyEncoding, Kind, Notice, Original, RecipientReport};
pub use qsbmf::Qsbmf;
pub use session::SessionNotice;
pub use shrink::headers_only;
pub use template::{Template, TemplateError, TemplateKind, Templates};
pub use wrap::wrap;
