//! The message as filters see and change it.

use std::io;

use bytes::Bytes;
use yamabiko_envelope::Content;
use yamabiko_message::{Fields, field_name_len};

use crate::packet::Modification;

/// A message at its end: header fields that can be changed one by one, and the body.
#[derive(Clone, Debug)]
pub struct Message {
    /// Header fields in order, without the line end after each.
    fields: Vec<Bytes>,
    /// For each of them: a filter has made it.
    made: Vec<bool>,
    /// The body behind the empty line, in parts.
    body: Vec<Content>,
    /// The first field is our own `Received:`, which filters are not shown.
    hides_first: bool,
    /// What filters want beyond header and body, in their order.
    changes: Vec<Change>,
    changed: bool,
}

/// A change of the envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another envelope sender, as it was written, with ESMTP parameters.
    Sender(String, String),
    /// Another recipient, as it was written, with ESMTP parameters.
    AddRecipient(String, String),
    /// This recipient goes.
    DeleteRecipient(String),
    /// The message is held; why.
    Hold(String),
}

impl Message {
    /// `head` is the header section with its empty line (LF line ends), `body` what follows.
    pub fn new(head: &[u8], body: Vec<Content>) -> Self {
        let fields: Vec<Bytes> =
            (&Fields::of(head)).into_iter().map(|field| Bytes::copy_from_slice(field.raw())).collect();
        let made = vec![false; fields.len()];
        let hides_first = fields.first().is_some_and(|field| named(field, b"Received"));
        Self { fields, made, body, hides_first, changes: Vec::new(), changed: false }
    }

    /// Header or body are not what they were.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// What filters want to be done with the envelope, in their order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Fields that a filter has made or changed, with their places.
    pub fn made(&self) -> impl Iterator<Item = (usize, Bytes)> {
        let all = self.fields.iter().zip(&self.made).enumerate();
        all.filter(|(_, (_, made))| **made).map(|(at, (field, _))| (at, field.clone()))
    }

    /// Puts other fields at a place that [`Message::made`] gave, or none. Places behind it change.
    pub fn put(&mut self, at: usize, fields: Vec<Bytes>) {
        if at < self.fields.len() {
            self.made.splice(at..=at, vec![false; fields.len()]);
            self.fields.splice(at..=at, fields);
            self.changed = true;
        }
    }

    /// The header section with its empty line, and the body.
    pub fn into_parts(self) -> (Vec<u8>, Vec<Content>) {
        let mut head = Vec::with_capacity(self.fields.iter().map(|field| field.len() + 1).sum::<usize>() + 1);
        for field in &self.fields {
            head.extend_from_slice(field);
            head.push(b'\n');
        }
        head.push(b'\n');
        (head, self.body)
    }

