//! Lines broken at blanks, as Postfix breaks reasons and diagnostics (`line_wrap`).

/// Appends `text` to `out` in lines of at most `width` bytes, continued with `indent` blanks before them, each with its
/// line end. A word longer than a line stays whole.
pub fn wrap(out: &mut Vec<u8>, text: &str, width: usize, indent: usize) {
    let mut line_start = 0;
    let mut word_start = 0;
    let mut first = true;
    loop {
        let word_end = text[word_start..].find([' ', '\t']).map_or(text.len(), |blank| word_start + blank);
        let room = if first { width } else { width.saturating_sub(indent) };
        if word_start > line_start && word_end - line_start > room {
            put(out, &text[line_start..word_start], first, indent);
            first = false;
            // Blanks at the break are dropped; the word's own place may be behind more of them.
            let skipped = text[word_start..].len() - text[word_start..].trim_start().len();
            line_start = word_start + skipped;
            if skipped > 0 {
                word_start = line_start;
                continue;
            }
        }
        if word_end == text.len() {
            break;
        }
        word_start = word_end + 1;
    }
    put(out, &text[line_start..], first, indent);
}

fn put(out: &mut Vec<u8>, line: &str, first: bool, indent: usize) {
    if !first {
        out.resize(out.len() + indent, b' ');
    }
    out.extend_from_slice(line.trim_end().as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(text: &str, width: usize) -> String {
        let mut out = Vec::new();
        wrap(&mut out, text, width, 4);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_answers() {
        for (text, width, expected) in [
            ("", 10, "\n"),
            ("one two", 10, "one two\n"),
            ("one two three", 10, "one two\n    three\n"),
            ("one two three four five", 12, "one two\n    three\n    four\n    five\n"),
            ("averyveryverylongword x", 10, "averyveryverylongword\n    x\n"),
            ("x averyveryverylongword", 10, "x\n    averyveryverylongword\n"),
            ("one two     three", 8, "one two\n    three\n"),
            ("trailing   ", 20, "trailing\n"),
            ("日本語の 理由", 10, "日本語の\n    理由\n"),
        ] {
            assert_eq!(wrapped(text, width), expected, "{text}");
        }
        assert_eq!(
            wrapped(
                "<x@nodomain.test>: Host or domain name not found. Name service error for name=nodomain.test \
                 type=AAAA: Host not found",
                79
            ),
            "<x@nodomain.test>: Host or domain name not found. Name service error for\n    \
             name=nodomain.test type=AAAA: Host not found\n"
        );
    }
}
