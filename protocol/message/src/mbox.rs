//! Quoting for mbox files: a line of the message that begins with `From ` would begin the next one (Postfix:
//! `mail_copy` with `MAIL_COPY_QUOTE`). Only that exact text is quoted; `>From ` is left alone.

/// Appends `text` to `out` with `>` before each line that begins with `From `. `at_line_start` is carried from piece to
/// piece of a message: start with true, and cut pieces at line ends.
pub fn quote_from_lines(out: &mut Vec<u8>, text: &[u8], at_line_start: &mut bool) {
    let mut rest = text;
    if *at_line_start && rest.starts_with(b"From ") {
        out.push(b'>');
    }
    // Only a line end can be followed by a line to quote.
    while let Some(found) = memchr::memmem::find(rest, b"\nFrom ") {
        out.extend_from_slice(&rest[..=found]);
        out.push(b'>');
        rest = &rest[found + 1..];
    }
    out.extend_from_slice(rest);
    if let Some(last) = text.last() {
        *at_line_start = *last == b'\n';
    }
}

/// The `From sender  date` line that begins a message in an mbox file, line end included. The null sender is
/// `MAILER-DAEMON`; the sender is written in external form, control characters as `-`, so that it stays one line.
pub fn from_line(sender: &str, ctime: &str) -> String {
    if sender.is_empty() {
        return format!("From MAILER-DAEMON  {ctime}\n");
    }
    let sender = yamabiko_address::quote(sender);
    let sender = sender.replace(|c: char| c.is_ascii_control(), "-");
    format!("From {sender}  {ctime}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_lines_are_quoted_however_the_text_is_cut() {
        let text = b"From a\n>From b\nfrom c\nFrom\nx From d\nFrom e\n\nFrom f";
        let quoted = b">From a\n>From b\nfrom c\nFrom\nx From d\n>From e\n\n>From f";
        let (mut out, mut start) = (Vec::new(), true);
        quote_from_lines(&mut out, text, &mut start);
        assert_eq!(out, quoted);
        assert!(!start);
        // Cut at line ends, the only places where it is allowed to.
        let (mut out, mut start) = (Vec::new(), true);
        for line in text.split_inclusive(|b| *b == b'\n') {
            quote_from_lines(&mut out, line, &mut start);
        }
        assert_eq!(out, quoted);
    }

    #[test]
    fn first_line() {
        assert_eq!(from_line("", "D"), "From MAILER-DAEMON  D\n");
        assert_eq!(from_line("a@b", "D"), "From a@b  D\n");
        assert_eq!(from_line("a\nb@c", "D"), "From \"a-b\"@c  D\n");
    }
}
