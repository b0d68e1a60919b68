//! A listing of the queue on the wire: frames of kind [`LISTING`] with messages one after the other, short and without
//! names, because a queue may hold a million of them. [`Writer`] makes them, [`Items`] takes them apart without copying.
//!
//! A message: its length (4 bytes, little-endian, itself not counted), queue and marks (1 byte each), arrival and size
//! (8 bytes each), name, sender, then recipients to its end. A name is a queue ID (12 bytes) or a file's name. A
//! recipient: a byte for what is known of it, address, and the reason unless it is that of the recipient before it.
//! Texts have their length before them (4 bytes).

use std::io;

use yamabiko_envelope::{QueueId, Timestamp};

use crate::control::QueueName;
use crate::frame;

/// Kind of the frames.
pub const LISTING: u8 = b'L';

const FORCED_EXPIRE: u8 = 1;
/// The name is a file's.
const FILE: u8 = 2;
/// The reason is that of the recipient before.
const SAME: u8 = 4;

/// The name of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// Its queue ID.
    Id(QueueId),
    /// The name of its file in `maildrop/`.
    File(&'a str),
}

/// Why a recipient is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left<'a> {
    /// It was not tried yet.
    Untried,
    /// It was deferred, with the reason.
    Delay(&'a str),
    /// It failed, and the notice about it is not sent yet; with the reason.
    Bounce(&'a str),
}

/// A message of a listing, but for its recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Where it is.
    pub queue: QueueName,
    /// Its name.
    pub name: Name<'a>,
    /// When it arrived.
    pub arrival: Timestamp,
    /// Bytes of content.
    pub size: u64,
    /// `postsuper -e` or `-f` was used on it.
    pub forced_expire: bool,
    /// Envelope sender, internal form.
    pub sender: &'a str,
}

/// Bytes of a frame's header.
const HEADER: usize = 5;

/// Makes a frame.
#[derive(Debug)]
pub struct Writer {
    /// Room for the frame's header, then the messages.
    bytes: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        Self { bytes: vec![0; HEADER] }
    }
}

impl Writer {
    /// Nothing written yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing written yet, with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut writer = Self { bytes: Vec::with_capacity(bytes + HEADER) };
        writer.bytes.resize(HEADER, 0);
        writer
    }

    /// Bytes of messages.
    pub fn len(&self) -> usize {
        self.bytes.len() - HEADER
    }

    /// True when there is no message.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The messages alone, for [`Items`].
    pub fn payload(&self) -> &[u8] {
        // The header's place is always there.
        &self.bytes[HEADER..]
    }

    /// Forgets what was written.
    pub fn clear(&mut self) {
        self.bytes.truncate(HEADER);
    }

    /// The whole frame.
    ///
    /// # Errors
    /// It is larger than a frame may be.
    pub fn into_frame(mut self) -> io::Result<Vec<u8>> {
        let header = frame::header(LISTING, self.len())?;
        self.bytes[..HEADER].copy_from_slice(&header);
        Ok(self.bytes)
    }

    /// Adds a message with those of its recipients that are left.
    pub fn message<'r>(&mut self, message: &Message<'_>, recipients: impl IntoIterator<Item = (&'r str, Left<'r>)>) {
        let Message { queue, name, arrival, size, forced_expire, sender } = *message;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let place = QueueName::ALL.iter().position(|known| *known == queue).unwrap_or(0) as u8;
        let file = if matches!(name, Name::File(_)) { FILE } else { 0 };
        self.bytes.extend_from_slice(&[place, file | if forced_expire { FORCED_EXPIRE } else { 0 }]);
        self.bytes.extend_from_slice(&arrival.0.to_le_bytes());
        self.bytes.extend_from_slice(&size.to_le_bytes());
        match name {
            Name::Id(id) => {
                self.bytes.extend_from_slice(&id.micros().to_le_bytes());
                self.bytes.extend_from_slice(&id.node().to_le_bytes());
            }
            Name::File(name) => self.text(name),
        }
        self.text(sender);
        let mut last = Left::Untried;
        for (address, left) in recipients {
            let (kind, reason) = match left {
                Left::Untried => (0, ""),
                Left::Delay(reason) => (1, reason),
                Left::Bounce(reason) => (2, reason),
            };
            let same = kind != 0 && left == last;
            self.bytes.push(kind | if same { SAME } else { 0 });
            self.text(address);
            if kind != 0 && !same {
                self.text(reason);
            }
            last = left;
        }
        // A message beyond four gigabytes cannot be: its frame would not fit either.
        let len = u32::try_from(self.bytes.len() - start - 4).unwrap_or(u32::MAX);
        // The four bytes were written above.
        self.bytes[start..start + 4].copy_from_slice(&len.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a listing that cannot be read")
}

/// Reads what [`Writer`] wrote, piece by piece.
#[derive(Clone, Copy, Debug)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> io::Result<&'a [u8]> {
        let (piece, rest) = self.0.split_at_checked(len).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(piece)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| malformed())
    }

    fn text(&mut self) -> io::Result<&'a str> {
        let len = u32::from_le_bytes(self.array()?);
        let bytes = self.take(usize::try_from(len).map_err(|_| malformed())?)?;
        std::str::from_utf8(bytes).map_err(|_| malformed())
    }
}

