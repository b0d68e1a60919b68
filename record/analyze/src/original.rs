//! The returned message: what its header says, and where it begins in a text that encloses it without MIME.

use crate::civil;
use crate::finding::Date;
use crate::text::one_address;
use memchr::memmem::Finder;
use std::borrow::Cow;
use std::sync::LazyLock;
use yamabiko_report::decode;
use yamabiko_report::structure::{self, HeaderField, find_near, same_name};

/// Fields of one header beyond are not looked at.
const MAX_FIELDS: usize = 2000;

/// Fields of the returned message, as they stand in it where nothing is to be decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Original<'m> {
    pub from: Cow<'m, str>,
    pub return_path: Cow<'m, str>,
    pub to: Cow<'m, str>,
    pub subject: Cow<'m, str>,
    pub message_id: Cow<'m, str>,
    pub list_id: Cow<'m, str>,
    pub feedback_id: Cow<'m, str>,
    pub date: Option<Date>,
    /// `for <address>` of its newest Received field.
    pub received_for: Cow<'m, str>,
    /// The same of its oldest.
    pub first_for: Cow<'m, str>,
    pub delivered_to: Cow<'m, str>,
    pub any: bool,
}

impl<'m> Original<'m> {
    pub(crate) fn of(message: &'m [u8]) -> Self {
        let mut found = Original::default();
        let mut received: Vec<&'m [u8]> = Vec::new();
        let mut fields = 0;
        structure::walk(message, |field| {
            fields += 1;
            if fields <= MAX_FIELDS {
                found.take(field);
                if same_name(field.name, b"Received") {
                    received.push(field.value);
                }
            }
        });
        found.any = fields > 0;
        found.first_for = match received.as_slice() {
            // There is only one: it is the newest as well.
            [_] => found.received_for.clone(),
            _ => {
                let oldest = received.iter().rev().take(20);
                oldest.map(|value| received_for(value)).find(|a| !a.is_empty()).unwrap_or_default()
            }
        };
        found
    }

    /// The same, without a loan from the message.
    pub(crate) fn into_owned(self) -> Original<'static> {
        let owned = |text: Cow<'m, str>| Cow::Owned(text.into_owned());
        Original {
            from: owned(self.from),
            return_path: owned(self.return_path),
            to: owned(self.to),
            subject: owned(self.subject),
            message_id: owned(self.message_id),
            list_id: owned(self.list_id),
            feedback_id: owned(self.feedback_id),
            date: self.date,
            received_for: owned(self.received_for),
            first_for: owned(self.first_for),
            delivered_to: owned(self.delivered_to),
            any: self.any,
        }
    }

    fn take(&mut self, field: HeaderField<'m>) {
        let address = |value| piece_of(decode::header_text(value), |text| one_address(text).unwrap_or_default());
        let bracketed = |value| piece_of(decode::header_text(value), inside_brackets);
        let is = |name: &str| same_name(field.name, name.as_bytes());
        // By the length first: most fields are none of these.
        match field.name.len() {
            4 if self.from.is_empty() && is("From") => self.from = address(field.value),
            2 if self.to.is_empty() && is("To") => self.to = address(field.value),
            7 if self.subject.is_empty() && is("Subject") => self.subject = decode::header_text(field.value),
            10 if self.message_id.is_empty() && is("Message-ID") => self.message_id = bracketed(field.value),
            7 if is("List-ID") => self.list_id = bracketed(field.value),
            11 if is("Feedback-ID") => self.feedback_id = decode::header_text(field.value),
            4 if self.date.is_none() && is("Date") => self.date = civil::parse(&decode::header_text(field.value)),
            11 if self.return_path.is_empty() && is("Return-Path") => self.return_path = address(field.value),
            12 if self.delivered_to.is_empty() && is("Delivered-To") => self.delivered_to = address(field.value),
            8 if self.received_for.is_empty() && is("Received") => self.received_for = received_for(field.value),
            15 if self.return_path.is_empty() && is("X-Envelope-From") => self.return_path = address(field.value),
            _ => {}
        }
    }

    /// Nothing that would identify a message.
    pub(crate) fn is_empty(&self) -> bool {
        self.from.is_empty() && self.subject.is_empty() && self.message_id.is_empty() && self.to.is_empty()
    }
}

/// A piece of a text that may be borrowed.
fn piece_of<'m>(text: Cow<'m, str>, pick: impl Fn(&str) -> &str) -> Cow<'m, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(pick(text)),
        Cow::Owned(text) => Cow::Owned(pick(&text).to_owned()),
    }
}

/// `for <address>` of a Received field; empty without.
fn received_for(value: &[u8]) -> Cow<'_, str> {
    piece_of(crate::text::lossy(value), for_address)
}

