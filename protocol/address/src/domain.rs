//! What is a domain: host names and address literals as Postfix accepts them (`valid_hostname`,
//! `valid_mailhost_literal`), internationalised names (RFC 5890, UTS 46), comparison without case.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why a name is no host name. The text of each is what Postfix's log says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostnameError {
    /// `""`
    Empty,
    /// A label of more than 63 bytes.
    LabelTooLong,
    /// A dot at an end or beside another.
    MisplacedDelimiter,
    /// A hyphen at an end of a label.
    MisplacedHyphen,
    /// A byte that is no letter, digit, `_`, `-` or `.`.
    InvalidCharacter(u8),
    /// Nothing but digits and dots.
    Numeric,
    /// More than 255 bytes.
    TooLong(usize),
}

impl std::fmt::Display for HostnameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("empty hostname"),
            Self::LabelTooLong => f.write_str("hostname label too long"),
            Self::MisplacedDelimiter => f.write_str("misplaced delimiter"),
            Self::MisplacedHyphen => f.write_str("misplaced hyphen"),
            Self::InvalidCharacter(byte) => write!(f, "invalid character {byte}(decimal)"),
            Self::Numeric => f.write_str("numeric hostname"),
            Self::TooLong(len) => write!(f, "bad length {len}"),
        }
    }
}

impl std::error::Error for HostnameError {}

/// [`valid_hostname`] with the reason.
pub fn check_hostname(name: &str) -> Result<(), HostnameError> {
    let bytes = name.as_bytes();
    if bytes.is_empty() {
        return Err(HostnameError::Empty);
    }
    let mut label = 0;
    let mut numeric = true;
    for (at, &byte) in bytes.iter().enumerate() {
        let next = bytes.get(at + 1).copied();
        match byte {
            b'.' => {
                if label == 0 || next.is_none() {
                    return Err(HostnameError::MisplacedDelimiter);
                }
                label = 0;
            }
            b'-' => {
                numeric = false;
                label += 1;
                if label == 1 || matches!(next, None | Some(b'.')) {
                    return Err(HostnameError::MisplacedHyphen);
                }
            }
            b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                label += 1;
                if label > 63 {
                    return Err(HostnameError::LabelTooLong);
                }
                numeric &= byte.is_ascii_digit();
            }
            _ => return Err(HostnameError::InvalidCharacter(byte)),
        }
    }
    if numeric {
        return Err(HostnameError::Numeric);
    }
    if bytes.len() > 255 {
        return Err(HostnameError::TooLong(bytes.len()));
    }
    Ok(())
}

/// True for a host name in ASCII: labels of letters, digits, `_` and inner hyphens, single dots between them, no dot
/// at an end, not all digits, labels of at most 63 and all of at most 255 bytes.
pub fn valid_hostname(name: &str) -> bool {
    check_hostname(name).is_ok()
}

/// [`valid_hostname`], where a name with other than ASCII text is judged by its ASCII form (Postfix:
/// `valid_utf8_hostname`).
pub fn valid_utf8_hostname(name: &str) -> bool {
    if name.is_ascii() { valid_hostname(name) } else { to_ascii(name).is_some() }
}

/// The address in `[192.0.2.1]` or `[IPv6:2001:db8::1]`; `None` when it is no address literal (RFC 5321 section 4.1.3;
/// Postfix: `valid_mailhost_literal`).
pub fn parse_address_literal(domain: &str) -> Option<IpAddr> {
    let inside = domain.strip_prefix('[')?.strip_suffix(']')?;
    match inside.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => inside[5..].parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => parse_ipv4(inside).map(IpAddr::V4),
    }
}

/// True for `[192.0.2.1]` and `[IPv6:2001:db8::1]`.
pub fn valid_address_literal(domain: &str) -> bool {
    parse_address_literal(domain).is_some()
}

/// True for a domain that mail can be sent to: a host name (ASCII or not), or an address literal.
pub fn valid_mail_domain(domain: &str) -> bool {
    if domain.starts_with('[') { valid_address_literal(domain) } else { valid_utf8_hostname(domain) }
}

/// Four numbers, leading zeros allowed (decimal, as Postfix reads them); a first number 0 only in 0.0.0.0.
fn parse_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    let fine = parts.next().is_none() && (octets[0] != 0 || octets == [0; 4]);
    fine.then(|| octets.into())
}

/// The ASCII form of a domain (`例え.test` is `xn--r8jz45g.test`), lower case as far as it was not ASCII already.
/// `None` when there is none, or when it would not be a valid host name. A domain in ASCII is returned as it is,
/// valid or not (Postfix: `midna_domain_to_ascii`, without transitional processing).
pub fn to_ascii(domain: &str) -> Option<Cow<'_, str>> {
    if domain.is_ascii() {
        return Some(Cow::Borrowed(domain));
    }
    let ascii = idna::domain_to_ascii(domain).ok()?;
    valid_hostname(&ascii).then_some(Cow::Owned(ascii))
}

