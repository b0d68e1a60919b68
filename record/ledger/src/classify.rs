//! The reason behind a reply, as the bounce analyzer sees it.

use std::sync::LazyLock;

use yamabiko_analyze::{Analyzer, Date, Reason, Reply, Stage};
use yamabiko_envelope::SmtpStage;

use crate::{Entry, What};

/// The analyzer of this process. It takes some megabytes and milliseconds, so there is one, made when something bad is first
/// heard.
pub fn analyzer() -> &'static Analyzer {
    static ANALYZER: LazyLock<Analyzer> = LazyLock::new(Analyzer::embedded);
    &ANALYZER
}

/// Whether [`reason_of`] has anything to look for in an entry.
pub fn may_have_a_reason(entry: &Entry) -> bool {
    matches!(entry.what, What::Deferred | What::Bounced) && !entry.text.is_empty()
}

/// The reason's name for an entry that tells of trouble; empty where there is none, or none was found.
pub fn reason_of(analyzer: &Analyzer, entry: &Entry) -> String {
    if !may_have_a_reason(entry) {
        return String::new();
    }
    // The text of the log line has our own words around the reply.
    let reply = entry.text.split_once(" said: ").map_or(entry.text.as_str(), |(_, reply)| reply);
    let reply = reply.rsplit_once(" (in reply to ").map_or(reply, |(reply, _)| reply);
    let verdict = analyzer.classify(&Reply {
        text: reply,
        stage: entry.stage.and_then(stage_of).or_else(|| stage_in(&entry.text)),
        remote_host: entry.relay.split('[').next().unwrap_or(""),
        recipient: &entry.recipient,
        date: i64::try_from(entry.at.seconds()).ok().map(Date::utc),
    });
    match verdict.reason {
        Reason::Undefined => String::new(),
        reason => reason.name().to_owned(),
    }
}

/// The analyzer's name for a stage; `None` where nobody was spoken with about the message.
pub fn stage_of(stage: SmtpStage) -> Option<Stage> {
    Some(match stage {
        SmtpStage::Connect | SmtpStage::Greeting => Stage::Conn,
        SmtpStage::Ehlo | SmtpStage::Helo => Stage::Ehlo,
        SmtpStage::StartTls => Stage::StartTls,
        SmtpStage::Auth => Stage::Auth,
        SmtpStage::Mail => Stage::Mail,
        SmtpStage::Rcpt => Stage::Rcpt,
        SmtpStage::Data | SmtpStage::Body | SmtpStage::EndOfData => Stage::Data,
        SmtpStage::Quit => Stage::Quit,
        SmtpStage::Lookup | SmtpStage::Xforward | SmtpStage::Rset => return None,
    })
}

/// `(in reply to RCPT TO command)`
fn stage_in(text: &str) -> Option<Stage> {
    let (_, command) = text.rsplit_once("(in reply to ")?;
    Some(match command.trim_end_matches(')').trim_end_matches(" command") {
        "RCPT TO" => Stage::Rcpt,
        "MAIL FROM" => Stage::Mail,
        "DATA" | "end of DATA" | "BDAT" => Stage::Data,
        "EHLO" | "HELO" | "LHLO" => Stage::Ehlo,
        "STARTTLS" => Stage::StartTls,
        "AUTH" => Stage::Auth,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_envelope::Timestamp;

    #[test]
    fn the_stage_decides() {
        let analyzer = Analyzer::embedded();
        let entry = |text: &str, stage| Entry {
            text: text.into(),
            stage,
            relay: "mfsmax.docomo.ne.jp[203.0.113.1]:25".into(),
            ..Entry::new(Timestamp::from_seconds(1_790_000_000), What::Bounced, "Q", "a@docomo.ne.jp")
        };
        let said = "host mfsmax.docomo.ne.jp[203.0.113.1] said: 550 Unknown user a@docomo.ne.jp";
        for (text, stage, reason) in [
            (format!("{said} (in reply to RCPT TO command)"), Some(SmtpStage::Rcpt), "userunknown"),
            (format!("{said} (in reply to RCPT TO command)"), None, "userunknown"),
            (format!("{said} (in reply to end of DATA command)"), Some(SmtpStage::EndOfData), "rejected"),
            (format!("{said} (in reply to end of DATA command)"), None, "rejected"),
        ] {
            assert_eq!(reason_of(&analyzer, &entry(&text, stage)), reason, "{text}");
        }
        let sent = Entry { what: What::Sent, ..entry("550 no", None) };
        assert_eq!(reason_of(&analyzer, &sent), "");
    }
}
