//! The notice about a session that went wrong: what was said, for the postmaster (Postfix: `smtpd_chat_notify`,
//! `smtp_chat_notify`).

/// Longer lines are folded.
const FOLD_AT: usize = 79;

/// What stands in such a notice.
#[derive(Clone, Copy, Debug)]
pub struct SessionNotice<'a> {
    /// `Date:`
    pub date: &'a str,
    /// In `To:`, whoever gets it.
    pub postmaster: &'a str,
    /// `Subject:`
    pub subject: &'a str,
    /// A sentence before the transcript; empty for none.
    pub opening: &'a str,
    /// Lines that begin with `In:  ` or `Out: `.
    pub transcript: &'a str,
    /// Why the session was aborted.
    pub reason: Option<&'a str>,
    /// An empty line follows the transcript even if there is no reason.
    pub of_server: bool,
}

impl SessionNotice<'_> {
    /// The notice: headers from `Date:` on, empty line, body. LF line ends.
    pub fn compose(&self) -> Vec<u8> {
        let mut text = format!(
            "Date: {}\nFrom: Mail Delivery System <MAILER-DAEMON>\nTo: Postmaster <{}>\nSubject: {}\n\n",
            self.date, self.postmaster, self.subject
        );
        if !self.opening.is_empty() {
            text.push_str(self.opening);
            text.push_str("\n\n");
        }
        text.push_str("Transcript of session follows.\n\n");
        for line in self.transcript.lines() {
            let printable: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            fold(&printable, &mut text);
        }
        text.push('\n');
        if let Some(reason) = self.reason {
            text.push_str(&format!("Session aborted, reason: {reason}\n"));
        }
        if self.of_server {
            text.push('\n');
        }
        text.push_str("For other details, see the local mail logfile\n");
        text.into_bytes()
    }
}

/// A line in pieces of at most [`FOLD_AT`] columns, cut at blanks where there are any; later pieces are indented.
fn fold(line: &str, out: &mut String) {
    let mut rest = line;
    let mut indent = " ";
    loop {
        let room = FOLD_AT - indent.len();
        out.push_str(indent);
        if rest.len() <= room {
            out.push_str(rest);
            out.push('\n');
            return;
        }
        let hard = (0..=room).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
        // A word may end just where the room does.
        let within = if rest[hard..].starts_with(' ') { &rest[..=hard] } else { &rest[..hard] };
        let (now, later) = match within.rfind(' ').filter(|at| *at > "Out: ".len()) {
            Some(blank) => (&rest[..blank], &rest[blank + 1..]),
            None => rest.split_at(hard),
        };
        out.push_str(now);
        out.push('\n');
        rest = later;
        indent = "     ";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_folded_at_blanks() {
        let mut out = String::new();
        fold(
            "Out: 550 5.1.1 <dunno@lab.test>: Recipient address rejected: User unknown in local recipient table",
            &mut out,
        );
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with("User unknown in") && lines[1] == "     local recipient table");
        let mut out = String::new();
        fold(&"x".repeat(300), &mut out);
        assert!(out.lines().all(|l| l.len() <= FOLD_AT) && out.bytes().filter(|b| *b == b'x').count() == 300);
        let mut out = String::new();
        fold(&"山".repeat(100), &mut out);
        assert_eq!(out.chars().filter(|c| *c == '山').count(), 100);
    }

    #[test]
    fn both_sides() {
        let notice = SessionNotice {
            date: "D",
            postmaster: "pm",
            subject: "S",
            opening: "Unexpected response from x.",
            transcript: "In:  503 a\x07b\nOut: QUIT\n",
            reason: None,
            of_server: false,
        };
        let client = String::from_utf8(notice.compose()).unwrap();
        assert_eq!(
            client,
            "Date: D\nFrom: Mail Delivery System <MAILER-DAEMON>\nTo: Postmaster <pm>\nSubject: S\n\n\
             Unexpected response from x.\n\nTranscript of session follows.\n\n In:  503 a?b\n Out: QUIT\n\n\
             For other details, see the local mail logfile\n"
        );
        let server = SessionNotice { opening: "", reason: Some("timeout"), of_server: true, ..notice };
        let server = String::from_utf8(server.compose()).unwrap();
        assert!(
            server.ends_with(
                "QUIT\n\nSession aborted, reason: timeout\n\nFor other details, see the local mail logfile\n"
            )
        );
    }
}
