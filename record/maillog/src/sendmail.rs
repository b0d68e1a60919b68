//! Lines of sendmail 8: `ID: name=value, name=value, ...`, where `stat=` and `reject=` take the rest of the line.

use crate::entry::{Attempt, Client, Notice, Outcome, Refusal, What};
use crate::take::{client, digits, number, until};

/// Names that sendmail is logged under.
pub(crate) fn is_program(tag: &str) -> bool {
    matches!(tag, "sendmail" | "sm-mta" | "sm-msp-queue" | "sm-que" | "sm-client" | "sendmail-in" | "sendmail-out")
        || tag.starts_with("sm-")
}

fn is_id(text: &str) -> bool {
    // `4AL7gQ1x012345`: time in eight letters and digits, then a process ID; older ones begin with two letters.
    (8..=24).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().filter(u8::is_ascii_digit).count() >= 3
}

/// Gives everything that a line says: one for each recipient.
pub(crate) fn parse<'a>(text: &'a str, give: &mut dyn FnMut(What<'a>)) {
    let Some((id, rest)) = until(text, ": ") else { return give(remark(text)) };
    if id == "NOQUEUE" {
        return give(no_queue(rest));
    }
    if !is_id(id) {
        return give(remark(text));
    }
    if rest.starts_with("from=") {
        return give(queued(id, rest));
    }
    if rest.starts_with("to=") {
        return attempts(id, rest, give);
    }
    if rest.starts_with("ruleset=") {
        return give(ruleset(id, rest));
    }
    if let Some(rest) = rest.strip_prefix("Milter: ") {
        return give(milter(id, rest));
    }
    // `NEWID: DSN: User unknown`, `NEWID: sender notify: ...`, `NEWID: return to sender: ...`
    if let Some((notice_id, words)) = until(rest, ": ")
        && is_id(notice_id)
    {
        let notice = match words {
            _ if words.starts_with("DSN: Return receipt") || words.starts_with("return receipt") => Notice::Success,
            _ if words.starts_with("sender notify: Warning") || words.contains("warning") => Notice::Delay,
            _ if words.starts_with("postmaster notify") => Notice::Postmaster,
            _ => Notice::Failure,
        };
        return give(What::Noticed { id, notice, notice_id });
    }
    give(What::Remark { id })
}

fn remark(text: &str) -> What<'_> {
    let known = [
        "starting daemon",
        "restarting ",
        "alias database",
        " aliases, longest ",
        "unqualified host name",
        "unable to qualify",
        "gethostby",
        "rejecting connections",
        "STARTTLS",
        "ruleset=",
        "/etc/",
        "timeout waiting",
        "SYSERR",
        "AUTH",
    ];
    if known.iter().any(|words| text.contains(words)) { What::Remark { id: "" } } else { What::Unknown }
}

/// The fields of a line: name and value, up to the one that takes the rest.
struct Fields<'a>(&'a str);

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = until(self.0, "=")?;
        // What others have said may have commas in it.
        if matches!(name, "stat" | "reject") {
            self.0 = "";
            return Some((name, rest));
        }
        // An address list has commas too, but no blank after them; a value ends where `, name=` follows.
        let mut at = 0;
        let end = loop {
            let Some(found) = rest.get(at..).and_then(|rest| memchr::memmem::find(rest.as_bytes(), b", ")) else {
                break rest.len();
            };
            let after = &rest[at + found + 2..];
            let name = after.bytes().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(after.len());
            if name > 0 && after.as_bytes().get(name) == Some(&b'=') {
                break at + found;
            }
            at += found + 2;
        };
        self.0 = rest.get(end + 2..).unwrap_or("");
        Some((name, &rest[..end]))
    }
}

fn bare(address: &str) -> &str {
    address.strip_prefix('<').map_or(address, |rest| rest.strip_suffix('>').unwrap_or(rest))
}

fn queued<'a>(id: &'a str, rest: &'a str) -> What<'a> {
    let (mut sender, mut size, mut recipients, mut message_id, mut who, mut user) =
        ("", None, None, "", Client::default(), "");
    for (name, value) in Fields(rest) {
        match name {
            "from" => sender = bare(value),
            "size" => size = digits(value),
            "nrcpts" => recipients = digits(value).and_then(|count| u32::try_from(count).ok()),
            "msgid" => message_id = value,
            "relay" => who = client(value),
            "authid" => user = value,
            _ => {}
        }
    }
    What::Queued { id, sender, size, recipients, message_id, client: who, sasl_username: user, about: "", begins: true }
}

