//! Mail that goes round between machines, each polite by itself: what a notice must not add to it.
//!
//! * A robot that answers notices, and whose answers cannot be delivered, would get a notice about each answer. An automatic
//!   answer to a notice of ours is not told of.
//! * A robot knows its own mail by `X-Loop:`. A notice carries the `X-Loop:` fields of the message that it is about.

use std::borrow::Cow;

use yamabiko_address::domain::fold_case;
use yamabiko_address::split_domain;
use yamabiko_message::Fields;

use crate::{Bouncer, Reported};

/// More `X-Loop:` fields than this are not repeated, nor larger ones.
const MARKS: usize = 10;
const MARK_BYTES: usize = 500;

/// The `X-Loop:` fields of a message, with their line ends.
pub(crate) fn marks(original: Option<&[u8]>) -> Vec<u8> {
    let mut marks = Vec::new();
    let fields = original.map(Fields::of);
    let found = fields.iter().flat_map(Fields::iter).filter(|field| field.is("X-Loop"));
    for field in found.filter(|field| field.raw().len() <= MARK_BYTES).take(MARKS) {
        marks.extend_from_slice(field.raw().trim_ascii_end());
        marks.push(b'\n');
    }
    marks
}

/// A machine says that it wrote this (RFC 3834, and what was usual before).
fn is_automatic(original: &[u8]) -> bool {
    Fields::of(original).iter().any(|field| {
        let value = || String::from_utf8_lossy(&field.unfolded()).trim().to_ascii_lowercase();
        match field.name() {
            name if name.eq_ignore_ascii_case(b"Auto-Submitted") => {
                !matches!(value().split([';', ' ']).next(), Some("no" | ""))
            }
            name if name.eq_ignore_ascii_case(b"Precedence") => {
                matches!(value().as_str(), "bulk" | "junk" | "list" | "auto_reply")
            }
            name => name.eq_ignore_ascii_case(b"X-Loop") || name.eq_ignore_ascii_case(b"X-Autoreply"),
        }
    })
}

impl Bouncer {
    /// The recipient is where our notices come from, and the message was written by a machine.
    fn answers_a_notice(&self, one: &Reported, original: &[u8]) -> bool {
        let is_ours = |address: &str| {
            let (local, domain) = split_domain(address);
            let user = self.from_user.as_deref().unwrap_or("MAILER-DAEMON");
            let domain = domain.map(fold_case);
            let domains = [self.from_domain.as_deref(), self.append_domain.as_deref(), Some(&self.myhostname)];
            (local.eq_ignore_ascii_case(user) || local.eq_ignore_ascii_case("MAILER-DAEMON"))
                && domain.is_some_and(|domain| domains.into_iter().flatten().any(|known| fold_case(known) == domain))
        };
        (is_ours(&one.report.address) || is_ours(&one.given)) && is_automatic(original)
    }

    /// Those whom a notice is about, without those that are answers to one.
    pub(crate) fn without_answers<'r>(&self, reported: &'r [Reported], original: Option<&[u8]>) -> Cow<'r, [Reported]> {
        let answers = |one: &Reported| original.is_some_and(|original| self.answers_a_notice(one, original));
        if reported.iter().any(answers) {
            reported.iter().filter(|one| !answers(one)).cloned().collect()
        } else {
            reported.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_kept_whole() {
        let many = "X-Loop: a\n".repeat(30);
        for (header, kept) in [
            ("Subject: s\n", ""),
            ("X-Loop: me@x\nSubject: s\nX-Loop: you@y\n", "X-Loop: me@x\nX-Loop: you@y\n"),
            ("x-loop: a\n b\n", "x-loop: a\n b\n"),
            (&many, &many[..10 * MARKS]),
        ] {
            let message = format!("{header}\nX-Loop: body\n");
            assert_eq!(String::from_utf8(marks(Some(message.as_bytes()))).unwrap(), kept, "{header}");
        }
        assert!(marks(None).is_empty());
        assert!(marks(Some(format!("X-Loop: {}\n\n", "x".repeat(1000)).as_bytes())).is_empty());
    }

    #[test]
    fn what_machines_write() {
        for (header, automatic) in [
            ("Subject: s", false),
            ("Auto-Submitted: no", false),
            ("Auto-Submitted: No; x=y", false),
            ("Auto-Submitted: auto-replied", true),
            ("AUTO-SUBMITTED: auto-generated (x)", true),
            ("Precedence: bulk", true),
            ("Precedence: first-class", false),
            ("X-Loop: a@b", true),
        ] {
            assert_eq!(is_automatic(format!("{header}\n\nX-Loop: body\n").as_bytes()), automatic, "{header}");
        }
    }
}
