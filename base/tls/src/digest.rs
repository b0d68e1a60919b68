//! Digests for fingerprints (`smtpd_tls_fingerprint_digest`), written as `AA:BB:CC`.

use aws_lc_rs::digest;
use yamabiko_sasl::md5::md5;

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
