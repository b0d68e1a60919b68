//! Signatures of our own: `DKIM-Signature:` and ARC sets.

use mail_auth::arc::ArcSealer;
use mail_auth::common::crypto::DkimKey;
use mail_auth::common::headers::HeaderWriter;
use mail_auth::dkim::{Canonicalization, DkimSigner, Done};
use mail_auth::{AuthenticatedMessage, AuthenticationResults};

use crate::Key;
use crate::verify::Authenticator;

/// Fields that are signed where a message has them (RFC 6376 section 5.4.1).
const FIELDS: [&str; 20] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
];

/// A line of an `ARC-Authentication-Results:` field must not be longer.
const LONGEST_LINE: usize = 900;

/// Who signs: `selector domain /file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `s=`
    pub selector: String,
    /// `d=`
    pub domain: String,
    /// Where the private key is.
    pub file: String,
}

/// Reads `selector domain /file`, several of them with commas between.
///
/// # Errors
/// The text that is none, and what it should be.
pub fn parse_identities(text: &str) -> Result<Vec<Identity>, String> {
    let mut identities = Vec::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let words: Vec<&str> = part.split_whitespace().collect();
        let named = |word: &str| {
            !word.is_empty()
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        };
        match words.as_slice() {
            [selector, domain, file] if named(selector) && named(domain) && file.starts_with('/') => {
                identities.push(Identity {
                    selector: (*selector).to_owned(),
                    domain: domain.to_ascii_lowercase(),
                    file: (*file).to_owned(),
                });
            }
            _ => return Err(format!("\"{}\" is not \"selector domain /file/with/key\"", part.trim())),
        }
    }
    Ok(identities)
}

/// Makes `DKIM-Signature:` fields.
pub struct Signer {
    signer: DkimSigner<DkimKey, Done>,
}

impl Signer {
    /// Signs as `identity` with its key, both parts in *relaxed* form.
    ///
    /// # Errors
    /// The key cannot be used.
    pub fn new(identity: &Identity, key: &Key) -> Result<Self, String> {
        let signer = DkimSigner::from_key(key.library()?)
            .domain(identity.domain.clone())
            .selector(identity.selector.clone())
            .headers(FIELDS)
            .header_canonicalization(Canonicalization::Relaxed)
            .body_canonicalization(Canonicalization::Relaxed);
        Ok(Self { signer })
    }

    /// The field for a message.
    ///
    /// # Errors
    /// The message has no field that could be signed, or the key cannot do it.
    pub fn sign(&self, message: &[u8]) -> Result<String, String> {
        let signature = self.signer.sign(message).map_err(|error| error.to_string())?;
        Ok(signature.to_header().replace("\r\n", "\n"))
    }
}

/// Makes ARC sets.
pub struct Sealer {
    sealer: ArcSealer<DkimKey, Done>,
}

impl Sealer {
    /// Seals as `identity` with its key.
    ///
    /// # Errors
    /// The key cannot be used.
    pub fn new(identity: &Identity, key: &Key) -> Result<Self, String> {
        let sealer = ArcSealer::from_key(key.library()?)
            .domain(identity.domain.clone())
            .selector(identity.selector.clone())
            .headers(FIELDS)
            .header_canonicalization(Canonicalization::Relaxed)
            .body_canonicalization(Canonicalization::Relaxed);
        Ok(Self { sealer })
    }

    /// The three fields for a message; `results` is the value of our `Authentication-Results:` field. `None`: a chain
    /// that failed is not continued.
    ///
    /// # Errors
    /// The message has nothing that could be signed, the results are too long for a line, or the key cannot do it.
    pub async fn seal(
        &self,
        authenticator: &Authenticator,
        message: &[u8],
        results: &str,
    ) -> Result<Option<String>, String> {
        let results = results.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        if results.len() > LONGEST_LINE {
            return Err("the results are too long for a line".to_owned());
        }
        let message = AuthenticatedMessage::parse_with_opts(message, None, true).ok_or("the message has no header")?;
        let chain = authenticator.chain(&message, tokio::time::Instant::now() + crate::PATIENCE).await;
        if !chain.can_be_sealed() {
            return Ok(None);
        }
        let results = AuthenticationResults::new(&results);
        let set = self.sealer.seal(&message, &results, &chain).map_err(|error| error.to_string())?;
        Ok(Some(set.to_header().replace("\r\n", "\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities() {
        let one = |selector: &str, domain: &str, file: &str| Identity {
            selector: selector.to_owned(),
            domain: domain.to_owned(),
            file: file.to_owned(),
        };
        for (text, expected) in [
            ("s1 Example.com /k", vec![one("s1", "example.com", "/k")]),
            ("a x.test /a, b x.test /b", vec![one("a", "x.test", "/a"), one("b", "x.test", "/b")]),
            ("", vec![]),
        ] {
            assert_eq!(parse_identities(text).unwrap(), expected, "{text}");
        }
        for bad in ["s x.test k", "s x.test", "s; x.test /k", "s x.test /k more"] {
            assert!(parse_identities(bad).is_err(), "{bad}");
        }
    }
}
