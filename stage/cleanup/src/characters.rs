//! `message_reject_characters`, `message_strip_characters`, `cleanup_replace_stray_cr_lf`: bytes that must not be in a message.

use bytes::Bytes;
use yamabiko_envelope::{Content, ContentAction, Envelope, Kind, Recipient};
use yamabiko_status::{EnhancedStatus, ReplyCode};

use crate::checks::content_action;
use crate::{Cleanup, Job, Refusal};

/// Two sets of bytes. A line end is never in them.
pub(crate) struct Characters {
    reject: [bool; 256],
    strip: [bool; 256],
    rejects: bool,
    strips: bool,
}

impl Characters {
    pub(crate) fn new(reject: &str, strip: &str) -> Self {
        Self { reject: set(reject), strip: set(strip), rejects: !reject.is_empty(), strips: !strip.is_empty() }
    }
    pub(crate) fn any(&self) -> bool {
        self.rejects || self.strips
    }
    /// The first line that holds a byte to reject.
    fn find<'t>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        if !self.rejects {
            return None;
        }
        let at = text.iter().position(|byte| self.reject[usize::from(*byte)])?;
        let start = memchr::memrchr(b'\n', &text[..at]).map_or(0, |n| n + 1);
        let end = memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |n| at + n);
        Some(&text[start..end])
    }
    fn strip(&self, text: Bytes) -> Bytes {
        if !self.strips || !text.iter().any(|byte| self.strip[usize::from(*byte)]) {
            return text;
        }
        text.iter().copied().filter(|byte| !self.strip[usize::from(*byte)]).collect()
    }
}

/// The bytes of a parameter, with C's escapes: `\a \b \f \n \r \t \v \ddd \\`.
fn set(text: &str) -> [bool; 256] {
    let mut out = [false; 256];
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        let byte = match (byte, bytes.peek()) {
            (b'\\', Some(b'0'..=b'7')) => {
                let mut value = 0u32;
                for _ in 0..3 {
                    match bytes.next_if(|b| matches!(b, b'0'..=b'7')) {
                        Some(digit) => value = value * 8 + u32::from(digit - b'0'),
                        None => break,
                    }
                }
                // As C does: what is too large wraps.
                (value & 0xff) as u8
            }
            (b'\\', Some(_)) => match bytes.next() {
                Some(b'a') => 7,
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(other) => other,
                None => b'\\',
            },
            _ => byte,
        };
        out[usize::from(byte)] = true;
    }
    out[usize::from(b'\n')] = false;
    out
}

/// How much of a file is looked at at once.
const WINDOW: usize = 64 * 1024;

/// A blank for every CR within a line: what others take for a line end is none, and a signature is made over what is
/// sent. What came by SMTP has none any more; a message without one is not copied.
pub(crate) fn without_stray_cr(content: Content) -> Result<Content, Refusal> {
    let affected = match &content {
        Content::Memory(bytes) => memchr::memchr(b'\r', bytes).is_some(),
        Content::File { .. } => {
            let (mut window, mut at) = (vec![0; WINDOW], 0);
            loop {
                let read = content.read_at(&mut window, at).map_err(|_| Refusal::trouble())?;
                // `read` is at most the length of the window.
                if read == 0 || memchr::memchr(b'\r', &window[..read]).is_some() {
                    break read > 0;
                }
                at += read as u64;
            }
        }
    };
    if !affected {
        return Ok(content);
    }
    let mut bytes = content.to_bytes().map_err(|_| Refusal::trouble())?.to_vec();
    for byte in bytes.iter_mut().filter(|byte| **byte == b'\r') {
        *byte = b' ';
    }
    Ok(bytes.into())
}

impl Cleanup {
    /// Refuses or strips. Only a message that is affected is copied.
    pub(crate) fn filter_characters(
        &self,
        job: &Job<'_>,
        envelope: &Envelope,
        recipients: &[Recipient],
        head: Bytes,
        body: Vec<Content>,
    ) -> Result<(Bytes, Vec<Content>), Refusal> {
        let characters = &self.settings.characters;
        let refuse = |line: &[u8]| {
            let client = &envelope.client;
            let action = ContentAction {
                protocol: client.protocol.clone(),
                helo: client.helo.clone(),
                text: "5.7.1 disallowed character".into(),
                ..content_action(job, envelope, recipients, "reject", "content", line)
            };
            self.emit(job, Kind::ContentChecked(Box::new(action)));
            Refusal {
                code: ReplyCode(550),
                status: EnhancedStatus::permanent(7, 1),
                reason: "disallowed character".into(),
                specific: true,
            }
        };
        if let Some(line) = characters.find(&head) {
            return Err(refuse(line));
        }
        let mut out = Vec::with_capacity(body.len());
        for part in body {
            let text = part.to_bytes().map_err(|_| Refusal::trouble())?;
            if let Some(line) = characters.find(&text) {
                return Err(refuse(line));
            }
            let stripped = characters.strip(text.clone());
            // The same bytes in a file stay there.
            out.push(if stripped.len() == text.len() { part } else { stripped.into() });
        }
        Ok((characters.strip(head), out))
    }
}
