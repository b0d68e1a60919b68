//! Signed tokens in reverse-paths: `you+yb1k3jd...@example.jp` instead of `you@example.jp`. A bounce that comes back to such
//! an address is about mail of ours, and says which.
//!
//! * [`Keys`] is the text of a key file. The first key signs, all of them verify: put a new line on top, and take the old one
//!   out when the mail that it signed is too old to come back.
//! * [`Claim`] is what a token says: the queue ID, and the recipient by [`recipient_hash`] where every recipient has a
//!   reverse-path of its own.
//! * [`Keys::sign`] makes the address; [`Keys::read`] tells what an address is: plain, ours, too old, or forged.
//!
//! A token is bound to its address: one of `a@example.jp` proves nothing for `b@example.jp`. It stands in the last extension
//! of the local part, so that mail systems that know extensions find the mailbox without knowing tokens. Letters and
//! digits only, read in any case of letters: `yb`, the key's name, base 32 (RFC 4648) of time, node, recipient and the first
//! 40 bits of HMAC-SHA256. That is 24 characters for a message, 29 with a recipient.

mod signing;

use std::fmt;
use std::time::Duration;

use aws_lc_rs::{constant_time, digest, hmac};
use yamabiko_address::domain::fold_case;
use yamabiko_address::split_domain;
use yamabiko_envelope::{QueueId, Timestamp};

pub use signing::{Signing, make_key_file};

/// Before the key's name.
const MARK: &str = "yb";
/// Bytes of the signature that are kept.
const SIGNATURE: usize = 5;
/// Bytes of a recipient's hash.
const HASH: usize = 3;
/// Bytes of a queue ID: seven of microseconds, one of the node.
const ID: usize = 8;
/// A local part may not be longer (RFC 5321 section 4.5.3.1.1).
const LOCAL_MAX: usize = 64;
/// Clocks of one cluster may differ by this.
const AHEAD: Duration = Duration::from_secs(3600);

/// What a token says of the mail that it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The message.
    pub queue_id: QueueId,
    /// [`recipient_hash`] of the recipient that the reverse-path was for; `None` when it was for all of the message's.
    pub recipient: Option<u32>,
}

impl Claim {
    /// The claim is about this recipient, or about all of its message.
    pub fn fits(&self, recipient: &str) -> bool {
        self.recipient.is_none_or(|hash| hash == recipient_hash(recipient))
    }
}

/// 24 bits of a recipient's address (internal form, folded): tells the recipients of one message apart.
pub fn recipient_hash(recipient: &str) -> u32 {
    let hash = digest::digest(&digest::SHA256, fold_case(recipient).as_bytes());
    hash.as_ref().iter().take(HASH).fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

/// What an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// There is no token in it.
    Plain,
    /// Ours.
    Valid {
        /// The address without its token.
        address: String,
        /// What the token says.
        claim: Claim,
    },
    /// Ours, from mail that is older than it may be.
    Expired {
        /// The address without its token.
        address: String,
        /// What the token says.
        claim: Claim,
    },
    /// It has the shape of a token and was made with none of our keys for this address.
    Forged {
        /// The address without what looks like a token.
        address: String,
    },
}

/// A fault in a key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError {
    /// Its line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong, and what to do.
    pub text: String,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.text),
            line => write!(f, "line {line}: {}", self.text),
        }
    }
}

impl std::error::Error for KeyError {}

struct Key {
    name: u8,
    secret: hmac::Key,
}

/// Secrets, by a name of one character.
pub struct Keys {
    keys: Vec<Key>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secrets are in no log.
        write!(f, "Keys({})", self.keys.iter().map(|key| char::from(key.name)).collect::<String>())
    }
}

