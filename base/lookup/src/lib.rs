//! Lookup tables `type:name` behind one trait.
//!
//! * [`Table`] is one open table. File tables answer at once; remote ones answer later: [`Answer`] is both.
//! * [`TableSet`] opens tables, once per `type:name`, and keeps them: everybody who names a table shares it. It re-reads
//!   files that changed, and tells of trouble through a callback ([`Notice`]).
//! * [`Maps`] is the ordered list of tables of one parameter with Postfix's query orders: [`Maps::find`] one key,
//!   [`Maps::find_address`] an address with its partial forms (virtual(5), canonical(5), transport(5), access(5)),
//!   [`Maps::find_domain`] and [`Maps::find_network`] the access(5) forms of host names and addresses.
//! * [`matchlist`] holds the match lists: domain lists, address lists, string lists.
//!
//! What can be relied on: a lookup never panics; trouble is a [`LookupError`], never "not found"; a file that cannot be
//! read now is tried again later; nothing here needs a runtime (tests: `pollster::block_on`). Tables for which
//! [`Table::is_remote`] is true answer from a socket with blocking calls: who runs an event loop asks them from a
//! thread that may block.

pub mod berkeley;
mod braces;
mod cdb;
#[cfg(test)]
mod file_tests;
mod lines;
mod maps;
#[cfg(test)]
mod maps_tests;
pub mod matchlist;
mod net;
mod set;
pub mod text;
#[cfg(test)]
mod text_tests;
mod types;

pub use braces::{Braced, braced, split_list};
pub use cdb::{CdbReader, CdbWriter};
pub use maps::{AddressForms, Hit, IsLocal, Locality, Maps, ParentStyle};
pub use net::Network;
pub use set::{
    Extension, Format, Notice, NoticeKind, OpenError, Opener, OpensTables, Options, TableSet, Usage, Wanted,
};

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What a lookup gives: a value, no value, or trouble (which always means "try again later", never "not found").
pub type Found = Result<Option<String>, LookupError>;

/// A table could not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupError {
    /// `type:name` of the table.
    pub table: Arc<str>,
    /// What went wrong, in words an admin can act on.
    pub why: String,
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.table, self.why)
    }
}

impl std::error::Error for LookupError {}

/// A future that is usually ready: file tables answer [`Answer::Ready`], and awaiting that costs nothing.
pub enum Answer<'a, T = Option<String>> {
    /// The answer.
    Ready(Result<T, LookupError>),
    /// It comes over a socket.
    Later(Pin<Box<dyn Future<Output = Result<T, LookupError>> + Send + 'a>>),
}

impl<T: Default + Unpin> Future for Answer<'_, T> {
    type Output = Result<T, LookupError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Answer::Ready(found) => Poll::Ready(std::mem::replace(found, Ok(T::default()))),
            Answer::Later(future) => future.as_mut().poll(context),
        }
    }
}

/// One open table.
pub trait Table: Send + Sync {
    /// `type:name` as configured.
    fn name(&self) -> &str;
    /// Looks `key` up; a table that folds case ([`Table::folds_case`]) folds the key itself.
    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a>;
    /// As [`Table::lookup`] for bytes that need not be text: a header field or a line of a message. Pattern tables see
    /// them as they are; to others what is no UTF-8 is replaced.
    fn lookup_bytes<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Vec<u8>>> {
        Answer::Later(Box::pin(async move {
            let key = String::from_utf8_lossy(key);
            Ok(self.lookup(&key).await?.map(String::into_bytes))
        }))
    }
    /// The right-hand sides of the rules of a pattern table, each with its place (`file:line`): what can be checked
    /// before a key comes. Other types list nothing here.
    fn results(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    /// Where the value for `key` was written: `file:line`, for explanations. `None` where a table cannot tell.
    fn source_of(&self, _key: &str) -> Option<String> {
        None
    }
    /// Keys are folded to lower case before they are looked up.
    fn folds_case(&self) -> bool {
        true
    }
    /// regexp, pcre, tcp and the like: only the full key makes sense, no partial forms (Postfix: `DICT_FLAG_PATTERN`).
    fn is_pattern(&self) -> bool {
        false
    }
    /// The answer comes over a socket, waited for with blocking calls and a time limit: an event loop must ask such a
    /// table from a thread that may block.
    fn is_remote(&self) -> bool {
        false
    }
    /// Every key and value, for `postmap -s`; `None` where the type cannot list its content.
    fn entries(&self) -> Option<Result<Vec<(String, String)>, LookupError>> {
        None
    }
}

/// A key in the form tables are written in: lower case (full Unicode folding where it is not ASCII).
pub fn fold_case(key: &str) -> std::borrow::Cow<'_, str> {
    if !key.is_ascii() {
        std::borrow::Cow::Owned(key.to_lowercase())
    } else if key.bytes().any(|byte| byte.is_ascii_uppercase()) {
        std::borrow::Cow::Owned(key.to_ascii_lowercase())
    } else {
        std::borrow::Cow::Borrowed(key)
    }
}
