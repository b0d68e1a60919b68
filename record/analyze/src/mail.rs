//! One message made ready: what the parts are, the text for people, the delivery-status groups, the returned message.

use crate::original::{self, Original};
use crate::text;
use memchr::memmem::Finder;
use std::borrow::Cow;
use std::sync::LazyLock;
use yamabiko_report::decode;
use yamabiko_report::structure::{Header, Media, Part, Structure, field, name_bit, same_name};

/// Text for people beyond this many bytes is not read: no notice says anything new that late.
const TEXT_LIMIT: usize = 256 * 1024;
/// Groups of fields beyond are not read: nobody reports on more recipients in one message.
const MAX_GROUPS: usize = 2000;

/// Fields of one group of a delivery status or a feedback report, unfolded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// Names and values, one after the other.
    text: String,
    fields: Vec<Place>,
    /// Which names there are, as bits by [`name_bit`]: most that are asked for are not there.
    names: u64,
}

/// Where in its group's text a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    name: usize,
    value: usize,
    end: usize,
}

impl Group {
    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|at| (&self.text[at.name..at.value], &self.text[at.value..at.end]))
    }
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        if self.names & name_bit(name.as_bytes()) == 0 {
            return None;
        }
        self.fields.iter().find(|at| self.is(at, name)).map(|at| &self.text[at.value..at.end])
    }
    pub(crate) fn all<'g>(&'g self, name: &'g str) -> impl Iterator<Item = &'g str> {
        let fields = if self.names & name_bit(name.as_bytes()) == 0 { &[] } else { self.fields.as_slice() };
        fields.iter().filter(move |at| self.is(at, name)).map(|at| &self.text[at.value..at.end])
    }
    fn is(&self, at: &Place, name: &str) -> bool {
        same_name(&self.text.as_bytes()[at.name..at.value], name.as_bytes())
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
    /// Names of the fields, as they are written.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|at| &self.text[at.name..at.value])
    }
    pub(crate) fn names_a_recipient(&self) -> bool {
        ["Final-Recipient", "Original-Recipient", "X-Actual-Recipient"].iter().any(|name| self.get(name).is_some())
    }
    fn push(&mut self, name: &str, value: &str) {
        let at = self.text.len();
        self.names |= name_bit(name.as_bytes());
        self.text.push_str(name);
        self.text.push_str(value);
        self.fields.push(Place { name: at, value: at + name.len(), end: self.text.len() });
    }
    /// Adds a line to the last field, unless that is long enough; false without one.
    fn append(&mut self, line: &str) -> bool {
        let Some(last) = self.fields.last_mut() else { return false };
        if last.end - last.value < 16 * 1024 {
            // The last field ends where the text ends.
            self.text.push(' ');
            self.text.push_str(line);
            last.end = self.text.len();
        }
        true
    }
    /// Fields of the other that are not here.
    fn complete(&mut self, other: &Group) {
        for (name, value) in other.pairs() {
            if self.get(name).is_none() {
                self.push(name, value);
            }
        }
    }
}

/// Groups of fields separated by empty lines.
pub(crate) fn groups(body: &[u8]) -> Vec<Group> {
    let text = decode::charset(body, None);
    groups_of_text(&text)
}

pub(crate) fn groups_of_text(text: &str) -> Vec<Group> {
    let mut all = Vec::new();
    let mut group = Group::default();
    for line in text::lines(text) {
        let trimmed = text::trim(line);
        if trimmed.is_empty() {
            if !group.is_empty() {
                all.push(std::mem::take(&mut group));
                if all.len() >= MAX_GROUPS {
                    return all;
                }
            }
            continue;
        }
        if line.starts_with([' ', '\t']) && group.append(trimmed) {
            continue;
        }
        let Some(found) = field(trimmed.as_bytes()) else {
            // A line that lost its blank: of a diagnostic text, mostly.
            group.append(trimmed);
            continue;
        };
        // The name begins the line, the value ends it, and both lie beside ASCII.
        let (name, value) = (&trimmed[..found.name.len()], &trimmed[trimmed.len() - found.value.len()..]);
        // Systems that leave out the empty line between recipients.
        if name.eq_ignore_ascii_case("Final-Recipient") && group.get("Final-Recipient").is_some() {
            all.push(std::mem::take(&mut group));
            if all.len() >= MAX_GROUPS {
                return all;
            }
        }
        if group.fields.is_empty() {
            group.fields.reserve(8);
            group.text.reserve(400);
        }
        if group.fields.len() < 100 {
            group.push(name, value);
        }
    }
    if !group.is_empty() {
        all.push(group);
    }
    all
}

/// A message made ready.
pub(crate) struct Mail<'m> {
    pub structure: &'m Structure<'m>,
    pub subject: Cow<'m, str>,
    /// `From:`, decoded.
    pub from: Cow<'m, str>,
    /// Text for people, up to the returned message.
    pub human: Cow<'m, str>,
    /// Per-message fields of the delivery status.
    pub report: Group,
    /// Per-recipient fields.
    pub recipients: Vec<Group>,
    /// There is a delivery-status part.
    pub has_status: bool,
    pub feedback: Option<Group>,
    pub has_disposition: bool,
    pub original: Original<'m>,
    /// There is a returned message of some kind.
    pub has_original: bool,
    /// It is announced as "unsent message".
    pub unsent: bool,
    /// The message inside, as bytes, for bounces that were forwarded.
    pub inner: Option<Cow<'m, [u8]>>,
}

