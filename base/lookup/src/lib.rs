//! Lookup tables `type:name` behind one trait.
//!
//! * [`Table`] is one open table. File tables answer at once; remote ones answer later: [`Answer`] is both.
//! * [`TableSet`] opens tables, once per `type:name`, and keeps them: everybody who names a table shares it.
//! * [`Maps`] is the ordered list of tables of one parameter; [`address`](Maps::find_address) and others are
//!   Postfix's query orders (facts: access(5), virtual(5), transport(5)).
//! * [`matchlist`] holds the match lists: domain lists, address lists, string lists.

use std::borrow::Cow;
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
pub enum Answer<'a> {
    /// The answer.
    Ready(Found),
    /// It comes over a socket.
    Later(Pin<Box<dyn Future<Output = Found> + Send + 'a>>),
}

impl Future for Answer<'_> {
    type Output = Found;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Found> {
        match self.get_mut() {
            Answer::Ready(found) => Poll::Ready(std::mem::replace(found, Ok(None))),
            Answer::Later(future) => future.as_mut().poll(context),
        }
    }
}

/// One open table.
pub trait Table: Send + Sync {
    /// `type:name` as configured.
    fn name(&self) -> &str;
    /// Looks `key` up as it is; folding of case is the table's own affair ([`Table::folds_case`]).
    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a>;
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
}

/// Borrowed or owned text of a parameter.
pub type Text<'a> = Cow<'a, str>;

/// The tables of one parameter, in order.
pub struct Maps;
/// Opens tables and keeps them.
pub struct TableSet;
