//! Queue IDs in Postfix's long form (`enable_long_queue_ids`): time in base 52, `z`, a number in base 51.
//!
//! Ours are unique for ever and sort by time of arrival: the microseconds only go forward within a source, and the
//! number after `z`, an inode in Postfix, is the number of the node that accepted the message.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Digits of base 52: no vowels, so no words; `z` is only used as the separator below base 52.
const DIGITS: &[u8; 52] = b"0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz";

/// Names one message. Twelve bytes, ordered by time of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId {
    micros: u64,
    node: u32,
}

impl QueueId {
    /// From the microsecond of arrival and the number of the accepting node.
    pub const fn new(micros: u64, node: u32) -> Self {
        Self { micros, node }
    }
    /// The microseconds since the epoch that the ID was made from.
    pub fn micros(self) -> u64 {
        self.micros
    }
    /// The node that accepted the message.
    pub fn node(self) -> u32 {
        self.node
    }
}

fn put(out: &mut [u8], mut value: u64, base: u64) {
    for slot in out.iter_mut().rev() {
        // The remainder is below 52, the number of digits.
        *slot = DIGITS[(value % base) as usize];
        value /= base;
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; 24];
        put(&mut text[..6], self.micros / 1_000_000, 52);
        put(&mut text[6..10], self.micros % 1_000_000, 52);
        text[10] = b'z';
        let mut digits = 1;
        while 51u64.pow(digits) <= u64::from(self.node) {
            digits += 1;
        }
        let end = 11 + digits as usize;
        put(&mut text[11..end], u64::from(self.node), 51);
        // Every byte is from DIGITS, which is ASCII.
        f.pad(std::str::from_utf8(&text[..end]).unwrap_or_default())
    }
}

/// The text is not a long queue ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAQueueId;

impl fmt::Display for NotAQueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a queue ID")
    }
}

impl std::error::Error for NotAQueueId {}

fn get(text: &[u8], base: u64) -> Result<u64, NotAQueueId> {
    text.iter().try_fold(0u64, |sum, byte| {
        let digit = DIGITS.iter().position(|d| d == byte).ok_or(NotAQueueId)? as u64;
        if digit >= base {
            return Err(NotAQueueId);
        }
        sum.checked_mul(base).and_then(|s| s.checked_add(digit)).ok_or(NotAQueueId)
    })
}

impl FromStr for QueueId {
    type Err = NotAQueueId;

    fn from_str(s: &str) -> Result<Self, NotAQueueId> {
        let b = s.as_bytes();
        if b.len() < 12 || b.len() > 17 || b[10] != b'z' {
            return Err(NotAQueueId);
        }
        let micros = get(&b[6..10], 52)?;
        if micros >= 1_000_000 {
            return Err(NotAQueueId);
        }
        let node = u32::try_from(get(&b[11..], 51)?).map_err(|_| NotAQueueId)?;
        let id = Self { micros: get(&b[..6], 52)? * 1_000_000 + micros, node };
        // One message has one name: leading zeros in the node number are not it.
        if id.to_string() == s { Ok(id) } else { Err(NotAQueueId) }
    }
}

impl Serialize for QueueId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for QueueId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Hands out queue IDs that never repeat, whatever the clock does.
#[derive(Debug)]
pub struct QueueIdSource {
    last: AtomicU64,
    node: u32,
}

impl QueueIdSource {
    /// `newest` is the newest ID the queue has ever given out (from recovery): a clock that was set back does not
    /// make an old name again.
    pub fn new(node: u32, newest: Option<QueueId>) -> Self {
        Self { last: AtomicU64::new(newest.map_or(0, |id| id.micros)), node }
    }

    /// An ID for a message that arrives now.
    pub fn next(&self, now: crate::Timestamp) -> QueueId {
        let step = |last: u64| now.0.max(last + 1);
        // The closure always returns Some, so the update cannot fail.
        let last = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(step(last)))
            .unwrap_or_else(|last| last);
        QueueId { micros: step(last), node: self.node }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[test]
    fn round_trip_and_order() {
        let mut last = String::new();
        for micros in [1_000_000u64, 1_795_280_034_000_001, 1_795_280_034_999_999, 1_795_280_035_000_000] {
            for node in [0, 1, 50, 51, 2600, u32::MAX] {
                let id = QueueId::new(micros, node);
                assert_eq!(id.to_string().parse(), Ok(id), "{id}");
            }
            let text = QueueId::new(micros, 1).to_string();
            assert!(text > last);
            last = text;
        }
        for bad in ["", "9C5269BCFE4", "zzzzzzzzzzzz", "4Xyzabc", "3bCDFGz0000z", "../../../../etc"] {
            assert_eq!(bad.parse::<QueueId>(), Err(NotAQueueId), "{bad}");
        }
    }

    #[test]
    fn a_clock_that_goes_back_repeats_nothing() {
        let source = QueueIdSource::new(7, Some(QueueId::new(500, 7)));
        assert_eq!(source.next(Timestamp(400)).micros(), 501);
        assert_eq!(source.next(Timestamp(900)).micros(), 900);
        assert_eq!(source.next(Timestamp(900)).micros(), 901);
    }
}
