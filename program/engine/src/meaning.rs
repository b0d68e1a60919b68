//! What a receiver's replies mean for how it is to be treated: the judgement of `record/analyze` (with stage and host), put into
//! the words of the schedule. The schedule itself reads no text.

use std::sync::LazyLock;

use yamabiko_analyze::{Analyzer, Reason, Reply, hinted_wait};
use yamabiko_deliver::visit::Heard;
use yamabiko_envelope::SmtpStage;
use yamabiko_ledger::stage_of;
use yamabiko_schedule::Signal;

static ANALYZER: LazyLock<Analyzer> = LazyLock::new(Analyzer::embedded);

/// The strongest of what was heard; success when nothing was about us.
pub fn signal(heard: &[Heard]) -> Signal {
    let rank = |signal: &Signal| match signal {
        Signal::Success => 0,
        Signal::SessionFull { .. } => 1,
        Signal::Slower { .. } => 2,
        Signal::TooManySessions { .. } | Signal::RefusedConnection { .. } => 3,
        Signal::Blocked { .. } => 4,
    };
    heard.iter().map(one).max_by_key(rank).unwrap_or(Signal::Success)
}

fn one(heard: &Heard) -> Signal {
    let reply = heard.text.clone();
    let early = matches!(
        heard.stage,
        SmtpStage::Connect | SmtpStage::Greeting | SmtpStage::Ehlo | SmtpStage::Helo | SmtpStage::Mail
    );
    let Some(code) = heard.code else {
        // Some receivers refuse a second session by refusing the connection. With no other session open the schedule
        // hears of it as of any destination that is not there.
        let refused = heard.stage == SmtpStage::Connect && heard.text.ends_with("Connection refused");
        return if refused { Signal::RefusedConnection { reply } } else { Signal::Success };
    };
    let stage = stage_of(heard.stage);
    let verdict = ANALYZER.classify(&Reply { text: &reply, stage, remote_host: &heard.host, ..Reply::default() });
    let wait = hinted_wait(&reply);
    let temporary = code.0 / 100 == 4;
    let lower = reply.to_ascii_lowercase();
    let full_session = heard.uses > 1
        && temporary
        && matches!(heard.stage, SmtpStage::Mail | SmtpStage::Rcpt | SmtpStage::Data | SmtpStage::EndOfData)
        && ["per connection", "per session", "in one session", "in this session", "session limit", "this connection"]
            .iter()
            .any(|words| lower.contains(words));
    if full_session {
        return Signal::SessionFull { after: heard.uses - 1, reply };
    }
    // What is said of one recipient is about that recipient, and greylisting asks for patience with one message.
    let of_recipient = verdict.status.is_some_and(|status| status.subject == 2)
        || (heard.stage == SmtpStage::Rcpt && code.0 != 421)
        || ["greylist", "graylist", "grey list", "gray list"].iter().any(|word| lower.contains(word));
    match verdict.reason {
        // A code 421 to the greeting says that there is no room now, in whatever words.
        Reason::TooManyConn if temporary && (early || code.0 == 421) => Signal::TooManySessions { wait, reply },
        _ if temporary && of_recipient => Signal::Success,
        Reason::TooManyConn | Reason::Speeding => Signal::Slower { wait, reply },
        Reason::Blocked | Reason::BadReputation | Reason::RequirePtr if temporary => Signal::Slower { wait, reply },
        Reason::Blocked | Reason::BadReputation | Reason::RequirePtr => Signal::Blocked { sure: early, reply },
        _ if temporary && early && (code.0 == 421 || wait.is_some()) => Signal::Slower { wait, reply },
        // Words of large receivers that others do not use of a single message.
        _ if temporary
            && ["[tss", "temporarily deferred", "rate limit", "unusual rate"].iter().any(|w| lower.contains(w)) =>
        {
            Signal::Slower { wait, reply }
        }
        _ => Signal::Success,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_status::ReplyCode;

    /// Whatever strangers say has a meaning.
    #[test]
    fn made_up_replies() {
        const PIECES: [&str; 12] = [
            "421 ",
            "451 4.7.1 ",
            "550 ",
            "try again in ",
            "300 seconds",
            "[TSS04] ",
            "rate limit",
            "4.7.28 ",
            "too many connections",
            "\u{e9}",
            "per session",
            "blocked ",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 16).unwrap_or(0)
        };
        for _ in 0..1000 {
            let text: String = (0..next() % 8).map(|_| PIECES[next() % PIECES.len()]).collect();
            for stage in [SmtpStage::Connect, SmtpStage::Mail, SmtpStage::Rcpt, SmtpStage::EndOfData] {
                let code = text.get(..3).and_then(|code| code.parse().ok()).map(ReplyCode);
                let heard = Heard { host: "mx.a.test".to_owned(), stage, code, text: text.clone(), uses: 2 };
                let _ = signal(&[heard]);
            }
        }
    }

    #[test]
    fn replies() {
        use SmtpStage::{Connect, EndOfData, Greeting, Mail, Rcpt};
        let cases = [
            (Greeting, 1, "421 4.3.2 mfsmax.docomo.ne.jp Service not available, too many connections", "sessions"),
            (Greeting, 1, "421 4.7.0 Too many connections from your host", "sessions"),
            (Greeting, 1, "421 4.4.5 Too many concurrent SMTP connections", "sessions"),
            (Connect, 0, "connect to mfsmax.docomo.ne.jp[192.0.2.1]:25: Connection refused", "refused"),
            (Connect, 0, "connect to mx.example[192.0.2.1]:25: Connection timed out", "success"),
            (Mail, 21, "421 4.3.2 mfsmax.docomo.ne.jp Service not available, session limit", "full"),
            (Mail, 21, "421 4.7.0 Max message per connection reached, closing transmission channel", "full"),
            (Mail, 1, "451 4.7.1 Rate limit exceeded, try again in 60 seconds", "slower"),
            (
                Mail,
                1,
                "421 4.7.0 [TSS04] Messages from 192.0.2.9 temporarily deferred due to unexpected volume or user complaints",
                "slower",
            ),
            (
                EndOfData,
                1,
                "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your IP address. To \
                 protect our users from spam, mail sent from your IP address has been temporarily rate limited. gsmtp",
                "slower",
            ),
            (
                Mail,
                1,
                "451 4.7.650 The mail server [192.0.2.9] has been temporarily rate limited due to IP reputation. (S775)",
                "slower",
            ),
            (
                EndOfData,
                1,
                "451 4.7.1 [CS01] Message temporarily deferred, see https://support.apple.com/102322",
                "slower",
            ),
            (Greeting, 1, "421 4.3.2 Too busy, try again later", "slower"),
            (Mail, 1, "450 4.7.1 Too many messages, slow down", "slower"),
            (
                Greeting,
                1,
                "554 5.7.1 Service unavailable; Client host [192.0.2.9] blocked using zen.spamhaus.org",
                "blocked",
            ),
            (
                Mail,
                1,
                "550 5.7.1 Unfortunately, messages from [192.0.2.9] weren't sent. part of their network is on our block \
                 list (S3140)",
                "blocked",
            ),
            (Rcpt, 1, "550 5.1.1 <a@b.example>: Recipient address rejected: User unknown", "success"),
            (Rcpt, 1, "450 4.2.0 <a@b.example>: Recipient address rejected: Greylisted", "success"),
            (EndOfData, 1, "451 4.7.1 Greylisting in action, try again in 300 seconds", "success"),
            (Rcpt, 1, "450 4.2.1 The user you are trying to contact is receiving mail too quickly", "success"),
            (Rcpt, 1, "452 4.2.2 <a@b.example>: Mailbox full", "success"),
            (EndOfData, 1, "550 5.7.1 The recipient does not take mail from this sender", "success"),
        ];
        for (stage, uses, text, expected) in cases {
            let code = text.get(..3).and_then(|code| code.parse().ok()).map(ReplyCode);
            let heard = Heard { host: "mx.example".into(), stage, code, text: text.into(), uses };
            let found = match signal(&[heard]) {
                Signal::Success => "success",
                Signal::Slower { .. } => "slower",
                Signal::RefusedConnection { .. } => "refused",
                Signal::TooManySessions { .. } => "sessions",
                Signal::SessionFull { .. } => "full",
                Signal::Blocked { .. } => "blocked",
            };
            assert_eq!(found, expected, "{text}");
        }
        assert_eq!(signal(&[]), Signal::Success);
    }
}