/// The messages of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Items<'a>(Bytes<'a>);

impl<'a> Items<'a> {
    /// Of a frame's payload.
    pub fn new(payload: &'a [u8]) -> Self {
        Self(Bytes(payload))
    }

    fn item(&mut self) -> io::Result<(Message<'a>, Recipients<'a>)> {
        let len = u32::from_le_bytes(self.0.array()?);
        let mut bytes = Bytes(self.0.take(usize::try_from(len).map_err(|_| malformed())?)?);
        let [queue, marks] = bytes.array()?;
        let queue = *QueueName::ALL.get(usize::from(queue)).ok_or_else(malformed)?;
        let arrival = Timestamp(u64::from_le_bytes(bytes.array()?));
        let size = u64::from_le_bytes(bytes.array()?);
        let name = if marks & FILE != 0 {
            Name::File(bytes.text()?)
        } else {
            let micros = u64::from_le_bytes(bytes.array()?);
            Name::Id(QueueId::new(micros, u32::from_le_bytes(bytes.array()?)))
        };
        let sender = bytes.text()?;
        let forced_expire = marks & FORCED_EXPIRE != 0;
        let message = Message { queue, name, arrival, size, forced_expire, sender };
        Ok((message, Recipients { bytes, last: "" }))
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = io::Result<(Message<'a>, Recipients<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.0.is_empty() {
            return None;
        }
        let item = self.item();
        if item.is_err() {
            // What follows cannot be found.
            self.0 = Bytes(&[]);
        }
        Some(item)
    }
}

/// The recipients of a message that are left.
#[derive(Clone, Copy, Debug)]
pub struct Recipients<'a> {
    bytes: Bytes<'a>,
    last: &'a str,
}

impl<'a> Recipients<'a> {
    fn recipient(&mut self) -> io::Result<(&'a str, Left<'a>)> {
        let [kind] = self.bytes.array()?;
        let address = self.bytes.text()?;
        let mut reason = || -> io::Result<&'a str> {
            if kind & SAME == 0 {
                self.last = self.bytes.text()?;
            }
            Ok(self.last)
        };
        let left = match kind & !SAME {
            0 => Left::Untried,
            1 => Left::Delay(reason()?),
            2 => Left::Bounce(reason()?),
            _ => return Err(malformed()),
        };
        Ok((address, left))
    }
}

impl<'a> Iterator for Recipients<'a> {
    type Item = io::Result<(&'a str, Left<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.0.is_empty() {
            return None;
        }
        let recipient = self.recipient();
        if recipient.is_err() {
            self.bytes = Bytes(&[]);
        }
        Some(recipient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: Name<'_>) -> Message<'_> {
        Message {
            queue: QueueName::Deferred,
            name,
            arrival: Timestamp(1_795_280_034_000_001),
            size: 700,
            forced_expire: true,
            sender: "s@b.example",
        }
    }

    fn written() -> Vec<u8> {
        let mut writer = Writer::new();
        assert!(writer.is_empty());
        let left = [
            ("a@x", Left::Untried),
            ("b@x", Left::Delay("refused")),
            ("c@x", Left::Delay("refused")),
            ("d@x", Left::Bounce("refused")),
            ("", Left::Delay("")),
        ];
        writer.message(&message(Name::Id(QueueId::new(1_795_280_034_000_001, 7))), left);
        writer.message(&message(Name::File("ABC")), []);
        assert!(writer.len() > 100);
        let bytes = writer.payload().to_vec();
        let frame = writer.into_frame().unwrap();
        assert_eq!(frame::read(&mut frame.as_slice()).unwrap(), Some((LISTING, bytes.clone())));
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = written();
        let items: Vec<_> = Items::new(&bytes).map(|item| item.unwrap()).collect();
        assert_eq!(items.len(), 2);
        assert_eq!(items[0].0, message(Name::Id(QueueId::new(1_795_280_034_000_001, 7))));
        let recipients: Vec<_> = items[0].1.map(|recipient| recipient.unwrap()).collect();
        assert_eq!(
            recipients,
            [
                ("a@x", Left::Untried),
                ("b@x", Left::Delay("refused")),
                ("c@x", Left::Delay("refused")),
                ("d@x", Left::Bounce("refused")),
                ("", Left::Delay("")),
            ]
        );
        assert_eq!(items[1].0, message(Name::File("ABC")));
        assert_eq!(items[1].1.count(), 0);
    }

    #[test]
    fn hostile_bytes_end_in_an_error() {
        let bytes = written();
        // Cut anywhere, and with any byte another.
        for n in 0..bytes.len() {
            read_all(&bytes[..n]);
            let mut other = bytes.clone();
            other[n] ^= 0xff;
            read_all(&other);
        }
        assert!(Items::new(&bytes[..bytes.len() - 1]).any(|item| item.is_err()));
        assert!(Items::new(&[255, 255, 255, 255, 0]).any(|item| item.is_err()));
    }

    fn read_all(bytes: &[u8]) {
        for (_, recipients) in Items::new(bytes).flatten() {
            assert!(recipients.count() <= bytes.len());
        }
    }
}
