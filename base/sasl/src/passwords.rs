//! Stored passwords: hashes only. An entry of the table is one hash, or several with blanks between.
//!
//! Kinds: `$argon2id$...` (also argon2i, argon2d; RFC 9106), `SCRAM-SHA-256$...` and `SCRAM-SHA-1$...` (as PostgreSQL
//! writes them), and whatever crypt(3) of this machine knows: `$6$` SHA-512, `$2b$` bcrypt, `$y$` yescrypt. A word in
//! braces before a hash, as Dovecot's files have it (`{SHA512-CRYPT}$6$...`), is passed over.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::{constant_time, rand};

use crate::base64;
use crate::scram::{Hash, Verifier};

/// The longest password, in bytes.
pub const MAX_PASSWORD: usize = 1024;
/// Memory that a stored argon2 hash may ask for, in KB.
const MAX_MEMORY: u32 = 1 << 20;

/// How a password is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `argon2id`: the best that is known for passwords.
    Argon2id,
    /// `sha512-crypt`: what many systems have in /etc/shadow.
    Sha512Crypt,
    /// `bcrypt`
    Bcrypt,
    /// `scram-sha-256`: serves SCRAM clients, and PLAIN and LOGIN too.
    ScramSha256,
}

impl Scheme {
    /// By name.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "argon2" | "argon2id" => Self::Argon2id,
            "sha512-crypt" | "sha512" => Self::Sha512Crypt,
            "bcrypt" | "blf-crypt" => Self::Bcrypt,
            "scram-sha-256" | "scram" => Self::ScramSha256,
            _ => return None,
        })
    }
}

/// Why a hash cannot be used or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable(pub String);

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn unusable<T>(text: impl Into<String>) -> Result<T, Unusable> {
    Err(Unusable(text.into()))
}

/// Random bytes of the system.
///
/// # Errors
/// It gives none.
pub fn random<const N: usize>() -> Result<[u8; N], Unusable> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Unusable("the system gives no random numbers".to_owned()))?;
    Ok(bytes)
}

/// Letters for salts of crypt(3).
fn salt<const N: usize>() -> Result<String, Unusable> {
    const LETTERS: &[u8; 64] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    // Six bits are below 64.
    Ok(random::<N>()?.iter().map(|byte| char::from(LETTERS[usize::from(byte & 63)])).collect())
}

/// A new hash of a password. Takes some ten milliseconds.
///
/// # Errors
/// The password is empty or too long, or this machine cannot make such hashes.
pub fn hash(scheme: Scheme, password: &str) -> Result<String, Unusable> {
    if password.is_empty() || password.len() > MAX_PASSWORD || password.contains('\0') {
        return unusable(format!("a password has 1 to {MAX_PASSWORD} bytes, and no NUL"));
    }
    let crypt = |setting: String| {
        yamabiko_sys::crypt::crypt(password, &setting)
            .ok_or_else(|| Unusable("the C library of this machine does not have this kind of hash".to_owned()))
    };
    match scheme {
        Scheme::Sha512Crypt => crypt(format!("$6$rounds=100000${}$", salt::<16>()?)),
        // The last of bcrypt's 22 letters has two bits only.
        Scheme::Bcrypt => crypt(format!("$2b$12${}e", salt::<21>()?)),
        Scheme::ScramSha256 => Ok(Verifier::new(Hash::Sha256, password, &random::<16>()?, 10_000).to_string()),
        Scheme::Argon2id => {
            // RFC 9106 and OWASP's first choice for servers: 19 MB, two passes.
            let settings = Settings { algorithm: Algorithm::Argon2id, memory: 19 * 1024, passes: 2, lanes: 1 };
            let salt = random::<16>()?;
            let found = settings.run(password, &salt, 32)?;
            let text = |bytes: &[u8]| base64::encode(bytes).trim_end_matches('=').to_owned();
            Ok(format!("$argon2id$v=19$m=19456,t=2,p=1${}${}", text(&salt), text(&found)))
        }
    }
}

/// Without the word in braces.
fn bare(hash: &str) -> &str {
    hash.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or(hash, |(_, hash)| hash)
}

/// Whether the password is the one that was stored. Takes as long as the hash asks for.
///
/// # Errors
/// None of the hashes can be used: that is nobody's fault but the table's, and is no wrong password.
pub fn verify(password: &str, stored: &str) -> Result<bool, Unusable> {
    if password.len() > MAX_PASSWORD {
        return Ok(false);
    }
    let mut why = Unusable("there is no hash".to_owned());
    let mut usable = false;
    for hash in stored.split_whitespace() {
        match verify_one(password, bare(hash)) {
            Ok(true) => return Ok(true),
            Ok(false) => usable = true,
            Err(error) => why = error,
        }
    }
    if usable { Ok(false) } else { Err(why) }
}

