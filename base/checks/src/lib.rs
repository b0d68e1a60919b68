//! Checks of content (header_checks(5)): `header_checks`, `mime_header_checks`, `nested_header_checks`, `body_checks`, and
//! the same with `smtp_` before them for mail on its way out.
//!
//! * [`Checks`] are the tables of one place; [`Checks::header`] and [`Checks::line`] ask them about one header field or
//!   one line, and give an [`Action`].
//! * [`Walk`] goes through the body of a message and gives every header field of its parts and every line, with its
//!   place, so that whoever acts can cut, replace or put something before it. Bytes nobody acts on are never copied.
//!
//! What is done about an action is not here: taking mail in (cleanup) knows all of them, the SMTP client only those that
//! change or report.

mod action;
mod edit;
mod walk;

use yamabiko_config::View;
use yamabiko_lookup::{LookupError, Maps, TableSet};
use yamabiko_message::FieldName;
use yamabiko_message::mime::{HeaderClass, Options};

pub use action::{Action, Fault};
pub use edit::{Edits, joined};
pub use walk::{Piece, Walk, What};

/// The tables of one place, and how messages are read for them.
pub struct Checks {
    headers: Maps,
    mime_headers: Maps,
    nested_headers: Maps,
    body: Maps,
    /// `body_checks_size_limit`: bytes of each part that are looked at; 0: all.
    body_limit: u64,
    options: Options,
    /// `line_length_limit`: longer lines are looked at in pieces.
    piece: usize,
}

/// What a table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<'c> {
    /// The parameter, as `header_checks`.
    pub parameter: &'c str,
    /// The table, as `regexp:/etc/postfix/header_checks`.
    pub table: &'c str,
    /// The value as it stands in the table.
    pub value: Vec<u8>,
    /// What it means.
    pub action: Result<Action, Fault>,
}

impl Checks {
    /// The checks of mail that comes in: `header_checks` and its kin, with the MIME limits and strict options.
    pub fn incoming(view: &View, tables: &TableSet) -> Self {
        let strict = view.bool("strict_8bitmime");
        let options = Options {
            parse_mime: !view.bool("disable_mime_input_processing"),
            report_8bit_header: strict || view.bool("strict_7bit_headers"),
            report_8bit_body: strict || view.bool("strict_8bitmime_body"),
            report_encoding: view.bool("strict_mime_encoding_domain"),
            ..limits(view)
        };
        Self::open(view, tables, "", options)
    }

    /// The checks of mail that goes out by a client whose parameters begin with `prefix`: `smtp_` or `lmtp_`.
    pub fn outgoing(view: &View, tables: &TableSet, prefix: &str) -> Self {
        Self::open(view, tables, prefix, limits(view))
    }

    /// The checks of header fields that mail filters make: `milter_header_checks`. MIME's fields are not looked at.
    pub fn of_filters(view: &View, tables: &TableSet) -> Self {
        let none = || Maps::open(tables, "", "");
        Self {
            headers: Maps::open(tables, "milter_header_checks", &view.text("milter_header_checks")),
            mime_headers: none(),
            nested_headers: none(),
            body: none(),
            body_limit: 0,
            options: limits(view),
            piece: 2048,
        }
    }

    fn open(view: &View, tables: &TableSet, prefix: &str, options: Options) -> Self {
        let maps = |name: &str| {
            let name = format!("{prefix}{name}");
            Maps::open(tables, &name, &view.text(&name))
        };
        Self {
            headers: maps("header_checks"),
            mime_headers: maps("mime_header_checks"),
            nested_headers: maps("nested_header_checks"),
            body: maps("body_checks"),
            body_limit: u64::try_from(view.int("body_checks_size_limit")).unwrap_or(0),
            options,
            piece: usize::try_from(view.int("line_length_limit")).unwrap_or(2048).max(1),
        }
    }

    /// No table at all.
    pub fn is_empty(&self) -> bool {
        self.all().iter().all(|maps| maps.is_empty())
    }

    /// Nothing to look for behind the headers of the message itself.
    pub fn ends_with_headers(&self) -> bool {
        let strict = self.options.report_8bit_body || self.options.report_8bit_header || self.options.report_encoding;
        !strict && self.mime_headers.is_empty() && self.nested_headers.is_empty() && self.body.is_empty()
    }

    /// A table answers from a socket, with blocking calls.
    pub fn is_remote(&self) -> bool {
        self.all().iter().any(|maps| maps.is_remote())
    }

    /// How messages are read.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What is wrong with actions in the tables, one line each with file and line, for `postfix check`.
    pub fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        // One table is often named by several parameters.
        let mut seen = std::collections::HashSet::new();
        for maps in self.all() {
            let class = if std::ptr::eq(maps, &self.body) { What::WHOLE_LINE } else { What::HEADER };
            for (place, value) in maps.tables().iter().flat_map(|table| table.results()) {
                if let Err(fault) = Action::parse(value.as_bytes(), class.is_header()) {
                    let line = format!("{place}: {}: the rule does nothing", fault.text(maps.title()));
                    if seen.insert((place, value)) {
                        out.push(line);
                    }
                }
            }
        }
        out
    }

    fn all(&self) -> [&Maps; 4] {
        [&self.headers, &self.mime_headers, &self.nested_headers, &self.body]
    }

    /// What the tables say about a header field (`Name: value`, folded as it came). MIME's fields among a message's own
    /// headers belong to `mime_header_checks`, as in Postfix.
    pub async fn header(
        &self,
        class: HeaderClass,
        name: Option<FieldName>,
        field: &[u8],
    ) -> Result<Option<Match<'_>>, LookupError> {
        let maps = match class {
            _ if name.is_some_and(FieldName::is_mime) => &self.mime_headers,
            HeaderClass::Primary => &self.headers,
            HeaderClass::Multipart => &self.mime_headers,
            HeaderClass::Nested => &self.nested_headers,
        };
        find(maps, field, true).await
    }

    /// What the tables say about a line, or a piece of one, that begins `offset` bytes into its part.
    pub async fn line(&self, line: &[u8], offset: u64) -> Result<Option<Match<'_>>, LookupError> {
        if self.body_limit > 0 && offset >= self.body_limit {
            return Ok(None);
        }
        find(&self.body, line, false).await
    }

    /// Goes through `body`, the content behind the header section `fields`.
    pub fn walk(&self, fields: &[u8], body: yamabiko_envelope::Content) -> Walk {
        Walk::new(self.options, self.piece, !self.body.is_empty(), fields, body)
    }
}

async fn find<'c>(maps: &'c Maps, text: &[u8], header: bool) -> Result<Option<Match<'c>>, LookupError> {
    if maps.is_empty() {
        return Ok(None);
    }
    let Some((value, table)) = maps.find_bytes(text).await? else { return Ok(None) };
    let action = Action::parse(&value, header);
    Ok(Some(Match { parameter: maps.title(), table: table.name(), value, action }))
}

fn limits(view: &View) -> Options {
    let size = |name: &str| usize::try_from(view.int(name)).unwrap_or(usize::MAX);
    Options {
        header_limit: size("header_size_limit"),
        nesting_limit: size("mime_nesting_limit"),
        boundary_limit: size("mime_boundary_length_limit"),
        ..Options::default()
    }
}
