//! Changes to a content, in order, without a copy of what stays.

use yamabiko_envelope::Content;

/// A content that is being changed from its beginning to its end.
pub struct Edits {
    source: Content,
    /// Up to here, the source is in `parts` or left out.
    done: u64,
    parts: Vec<Content>,
    /// New bytes that are not in `parts` yet.
    new: Vec<u8>,
}

impl Edits {
    /// Of a content nothing has been done to.
    pub fn new(source: Content) -> Self {
        Self { source, done: 0, parts: Vec::new(), new: Vec::new() }
    }

    /// Puts `new` in the place of the bytes from `start` to `end`. Places are given in rising order.
    pub fn replace(&mut self, start: u64, end: u64, new: &[u8]) {
        if start > self.done {
            self.close();
            self.parts.push(self.source.slice(self.done, start));
        }
        self.new.extend_from_slice(new);
        self.done = self.done.max(end);
    }

    /// The content with its changes; one part when nothing was done.
    pub fn finish(mut self) -> Vec<Content> {
        self.close();
        if self.done < self.source.len() || self.parts.is_empty() {
            let end = self.source.len();
            self.parts.push(self.source.slice(self.done, end));
        }
        self.parts
    }

    fn close(&mut self) {
        if !self.new.is_empty() {
            self.parts.push(Content::from(std::mem::take(&mut self.new)));
        }
    }
}

/// The parts as one content in memory where all of them are there, and as they are otherwise.
pub fn joined(parts: Vec<Content>) -> Vec<Content> {
    if parts.len() < 2 || !parts.iter().all(|part| matches!(part, Content::Memory(_))) {
        return parts;
    }
    let length = parts.iter().map(|part| usize::try_from(part.len()).unwrap_or(0)).sum();
    let mut whole = Vec::with_capacity(length);
    for part in &parts {
        if let Content::Memory(bytes) = part {
            whole.extend_from_slice(bytes);
        }
    }
    vec![Content::from(whole)]
}
