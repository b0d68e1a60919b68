//! Length, kind, payload: four bytes big-endian, one byte, that many bytes.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest payload that is read: a listing entry with very many recipients must fit, a forged length must not hurt.
pub const LIMIT: u32 = 64 << 20;

/// A typed message in JSON.
pub const MESSAGE: u8 = b'J';
/// Bytes of a message's content; an empty frame of this kind ends it.
pub const BYTES: u8 = b'B';

/// Header of a frame: payload length and kind.
pub fn header(kind: u8, len: usize) -> io::Result<[u8; 5]> {
    let len = u32::try_from(len).ok().filter(|len| *len <= LIMIT).ok_or_else(|| too_long(len as u64))?;
    let [a, b, c, d] = len.to_be_bytes();
    Ok([a, b, c, d, kind])
}

/// The kind and the length from a header, the length within [`LIMIT`].
pub fn parse_header(header: [u8; 5]) -> io::Result<(u8, usize)> {
    let [a, b, c, d, kind] = header;
    let len = u32::from_be_bytes([a, b, c, d]);
    if len > LIMIT {
        return Err(too_long(u64::from(len)));
    }
    Ok((kind, len as usize))
}

fn too_long(len: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes is over the limit of {LIMIT}"))
}

/// Writes one frame with one write.
pub fn write(out: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let mut all = Vec::with_capacity(5 + payload.len());
    all.extend_from_slice(&header(kind, payload.len())?);
    all.extend_from_slice(payload);
    out.write_all(&all)
}

/// A message as a whole frame, ready to be written.
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut all = vec![0; 5];
    serde_json::to_writer(&mut all, message)?;
    let head = header(MESSAGE, all.len() - 5)?;
    all[..5].copy_from_slice(&head);
    Ok(all)
}

/// Writes a typed message.
pub fn send(out: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    out.write_all(&encode(message)?)
}

/// Reads one frame; `None` at a clean end.
pub fn read(input: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut head = [0; 5];
    let mut got = 0;
    while got < head.len() {
        match input.read(&mut head[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let (kind, len) = parse_header(head)?;
    // Grows with what arrives, not with what is announced.
    let mut payload = Vec::with_capacity(len.min(1 << 16));
    if input.take(len as u64).read_to_end(&mut payload)? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((kind, payload)))
}

/// A typed message out of a frame that must be one.
pub fn decode<M: DeserializeOwned>(kind: u8, payload: &[u8]) -> io::Result<M> {
    if kind != MESSAGE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of kind {kind} where a message was due"),
        ));
    }
    serde_json::from_slice(payload).map_err(io::Error::from)
}

/// Reads a typed message; a clean end is an error here.
pub fn receive<M: DeserializeOwned>(input: &mut impl Read) -> io::Result<M> {
    let (kind, payload) = read(input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    decode(kind, &payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip() {
        let mut wire = Vec::new();
        send(&mut wire, &vec!["a", "b"]).unwrap();
        write(&mut wire, BYTES, b"\0\xff").unwrap();
        let mut input = wire.as_slice();
        assert_eq!(receive::<Vec<String>>(&mut input).unwrap(), ["a", "b"]);
        assert_eq!(read(&mut input).unwrap(), Some((BYTES, b"\0\xff".to_vec())));
        assert_eq!(read(&mut input).unwrap(), None);
    }

    #[test]
    fn damage_is_an_error_and_costs_nothing() {
        for bad in [&b"\xff\xff\xff\xffJ"[..], b"\0\0\0\x05J12", b"\0\0", b"\0\0\0\x01B1", b"\0\0\0\x02J{]"] {
            assert!(receive::<Vec<String>>(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }
}
