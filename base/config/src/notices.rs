//! What the administrator should know about a configuration that works.

use std::fmt;
use std::sync::Arc;

use crate::main_cf::{Fault, Place};
use crate::view::Shared;

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// A parameter is set that does not act yet.
    NotYet,
    /// A parameter is set that has no effect here.
    Ignored,
    /// Nothing uses the name.
    Unused,
    /// Nothing uses the name, and it looks like another one.
    Misspelt,
    /// Newer Postfix has another name for it.
    Deprecated,
    /// A default of an older Postfix is in force because of `compatibility_level`.
    OldDefault,
    /// The reader of the files has something to say (an entry is overridden).
    Written,
    /// A value was understood in another way than Postfix would.
    Understood,
}

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What it is about.
    pub kind: NoticeKind,
    /// Where; `None` for defaults.
    pub place: Option<Place>,
    /// The sentence.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

pub(crate) fn collect(_shared: &Arc<Shared>, _remarks: &[Fault]) -> Vec<Notice> {
    Vec::new()
}
