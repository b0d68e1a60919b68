//! Private keys of signatures.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use mail_auth::common::crypto::{DkimKey, Ed25519Key, RsaKey, Sha256};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use crate::record::base64;

/// An algorithm of signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `rsa-sha256` with 2048 bits.
    Rsa,
    /// `ed25519-sha256` (RFC 8463).
    Ed25519,
}

/// A private key.
pub struct Key {
    der: PrivateKeyDer<'static>,
    record: String,
}

impl std::fmt::Debug for Key {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("record", &self.record).finish_non_exhaustive()
    }
}

impl Key {
    /// Reads a key in PEM form: PKCS #8 or PKCS #1, as opendkim-genkey(8) and openssl write them.
    ///
    /// # Errors
    /// What is wrong with it: no PEM, an unknown kind, RSA with fewer than 2048 bits.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        let der =
            PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| "no private key in PEM form".to_owned())?;
        let record = match read(&der)? {
            DkimKey::Rsa(key) => format!("v=DKIM1; k=rsa; p={}", base64(&subject_public_key(&key.public_key()))),
            DkimKey::Ed25519(key) => format!("v=DKIM1; k=ed25519; p={}", base64(&key.public_key())),
        };
        Ok(Self { der, record })
    }

    /// What DNS must say at `SELECTOR._domainkey.DOMAIN`.
    pub fn record(&self) -> &str {
        &self.record
    }

    /// The key as the library wants it.
    pub(crate) fn library(&self) -> Result<DkimKey, String> {
        read(&self.der)
    }
}

fn read(der: &PrivateKeyDer<'_>) -> Result<DkimKey, String> {
    if let Ok(key) = RsaKey::<Sha256>::from_key_der(der.clone_key()) {
        return Ok(DkimKey::Rsa(key));
    }
    let other = || "not an RSA key of 2048 bits or more, and no Ed25519 key".to_owned();
    let PrivateKeyDer::Pkcs8(pkcs8) = der else { return Err(other()) };
    Ed25519Key::from_pkcs8_maybe_unchecked_der(pkcs8.secret_pkcs8_der()).map(DkimKey::Ed25519).map_err(|_| other())
}

/// A new key, in PEM form.
///
/// # Errors
/// The system gives no random numbers.
pub fn generate(algorithm: Algorithm) -> Result<String, String> {
    let der = match algorithm {
        Algorithm::Ed25519 => Ed25519Key::generate_pkcs8().map_err(|error| error.to_string())?,
        Algorithm::Rsa => {
            let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| "no key could be made".to_owned())?;
            let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| "no key could be made".to_owned())?;
            der.as_ref().to_vec()
        }
    };
    let text = base64(&der);
    let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    Ok(pem)
}

/// RFC 5280 section 4.1: the SubjectPublicKeyInfo of an RSA key, from its PKCS #1 form.
fn subject_public_key(key: &[u8]) -> Vec<u8> {
    /// rsaEncryption, with NULL parameters.
    const ALGORITHM: [u8; 15] = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut out = vec![tag];
        let bytes = length.to_be_bytes();
        let significant: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
        match (length, u8::try_from(significant.len())) {
            (0..128, _) => out.push(length as u8),
            (_, count) => {
                out.push(0x80 | count.unwrap_or_default());
                out.extend_from_slice(&significant);
            }
        }
        parts.iter().for_each(|part| out.extend_from_slice(part));
        out
    }
    wrap(0x30, &[&ALGORITHM, &wrap(3, &[&[0], key])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_and_read() {
        let pem = generate(Algorithm::Ed25519).unwrap();
        let key = Key::from_pem(&pem).unwrap();
        assert!(key.record().starts_with("v=DKIM1; k=ed25519; p=") && key.record().len() == 22 + 44, "{key:?}");
        let pem = generate(Algorithm::Rsa).unwrap();
        let key = Key::from_pem(&pem).unwrap();
        assert!(key.record().starts_with("v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"), "{key:?}");
        assert!(!format!("{key:?}").contains(pem.lines().nth(3).unwrap()));
        for bad in ["", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert!(Key::from_pem(bad).is_err(), "{bad}");
        }
    }
}