/// `00:00:01`, `2+03:04:05`
fn delay(text: &str) -> Option<u64> {
    let (days, clock) = until(text, "+").map_or((0, text), |(days, clock)| (digits(days).unwrap_or(0), clock));
    let mut parts = clock.split(':').map(digits);
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    days.checked_mul(86_400)?
        .checked_add(hours.checked_mul(3600)?)?
        .checked_add(minutes.checked_mul(60)?)?
        .checked_add(seconds)?
        .checked_mul(1_000_000)
}

fn attempts<'a>(id: &'a str, rest: &'a str, give: &mut dyn FnMut(What<'a>)) {
    let mut attempt = Attempt {
        id,
        recipient: "",
        original: "",
        sender: "",
        relay: "",
        connection_use: 1,
        delay: None,
        delays: None,
        tls: "",
        dsn: "",
        outcome: Outcome::Deferred,
        reason: "",
    };
    let (mut to, mut stat, mut here) = ("", "", false);
    for (name, value) in Fields(rest) {
        match name {
            "to" => to = value,
            "relay" => attempt.relay = value,
            "delay" => attempt.delay = delay(value),
            "dsn" => attempt.dsn = value,
            "stat" => stat = value,
            // What delivers here needs no host.
            "mailer" if matches!(value, "local" | "cyrus" | "cyrusv2" | "procmail" | "lmtp" | "dovecot") => here = true,
            // `<a@b> (1000/1000)`
            "ctladdr" => attempt.sender = bare(until(value, " (").map_or(value, |(address, _)| address)),
            _ => {}
        }
    }
    if here {
        attempt.relay = "local";
    }
    let inner = |text: &'a str| text.strip_prefix('(').map_or(text, |text| text.strip_suffix(')').unwrap_or(text));
    (attempt.outcome, attempt.reason) = match stat {
        _ if stat.starts_with("Sent") => (Outcome::Sent, inner(stat[4..].trim_start())),
        // Into the queue, not yet tried: no outcome.
        "queued" | "Queued" => return give(What::Remark { id }),
        _ if stat.starts_with("Deferred") => (Outcome::Deferred, stat[8..].trim_start_matches([':', ' '])),
        _ if stat.starts_with("deliverable") => (Outcome::Deliverable, stat),
        _ if attempt.dsn.starts_with('4') => (Outcome::Deferred, stat),
        _ if attempt.dsn.starts_with('2') => (Outcome::Sent, stat),
        "" => return give(What::Unknown),
        _ => (Outcome::Bounced, stat),
    };
    let mut any = false;
    for recipient in to.split(',') {
        let recipient = bare(recipient.trim());
        if !recipient.is_empty() {
            any = true;
            give(What::Attempt(Attempt { recipient, ..attempt }));
        }
    }
    if !any {
        give(What::Unknown);
    }
}

/// `ruleset=check_rcpt, arg1=<a@b>, relay=h [1.2.3.4], reject=550 5.7.1 <a@b>... Relaying denied`
fn ruleset<'a>(id: &'a str, rest: &'a str) -> What<'a> {
    let mut refusal = Refusal { id, ..Refusal::default() };
    let mut argument = "";
    for (name, value) in Fields(rest) {
        match name {
            "ruleset" => {
                refusal.stage = match value {
                    "check_relay" => "CONNECT",
                    "check_mail" => "MAIL",
                    "check_rcpt" => "RCPT",
                    "check_data" => "DATA",
                    "check_eoh" | "check_eom" => "END-OF-MESSAGE",
                    other => other,
                }
            }
            "arg1" => argument = bare(value),
            "relay" => refusal.client = client(value),
            "reject" => (refusal.word, refusal.text) = ("reject", value),
            "discard" => (refusal.word, refusal.text) = ("discard", value),
            _ => {}
        }
    }
    match refusal.stage {
        "RCPT" => refusal.recipient = Some(argument),
        "MAIL" => refusal.sender = Some(argument),
        _ => {}
    }
    if refusal.word.is_empty() { What::Remark { id } } else { What::Refused(refusal) }
}

