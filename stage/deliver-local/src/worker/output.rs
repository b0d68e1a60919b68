//! What a command printed, as one line that a log and a notice can take, in whatever encoding it was printed.

use encoding_rs::{EUC_JP, Encoding, ISO_2022_JP, SHIFT_JIS, WINDOWS_1252};

/// One line without control characters, in UTF-8. A line end at the end is a blank, as Postfix has it.
pub(super) fn printable(output: &[u8]) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => ' ',
        '\r' => ' ',
        c if c.is_control() => '_',
        c => c,
    };
    // Postfix's strings end there.
    let end = output.iter().position(|byte| *byte == 0).unwrap_or(output.len());
    decoded(&output[..end]).chars().map(shown).collect()
}

/// UTF-8, or what is most likely meant by bytes that are none: the encodings in which Japanese programs write, then the
/// one that takes everything.
pub(super) fn decoded(output: &[u8]) -> String {
    let japanese = output.windows(2).any(|pair| pair == b"\x1b$" || pair == b"\x1b(");
    if japanese && output.is_ascii() {
        return decoded_as(ISO_2022_JP, output).unwrap_or_else(|| String::from_utf8_lossy(output).into_owned());
    }
    match std::str::from_utf8(output) {
        Ok(text) => return text.to_owned(),
        // Cut in the middle of a character, because there is only so much that is kept.
        Err(error) if error.error_len().is_none() => {
            return String::from_utf8_lossy(&output[..error.valid_up_to()]).into_owned();
        }
        Err(_) => {}
    }
    // The last character may be half a one.
    for end in [output.len(), output.len().saturating_sub(1)] {
        for encoding in [EUC_JP, SHIFT_JIS] {
            if let Some(text) = decoded_as(encoding, &output[..end]) {
                return text;
            }
        }
    }
    WINDOWS_1252.decode_without_bom_handling(output).0.into_owned()
}

fn decoded_as(encoding: &'static Encoding, output: &[u8]) -> Option<String> {
    encoding.decode_without_bom_handling_and_without_replacement(output).map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_any_encoding_is_readable() {
        let text = "受け取りを拒否します";
        for encoding in [encoding_rs::UTF_8, EUC_JP, SHIFT_JIS, ISO_2022_JP] {
            let (bytes, _, _) = encoding.encode(text);
            assert_eq!(printable(&bytes), text, "{}", encoding.name());
        }
        assert_eq!(printable(&text.as_bytes()[..text.len() - 1]), "受け取りを拒否しま");
        assert_eq!(printable(b"caf\xe9 ferm\xe9"), "café fermé");
        assert_eq!(printable(b"a\x01b\tc\nd\n"), "a_b c d ");
        assert_eq!(printable(b"a\0b"), "a");
        assert_eq!(printable(b""), "");
    }
}
