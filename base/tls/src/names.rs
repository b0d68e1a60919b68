//! What OpenSSL, and so Postfix's log and `Received:` fields, call the things that were agreed upon.

use rustls::{CipherSuite, NamedGroup, ProtocolVersion, SignatureScheme};

use crate::certificate::KeyKind;

/// A cipher suite: its name, and the bits of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cipher {
    /// As OpenSSL names it.
    pub name: &'static str,
    /// Bits of the key, used and of the algorithm alike.
    pub bits: u16,
}

/// `TLSv1.3`
pub fn protocol(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "unknown",
    }
}

/// `TLS_AES_256_GCM_SHA384`, `ECDHE-RSA-AES128-GCM-SHA256`
pub fn cipher(suite: CipherSuite) -> Cipher {
    let (name, bits) = match suite {
        CipherSuite::TLS13_AES_256_GCM_SHA384 => ("TLS_AES_256_GCM_SHA384", 256),
        CipherSuite::TLS13_AES_128_GCM_SHA256 => ("TLS_AES_128_GCM_SHA256", 128),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => ("TLS_CHACHA20_POLY1305_SHA256", 256),
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => ("ECDHE-ECDSA-AES256-GCM-SHA384", 256),
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => ("ECDHE-ECDSA-AES128-GCM-SHA256", 128),
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => ("ECDHE-ECDSA-CHACHA20-POLY1305", 256),
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => ("ECDHE-RSA-AES256-GCM-SHA384", 256),
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => ("ECDHE-RSA-AES128-GCM-SHA256", 128),
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => ("ECDHE-RSA-CHACHA20-POLY1305", 256),
        other => (other.as_str().unwrap_or("unknown"), 0),
    };
    Cipher { name, bits }
}

/// `X25519`, `ECDHE (prime256v1)`
pub fn group(group: NamedGroup) -> String {
    match group {
        NamedGroup::secp256r1 => "ECDHE (prime256v1)".to_owned(),
        NamedGroup::secp384r1 => "ECDHE (secp384r1)".to_owned(),
        NamedGroup::secp521r1 => "ECDHE (secp521r1)".to_owned(),
        other => other.as_str().unwrap_or("unknown").to_owned(),
    }
}

/// How a side proved that it has its key: `RSA-PSS (2048 bits)`, and the digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// With the size of the key, or its curve.
    pub name: String,
    /// `SHA256`; empty when the algorithm has its own.
    pub digest: &'static str,
}

/// The signature of a side whose key is of this kind.
pub fn signature(scheme: SignatureScheme, key: KeyKind) -> Signature {
    let (name, digest) = match scheme {
        SignatureScheme::RSA_PSS_SHA256 => ("RSA-PSS", "SHA256"),
        SignatureScheme::RSA_PSS_SHA384 => ("RSA-PSS", "SHA384"),
        SignatureScheme::RSA_PSS_SHA512 => ("RSA-PSS", "SHA512"),
        SignatureScheme::RSA_PKCS1_SHA256 => ("RSA", "SHA256"),
        SignatureScheme::RSA_PKCS1_SHA384 => ("RSA", "SHA384"),
        SignatureScheme::RSA_PKCS1_SHA512 => ("RSA", "SHA512"),
        SignatureScheme::ECDSA_NISTP256_SHA256 => ("ECDSA", "SHA256"),
        SignatureScheme::ECDSA_NISTP384_SHA384 => ("ECDSA", "SHA384"),
        SignatureScheme::ECDSA_NISTP521_SHA512 => ("ECDSA", "SHA512"),
        SignatureScheme::ED25519 => ("ED25519", ""),
        other => (other.as_str().unwrap_or("unknown"), ""),
    };
    let name = match key {
        KeyKind::Rsa(bits) => format!("{name} ({bits} bits)"),
        KeyKind::Curve(curve) => format!("{name} ({curve})"),
        KeyKind::Other => name.to_owned(),
    };
    Signature { name, digest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_its_name() {
        for suite in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES {
            let Cipher { name, bits } = cipher(suite.suite());
            assert!(bits >= 128 && !name.contains("WITH") && !name.starts_with("TLS13"), "{name} {bits}");
        }
    }

    #[test]
    fn signatures() {
        for (scheme, key, name, digest) in [
            (SignatureScheme::RSA_PSS_SHA256, KeyKind::Rsa(2048), "RSA-PSS (2048 bits)", "SHA256"),
            (SignatureScheme::ECDSA_NISTP384_SHA384, KeyKind::Curve("secp384r1"), "ECDSA (secp384r1)", "SHA384"),
            (SignatureScheme::ED25519, KeyKind::Other, "ED25519", ""),
        ] {
            assert_eq!(signature(scheme, key), Signature { name: name.to_owned(), digest });
        }
    }
}
