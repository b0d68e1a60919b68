//! The returned message: what its header says, and where it begins in a text that encloses it without MIME.

use crate::civil;
use crate::finding::Date;
use crate::text::one_address;
use std::borrow::Cow;
use std::sync::LazyLock;
use yamabiko_report::decode;
use yamabiko_report::structure::Header;

/// Fields of the returned message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Original {
    pub from: String,
    pub return_path: String,
    pub to: String,
    pub subject: String,
    pub message_id: String,
    pub list_id: String,
    pub feedback_id: String,
    pub date: Option<Date>,
    /// `for <address>` of its newest Received field.
    pub received_for: String,
    /// The same of its oldest.
    pub first_for: String,
    pub delivered_to: String,
    pub any: bool,
}

impl Original {
    pub(crate) fn of(message: &[u8]) -> Self {
        let (header, _) = Header::parse(message);
        let mut found = Original { any: !header.fields.is_empty(), ..Original::default() };
        let address = |value: &[u8]| one_address(&decode::header(value)).unwrap_or_default().to_owned();
        for field in &header.fields {
            // Dispatch on the length first: most fields are none of these.
            let is = |name: &str| field.name.eq_ignore_ascii_case(name.as_bytes());
            match field.name.len() {
                4 if is("From") && found.from.is_empty() => found.from = address(field.value),
                2 if is("To") && found.to.is_empty() => {
                    let text = decode::header(field.value);
                    found.to = one_address(&text).unwrap_or_default().to_owned();
                }
                7 if is("Subject") && found.subject.is_empty() => found.subject = decode::header(field.value),
                10 if is("Message-ID") && found.message_id.is_empty() => {
                    found.message_id = inside_brackets(&decode::header(field.value)).to_owned();
                }
                7 if is("List-ID") => found.list_id = inside_brackets(&decode::header(field.value)).to_owned(),
                11 if is("Feedback-ID") => found.feedback_id = decode::header(field.value),
                4 if is("Date") && found.date.is_none() => found.date = civil::parse(&decode::header(field.value)),
                11 if is("Return-Path") && found.return_path.is_empty() => found.return_path = address(field.value),
                12 if is("Delivered-To") && found.delivered_to.is_empty() => found.delivered_to = address(field.value),
                8 if is("Received") && found.received_for.is_empty() => found.received_for = received_for(field.value),
                15 if is("X-Envelope-From") && found.return_path.is_empty() => found.return_path = address(field.value),
                _ => {}
            }
        }
        let received =
            header.fields.iter().rev().filter(|f| f.name.len() == 8 && f.name.eq_ignore_ascii_case(b"Received"));
        found.first_for = received.take(20).map(|f| received_for(f.value)).find(|a| !a.is_empty()).unwrap_or_default();
        found
    }

    /// Nothing that would identify a message.
    pub(crate) fn is_empty(&self) -> bool {
        self.from.is_empty() && self.subject.is_empty() && self.message_id.is_empty() && self.to.is_empty()
    }
}

/// `for <address>` of a Received field; empty without.
fn received_for(value: &[u8]) -> String {
    let text = crate::text::lossy(value);
    let found = if let Some(at) = memchr::memmem::find(text.as_bytes(), b"for <") {
        one_address(&text[at..crate::text::floor(&text, at + 300)])
    } else {
        last_for(text.as_bytes()).and_then(|at| text.get(at..)).and_then(crate::text::address).map(|f| f.address)
    };
    found.unwrap_or_default().to_owned()
}

/// The last word `for`.
fn last_for(text: &[u8]) -> Option<usize> {
    memchr::memmem::rfind_iter(text, b"for ")
        .find(|at| at.checked_sub(1).is_some_and(|b| matches!(text[b], b' ' | b'\t')))
}

fn inside_brackets(text: &str) -> &str {
    match text.split_once('<') {
        Some((_, rest)) => rest.split('>').next().unwrap_or(rest).trim(),
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

/// Header fields that no text for people begins a line with.
const FIELDS: [&str; 10] = [
    "received: ",
    "received:from ",
    "return-path: ",
    "return-path:",
    "dkim-signature:",
    "x-received: ",
    "arc-seal: ",
    "delivered-to: ",
    "domainkey-signature:",
    "authentication-results:",
];

/// Finds the returned message in a text.
pub(crate) fn cut(text: &str) -> Option<Cut> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let (start, end) = (at, at + line.len());
        at = end;
        let trimmed = line.trim();
        let Some(first) = trimmed.as_bytes().first() else { continue };
        if !matches!(first, b'-' | b'_' | b'=' | b'|' | b'*')
            && !matches!(
                first.to_ascii_lowercase(),
                b'b' | b'e' | b't' | b'a' | b'o' | b'i' | b'c' | b'r' | b'm' | b'h' | b'u' | b'y' | b's' | b'd' | b'x'
            )
            && first.is_ascii()
        {
            continue;
        }
        let dashed = matches!(first, b'-' | b'_' | b'=' | b'|' | b'*');
        let words = trimmed.trim_start_matches(['-', '_', '=', '|', '*', ' ', '\t', '>']);
        if trimmed.len() <= 160 && is_announcement(words, dashed) {
            return Some(Cut { human: start, original: end, sure: true });
        }
        if matches!(first.to_ascii_lowercase(), b'r' | b'd' | b'x' | b'a')
            && FIELDS.iter().any(|field| crate::text::after_prefix(line, field).is_some())
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
    // Most lines are ASCII, and most announcements too: the others are folded only where they can matter.
    let folded = if words.is_ascii() { None } else { Some(words.to_lowercase()) };
    let first =
        folded.as_ref().map_or(first.to_ascii_lowercase(), |folded| folded.as_bytes().first().copied().unwrap_or(0));
    for announced in &ANNOUNCED_BY[usize::from(first)] {
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
pub(crate) fn below_fields(text: &str) -> Option<Original> {
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
        assert_eq!((found.from.as_str(), found.received_for.as_str()), ("a@example.jp", "kim@example.jp"));
        assert_eq!(found.list_id, "x.example.jp");
    }
}