fn for_address(text: &str) -> &str {
    static FOR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"for <"));
    let found = if let Some(at) = FOR.find(text.as_bytes()) {
        one_address(&text[at..crate::text::floor(text, at + 300)])
    } else {
        last_for(text.as_bytes()).and_then(|at| text.get(at..)).and_then(crate::text::address).map(|f| f.address)
    };
    found.unwrap_or_default()
}

/// The last word `for`.
fn last_for(text: &[u8]) -> Option<usize> {
    // Forwards is quicker than backwards, as there are few.
    static FOR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"for "));
    let begins = |at: &usize| at.checked_sub(1).is_some_and(|before| matches!(text[before], b' ' | b'\t'));
    FOR.find_iter(text).filter(begins).last()
}

fn inside_brackets(text: &str) -> &str {
    match find_near(b'<', text.as_bytes()) {
        Some(at) => {
            let inner = &text[at + 1..];
            inner[..find_near(b'>', inner.as_bytes()).unwrap_or(inner.len())].trim()
        }
        None => text.trim(),
    }
}

/// Where the text for people ends and the returned message begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub human: usize,
    pub original: usize,
    /// A line says so; otherwise header fields were taken for it.
    pub sure: bool,
}

/// Lines that announce the returned message, in lower case, dashes and blanks before them left out.
const ANNOUNCED: &[&str] = &[
    "below this line is a copy of the message",
    "below this line is the original",
    "below this line is",
    "enclosed is a copy of the message",
    "this is a copy of the message",
    "this is a copy of your message",
    "this is a copy of the headers",
    "a copy of your message",
    "original message follows",
    "original message header",
    "original message headers",
    "original message -----",
    "original message ---",
    "original mail info",
    "original mail as follows",
    "original message",
    "the header of the original message is following",
    "the header of the original message",
    "the original message follows",
    "the original message was",
    "included is a copy of the message header",
    "included is a copy of the message",
    "copy of the message header",
    "returned message",
    "message headers follow",
    "message header follows",
    "message header",
    "header follows",
    "unsent message follows",
    "unsent message below",
    "returned mail follows",
    "your message follows",
    "your original message",
    "message text follows",
    "the first .. lines of your message",
    "text of your message",
    "below is a copy of the original message",
    "below is the original message",
    "transcript of your message",
    "start of returned message",
    "begin message",
    "undelivered message follows",
    "undeliverable message follows",
    "received message",
    "received header",
    "headers of the message",
    "--- forwarded",
    "исходное сообщение",
    "ursprüngliche nachricht",
    "message d'origine",
    "mensaje original",
    "messaggio originale",
    "mensagem original",
    "oorspronkelijk bericht",
    "元のメッセージ",
    "元のメール",
];

/// Header fields that no text for people begins a line with, by their first letter.
const FIELDS: [(u8, &[&str]); 4] = [
    (b'r', &["received: ", "received:from ", "return-path: ", "return-path:"]),
    (b'd', &["dkim-signature:", "delivered-to: ", "domainkey-signature:"]),
    (b'x', &["x-received: "]),
    (b'a', &["arc-seal: ", "authentication-results:"]),
];

/// First bytes of lines that may announce the returned message: signs of a rule, first letters of the words above, and what is
/// no ASCII.
const MAY_ANNOUNCE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 128;
    while byte < 256 {
        table[byte] = true;
        byte += 1;
    }
    let signs = *b"-_=|*betaoicrmhuysdxBETAOICRMHUYSDX";
    let mut place = 0;
    while place < signs.len() {
        table[signs[place] as usize] = true;
        place += 1;
    }
    table
};

/// Finds the returned message in a text.
pub(crate) fn cut(text: &str) -> Option<Cut> {
    let mut at = 0;
    while at < text.len() {
        let start = at;
        let bytes = text.as_bytes();
        at = structure::find_near(b'\n', &bytes[at..]).map_or(text.len(), |end| at + end + 1);
        let end = at;
        // Most lines begin with something else.
        let mut from = start;
        while from < end && matches!(bytes[from], b' ' | 9..=13) {
            from += 1;
        }
        if from == end || !MAY_ANNOUNCE[usize::from(bytes[from])] {
            continue;
        }
        let line = &text[start..end];
        let trimmed = crate::text::trim(line);
        let Some(first) = trimmed.as_bytes().first() else { continue };
        if !MAY_ANNOUNCE[usize::from(*first)] {
            continue;
        }
        let dashed = matches!(first, b'-' | b'_' | b'=' | b'|' | b'*');
        let words = trimmed.trim_start_matches(['-', '_', '=', '|', '*', ' ', '\t', '>']);
        if trimmed.len() <= 160 && is_announcement(words, dashed) {
            return Some(Cut { human: start, original: end, sure: true });
        }
        let letter = first.to_ascii_lowercase();
        if let Some((_, fields)) = FIELDS.iter().find(|(first, _)| *first == letter)
            && fields.iter().any(|field| crate::text::after_prefix(line, field).is_some())
        {
            return Some(Cut { human: start, original: start, sure: false });
        }
    }
    None
}

