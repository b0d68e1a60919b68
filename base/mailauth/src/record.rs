//! What DNS says of a key.

use crate::{Authenticator, Key};

/// What came of the question for a key's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// There is none.
    Missing,
    /// It cannot be asked now. Why.
    TryAgain(String),
    /// It has this text, and is for the key.
    Matches(String),
    /// It has this text, which is not the key's.
    Differs(String),
}

/// Compares what DNS says at `SELECTOR._domainkey.DOMAIN` with `key`; without a key any record with `p=` matches. Waits for
/// the answer: for programs without an event loop.
///
/// # Errors
/// No name servers are known.
pub fn published(domain: &str, selector: &str, key: Option<&Key>) -> Result<Published, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async { Ok(published_at(&Authenticator::system()?, domain, selector, key).await) })
}

async fn published_at(authenticator: &Authenticator, domain: &str, selector: &str, key: Option<&Key>) -> Published {
    let text = match authenticator.text(&format!("{selector}._domainkey.{domain}.")).await {
        Ok(Some(text)) => text,
        Ok(None) => return Published::Missing,
        Err(why) => return Published::TryAgain(why),
    };
    let public = tag(&text, "p").unwrap_or_default();
    let same = match key {
        Some(key) => tag(key.record(), "p").is_some_and(|wanted| wanted == public),
        None => !public.is_empty(),
    };
    if same { Published::Matches(text) } else { Published::Differs(text) }
}

/// The value of a tag, without white space (RFC 6376 section 3.2).
fn tag(text: &str, name: &str) -> Option<String> {
    let value = text.split(';').find_map(|part| part.split_once('=').filter(|(tag, _)| tag.trim() == name))?.1;
    Some(value.chars().filter(|char| !char.is_whitespace()).collect())
}

/// RFC 4648 section 4.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: [char; 64] = {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut chars = ['A'; 64];
        let mut place = 0;
        while place < 64 {
            chars[place] = letters[place] as char;
            place += 1;
        }
        chars
    };
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |place: usize| u32::from(chunk.get(place).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            // Six bits: always below 64.
            let letter = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { letter } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(tag("v=DKIM1; p = a b\tc;", "p").as_deref(), Some("abc"));
        assert_eq!(tag("v=DKIM1", "p"), None);
    }
}