/// The Unicode form of a domain for people; what cannot be converted is left as it is (Postfix:
/// `midna_domain_to_utf8`).
pub fn to_utf8(domain: &str) -> Cow<'_, str> {
    // Every A-label begins with this (RFC 5890 section 2.3.2.1).
    let has_a_label = domain.split('.').any(|label| label.get(..4).is_some_and(|l| l.eq_ignore_ascii_case("xn--")));
    if !has_a_label {
        return Cow::Borrowed(domain);
    }
    match idna::domain_to_unicode(domain) {
        (name, Ok(())) => Cow::Owned(name),
        (_, Err(_)) => Cow::Borrowed(domain),
    }
}

/// Folds the case of ASCII letters only (Postfix with `smtputf8_enable = no`: `lowercase`).
pub fn fold_ascii_case(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// Folds case as Unicode's full case folding does (`CaseFolding.txt`, C and F), so that `ẞ`, `ß` and `SS` are equal,
/// and `Σ`, `σ` and `ς` are (Postfix with `smtputf8_enable = yes`: `casefold`). Fast for ASCII.
pub fn fold_case(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return fold_ascii_case(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Lower case of its own, though its upper case is I.
            'ı' => out.push(c),
            // Cherokee folds to its older, capital letters.
            '\u{13a0}'..='\u{13f5}' => out.push(c),
            '\u{13f8}'..='\u{13fd}' | '\u{ab70}'..='\u{abbf}' => out.extend(c.to_uppercase()),
            // Lower, upper, lower: the first takes ẞ to ß, the second ß to SS and ς to Σ.
            _ => out.extend(c.to_lowercase().flat_map(char::to_uppercase).flat_map(char::to_lowercase)),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names() {
        let long = format!("{}.test", "a".repeat(64));
        let label = "a".repeat(63);
        let most = [&label[..], &label, &label, &label].join(".");
        let table: &[(&str, Result<(), HostnameError>)] = &[
            ("mx.lab.test", Ok(())),
            ("localhost", Ok(())),
            ("under_score.test", Ok(())),
            ("3com.test", Ok(())),
            ("a-b.test", Ok(())),
            ("1.2.3.4a", Ok(())),
            (&most, Ok(())),
            ("", Err(HostnameError::Empty)),
            ("test.", Err(HostnameError::MisplacedDelimiter)),
            (".test", Err(HostnameError::MisplacedDelimiter)),
            ("a..test", Err(HostnameError::MisplacedDelimiter)),
            ("-a.test", Err(HostnameError::MisplacedHyphen)),
            ("a-.test", Err(HostnameError::MisplacedHyphen)),
            ("a.test-", Err(HostnameError::MisplacedHyphen)),
            ("192.0.2.1", Err(HostnameError::Numeric)),
            ("a b", Err(HostnameError::InvalidCharacter(b' '))),
            ("[192.0.2.1]", Err(HostnameError::InvalidCharacter(b'['))),
            (&long, Err(HostnameError::LabelTooLong)),
        ];
        for (name, answer) in table {
            assert_eq!(check_hostname(name), *answer, "{name}");
        }
        assert_eq!(check_hostname(&format!("{most}.a")), Err(HostnameError::TooLong(257)));
    }

    #[test]
    fn address_literals() {
        for good in
            ["[192.0.2.1]", "[0.0.0.0]", "[010.0.0.1]", "[IPv6:2001:db8::1]", "[ipv6:::1]", "[IPv6:::ffff:192.0.2.1]"]
        {
            assert!(valid_address_literal(good), "{good}");
        }
        for bad in [
            "192.0.2.1",
            "[192.0.2.1",
            "[192.0.2]",
            "[192.0.2.256]",
            "[0.1.2.3]",
            "[192.0.2.1.]",
            "[::1]",
            "[]",
            "[IPv6:]",
            "[IPv6:192.0.2.1]",
            "[a.test]",
            "[+1.2.3.4]",
            "[山彦]",
        ] {
            assert!(!valid_address_literal(bad), "{bad}");
        }
    }

    #[test]
    fn international_names() {
        assert_eq!(to_ascii("例え.test").as_deref(), Some("xn--r8jz45g.test"));
        assert_eq!(to_ascii("EXAMPLE.test").as_deref(), Some("EXAMPLE.test"));
        assert_eq!(to_ascii("faß.test").as_deref(), Some("xn--fa-hia.test"));
        assert_eq!(to_ascii("例 え.test"), None);
        assert_eq!(to_utf8("xn--r8jz45g.test"), "例え.test");
        assert_eq!(to_utf8("plain.test"), "plain.test");
        assert!(valid_utf8_hostname("例え.test"));
        assert!(!valid_utf8_hostname("例え..test"));
        assert!(valid_mail_domain("[192.0.2.1]") && !valid_mail_domain("192.0.2.1"));
    }

    #[test]
    fn case() {
        for (text, folded) in [
            ("MX.Lab.TEST", "mx.lab.test"),
            ("STRAẞE", "strasse"),
            ("Straße", "strasse"),
            ("ΣΊΣΥΦΟς", "σίσυφοσ"),
            ("ı", "ı"),
            ("例え", "例え"),
            ("ＡＢ", "ａｂ"),
        ] {
            assert_eq!(fold_case(text), folded);
        }
        assert_eq!(fold_ascii_case("ÄB"), "Äb");
    }
}