/// [`ANNOUNCED`] by their first byte.
static ANNOUNCED_BY: LazyLock<Vec<Vec<&'static str>>> = LazyLock::new(|| {
    let mut by = vec![Vec::new(); 256];
    for words in ANNOUNCED {
        by[usize::from(words.as_bytes()[0])].push(*words);
    }
    by
});

fn is_announcement(words: &str, dashed: bool) -> bool {
    let Some(first) = words.as_bytes().first() else { return false };
    if !first.is_ascii() && ANNOUNCED_BY[usize::from(*first)].is_empty() {
        // No announcement begins with the lower case of such a letter.
        return false;
    }
    // Most lines are ASCII, and most announcements too: the others are folded only where they can matter.
    let folded = if words.is_ascii() { None } else { Some(words.to_lowercase()) };
    let first =
        folded.as_ref().map_or(first.to_ascii_lowercase(), |folded| folded.as_bytes().first().copied().unwrap_or(0));
    let second = words.as_bytes().get(1).map(u8::to_ascii_lowercase);
    for announced in &ANNOUNCED_BY[usize::from(first)] {
        if folded.is_none() && announced.as_bytes().get(1).copied() != second {
            continue;
        }
        let rest = match &folded {
            None => crate::text::after_prefix(words, announced),
            Some(folded) => folded.strip_prefix(*announced),
        };
        let Some(rest) = rest else { continue };
        // Words alone in a line, or between dashes; a sentence goes on.
        let rest = rest.trim_start_matches([' ', '-', ':', '.', '=', '*', '_', ',', '|']).trim();
        let short = announced.len() < 18;
        if rest.is_empty() || (!short && dashed) || (!short && rest.len() < 60 && announced.contains("follow")) {
            return dashed || rest.is_empty() || announced.len() >= 18;
        }
        if dashed && rest.len() < 60 {
            return true;
        }
    }
    false
}

/// A returned header that stands below delivery-status fields without a word between: the first paragraph that says from
/// whom and to whom.
pub(crate) fn below_fields(text: &str) -> Option<Original<'_>> {
    text.split("\n\n").skip(1).take(20).filter(|paragraph| crate::text::contains(paragraph, "from:")).find_map(
        |paragraph| {
            let found = Original::of(paragraph.as_bytes());
            (!found.from.is_empty() && !found.to.is_empty()).then_some(found)
        },
    )
}

/// A returned message whose every line was moved to the right, moved back.
pub(crate) fn unindent(text: &str) -> Cow<'_, str> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty()).take(6).peekable();
    if lines.peek().is_none() {
        return Cow::Borrowed(text);
    }
    for mark in ["   ", "> ", "  ", "    ", "\t", "| "] {
        let mut all = text.lines().filter(|line| !line.trim().is_empty()).take(6);
        if all.all(|line| line.starts_with(mark)) {
            let moved: Vec<&str> =
                text.lines().map(|line| line.strip_prefix(mark).unwrap_or(line.trim_start())).collect();
            return Cow::Owned(moved.join("\n"));
        }
    }
    Cow::Borrowed(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_returned_message_is_found() {
        for (text, human) in [
            ("a\n--- Below this line is a copy of the message.\n\nFrom: x", "a\n"),
            ("a\n----- Original message -----\nFrom: x", "a\n"),
            ("a\nReceived: from x by y\nFrom: z", "a\n"),
            ("a\n------ This is a copy of the message, including all the headers. ------\n", "a\n"),
            ("a\n-------original message\nFrom: x", "a\n"),
            ("Original message follows.\nFrom: x", ""),
            ("Message headers follow.\nFrom: x", ""),
            ("   ----- Unsent message follows -----\nFrom: x", ""),
        ] {
            assert_eq!(cut(text).map(|cut| &text[..cut.human]), Some(human), "{text}");
        }
        for text in
            ["The original message was received at Thu, 1 Jan", "Your original message was too large for us\n", "a\nb"]
        {
            assert_eq!(cut(text), None, "{text}");
        }
    }

    #[test]
    fn fields() {
        let found = Original::of(
            b"Received: from a by b\n\tfor <kim@example.jp>; x\nFrom: A <a@example.jp>\nList-Id: X <x.example.jp>\n\n",
        );
        assert_eq!((&*found.from, &*found.received_for), ("a@example.jp", "kim@example.jp"));
        assert_eq!(found.list_id, "x.example.jp");
    }
}
