//! SMTP dialogues quoted in notices: `>>> RCPT TO:<a@b>`, `<<< 550 no such user`.

use crate::analyzer::Stage;
use crate::text;
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// A refusal in a dialogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub stage: Option<Stage>,
    /// The recipient of the command, when it was RCPT.
    pub recipient: String,
    /// All lines of the reply.
    pub reply: String,
    /// The host that said so.
    pub host: String,
}

static FORTH: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b">>>"));
static BACK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"<<<"));
/// Of "while talking to " and "While talking to ".
static TALKING: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"hile talking to "));

/// Dialogues of more refusals than this are not read on.
const MAX: usize = 200;

/// The refusals of all dialogues in a text. sendmail writes `>>>` for what it said, InterScan the other way round.
pub(crate) fn refusals(human: &str) -> Vec<Refusal> {
    let mut all: Vec<Refusal> = Vec::new();
    if FORTH.find(human.as_bytes()).is_none() && BACK.find(human.as_bytes()).is_none() {
        return all;
    }
    let talks = TALKING.find(human.as_bytes()).is_some();
    let (mut stage, mut recipient, mut host) = (None, String::new(), String::new());
    for line in text::lines(human) {
        let line = text::trim(line);
        let talk = if talks { TALKING.find(line.as_bytes()) } else { None };
        if let Some(at) = talk
            && matches!(at.checked_sub(1).and_then(|w| line.as_bytes().get(w)), Some(b'w' | b'W'))
        {
            host = text::host(line[at + 16..].trim_end_matches([':', '.'])).to_owned();
            continue;
        }
        let line = text::without("... ", line);
        let line = text::after_prefix(line, "sent ").or_else(|| text::after_prefix(line, "received ")).unwrap_or(line);
        let Some(words) = line.strip_prefix(">>>").or_else(|| line.strip_prefix("<<<")) else { continue };
        let words = words.trim();
        if let Some(found) = command(words) {
            stage = Some(found);
            recipient.clear();
            if found == Stage::Rcpt
                && let Some(found) = text::address(words)
            {
                recipient.push_str(found.address);
            }
            continue;
        }
        let code = words
            .as_bytes()
            .get(..3)
            .is_some_and(|c| matches!(c[0], b'4' | b'5') && c[1..].iter().all(u8::is_ascii_digit));
        if !code {
            continue;
        }
        let full = all.len() >= MAX;
        match all.last_mut() {
            // The next line of the same reply.
            Some(last)
                if last.stage == stage
                    && last.recipient == recipient
                    && last.reply.len() < 2048
                    && last.reply.get(..3) == words.get(..3) =>
            {
                last.reply.push(' ');
                last.reply.push_str(words);
            }
            _ if !full => {
                all.push(Refusal { stage, recipient: recipient.clone(), reply: words.to_owned(), host: host.clone() });
            }
            _ => break,
        }
    }
    all
}

fn command(words: &str) -> Option<Stage> {
    const COMMANDS: [(&str, Stage); 10] = [
        ("RCPT TO", Stage::Rcpt),
        ("MAIL FROM", Stage::Mail),
        ("DATA", Stage::Data),
        ("BDAT", Stage::Data),
        (".", Stage::Data),
        ("EHLO", Stage::Ehlo),
        ("HELO", Stage::Ehlo),
        ("STARTTLS", Stage::StartTls),
        ("AUTH", Stage::Auth),
        ("QUIT", Stage::Quit),
    ];
    COMMANDS
        .iter()
        .find(|(name, _)| text::after_prefix(words, name).is_some_and(|rest| *name != "." || rest.is_empty()))
        .map(|(_, stage)| *stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialogues() {
        let found = refusals(
            "... while talking to mx.a.jp.:\n>>> RCPT To:<k@a.jp>\n<<< 550-no\n<<< 550 user\n>>> DATA\n<<< 503 Need RCPT\n",
        );
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].stage, found[0].recipient.as_str()), (Some(Stage::Rcpt), "k@a.jp"));
        assert_eq!((found[0].reply.as_str(), found[0].host.as_str()), ("550-no 550 user", "mx.a.jp"));
        assert_eq!(found[1].stage, Some(Stage::Data));
        let found = refusals("Sent <<< RCPT TO:<k@a.jp>\nReceived >>> 550 no\n");
        assert_eq!(found[0].recipient, "k@a.jp");
    }
}
