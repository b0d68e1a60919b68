//! SCRAM (RFC 5802, RFC 7677), the server's side: what is stored, and the arithmetic of an exchange.

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use std::fmt;
use std::num::NonZeroU32;

use crate::base64;

/// The hash of a SCRAM mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// `SCRAM-SHA-1`
    Sha1,
    /// `SCRAM-SHA-256`
    Sha256,
}

impl Hash {
    fn hmac(self, key: &[u8], text: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), text).as_ref().to_vec()
    }

    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
        };
        digest::digest(algorithm, bytes).as_ref().to_vec()
    }

    fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SCRAM-SHA-1",
            Self::Sha256 => "SCRAM-SHA-256",
        }
    }
}

/// Iterations that a stored verifier may ask for.
const MAX_ITERATIONS: u32 = 10_000_000;

/// What is stored in place of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    /// Of which mechanism.
    pub hash: Hash,
    /// Rounds of PBKDF2.
    pub iterations: u32,
    /// Salt.
    pub salt: Vec<u8>,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

impl Verifier {
    /// From a password. RFC 5802 section 3.
    pub fn new(hash: Hash, password: &str, salt: &[u8], iterations: u32) -> Self {
        let mut salted = vec![0; hash.len()];
        let algorithm = match hash {
            Hash::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
        };
        let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        pbkdf2::derive(algorithm, rounds, salt, password.as_bytes(), &mut salted);
        let stored_key = hash.digest(&hash.hmac(&salted, b"Client Key"));
        let server_key = hash.hmac(&salted, b"Server Key");
        Self { hash, iterations: rounds.get(), salt: salt.to_vec(), stored_key, server_key }
    }

    /// A verifier that no password fits, for users who are not there: the same for the same user, so that nobody can
    /// tell.
    pub fn of_nobody(hash: Hash, user: &str, secret: &[u8]) -> Self {
        let salt = Hash::Sha256.hmac(secret, user.as_bytes());
        let salt = salt.get(..16).unwrap_or_default().to_vec();
        let keys = Hash::Sha256.hmac(secret, &salt);
        Self { hash, iterations: 10_000, salt, stored_key: keys.clone(), server_key: keys }
    }

    /// `SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER`, or Dovecot's `ITERATIONS,SALT,STORED,SERVER` (SHA-256).
    pub fn parse(text: &str) -> Option<Self> {
        let (hash, parts): (_, Vec<&str>) = match text.split_once('$') {
            Some(("SCRAM-SHA-256", rest)) => (Hash::Sha256, rest.split(['$', ':']).collect()),
            Some(("SCRAM-SHA-1", rest)) => (Hash::Sha1, rest.split(['$', ':']).collect()),
            None => {
                let parts: Vec<&str> = text.split(',').collect();
                let long = parts.last().is_some_and(|key| key.len() > 30);
                (if long { Hash::Sha256 } else { Hash::Sha1 }, parts)
            }
            _ => return None,
        };
        let [iterations, salt, stored, server] = parts[..] else { return None };
        let iterations = iterations.parse().ok().filter(|n| (1..=MAX_ITERATIONS).contains(n))?;
        let key = |text: &str| base64::decode(text).filter(|key| key.len() == hash.len());
        Some(Self { hash, iterations, salt: base64::decode(salt)?, stored_key: key(stored)?, server_key: key(server)? })
    }

    /// The verifier was made of this password.
    pub fn fits(&self, password: &str) -> bool {
        let other = Self::new(self.hash, password, &self.salt, self.iterations);
        constant_time::verify_slices_are_equal(&other.stored_key, &self.stored_key).is_ok()
    }

    /// The client's proof shows that it has the password. `None` when not; else the server's signature. RFC 5802
    /// section 3.
    pub fn check(&self, auth_message: &str, proof: &[u8]) -> Option<Vec<u8>> {
        let signature = self.hash.hmac(&self.stored_key, auth_message.as_bytes());
        if proof.len() != signature.len() {
            return None;
        }
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let found = self.hash.digest(&client_key);
        constant_time::verify_slices_are_equal(&found, &self.stored_key).ok()?;
        Some(self.hash.hmac(&self.server_key, auth_message.as_bytes()))
    }
}

/// The client's side: its proof that it has the password, and the signature by which the server proves that it has the
/// verifier. RFC 5802 section 3.
pub fn prove(hash: Hash, password: &str, salt: &[u8], iterations: u32, auth_message: &str) -> (Vec<u8>, Vec<u8>) {
    let mut salted = vec![0; hash.len()];
    let algorithm = match hash {
        Hash::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
        Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
    };
    let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(algorithm, rounds, salt, password.as_bytes(), &mut salted);
    let client_key = hash.hmac(&salted, b"Client Key");
    let signature = hash.hmac(&hash.digest(&client_key), auth_message.as_bytes());
    let proof = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
    let server_key = hash.hmac(&salted, b"Server Key");
    (proof, hash.hmac(&server_key, auth_message.as_bytes()))
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = base64::encode;
        let (salt, stored, server) = (text(&self.salt), text(&self.stored_key), text(&self.server_key));
        write!(f, "{}${}:{salt}${stored}:{server}", self.hash.name(), self.iterations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfcs() {
        for (hash, salt, first, last, proof, signature) in [
            (
                Hash::Sha1,
                "QSXCR+Q6sek8bf92",
                "n=user,r=fyko+d2lbbFgONRv9qkxdawL,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
                "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j",
                "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
                "rmF9pqV8S7suAoZWja4dJRkFsKQ=",
            ),
            (
                Hash::Sha256,
                "W22ZaJ0SNY7soEsUEjb6gQ==",
                "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                 s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
                "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
                "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            ),
        ] {
            let verifier = Verifier::new(hash, "pencil", &base64::decode(salt).unwrap(), 4096);
            let message = format!("{first},{last}");
            let found = verifier.check(&message, &base64::decode(proof).unwrap()).unwrap();
            assert_eq!(base64::encode(&found), signature);
            assert_eq!(verifier.check(&message, &[0; 32]), None);
            assert_eq!(verifier.check(&message, &[]), None);
            assert_eq!(verifier.check("other", &base64::decode(proof).unwrap()), None);
            assert!(verifier.fits("pencil") && !verifier.fits("Pencil"));
            assert_eq!(Verifier::parse(&verifier.to_string()).as_ref(), Some(&verifier));
            let nobody = Verifier::of_nobody(hash, "x", b"secret");
            assert!(nobody == Verifier::of_nobody(hash, "x", b"secret") && !nobody.fits("pencil"));
        }
    }

    #[test]
    fn what_is_no_verifier() {
        for text in
            ["", "x", "SCRAM-SHA-256$", "SCRAM-SHA-256$1:AA==$AA==:AA==", "SCRAM-SHA-512$1:a$b:c", "0,a,b,c", "1,2,3"]
        {
            assert_eq!(Verifier::parse(text), None, "{text}");
        }
    }
}