    /// Name and value of the fields that filters are shown. `keep_blank`: the value keeps the blank after the colon.
    pub(crate) fn shown(&self, keep_blank: bool) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().skip(usize::from(self.hides_first)).filter_map(move |field| {
            let name = field_name_len(field)?;
            let colon = name + field[name..].iter().position(|byte| *byte == b':')?;
            let value = &field[colon + 1..];
            let value = if keep_blank { value } else { value.strip_prefix(b" ").unwrap_or(value) };
            Some((&field[..name], value))
        })
    }

    /// A reader of the body.
    pub(crate) fn body(&self) -> BodyReader {
        BodyReader { parts: self.body.clone(), part: 0, at: 0 }
    }

    pub(crate) fn hold(&mut self, why: String) {
        self.changes.push(Change::Hold(why));
    }

    pub(crate) fn replace_body(&mut self, body: Vec<u8>) {
        self.body = vec![Content::from(body)];
        self.changed = true;
    }

    /// Makes a change. `keep_blank` as in [`Message::shown`]. False when it makes no sense.
    pub(crate) fn change(&mut self, modification: Modification, keep_blank: bool) -> bool {
        match modification {
            Modification::AddHeader(name, value) => {
                let Some(field) = field(&name, &value, keep_blank) else { return false };
                self.fields.push(field);
                self.made.push(true);
                self.changed = true;
            }
            Modification::InsertHeader(index, name, value) => {
                let Some(field) = field(&name, &value, keep_blank) else { return false };
                // Number 0 stands before our own field, 1 before the first that filters see.
                let at = usize::try_from(index).unwrap_or(usize::MAX);
                let at = if self.hides_first { at } else { at.saturating_sub(1) };
                let at = at.min(self.fields.len());
                self.fields.insert(at, field);
                self.made.insert(at, true);
                self.hides_first &= at > 0;
                self.changed = true;
            }
            Modification::ChangeHeader(index, name, value) => {
                return self.change_header(index, &name, &value, keep_blank);
            }
            Modification::AddRecipient(address, parameters) => {
                self.changes.push(Change::AddRecipient(address, parameters));
            }
            Modification::DeleteRecipient(address) => self.changes.push(Change::DeleteRecipient(address)),
            Modification::Sender(address, parameters) => self.changes.push(Change::Sender(address, parameters)),
            Modification::Body(_) => {}
        }
        true
    }

    fn change_header(&mut self, index: u32, name: &[u8], value: &[u8], keep_blank: bool) -> bool {
        let index = usize::try_from(index.max(1)).unwrap_or(usize::MAX);
        let shown = self.fields.iter().enumerate().skip(usize::from(self.hides_first));
        let found = shown.filter(|(_, field)| named(field, name)).nth(index - 1).map(|(at, _)| at);
        match found {
            Some(at) if value.is_empty() => {
                self.fields.remove(at);
                self.made.remove(at);
            }
            Some(at) => {
                let Some(field) = field(name, value, keep_blank) else { return false };
                // A place among the fields, each of which has its mark.
                self.fields[at] = field;
                self.made[at] = true;
            }
            // Nothing to delete; a value without a field to change becomes a new one, as with Sendmail and Postfix.
            None if value.is_empty() => return true,
            None => {
                let Some(field) = field(name, value, keep_blank) else { return false };
                self.fields.push(field);
                self.made.push(true);
            }
        }
        self.changed = true;
        true
    }
}

fn named(field: &[u8], name: &[u8]) -> bool {
    field_name_len(field).is_some_and(|length| field[..length].eq_ignore_ascii_case(name))
}

/// A field of a filter's name and value: line ends as they are stored, and no line that would be a field of its own.
fn field(name: &[u8], value: &[u8], keep_blank: bool) -> Option<Bytes> {
    let mut out = name.to_vec();
    out.push(b':');
    if field_name_len(&out) != Some(name.len()) {
        return None;
    }
    if !keep_blank {
        out.push(b' ');
    }
    for (number, line) in value.split(|byte| *byte == b'\n').enumerate() {
        let line: Vec<u8> = line.iter().copied().filter(|byte| !matches!(byte, b'\r' | 0)).collect();
        if number > 0 {
            // An empty line would end the headers.
            if line.iter().all(|byte| matches!(byte, b' ' | b'\t')) {
                continue;
            }
            out.push(b'\n');
            if !matches!(line.first(), Some(b' ' | b'\t')) {
                out.push(b'\t');
            }
        }
        out.extend_from_slice(&line);
    }
    Some(out.into())
}

/// Gives a body piece by piece with CRLF line ends.
pub(crate) struct BodyReader {
    parts: Vec<Content>,
    part: usize,
    at: u64,
}

