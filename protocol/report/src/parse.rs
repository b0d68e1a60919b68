//! A delivery status notification read (RFC 3464): per-message fields, per-recipient fields, the returned message.
//!
//! It reads what [`crate::Notice`] writes, and other systems' notices as far as they follow the RFC. It never fails on
//! a part: what is missing is empty. Notices without a delivery-status part are not for this reader.

use yamabiko_message::{Field, Fields, mime};
use yamabiko_status::EnhancedStatus;

/// A notice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed<'m> {
    /// The text for people.
    pub text: &'m [u8],
    /// Per-message fields, names as written.
    pub message: StatusFields,
    /// Per-recipient fields, a group each.
    pub recipients: Vec<StatusFields>,
    /// The returned message, or its headers: empty when nothing was returned.
    pub original: &'m [u8],
}

/// Fields of one group, unfolded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusFields {
    fields: Vec<(String, String)>,
}

impl StatusFields {
    /// The value of the first field of this name, in any case of letters.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
    /// Type and value of a field such as `rfc822; user@example.jp`.
    pub fn typed(&self, name: &str) -> Option<(&str, &str)> {
        let (kind, value) = self.get(name)?.split_once(';')?;
        Some((kind.trim(), value.trim()))
    }
    /// The address of `Final-Recipient:` in internal form.
    pub fn final_recipient(&self) -> Option<String> {
        self.typed("Final-Recipient").map(|(_, address)| yamabiko_address::unquote(address).into_owned())
    }
    /// `Status:`, comments after it left out.
    pub fn status(&self) -> Option<EnhancedStatus> {
        EnhancedStatus::split(self.get("Status")?).map(|(status, _)| status)
    }
    /// `Action:` in lower case.
    pub fn action(&self) -> Option<String> {
        self.get("Action").map(str::to_ascii_lowercase)
    }
    /// All fields in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Reads a notice. `None` when the message is no `multipart/report` with a delivery-status part.
pub fn parse(message: &[u8]) -> Option<Parsed<'_>> {
    let fields = Fields::of(message);
    let value = fields.get("Content-Type")?.value();
    if mime::media_type(value)? != "multipart/report" {
        return None;
    }
    let boundary = mime::parameter(value, "boundary")?;
    let mut parsed = Parsed::default();
    let mut found = false;
    for (number, part) in parts(&message[fields.body_at()..], boundary).enumerate() {
        let headers = Fields::of(part);
        let body = &part[headers.body_at()..];
        let kind = headers.get("Content-Type").and_then(|f| mime::media_type(f.value())).unwrap_or_default();
        match kind.as_str() {
            "message/delivery-status" | "message/global-delivery-status" if !found => {
                found = true;
                let mut groups = groups(body);
                parsed.message = groups.next().unwrap_or_default();
                parsed.recipients = groups.collect();
            }
            "message/rfc822" | "text/rfc822-headers" | "message/global" | "message/global-headers" => {
                parsed.original = body;
            }
            _ if number == 0 => parsed.text = body,
            _ => {}
        }
    }
    found.then_some(parsed)
}

/// The parts between boundary lines, without the line end before the next boundary (RFC 2046 section 5.1.1).
fn parts<'m>(body: &'m [u8], boundary: Vec<u8>) -> impl Iterator<Item = &'m [u8]> + use<'m> {
    let mut at = 0;
    // Where the part that is open began; none before the first boundary and after the last.
    let mut open: Option<usize> = None;
    std::iter::from_fn(move || {
        while at < body.len() {
            let line_at = at;
            let end = body[at..].iter().position(|b| *b == b'\n').map_or(body.len(), |n| at + n + 1);
            at = end;
            let Some(after) =
                body[line_at..end].strip_prefix(b"--").and_then(|rest| rest.strip_prefix(boundary.as_slice()))
            else {
                continue;
            };
            let part = open.map(|start| {
                let part = &body[start..line_at];
                part.strip_suffix(b"\n").unwrap_or(part)
            });
            open = (!after.starts_with(b"--")).then_some(end);
            if part.is_some() {
                return part;
            }
        }
        // A notice that was cut off: its last part is what there is of it.
        open.take().map(|start| &body[start..])
    })
}

/// Groups of fields separated by empty lines. A line that is no field is passed over.
fn groups(body: &[u8]) -> impl Iterator<Item = StatusFields> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let mut group = StatusFields::default();
        while !rest.is_empty() {
            let mut end = line_end(rest);
            if rest[..end].trim_ascii().is_empty() {
                rest = &rest[end..];
                if group.fields.is_empty() {
                    continue;
                }
                return Some(group);
            }
            // A blank line continues nothing, though it may begin with a blank.
            while rest.get(end).is_some_and(|b| matches!(b, b' ' | b'\t')) {
                let next = end + line_end(&rest[end..]);
                if rest[end..next].trim_ascii().is_empty() {
                    break;
                }
                end = next;
            }
            let (raw, tail) = rest.split_at(end);
            rest = tail;
            if let Some(field) = Field::parse(raw) {
                let name = String::from_utf8_lossy(field.name()).into_owned();
                group.fields.push((name, refold(field.value())));
            }
        }
        (!group.fields.is_empty()).then_some(group)
    })
}

/// A value on one line: each line end with the blanks around it becomes one blank.
fn refold(value: &[u8]) -> String {
    let lines: Vec<_> = value.split(|b| *b == b'\n').map(|line| String::from_utf8_lossy(line.trim_ascii())).collect();
    lines.join(" ").trim().to_owned()
}

fn line_end(text: &[u8]) -> usize {
    text.iter().position(|b| *b == b'\n').map_or(text.len(), |n| n + 1)
}
