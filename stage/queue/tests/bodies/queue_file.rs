//! What must hold of any bytes that are read as a message's own file or as a side index. Run by the fuzzer and by an
//! ordinary test.

use yamabiko_envelope::{QueueId, Timestamp};
use yamabiko_queue::codec::{Hints, Standing, Survey};
use yamabiko_queue::record::Seal;
use yamabiko_queue::{readable, sidecar};

const SEAL: Seal = Seal { epoch: 7, salt: 0x1234_5678_9abc_def0 };

/// One input.
pub fn queue_file(data: &[u8]) {
    // A file is read without harm; what was read, written and read again is the same.
    if let Ok(head) = readable::parse(data) {
        assert!(head.len <= data.len());
        let text = readable::head(&head.envelope, &head.standing, head.content_len, head.content_crc);
        assert_eq!(readable::parse(text.as_bytes()), Ok(readable::Head { len: text.len(), ..head }));
    }
    assert!(sidecar::from_bytes(data, SEAL, 0).is_none(), "a side index out of nothing");
    // An index of these notes is read again, and not when a byte was changed, nor for another use of the segment.
    let notes: Vec<sidecar::Note> = data.chunks(24).map(note).collect();
    let mut bytes = sidecar::to_bytes(SEAL, 99, &notes);
    let known: Vec<_> = notes.into_iter().filter(|note| note.what != sidecar::Says::Nothing).collect();
    assert_eq!(sidecar::from_bytes(&bytes, SEAL, 99).as_ref(), Some(&known));
    assert!(sidecar::from_bytes(&bytes, SEAL, 98).is_none());
    assert!(sidecar::from_bytes(&bytes, Seal { epoch: 8, ..SEAL }, 99).is_none());
    // What an earlier, longer one has left behind it does not matter.
    bytes.extend_from_slice(data);
    assert_eq!(sidecar::from_bytes(&bytes, SEAL, 99), Some(known));
    bytes.truncate(bytes.len() - data.len());
    let at = data.iter().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(usize::from(*b))) % bytes.len();
    bytes[at] ^= 0x41;
    assert!(sidecar::from_bytes(&bytes, SEAL, 99).is_none(), "a changed byte {at} was not noticed");
}

/// Some note.
fn note(bytes: &[u8]) -> sidecar::Note {
    let byte = |n: usize| bytes.get(n).copied().unwrap_or(0);
    let wide = |n: usize| u64::from_le_bytes([n, n + 1, n + 2, n + 3, n, n, n, n].map(byte));
    let standing = Standing {
        next_attempt: Timestamp(wide(1)),
        attempts: u16::from(byte(5)) << 7,
        flags: yamabiko_queue::Flags::default().with_hold(byte(6) & 1 == 1).with_warned(byte(6) & 2 == 2),
    };
    let what = match byte(0) % 6 {
        0 => sidecar::Says::Message {
            standing,
            replaces: (byte(7) & 1 == 1).then(|| QueueId::new(wide(8), 3)),
            survey: Survey {
                recipients: usize::from(byte(9)),
                arrival: Timestamp(wide(10)),
                hints: Hints { sender: u16::from(byte(11)), recipients: u16::from(byte(12)) << 8 },
            },
            large: (byte(7) & 2 == 2).then(|| wide(13)),
        },
        1 => sidecar::Says::Change(standing, true),
        2 => sidecar::Says::Change(standing, false),
        3 => sidecar::Says::Remove,
        4 => sidecar::Says::Reclaim,
        _ => sidecar::Says::Nothing,
    };
    sidecar::Note { offset: wide(14) as u32, len: wide(18) as u32, id: QueueId::new(wide(20), 1), what }
}