/// `Milter: to=<a@b>, reject=550 5.7.1 no`, `Milter: data, reject=...`, `Milter change ...`
fn milter<'a>(id: &'a str, rest: &'a str) -> What<'a> {
    let Some((before, reply)) = until(rest, "reject=") else { return What::Remark { id } };
    let mut refusal = Refusal { id, word: "milter-reject", text: reply, stage: "END-OF-MESSAGE", ..Refusal::default() };
    if let Some(to) = before.strip_prefix("to=") {
        refusal.stage = "RCPT";
        refusal.recipient = Some(bare(to.trim_end_matches([',', ' '])));
    } else if let Some(from) = before.strip_prefix("from=") {
        refusal.stage = "MAIL";
        refusal.sender = Some(bare(from.trim_end_matches([',', ' '])));
    }
    What::Refused(refusal)
}

fn no_queue(rest: &str) -> What<'_> {
    match rest.strip_prefix("connect from ") {
        Some(who) => What::Connected(client(who)),
        None if number(rest).is_some() => What::Unknown,
        None => What::Remark { id: "" },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<What<'_>> {
        let mut found = Vec::new();
        parse(text, &mut |what| found.push(what));
        found
    }

    #[test]
    fn messages() {
        let found = all(
            "4AL7gQ1x012345: from=<s@x>, size=123, class=0, nrcpts=2, msgid=<m, n@x>, proto=ESMTP, daemon=MTA, relay=h.x [192.0.2.1]",
        );
        let [What::Queued { id, sender, size, recipients, message_id, client, begins: true, .. }] = found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(
            (id, sender, size, recipients, message_id),
            ("4AL7gQ1x012345", "s@x", Some(123), Some(2), "<m, n@x>")
        );
        assert_eq!((client.name, client.address), ("h.x", "192.0.2.1"));
        let found = all(
            "4AL7gQ1x012345: to=<a@b.jp>,<c@b.jp>, ctladdr=<s@x> (1000/1000), delay=1+00:00:02, xdelay=00:00:01, mailer=esmtp, \
             pri=30, relay=mx.b.jp. [192.0.2.9], dsn=5.1.1, stat=User unknown",
        );
        let [What::Attempt(one), What::Attempt(two)] = found[..] else { panic!("{found:?}") };
        assert_eq!((one.recipient, two.recipient, one.sender), ("a@b.jp", "c@b.jp", "s@x"));
        assert_eq!(
            (one.outcome, one.reason, one.delay, one.dsn),
            (Outcome::Bounced, "User unknown", Some(86_402_000_000), "5.1.1")
        );
        for (stat, outcome, reason) in [
            ("dsn=2.0.0, stat=Sent (250 ok, really)", Outcome::Sent, "250 ok, really"),
            ("dsn=4.0.0, stat=Deferred: Connection refused by mx", Outcome::Deferred, "Connection refused by mx"),
            ("stat=Sent", Outcome::Sent, ""),
            ("dsn=5.0.0, stat=Service unavailable", Outcome::Bounced, "Service unavailable"),
        ] {
            let text = format!("4AL7gQ1x012345: to=<a@b>, delay=00:00:01, relay=x, {stat}");
            let found = all(&text);
            let [What::Attempt(attempt)] = found[..] else { panic!("{found:?}") };
            assert_eq!((attempt.outcome, attempt.reason), (outcome, reason));
        }
        assert_eq!(all("4AL7gQ1x012345: to=<a@b>, stat=queued"), [What::Remark { id: "4AL7gQ1x012345" }]);
        assert_eq!(
            all("4AL7gQ1x012345: 4AL7gQ1y012345: DSN: User unknown"),
            [What::Noticed { id: "4AL7gQ1x012345", notice: Notice::Failure, notice_id: "4AL7gQ1y012345" }]
        );
        let found = all(
            "4AL7gQ1x012345: ruleset=check_rcpt, arg1=<a@b>, relay=h [192.0.2.1], reject=550 5.7.1 <a@b>... Relaying denied",
        );
        let [What::Refused(refusal)] = found[..] else { panic!("{found:?}") };
        assert_eq!(
            (refusal.stage, refusal.recipient, refusal.text),
            ("RCPT", Some("a@b"), "550 5.7.1 <a@b>... Relaying denied")
        );
    }

    #[test]
    fn hostile_lines() {
        for text in [
            "",
            ": ",
            "4AL7gQ1x012345: ",
            "4AL7gQ1x012345: to=",
            "4AL7gQ1x012345: to=, stat=x",
            "4AL7gQ1x012345: from=",
            "NOQUEUE: ",
            "山: x",
            "4AL7gQ1x012345: to=<山, 山=>, stat",
        ] {
            assert!(!all(text).is_empty(), "{text}");
        }
        let many = format!("4AL7gQ1x012345: to={}", ", ".repeat(20_000));
        assert_eq!(all(&many).len(), 1);
    }
}