impl BodyReader {
    /// Adds the next piece to `out`; false at the end.
    pub(crate) fn read(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        while let Some(part) = self.parts.get(self.part) {
            let read = part.read_at(&mut buffer, self.at)?;
            if read == 0 {
                self.part += 1;
                self.at = 0;
                continue;
            }
            self.at += read as u64;
            for line in buffer[..read].split_inclusive(|byte| *byte == b'\n') {
                match line.strip_suffix(b"\n") {
                    Some(line) => {
                        out.extend_from_slice(line);
                        out.extend_from_slice(b"\r\n");
                    }
                    None => out.extend_from_slice(line),
                }
            }
            return Ok(true);
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(head: &str) -> Message {
        Message::new(head.as_bytes(), vec![Content::from(b"body\n".to_vec())])
    }

    fn text(message: Message) -> String {
        let (head, body) = message.into_parts();
        let mut text = head;
        for part in body {
            text.extend_from_slice(&part.to_bytes().unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn header_changes() {
        use Modification as M;
        let add = |name: &str, value: &str| M::AddHeader(name.into(), value.into());
        let insert = |at: u32, name: &str, value: &str| M::InsertHeader(at, name.into(), value.into());
        let change = |at: u32, name: &str, value: &str| M::ChangeHeader(at, name.into(), value.into());
        let head = "Received: ours\nReceived: theirs\nSubject: a\nsubject: b\n\n";
        let cases: Vec<(Modification, bool, &str)> = vec![
            (add("X", "1"), true, "Received: ours\nReceived: theirs\nSubject: a\nsubject: b\nX: 1\n\nbody\n"),
            (insert(0, "X", "1"), true, "X: 1\nReceived: ours\nReceived: theirs\nSubject: a\nsubject: b\n\nbody\n"),
            (insert(1, "X", "1"), true, "Received: ours\nX: 1\nReceived: theirs\nSubject: a\nsubject: b\n\nbody\n"),
            (insert(99, "X", "1"), true, "Received: ours\nReceived: theirs\nSubject: a\nsubject: b\nX: 1\n\nbody\n"),
            (change(1, "Subject", "c"), true, "Received: ours\nReceived: theirs\nSubject: c\nsubject: b\n\nbody\n"),
            (change(2, "SUBJECT", ""), true, "Received: ours\nReceived: theirs\nSubject: a\n\nbody\n"),
            (change(3, "Subject", ""), true, "Received: ours\nReceived: theirs\nSubject: a\nsubject: b\n\nbody\n"),
            (change(1, "Received", ""), true, "Received: ours\nSubject: a\nsubject: b\n\nbody\n"),
            (change(1, "X", "1"), true, "Received: ours\nReceived: theirs\nSubject: a\nsubject: b\nX: 1\n\nbody\n"),
            // Nothing becomes a field of its own, or ends the headers.
            (
                add("X", "1\r\nBcc: x\n\n\nbody"),
                true,
                "Received: ours\nReceived: theirs\nSubject: a\nsubject: b\nX: 1\n\tBcc: x\n\tbody\n\nbody\n",
            ),
            (add("X Y", "1"), false, "Received: ours\nReceived: theirs\nSubject: a\nsubject: b\n\nbody\n"),
            (add("X:", "1"), false, "Received: ours\nReceived: theirs\nSubject: a\nsubject: b\n\nbody\n"),
            (add("", "1"), false, "Received: ours\nReceived: theirs\nSubject: a\nsubject: b\n\nbody\n"),
        ];
        for (modification, sensible, expected) in cases {
            let mut message = message(head);
            let shown = format!("{modification:?}");
            assert_eq!(message.change(modification, false), sensible, "{shown}");
            assert_eq!(text(message), expected, "{shown}");
        }
    }

    #[test]
    fn our_own_field_is_not_shown() {
        let list = |message: &Message, keep: bool| {
            let shown = message.shown(keep);
            shown
                .map(|(n, v)| format!("{}|{}", String::from_utf8_lossy(n), String::from_utf8_lossy(v)))
                .collect::<Vec<_>>()
        };
        let all = message("Received: a\nReceived: b\nX : c\n d\n\n");
        assert_eq!(list(&all, false), ["Received|b", "X|c\n d"]);
        assert_eq!(list(&all, true), ["Received| b", "X| c\n d"]);
        assert_eq!(list(&message("X: a\nReceived: b\n\n"), false), ["X|a", "Received|b"]);
    }

    #[test]
    fn bodies_go_out_with_crlf() {
        let body = vec![Content::from(b"a\nb".to_vec()), Content::from(b"c\n\n".to_vec())];
        let mut reader = Message::new(b"\n", body).body();
        let mut out = Vec::new();
        while reader.read(&mut out).unwrap() {}
        assert_eq!(out, b"a\r\nbc\r\n\r\n");
    }
}