impl<'m> Mail<'m> {
    pub(crate) fn of(structure: &'m Structure<'m>) -> Self {
        let header = &structure.header;
        let text_of = |name: &str| header.get(name).map(decode::header_text).unwrap_or_default();
        let mut mail = Mail {
            structure,
            subject: text_of("Subject"),
            from: text_of("From"),
            human: Cow::Borrowed(""),
            report: Group::default(),
            recipients: Vec::new(),
            has_status: false,
            feedback: None,
            has_disposition: false,
            original: Original::default(),
            has_original: false,
            unsent: false,
            inner: None,
        };
        let mut html: Option<&Part<'_>> = None;
        for part in &structure.parts {
            mail.take(part, &mut html);
        }
        if mail.human.trim().is_empty()
            && let Some(page) = html
        {
            mail.human = decode::part_text(page, TEXT_LIMIT);
        }
        mail.unquote();
        mail.cut_human();
        mail
    }

    /// The values of a field of the message's own header.
    pub(crate) fn header(&self) -> &Header<'m> {
        &self.structure.header
    }

    fn take<'p>(&mut self, part: &'p Part<'m>, html: &mut Option<&'p Part<'m>>) {
        match part.media {
            Media::Plain | Media::Multipart | Media::Json if !self.has_original && self.human.len() < TEXT_LIMIT => {
                let text = decode::part_text(part, TEXT_LIMIT);
                if self.human.is_empty() {
                    self.human = text;
                } else {
                    let human = self.human.to_mut();
                    human.push_str("\n\n");
                    human.push_str(&text);
                }
            }
            Media::Html => {
                html.get_or_insert(part);
            }
            Media::DeliveryStatus => {
                let body = decode::transfer(part.body, part.transfer);
                let end = next_part_at(&body);
                self.status(&body[..end]);
                if end < body.len() && !self.has_original {
                    // The returned message stands behind a boundary that was not announced.
                    let rest = &body[end..];
                    let below = memchr::memmem::find(rest, b"\n\n").map_or(rest.len(), |at| at + 2);
                    let found = Original::of(&rest[below..]);
                    if !found.is_empty() {
                        self.original = found.into_owned();
                        self.has_original = true;
                    }
                }
            }
            Media::Feedback => {
                let body = decode::transfer(part.body, part.transfer);
                let mut all = groups(&body).into_iter();
                let mut first = all.next().unwrap_or_default();
                for other in all {
                    first.complete(&other);
                }
                self.feedback.get_or_insert(first);
            }
            Media::Disposition => self.has_disposition = true,
            Media::Message | Media::Headers if !self.has_original => {
                let body = decode::transfer(part.body, part.transfer);
                if body.trim_ascii().is_empty() {
                    return;
                }
                self.has_original = true;
                self.original = match &body {
                    Cow::Borrowed(body) => Original::of(body),
                    Cow::Owned(body) => Original::of(body).into_owned(),
                };
                if part.media == Media::Message {
                    self.inner = Some(body);
                }
            }
            _ => {}
        }
    }

    fn status(&mut self, body: &[u8]) {
        self.has_status = true;
        for group in groups(body) {
            if group.names_a_recipient() || (!self.recipients.is_empty() && group.get("Action").is_some()) {
                self.recipients.push(group);
            } else if self.report.is_empty() && self.recipients.is_empty() {
                self.report = group;
            } else if self.recipients.is_empty() {
                self.report.complete(&group);
            } else if let Some(last) = self.recipients.last_mut()
                && last.get("Status").is_none()
            {
                // An empty line too many.
                last.complete(&group);
            }
        }
        if self.report.is_empty()
            && let Some(first) = self.recipients.first()
        {
            // Without the empty line between them, what holds for the message stands with the first recipient.
            self.report = first.clone();
        }
        if self.recipients.is_empty() && self.report.get("Action").is_some() {
            // One group for everything, or a group without its recipient.
            self.recipients.push(self.report.clone());
        } else if let [only] = self.recipients.as_mut_slice() {
            // Fields in the wrong group.
            for name in ["Action", "Status", "Diagnostic-Code", "Remote-MTA"] {
                if only.get(name).is_none()
                    && let Some(value) = self.report.get(name).map(str::to_owned)
                {
                    only.push(name, &value);
                }
            }
        }
    }

    /// A notice that a person forwarded in the text, every line marked: the marks are taken away.
    fn unquote(&mut self) {
        static MARKED: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\n>"));
        if MARKED.find(self.human.as_bytes()).is_none() {
            return;
        }
        let subject = self.subject.to_lowercase();
        let forwarded =
            ["fwd:", "fw:", "[fwd", "転送", "wg:", "tr:", "rv:"].iter().any(|mark| subject.starts_with(mark))
                || crate::text::contains(&self.human, "begin forwarded message");
        if !forwarded || subject.starts_with("re:") || !crate::text::contains(&self.human, "final-recipient:") {
            return;
        }
        let lines = || text::lines(&self.human).filter(|line| !line.trim().is_empty());
        let marked = lines().filter(|line| line.starts_with('>')).count();
        if marked * 10 < lines().count() * 6 {
            return;
        }
        let unmarked: Vec<&str> = self
            .human
            .lines()
            .filter(|line| line.starts_with('>'))
            .map(|line| line.strip_prefix("> ").or_else(|| line.strip_prefix('>')).unwrap_or(line))
            .collect();
        let mut lines = unmarked.as_slice();
        // The header of the notice itself, which a mail program quotes with it, is no returned message.
        if lines.first().is_some_and(|line| field(line.as_bytes()).is_some()) {
            let end = lines.iter().position(|line| line.trim().is_empty()).unwrap_or(0);
            lines = lines.get(end..).unwrap_or_default();
        }
        self.human = Cow::Owned(lines.join("\n"));
    }

    /// Cuts the text for people at the returned message, and reads delivery-status fields that stand in the text.
    fn cut_human(&mut self) {
        if let Some(cut) = original::cut(&self.human) {
            if !self.has_original || self.original.is_empty() {
                let returned = match &self.human {
                    Cow::Borrowed(human) => below(human, cut.original),
                    Cow::Owned(human) => Cow::Owned(below(human, cut.original).into_owned()),
                };
                let (found, inner) = match &returned {
                    Cow::Borrowed(text) => (Original::of(text.as_bytes()), Cow::Borrowed(text.trim_start().as_bytes())),
                    Cow::Owned(text) => {
                        let inner = text.trim_start().as_bytes().to_vec();
                        (Original::of(text.as_bytes()).into_owned(), Cow::Owned(inner))
                    }
                };
                self.inner.get_or_insert(inner);
                if !found.is_empty() {
                    self.original = found;
                    self.has_original = true;
                } else if cut.sure {
                    self.has_original = true;
                }
            }
            self.unsent = crate::text::contains(&self.human[cut.human..cut.original], "unsent message");
            truncate(&mut self.human, cut.human);
        }
        if self.recipients.is_empty()
            && let Some(at) = status_fields_at(&self.human)
        {
            let fields = self.human[at..].to_owned();
            self.status(fields.as_bytes());
            self.recipients.retain(Group::names_a_recipient);
            self.has_status = !self.recipients.is_empty();
            if self.has_status {
                if !self.has_original
                    && let Some(found) = original::below_fields(&fields)
                {
                    self.original = found.into_owned();
                    self.has_original = true;
                }
                truncate(&mut self.human, at);
            }
        }
    }
}

