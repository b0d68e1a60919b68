//! Text for terminals: how wide it is, and nothing in it that a terminal would obey.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns that a text takes on a terminal: two for a wide (Japanese) character.
pub fn columns(text: &str) -> usize {
    text.width()
}

/// The text without control characters and without characters that change the direction of writing: what stands in a mail
/// must not command the terminal.
pub fn visible(text: &str) -> String {
    let hides = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if hides(c) { '\u{fffd}' } else { c }).collect()
}

/// Appends the text to `out`, cut at `width` columns (`…` says so) and filled up with blanks.
pub fn column(out: &mut String, text: &str, width: usize) {
    let whole = columns(text);
    let mut used = 0;
    if whole <= width {
        out.push_str(text);
        used = whole;
    } else {
        for c in text.chars() {
            let next = used + c.width().unwrap_or(0);
            if next + 1 > width {
                break;
            }
            out.push(c);
            used = next;
        }
        if width > 0 {
            out.push('…');
            used += 1;
        }
    }
    out.extend(std::iter::repeat_n(' ', width.saturating_sub(used)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_wide_characters() {
        for (text, width, wanted) in [
            ("abc", 5, "abc  "),
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("宛先不明", 8, "宛先不明"),
            ("宛先不明", 9, "宛先不明 "),
            ("宛先不明", 6, "宛先… "),
            ("宛先不明", 7, "宛先不…"),
            ("x", 0, ""),
        ] {
            let mut out = String::new();
            column(&mut out, text, width);
            assert_eq!(out, wanted, "{text} in {width}");
            assert_eq!(columns(&out), width);
        }
    }

    #[test]
    fn nothing_commands_the_terminal() {
        assert_eq!(visible("a\x1b[31mb\r\u{202e}c"), "a\u{fffd}[31mb\u{fffd}\u{fffd}c");
    }
}
