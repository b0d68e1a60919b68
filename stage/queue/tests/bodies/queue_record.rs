//! What must hold of any bytes that are read as parts of the queue's log. Run by the fuzzer and by an ordinary test.

use yamabiko_envelope::QueueId;
use yamabiko_queue::codec;
use yamabiko_queue::record::{Head, RECORDS, RecordKind, Seal, SegmentHeader, record_len, scan};

const SEAL: Seal = Seal { epoch: 7, salt: 0x1234_5678_9abc_def0 };

/// One input.
pub fn queue_record(data: &[u8]) {
    payloads(data);
    headers(data);
    segment(data);
}

/// Payloads are read without harm; what was read, written and read again is the same.
fn payloads(data: &[u8]) {
    let id = QueueId::new(5, 6);
    if let Ok(part) = codec::message(id, data) {
        let mut written = Vec::new();
        codec::put_message(&mut written, &part.standing, part.replaces, &part.envelope);
        assert_eq!(codec::message(id, &written).as_ref(), Ok(&part));
        let count =
            codec::message_outline(&written).and_then(|(_, _, inner)| codec::survey(inner)).map(|s| s.recipients);
        assert_eq!(count, Ok(part.envelope.recipients.len()));
    }
    if let Ok(envelope) = codec::envelope(id, data) {
        let mut written = Vec::new();
        codec::put_envelope(&mut written, &envelope);
        assert_eq!(codec::envelope(id, &written), Ok(envelope));
    }
    if let Ok(part) = codec::change(data) {
        let mut written = Vec::new();
        codec::put_change(&mut written, &part.standing, part.recipients.iter().map(|(n, state)| (*n, state)));
        assert_eq!(codec::change(&written).as_ref(), Ok(&part));
        assert_eq!(codec::change_standing(&written), Ok(part.standing));
    }
}

/// Headers are read without harm, and a segment of any bytes is scanned to its end.
fn headers(data: &[u8]) {
    let _ = SegmentHeader::from_block(data);
    let _ = Head::from_bytes(data, SEAL, 0);
    let end = scan(data, SEAL, u32::MAX, |_| panic!("a record without this seal"));
    assert_eq!(end.end, RECORDS);
}

/// Records of these bytes are found again, all of them; and after a byte was changed, all but one.
fn segment(data: &[u8]) {
    let mut bytes = vec![0; RECORDS as usize];
    let mut written = Vec::new();
    let mut rest = data;
    while let Some((&first, after)) = rest.split_first() {
        let (payload, after) = after.split_at(after.len().min(usize::from(first)));
        let (content, after) = after.split_at(after.len().min(usize::from(first) / 2));
        rest = after;
        let head = Head {
            kind: RecordKind::Message,
            large: false,
            copied: false,
            synced: 0,
            id: QueueId::new(written.len() as u64, 1),
            payload_len: payload.len() as u32,
            payload_crc: crc32c::crc32c(payload),
            content_len: content.len() as u64,
            content_crc: crc32c::crc32c(content),
        };
        let offset = bytes.len() as u32;
        bytes.extend_from_slice(&head.to_bytes(SEAL, offset));
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(content);
        let len = record_len(payload.len() as u64, content.len() as u64).unwrap();
        bytes.resize(offset as usize + len as usize, 0);
        written.push((offset, payload.to_vec()));
    }
    let read = |bytes: &[u8]| {
        let mut found = Vec::new();
        let end = scan(bytes, SEAL, u32::MAX, |record| found.push((record.offset, record.payload.to_vec())));
        (found, end)
    };
    let (found, end) = read(&bytes);
    assert_eq!(found, written);
    assert_eq!(end.end as usize, bytes.len());
    let room = bytes.len() - RECORDS as usize;
    if room == 0 {
        return;
    }
    let at =
        RECORDS as usize + data.iter().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(usize::from(*b))) % room;
    bytes[at] ^= 0x41;
    let (found, _) = read(&bytes);
    assert!(found.len() + 1 >= written.len(), "{} of {} after byte {at} was changed", found.len(), written.len());
    assert!(found.iter().all(|f| written.contains(f)));
    assert!(found.len() < written.len() || bytes[at] == 0x41, "a changed byte {at} was not noticed");
}
