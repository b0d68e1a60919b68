//! Rules as data: phrases and what they mean.

use std::fmt;

/// Phrases and provider tables, compiled.
#[derive(Clone, Debug, Default)]
pub struct Rules {}

/// A rule file has a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// Name of the file, as it was given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

impl std::error::Error for RuleError {}

impl Rules {
    /// The rules that come with the program, followed by the user's own files (name and text of each). Rules of later
    /// files win over earlier ones of the same weight.
    pub fn with_files<'f>(files: impl IntoIterator<Item = (&'f str, &'f str)>) -> Result<Self, RuleError> {
        for _ in files {}
        Ok(Self {})
    }
}