fn verify_one(password: &str, hash: &str) -> Result<bool, Unusable> {
    if hash.starts_with("$argon2") {
        return argon2(password, hash);
    }
    if let Some(verifier) = Verifier::parse(hash) {
        return Ok(verifier.fits(password));
    }
    if !hash.starts_with('$') {
        return unusable("it is no hash (a password in the clear is not taken; make one with \"yamabiko passwd\")");
    }
    match yamabiko_sys::crypt::crypt(password, hash) {
        Some(found) => Ok(constant_time::verify_slices_are_equal(found.as_bytes(), hash.as_bytes()).is_ok()),
        None => unusable("the C library of this machine does not know this kind of hash"),
    }
}

/// SCRAM verifiers among the hashes.
pub fn scram(stored: &str, hash: Hash) -> Option<Verifier> {
    stored.split_whitespace().filter_map(|word| Verifier::parse(bare(word))).find(|verifier| verifier.hash == hash)
}

struct Settings {
    algorithm: Algorithm,
    memory: u32,
    passes: u32,
    lanes: u32,
}

impl Settings {
    fn run(&self, password: &str, salt: &[u8], len: usize) -> Result<Vec<u8>, Unusable> {
        let trouble = |error: argon2::Error| Unusable(format!("argon2: {error}"));
        let params = Params::new(self.memory, self.passes, self.lanes, Some(len)).map_err(trouble)?;
        let mut blocks = vec![Block::default(); params.block_count()];
        let mut out = vec![0; len];
        Argon2::new(self.algorithm, Version::V0x13, params)
            .hash_password_into_with_memory(password.as_bytes(), salt, &mut out, &mut blocks)
            .map_err(trouble)?;
        Ok(out)
    }
}

/// `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`
fn argon2(password: &str, hash: &str) -> Result<bool, Unusable> {
    let broken = || Unusable("an argon2 hash cannot be read".to_owned());
    let parts: Vec<&str> = hash.split('$').collect();
    let ["", algorithm, version, numbers, salt, digest] = parts[..] else { return Err(broken()) };
    if version != "v=19" {
        return unusable("an argon2 hash is of another version than 19");
    }
    let algorithm = match algorithm {
        "argon2id" => Algorithm::Argon2id,
        "argon2i" => Algorithm::Argon2i,
        "argon2d" => Algorithm::Argon2d,
        _ => return Err(broken()),
    };
    let number = |key: &str| -> Option<u32> {
        numbers.split(',').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    };
    let (Some(memory), Some(passes), Some(lanes)) = (number("m"), number("t"), number("p")) else {
        return Err(broken());
    };
    if memory > MAX_MEMORY || passes > 1000 || lanes > 64 {
        return unusable("an argon2 hash asks for too much");
    }
    let (salt, digest) = (base64::decode_unpadded(salt), base64::decode_unpadded(digest));
    let (Some(salt), Some(digest)) = (salt, digest.filter(|digest| (16..=64).contains(&digest.len()))) else {
        return Err(broken());
    };
    let found = Settings { algorithm, memory, passes, lanes }.run(password, &salt, digest.len())?;
    Ok(constant_time::verify_slices_are_equal(&found, &digest).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_keeps_its_password() {
        for scheme in ["argon2id", "sha512-crypt", "bcrypt", "scram-sha-256"] {
            let stored = hash(Scheme::of(scheme).unwrap(), "山彦 secret").unwrap();
            assert_eq!(verify("山彦 secret", &stored), Ok(true), "{stored}");
            assert_eq!(verify("山彦 Secret", &stored), Ok(false), "{stored}");
            assert_eq!(verify("", &stored), Ok(false), "{stored}");
            assert_ne!(hash(Scheme::of(scheme).unwrap(), "山彦 secret").unwrap(), stored);
        }
        for password in ["", "a\0b", &"x".repeat(MAX_PASSWORD + 1)] {
            assert!(hash(Scheme::Argon2id, password).is_err());
        }
    }

    #[test]
    fn hashes_of_others() {
        for (stored, expected) in [
            // The reference implementation's own example: password, somesalt.
            ("$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA", Ok(true)),
            (
                "{SHA512-CRYPT}$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjlO/O817G3uBnIFNjnQJuesI68OTLiBFdcbYEdFCoEOfaS35inz1",
                Ok(false),
            ),
            // RFC 7677 section 3 has another password; it is only read here.
            (
                "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
                Ok(false),
            ),
            ("*LOCKED*", Err(())),
            ("password", Err(())),
            ("", Err(())),
            ("$argon2id$v=16$m=8,t=1,p=1$c29tZXNhbHQ$AAAA", Err(())),
            ("$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj", Err(())),
            ("$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ", Err(())),
            ("$nothing$x", Err(())),
        ] {
            assert_eq!(verify("password", stored).map_err(|_| ()), expected, "{stored}");
        }
        // One hash that cannot be used beside one that can.
        let good = hash(Scheme::Sha512Crypt, "password").unwrap();
        assert_eq!(verify("password", &format!("$nothing$x {good}")), Ok(true));
        assert_eq!(verify("other", &format!("$nothing$x {good}")), Ok(false));
    }
}
