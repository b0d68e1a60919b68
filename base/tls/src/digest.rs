//! Digests for fingerprints (`smtpd_tls_fingerprint_digest`), written as `AA:BB:CC`.

use aws_lc_rs::digest;

/// A digest that fingerprints are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    /// `md5`: what configurations below compatibility level 3.6 use. Not for anything new.
    Md5,
    /// `sha1`
    Sha1,
    /// `sha256`
    Sha256,
    /// `sha384`
    Sha384,
    /// `sha512`
    Sha512,
}

impl Digest {
    /// By its name in main.cf.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "md5" => Self::Md5,
            "sha1" | "sha" | "sha-1" => Self::Sha1,
            "sha256" | "sha-256" | "sha2-256" => Self::Sha256,
            "sha384" | "sha-384" | "sha2-384" => Self::Sha384,
            "sha512" | "sha-512" | "sha2-512" => Self::Sha512,
            _ => return None,
        })
    }

    /// `AA:BB:CC` of `bytes`.
    pub fn fingerprint(self, bytes: &[u8]) -> String {
        let algorithm = match self {
            Self::Md5 => return hex(&md5(bytes)),
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        hex(digest::digest(algorithm, bytes).as_ref())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// RFC 1321 section 3.4: how far each step turns.
const TURNS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// RFC 1321. Broken as a signature; here it only names certificates that old tables name so.
fn md5(bytes: &[u8]) -> [u8; 16] {
    // RFC 1321 section 3.4: the integer part of 2^32 times the sine.
    let sines: [u32; 64] = std::array::from_fn(|i| (((i + 1) as f64).sin().abs() * 4_294_967_296.0) as u32);
    let mut padded = bytes.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(bytes.len() as u64).wrapping_mul(8).to_le_bytes());
    let mut state = [0x6745_2301u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded.chunks_exact(64) {
        let mut words = [0u32; 16];
        for (word, quad) in words.iter_mut().zip(block.chunks_exact(4)) {
            // Exactly four bytes.
            *word = u32::from_le_bytes([quad[0], quad[1], quad[2], quad[3]]);
        }
        let [mut a, mut b, mut c, mut d] = state;
        for i in 0..64 {
            // All indices are below 16 or 64.
            let (mix, at) = match i / 16 {
                0 => ((b & c) | (!b & d), i),
                1 => ((d & b) | (!d & c), 5 * i + 1),
                2 => (b ^ c ^ d, 3 * i + 5),
                _ => (c ^ (b | !d), 7 * i),
            };
            let sum = a.wrapping_add(mix).wrapping_add(sines[i]).wrapping_add(words[at % 16]);
            (a, d, c, b) = (d, c, b, b.wrapping_add(sum.rotate_left(TURNS[i / 16][i % 4])));
        }
        for (old, new) in state.iter_mut().zip([a, b, c, d]) {
            *old = old.wrapping_add(new);
        }
    }
    let mut out = [0; 16];
    for (quad, word) in out.chunks_exact_mut(4).zip(state) {
        quad.copy_from_slice(&word.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // RFC 1321 section A.5.
        for (text, expected) in [
            ("", "D4:1D:8C:D9:8F:00:B2:04:E9:80:09:98:EC:F8:42:7E"),
            ("abc", "90:01:50:98:3C:D2:4F:B0:D6:96:3F:7D:28:E1:7F:72"),
            ("message digest", "F9:6B:69:7D:7C:B7:93:8D:52:5A:2F:31:AA:F1:61:D0"),
            (
                "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
                "57:ED:F4:A2:2B:E3:C9:55:AC:49:DA:2E:21:07:B6:7A",
            ),
        ] {
            assert_eq!(Digest::Md5.fingerprint(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(Digest::Sha1.fingerprint(b"abc"), "A9:99:3E:36:47:06:81:6A:BA:3E:25:71:78:50:C2:6C:9C:D0:D8:9D");
        for (name, len) in [("md5", 47), ("SHA1", 59), ("sha256", 95), ("sha384", 143), ("sha512", 191)] {
            assert_eq!(Digest::of(name).map(|d| d.fingerprint(b"x").len()), Some(len), "{name}");
        }
        assert_eq!(Digest::of("crc32"), None);
    }
}
