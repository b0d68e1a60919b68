//! xtext (RFC 3461 section 4): printable ASCII as it is, everything else, `+` and `=` as `+XX`. The variant for
//! internationalized addresses (RFC 6533 section 3) writes a character as `\x{HEX}`.

/// Why a text is not xtext: a `+` without two upper-case hexadecimal digits, a byte that must be encoded, or a result
/// that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadXtext;

fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Decodes xtext. As lenient as Postfix: a byte that should have been encoded stands for itself; but `+` must begin
/// two hexadecimal digits (upper case, RFC 3461 section 4), and a result that is not UTF-8 is refused.
pub fn decode(text: &str) -> Result<String, BadXtext> {
    if !text.contains('+') {
        return Ok(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'+' {
            out.push(byte);
            continue;
        }
        let high = bytes.next().and_then(hex).ok_or(BadXtext)?;
        let low = bytes.next().and_then(hex).ok_or(BadXtext)?;
        out.push(high << 4 | low);
    }
    String::from_utf8(out).map_err(|_| BadXtext)
}

/// Appends `text` in xtext.
pub fn encode(text: &str, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'+' | b'=' | 0..=32 | 127.. => {
                // Both halves are below 16.
                out.extend_from_slice(&[b'+', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
            }
            _ => out.push(byte),
        }
    }
}

/// Decodes `utf-8-addr-unitext` or `utf-8-addr-xtext` (RFC 6533 section 3): UTF-8 as it is, `\x{HEX}` for a character.
pub fn decode_unitext(text: &str) -> Result<String, BadXtext> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let tail = rest[at..].strip_prefix("\\x{").ok_or(BadXtext)?;
        let (digits, after) = tail.split_once('}').ok_or(BadXtext)?;
        if digits.is_empty() || digits.len() > 6 {
            return Err(BadXtext);
        }
        let code = u32::from_str_radix(digits, 16).map_err(|_| BadXtext)?;
        out.push(char::from_u32(code).ok_or(BadXtext)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        for (coded, plain) in [
            ("", Some("")),
            ("abc", Some("abc")),
            ("a+20b", Some("a b")),
            ("a+2Bb+3D", Some("a+b=")),
            ("+E5+B1+B1", Some("山")),
            ("bad+zz", None),
            ("a+2", None),
            ("+", None),
            ("a+2b", None),
            ("+FF", None),
        ] {
            assert_eq!(decode(coded).ok().as_deref(), plain, "{coded}");
        }
        for (coded, plain) in [
            ("a@b", Some("a@b")),
            (r"\x{5C71}@b", Some("山@b")),
            ("山", Some("山")),
            (r"\x{}", None),
            (r"\x{D800}", None),
            (r"\x{41", None),
            (r"\y", None),
        ] {
            assert_eq!(decode_unitext(coded).ok().as_deref(), plain, "{coded}");
        }
    }

    #[test]
    fn what_is_encoded_decodes() {
        for text in ["", "plain", "a+b=c d\t\u{7f}", "山彦", "<>@\r\n"] {
            let mut coded = Vec::new();
            encode(text, &mut coded);
            assert!(coded.iter().all(|b| (33..127).contains(b)));
            assert_eq!(decode(std::str::from_utf8(&coded).unwrap()).unwrap(), text);
        }
    }
}
