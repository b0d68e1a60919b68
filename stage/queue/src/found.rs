//! What was found for a predicate: a long list of messages in little memory, kept from a count to the change that follows
//! it, and how to tell which of them have changed in between.
//!
//! To find out what is meant may take the reading of every envelope; it is read once. Names are kept as the distance from
//! the one before, four or five bytes each. Where the predicate asks for what may change, four more bytes are the
//! *print*: a checksum of where the message's records are. A record is never written twice at one place, so whatever
//! was recorded of the message since changes the print, and only such a message is read again.

use yamabiko_envelope::QueueId;

use crate::codec::{number, put_number};

/// A message that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name.
    pub queue_id: QueueId,
    /// How it was; 0 where that does not matter.
    pub(crate) print: u32,
}

/// Messages that were found, oldest first.
#[derive(Clone, Debug)]
pub struct Found {
    bytes: Vec<u8>,
    len: usize,
    last: QueueId,
    prints: bool,
}

impl Default for Found {
    /// Nothing.
    fn default() -> Self {
        Self::new(false)
    }
}

impl Found {
    /// Nothing yet; with prints or without.
    pub(crate) fn new(prints: bool) -> Self {
        Self { bytes: Vec::new(), len: 0, last: START, prints }
    }

    /// Adds one that comes after all others.
    pub(crate) fn push(&mut self, seen: Seen) {
        debug_assert!(self.len == 0 || seen.queue_id > self.last, "{} after {}", seen.queue_id, self.last);
        put_number(&mut self.bytes, seen.queue_id.micros().wrapping_sub(self.last.micros()));
        // Mostly 0: one server, one number.
        put_number(&mut self.bytes, u64::from(seen.queue_id.node() ^ self.last.node()));
        if self.prints {
            self.bytes.extend_from_slice(&seen.print.to_le_bytes());
        }
        self.last = seen.queue_id;
        self.len += 1;
    }

    /// No more will come.
    pub(crate) fn finish(mut self) -> Self {
        self.bytes.shrink_to_fit();
        self
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the list takes in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// The messages, oldest first.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.bytes, last: START, prints: self.prints }
    }
}

/// Before every name.
const START: QueueId = QueueId::new(0, 0);

/// The messages of a [`Found`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    rest: &'a [u8],
    last: QueueId,
    prints: bool,
}

impl Iterator for Iter<'_> {
    type Item = Seen;

    /// Our own bytes: what cannot be read is their end.
    fn next(&mut self) -> Option<Seen> {
        let micros = self.last.micros().wrapping_add(number(&mut self.rest).ok()?);
        // It was 32 bits.
        let node = self.last.node() ^ number(&mut self.rest).ok()? as u32;
        let mut print = 0;
        if self.prints {
            let (bytes, rest) = self.rest.split_first_chunk()?;
            (print, self.rest) = (u32::from_le_bytes(*bytes), rest);
        }
        self.last = QueueId::new(micros, node);
        Some(Seen { queue_id: self.last, print })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        for prints in [false, true] {
            for names in [
                &[][..],
                &[(0, 0)],
                &[(0, 1), (0, 2), (0, u32::MAX)],
                &[(u64::MAX, u32::MAX)],
                &[(1, 7), (1 << 40, 7), ((1 << 40) + 1, 3), (u64::MAX - 1, 3), (u64::MAX, 0)],
            ] {
                let seen = |(n, (micros, node)): (usize, &(u64, u32))| Seen {
                    queue_id: QueueId::new(*micros, *node),
                    print: if prints { 0x0102_0304 + n as u32 } else { 0 },
                };
                let all: Vec<Seen> = names.iter().enumerate().map(seen).collect();
                let mut found = Found::new(prints);
                all.iter().for_each(|seen| found.push(*seen));
                let found = found.finish();
                assert_eq!(found.len(), all.len());
                assert_eq!(found.is_empty(), all.is_empty());
                assert_eq!(found.iter().collect::<Vec<_>>(), all);
            }
        }
    }

    /// A million that came over three days.
    #[test]
    fn a_message_takes_few_bytes() {
        for (prints, most) in [(false, 4), (true, 8)] {
            let mut found = Found::new(prints);
            for n in 0..100_000 {
                found.push(Seen { queue_id: QueueId::new(1_795_000_000_000_000 + n * 259_200, 1), print: 5 });
            }
            let bytes = found.finish().bytes();
            assert!(bytes <= most * 100_000 + 16, "{bytes}");
        }
    }
}