/// The returned message that stands in a text from `at` on, without the line drawn above it.
fn below(human: &str, at: usize) -> Cow<'_, str> {
    original::unindent(human[at..].trim_start_matches(['-', '=', '_', '*', '\n', '\r']))
}

/// The text up to `end`, a boundary of characters.
fn truncate(text: &mut Cow<'_, str>, end: usize) {
    match text {
        Cow::Borrowed(text) => *text = &text[..end],
        Cow::Owned(text) => text.truncate(end),
    }
}

/// Where in a delivery status another part begins, behind a boundary line that is not the announced one: a line that begins
/// with two dashes, and `Content-` fields after it.
fn next_part_at(body: &[u8]) -> usize {
    static DASHES: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\n--"));
    for at in DASHES.find_iter(body).take(20) {
        let line = &body[at + 1..];
        let fields = memchr::memchr(b'\n', line).and_then(|end| line.get(end + 1..end + 9));
        if fields.is_some_and(|start| start.eq_ignore_ascii_case(b"content-")) {
            return at + 1;
        }
    }
    body.len()
}

/// Where a block of delivery-status fields begins in a text.
fn status_fields_at(text: &str) -> Option<usize> {
    // What `Final-Recipient:`, `Final-recipient:` and `Original-Recipient:` have in common.
    static RECIPIENT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"ecipient:"));
    let final_recipient = RECIPIENT.find_iter(text.as_bytes()).take(1000).find_map(|at| {
        let before = &text.as_bytes()[..at];
        [&b"Final-R"[..], b"Final-r", b"Original-R"]
            .iter()
            .find(|name| before.ends_with(name))
            .map(|name| at - name.len())
    })?;
    if final_recipient > 0 && text.as_bytes()[final_recipient - 1] != b'\n' {
        return None;
    }
    static REPORTING: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"Reporting-MTA:"));
    let reporting = REPORTING.find(text.as_bytes()).filter(|at| *at < final_recipient);
    // Otherwise the beginning of the paragraph: `Action:` often comes first.
    let paragraph = text[..final_recipient].rfind("\n\n").map_or(0, |at| at + 2);
    Some(reporting.unwrap_or(paragraph))
}
