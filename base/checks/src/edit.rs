//! Changes to a content, in order, without a copy of what stays.

use yamabiko_envelope::Content;

/// What stays between two changes is copied when it is shorter than this: a part costs about as much, and rules that
/// take every other line out of a long message must not make a million of them.
const COPIED_BELOW: u64 = 1024;

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
            self.keep(start);
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

    /// The source stays as it is from what is done to `until`.
    fn keep(&mut self, until: u64) {
        let kept = self.source.slice(self.done, until);
        // What cannot be read now says so when the message is written.
        if kept.len() < COPIED_BELOW
            && let Ok(bytes) = kept.to_bytes()
        {
            self.new.extend_from_slice(&bytes);
        } else {
            self.close();
            self.parts.push(kept);
        }
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

#[cfg(test)]
mod tests {
    use super::{COPIED_BELOW, Edits};
    use yamabiko_envelope::Content;

    fn text(parts: &[Content]) -> Vec<u8> {
        parts.iter().flat_map(|part| part.to_bytes().expect("in memory")).collect()
    }

    #[test]
    fn many_small_changes_make_few_parts() {
        let lines = 100_000_u64;
        let source = Content::from(b"kept\ngone\n".repeat(lines as usize));
        let mut edits = Edits::new(source);
        for line in 0..lines {
            edits.replace(line * 10 + 5, line * 10 + 10, b"");
        }
        let parts = edits.finish();
        assert_eq!(text(&parts), b"kept\n".repeat(lines as usize));
        assert!(parts.len() <= 2, "{} parts", parts.len());
    }

    #[test]
    fn long_stretches_are_not_copied() {
        let long = COPIED_BELOW as usize * 4;
        let source = Content::from([vec![b'a'; long], vec![b'b'; 10], vec![b'c'; long]].concat());
        let mut edits = Edits::new(source);
        edits.replace(long as u64, long as u64 + 10, b"new");
        let parts = edits.finish();
        assert_eq!(parts.len(), 3);
        assert_eq!(text(&parts), [vec![b'a'; long], b"new".to_vec(), vec![b'c'; long]].concat());
    }
}