impl Keys {
    /// A key per line: a letter or digit that names it, a blank, a secret of at least 16 characters. Empty lines and lines
    /// that begin with `#` are passed over.
    ///
    /// # Errors
    /// A line that is no key, a name that is there twice, no key at all.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut keys: Vec<Key> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |text: &str| KeyError { line: number + 1, text: text.to_owned() };
            let mut words = line.split_ascii_whitespace();
            let (name, secret) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let name = match name.as_bytes() {
                [byte] if byte.is_ascii_alphanumeric() => byte.to_ascii_lowercase(),
                _ => return Err(wrong("a key begins with its name, which is one letter or digit")),
            };
            if secret.len() < 16 || words.next().is_some() {
                return Err(wrong("after the name stands a secret of at least 16 characters without blanks"));
            }
            if keys.iter().any(|key| key.name == name) {
                return Err(wrong("there is a key with this name already"));
            }
            keys.push(Key { name, secret: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()) });
        }
        if keys.is_empty() {
            return Err(KeyError { line: 0, text: "there is no key in it".to_owned() });
        }
        Ok(Self { keys })
    }

    /// The address with a token. `None` where it has no place: no domain, or a local part that would be too long.
    pub fn sign(&self, address: &str, delimiter: char, claim: Claim) -> Option<String> {
        let key = self.keys.first()?;
        let (local, domain) = split_domain(address);
        let domain = domain?;
        let mut payload = Vec::with_capacity(ID + HASH + SIGNATURE);
        payload.extend_from_slice(&claim.queue_id.micros().to_be_bytes()[1..]);
        // A message of a node beyond 255 is named all the same by its microsecond.
        payload.push(u8::try_from(claim.queue_id.node()).unwrap_or(u8::MAX));
        if let Some(hash) = claim.recipient {
            payload.extend_from_slice(&hash.to_be_bytes()[1..]);
        }
        let signature = signature(key, address, &payload);
        payload.extend_from_slice(&signature);
        let token = format!("{MARK}{}{}", char::from(key.name), base32(&payload));
        let long = local.len() + delimiter.len_utf8() + token.len() > LOCAL_MAX;
        (!long && !local.is_empty()).then(|| format!("{local}{delimiter}{token}@{domain}"))
    }

    /// What an address is, at a time, with tokens good for a while. Any of `delimiters` may stand before a token.
    pub fn read(&self, address: &str, delimiters: &str, now: Timestamp, lifetime: Duration) -> Reading {
        let Some((plain, name, payload)) = parts(address, delimiters) else { return Reading::Plain };
        let Some(split) = payload.len().checked_sub(SIGNATURE) else { return Reading::Plain };
        let (said, signed) = payload.split_at(split);
        let ours = self.keys.iter().any(|key| {
            key.name == name && constant_time::verify_slices_are_equal(&signature(key, &plain, said), signed).is_ok()
        });
        if !ours {
            return Reading::Forged { address: plain };
        }
        // `parts` has seen that the length is one of the two.
        let micros = said[..ID - 1].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let hash = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
        let claim = Claim {
            queue_id: QueueId::new(micros, u32::from(said[ID - 1])),
            recipient: (said.len() > ID).then(|| hash(&said[ID..])),
        };
        let made = Timestamp(micros);
        if now.since(made) > lifetime || made.since(now) > AHEAD {
            return Reading::Expired { address: plain, claim };
        }
        Reading::Valid { address: plain, claim }
    }
}

/// The address without its token, the name of the key, the bytes of the token.
fn parts(address: &str, delimiters: &str) -> Option<(String, u8, Vec<u8>)> {
    let (local, domain) = split_domain(address);
    let domain = domain?;
    let (at, delimiter) = local.char_indices().rev().find(|(_, c)| delimiters.contains(*c))?;
    let token = local.get(at + delimiter.len_utf8()..)?;
    let mark = token.get(..MARK.len()).filter(|mark| mark.eq_ignore_ascii_case(MARK))?;
    let name = *token.as_bytes().get(mark.len())?;
    let payload = unbase32(token.as_bytes().get(mark.len() + 1..)?)?;
    let known = [ID + SIGNATURE, ID + HASH + SIGNATURE].contains(&payload.len());
    (known && at > 0 && name.is_ascii_alphanumeric())
        .then(|| (format!("{}@{domain}", &local[..at]), name.to_ascii_lowercase(), payload))
}

fn signature(key: &Key, address: &str, said: &[u8]) -> [u8; SIGNATURE] {
    let mut context = hmac::Context::with_key(&key.secret);
    context.update(b"reverse-path\0");
    context.update(fold_case(address).as_bytes());
    context.update(b"\0");
    context.update(said);
    let tag = context.sign();
    let mut first = [0; SIGNATURE];
    // HMAC-SHA256 has 32 bytes.
    first.copy_from_slice(&tag.as_ref()[..SIGNATURE]);
    first
}

const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn base32(bytes: &[u8]) -> String {
    let (mut held, mut bits, mut out) = (0u32, 0, String::with_capacity(bytes.len() * 8 / 5 + 1));
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            // Five bits: an index below 32.
            out.push(char::from(DIGITS[(held >> bits & 31) as usize]));
        }
        held &= 0xff;
    }
    if bits > 0 {
        out.push(char::from(DIGITS[(held << (5 - bits) & 31) as usize]));
    }
    out
}

/// `None` for other characters, and where the last one has bits that no byte needs.
fn unbase32(text: &[u8]) -> Option<Vec<u8>> {
    let (mut held, mut bits, mut out) = (0u32, 0, Vec::with_capacity(text.len() * 5 / 8));
    for byte in text {
        let digit = DIGITS.iter().position(|digit| *digit == byte.to_ascii_lowercase())?;
        held = held << 5 | u32::try_from(digit).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
        held &= 0xff;
    }
    (bits < 5 && held & ((1 << bits) - 1) == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_280_034_123_456);
    const WEEK: Duration = Duration::from_secs(604_800);

    fn keys(text: &str) -> Keys {
        Keys::parse(text).unwrap()
    }

    fn claim(recipient: Option<&str>) -> Claim {
        Claim { queue_id: QueueId::new(NOW.0 - 1000, 1), recipient: recipient.map(recipient_hash) }
    }

    #[test]
    fn what_is_signed_is_read() {
        let keys = keys("# keys\n1 0123456789abcdef0123\n");
        for (address, recipient, length) in [
            ("you@example.jp", None, 24),
            ("you@example.jp", Some("a@b.test"), 29),
            ("list+news@example.jp", Some("A@B.test"), 29),
            ("山@例え.test", Some("b"), 29),
        ] {
            let signed = keys.sign(address, '+', claim(recipient)).unwrap();
            let token = signed.rsplit_once('@').unwrap().0.rsplit_once('+').unwrap().1;
            assert_eq!(token.len(), length, "{signed}");
            let upper = signed.to_ascii_uppercase();
            let expected = Reading::Valid { address: address.to_owned(), claim: claim(recipient) };
            assert_eq!(keys.read(&signed, "-+", NOW, WEEK), expected, "{signed}");
            assert!(matches!(keys.read(&upper, "+", NOW, WEEK), Reading::Valid { .. }), "{upper}");
            assert!(matches!(keys.read(&signed, "+", NOW + WEEK, WEEK), Reading::Expired { .. }));
        }
        assert!(claim(Some("A@b.test")).fits("a@B.test") && !claim(Some("a@b.test")).fits("c@b.test"));
        assert!(claim(None).fits("anybody"));
    }

    #[test]
    fn what_is_not_signed_is_not_ours() {
        let keys = keys("1 0123456789abcdef0123\n");
        let signed = keys.sign("you@example.jp", '+', claim(None)).unwrap();
        for other in [
            signed.replace("you+", "me+"),
            signed.replace("example.jp", "example.com"),
            signed.replace("+yb1", "+yb2"),
            "x+yb1aaaaaaaaaaaaaaaaaaaaa@y".to_owned(),
        ] {
            assert!(matches!(keys.read(&other, "+", NOW, WEEK), Reading::Forged { .. }), "{other}");
        }
        for plain in [
            "you@example.jp",
            "you",
            "",
            "@",
            "+@x",
            "a+yb@x",
            "a+yb1@x",
            "a+ybéaaaaaaaaaaaaaaaaaaaaa@x",
            "you+yb1aaaa@example.jp",
            "+yb1aaaaaaaaaaaaaaaaaaaaa@x",
            "you+list@example.jp",
            "you+山@example.jp",
        ] {
            assert_eq!(keys.read(plain, "+", NOW, WEEK), Reading::Plain, "{plain}");
        }
    }

    #[test]
    fn keys_are_changed_in_turn() {
        let old = keys("a 0123456789abcdef0123\n");
        let both = keys("b fedcba98765432100123\n\na 0123456789abcdef0123\n");
        let new = keys("b fedcba98765432100123\n");
        let before = old.sign("you@example.jp", '+', claim(None)).unwrap();
        let after = both.sign("you@example.jp", '+', claim(None)).unwrap();
        assert!(after.contains("+ybb") && before.contains("+yba"));
        for (keys, address, valid) in [
            (&both, &before, true),
            (&both, &after, true),
            (&new, &after, true),
            (&new, &before, false),
            (&old, &after, false),
        ] {
            assert_eq!(matches!(keys.read(address, "+", NOW, WEEK), Reading::Valid { .. }), valid);
        }
    }

    #[test]
    fn long_addresses_are_left_alone() {
        let keys = keys("1 0123456789abcdef0123\n");
        for (length, fits) in [(34, true), (35, false), (64, false)] {
            let address = format!("{}@x", "l".repeat(length));
            assert_eq!(keys.sign(&address, '+', claim(Some("r"))).is_some(), fits, "{length}");
        }
        assert!(keys.sign("nodomain", '+', claim(None)).is_none() && keys.sign("", '+', claim(None)).is_none());
    }

    #[test]
    fn faults_of_key_files() {
        for (text, line) in [
            ("", 0),
            ("1 short", 1),
            ("\nlong 0123456789abcdef", 2),
            ("1 0123456789abcdef x", 1),
            ("1 0123456789abcdef\n1 0123456789abcdeg", 2),
        ] {
            assert_eq!(Keys::parse(text).unwrap_err().line, line, "{text:?}");
        }
    }

    #[test]
    fn base_32() {
        for (bytes, text) in [(&b""[..], ""), (b"f", "my"), (b"foobar", "mzxw6ytboi"), (b"fooba", "mzxw6ytb")] {
            assert_eq!(base32(bytes), text);
            assert_eq!(unbase32(text.as_bytes()).unwrap(), bytes);
        }
        for text in ["m", "m1", "mz", "my=", "mzxw6ytboj"] {
            assert_eq!(unbase32(text.as_bytes()), None, "{text}");
        }
    }
}
