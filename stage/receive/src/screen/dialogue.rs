//! The conversation of a client that is not handed over: as much SMTP as it takes to hear whom it wants to send mail to,
//! and to see how it behaves. Every recipient is refused.

use futures_util::FutureExt;
use memchr::memchr;

use super::cache::Test;
use super::machine::{Next, Said, Screen};
use crate::peer::Discard;
use crate::session::escaped;

/// A conversation.
#[derive(Debug)]
pub(super) struct Dialogue {
    /// The last command, as the log names it.
    pub(super) place: String,
    discard: Discard,
    helo: String,
    protocol: &'static str,
    sender: Option<String>,
    recipient: String,
    commands: u32,
    encrypted: bool,
}

const VERBS: [&str; 15] = [
    "HELO", "EHLO", "STARTTLS", "XCLIENT", "MAIL", "RCPT", "DATA", "BDAT", "AUTH", "RSET", "NOOP", "VRFY", "ETRN",
    "QUIT", "HELP",
];

const PROTOCOL_ERROR: (&str, &str) = ("521 5.5.1 Protocol error", "550 5.5.1 Protocol error");

/// What a command is answered with.
enum Answer {
    Reply(String),
    Lines(Vec<String>),
    Last(String),
    Handshake,
}

impl Dialogue {
    pub(super) fn new(discard: Discard) -> Self {
        Self {
            place: "CONNECT".to_owned(),
            discard,
            helo: String::new(),
            protocol: "SMTP",
            sender: None,
            recipient: String::new(),
            commands: 0,
            encrypted: false,
        }
    }

    /// RFC 3207: what was said before is forgotten.
    pub(super) fn secured(&mut self) {
        self.encrypted = true;
        self.helo.clear();
        self.protocol = "SMTP";
        self.sender = None;
    }

    pub(super) fn advance(&mut self, screen: &mut Screen, input: &[u8]) -> (usize, Next) {
        let mut used = 0;
        loop {
            // `used` never passes the end.
            let rest = input.get(used..).unwrap_or_default();
            let limit = screen.settings.line_limit;
            let Some(at) = memchr(b'\n', rest).filter(|at| *at <= limit) else {
                if rest.len() > limit {
                    screen.log(format!("COMMAND LENGTH LIMIT from {} after {}", screen.who, self.place));
                    let reply = format!("421 {} Service unavailable - try again later", screen.settings.myhostname);
                    return (input.len(), screen.drop_with(&reply));
                }
                return (used, screen.read());
            };
            used += at + 1;
            // `at` is a place in `rest`.
            if let Some(next) = self.line(screen, &rest[..at], &rest[at + 1..]) {
                return (used, next);
            }
        }
    }

    /// A line without its LF, and what was sent after it.
    fn line(&mut self, screen: &mut Screen, line: &[u8], ahead: &[u8]) -> Option<Next> {
        if line.last() != Some(&b'\r') && screen.todo(Test::BareNewline) {
            let shown = printable(&String::from_utf8_lossy(line));
            screen.log(format!("BARE NEWLINE from {} after {shown}", screen.who));
            if let Some(next) = screen.fail(Test::BareNewline, PROTOCOL_ERROR.0, PROTOCOL_ERROR.1) {
                return Some(next);
            }
        }
        self.commands += 1;
        if self.commands > screen.settings.command_count_limit {
            screen.log(format!("COMMAND COUNT LIMIT from {} after {}", screen.who, self.place));
            let reply = format!("421 {} Service unavailable - try again later", screen.settings.myhostname);
            return Some(screen.drop_with(&reply));
        }
        let text = String::from_utf8_lossy(line);
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
        // A table that does not answer at once is not waited for.
        let filtered = match &screen.settings.command_filter {
            filter if filter.is_empty() => None,
            filter => filter.find(text).now_or_never().and_then(Result::ok).flatten(),
        };
        let text = filtered.as_deref().unwrap_or(text);
        let (word, arguments) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let verb = VERBS.into_iter().find(|verb| word.eq_ignore_ascii_case(verb));
        if verb.is_none() && screen.todo(Test::NonSmtp) && self.is_no_smtp(screen, word, text) {
            screen.log(format!(
                "NON-SMTP COMMAND from {} after {}: {}",
                screen.who,
                self.place,
                escaped(text.as_bytes())
            ));
            let rude = "521 5.7.0 Error: I can break rules, too. Goodbye.";
            if let Some(next) = screen.fail(Test::NonSmtp, rude, PROTOCOL_ERROR.1) {
                return Some(next);
            }
        }
        verb.unwrap_or("UNIMPLEMENTED").clone_into(&mut self.place);
        if !ahead.is_empty() && verb != Some("BDAT") && screen.todo(Test::Pipelining) {
            screen.log(format!("COMMAND PIPELINING from {} after {}: {}", screen.who, self.place, escaped(ahead)));
            if let Some(next) = screen.fail(Test::Pipelining, PROTOCOL_ERROR.0, PROTOCOL_ERROR.1) {
                return Some(next);
            }
        }
        if verb == Some("RCPT") {
            // Who gets so far has passed; a later command can still fail.
            for test in [Test::Pipelining, Test::NonSmtp, Test::BareNewline] {
                let ttl = screen.settings.ttl[test as usize];
                screen.pass(test, ttl);
            }
        }
        match self.command(screen, verb, arguments.trim()) {
            Answer::Reply(reply) => {
                let sender = self.sender.as_deref().unwrap_or_default();
                screen.say(&reply, Said { helo: &self.helo, sender, recipient: &self.recipient });
                self.recipient.clear();
                None
            }
            Answer::Lines(lines) => {
                for line in &lines {
                    screen.say(line, Said::default());
                }
                None
            }
            Answer::Last(reply) => Some(screen.drop_with(&reply)),
            Answer::Handshake => {
                screen.say("220 2.0.0 Ready to start TLS", Said::default());
                Some(Next::Handshake)
            }
        }
    }

    /// A header field, or a command that nobody says who wants to send mail.
    fn is_no_smtp(&self, screen: &Screen, word: &str, text: &str) -> bool {
        let name = text.split(':').next().unwrap_or_default().trim_end();
        let header = text.contains(':') && !name.is_empty() && name.bytes().all(|b| (b'!'..=b'~').contains(&b));
        let forbidden = &screen.settings.forbidden_commands;
        header || matches!(forbidden.contains(word).now_or_never(), Some(Ok(true)))
    }

    fn command(&mut self, screen: &mut Screen, verb: Option<&str>, arguments: &str) -> Answer {
        let settings = std::sync::Arc::clone(&screen.settings);
        let reply = |text: &str| Answer::Reply(text.to_owned());
        let tls = settings.tls.is_wanted();
        let demanded = settings.tls.options.level == yamabiko_tls::Level::Encrypt && !self.encrypted;
        let free = matches!(verb, Some("HELO" | "EHLO" | "STARTTLS" | "NOOP" | "QUIT" | "RSET" | "HELP") | None);
        if demanded && !free {
            return reply("530 5.7.0 Must issue a STARTTLS command first");
        }
        match verb {
            Some("HELO" | "EHLO") if arguments.is_empty() => {
                Answer::Reply(format!("501 Syntax: {} hostname", self.place))
            }
            Some("HELO") => {
                self.greet("SMTP", arguments);
                Answer::Reply(format!("250 {}", settings.myhostname))
            }
            Some("EHLO") => {
                self.greet("ESMTP", arguments);
                Answer::Lines(self.capabilities(screen))
            }
            Some("STARTTLS") if !arguments.is_empty() => reply("501 5.5.4 Syntax: STARTTLS"),
            Some("STARTTLS") if self.encrypted => reply("554 5.5.1 Error: TLS already active"),
            Some("STARTTLS") if !tls || self.discard.starttls => reply("502 5.5.1 Error: command not implemented"),
            Some("STARTTLS") if settings.tls.server.is_none() => {
                reply("454 4.7.0 TLS not available due to local problem")
            }
            Some("STARTTLS") => Answer::Handshake,
            Some("MAIL") => self.mail(settings.helo_required, arguments),
            Some("RCPT") => self.rcpt(screen, arguments),
            // What follows may be content, which nobody wants to read.
            Some("DATA" | "BDAT") => {
                let data = verb == Some("DATA");
                let counts =
                    arguments.split_ascii_whitespace().next().is_some_and(|count| count.parse::<u64>().is_ok());
                let last = match (data, self.sender.is_some()) {
                    (true, _) if !arguments.is_empty() => "501 5.5.4 Syntax: DATA",
                    (true, false) => "503 5.5.1 Error: need RCPT command",
                    (false, false) => "554 5.5.1 Error: need MAIL command",
                    (false, true) if !counts => "501 5.5.4 Syntax: BDAT count [LAST]",
                    (_, true) => "554 5.5.1 Error: no valid recipients",
                };
                screen.log(format!("{} without valid RCPT from {}", self.place, screen.who));
                Answer::Last(last.to_owned())
            }
            Some("RSET") => {
                self.sender = None;
                reply("250 2.0.0 Ok")
            }
            Some("NOOP") => reply("250 2.0.0 Ok"),
            Some("VRFY") if arguments.is_empty() => reply("501 5.5.4 Syntax: VRFY address"),
            Some("VRFY") if settings.disable_vrfy => reply("502 5.5.1 VRFY command is disabled"),
            Some("VRFY") => Answer::Reply(screen.rcpt_reply.clone()),
            Some("ETRN") if self.helo.is_empty() => reply("503 Error: send HELO/EHLO first"),
            Some("ETRN") if arguments.is_empty() => reply("500 Syntax: ETRN domain"),
            Some("ETRN") => reply("458 Unable to queue messages"),
            Some("QUIT") => Answer::Last("221 2.0.0 Bye".to_owned()),
            _ => reply("502 5.5.2 Error: command not recognized"),
        }
    }

    fn greet(&mut self, protocol: &'static str, name: &str) {
        self.helo = printable(name);
        self.protocol = protocol;
        self.sender = None;
    }

    fn capabilities(&self, screen: &Screen) -> Vec<String> {
        let (settings, without) = (&screen.settings, self.discard);
        let mut words = vec![settings.myhostname.clone()];
        let mut offer = |offered: bool, word: &str| {
            if offered {
                words.push(word.to_owned());
            }
        };
        let size = if settings.size_limit > 0 { format!("SIZE {}", settings.size_limit) } else { "SIZE".to_owned() };
        offer(!without.size, &size);
        offer(!without.vrfy && !settings.disable_vrfy, "VRFY");
        offer(!without.etrn, "ETRN");
        offer(!without.starttls && settings.tls.is_wanted() && !self.encrypted, "STARTTLS");
        offer(!without.enhanced_status_codes, "ENHANCEDSTATUSCODES");
        offer(!without.eight_bit_mime, "8BITMIME");
        offer(!without.dsn, "DSN");
        offer(!without.smtputf8 && settings.smtputf8, "SMTPUTF8");
        offer(!without.chunking, "CHUNKING");
        let last = words.len() - 1;
        let line = |(at, word): (usize, &String)| format!("250{}{word}", if at == last { ' ' } else { '-' });
        words.iter().enumerate().map(line).collect()
    }

    fn mail(&mut self, helo_required: bool, arguments: &str) -> Answer {
        let reply = |text: &str| Answer::Reply(text.to_owned());
        if helo_required && self.helo.is_empty() {
            return reply("503 5.5.1 Error: send HELO/EHLO first");
        }
        if self.sender.is_some() {
            return reply("503 5.5.1 Error: nested MAIL command");
        }
        match address(arguments, "FROM:") {
            None => reply("501 5.5.4 Syntax: MAIL FROM:<address>"),
            Some(sender) => {
                self.sender = Some(sender);
                reply("250 2.1.0 Ok")
            }
        }
    }

    fn rcpt(&mut self, screen: &mut Screen, arguments: &str) -> Answer {
        let Some(sender) = &self.sender else { return Answer::Reply("503 5.5.1 Error: need MAIL command".to_owned()) };
        let Some(recipient) = address(arguments, "TO:") else {
            return Answer::Reply("501 5.5.4 Syntax: RCPT TO:<address>".to_owned());
        };
        let reply = screen.rcpt_reply.clone();
        let (who, protocol, helo) = (&screen.who, self.protocol, &self.helo);
        let line = format!(
            "NOQUEUE: reject: RCPT from {who}: {reply}; from=<{sender}>, to=<{recipient}>, proto={protocol}, helo=<{helo}>"
        );
        screen.log(line);
        self.recipient = recipient;
        Answer::Reply(reply)
    }
}

/// What may stand in a log line.
fn printable(text: &str) -> String {
    text.chars().take(512).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The address of MAIL or RCPT, as it is shown.
fn address(arguments: &str, keyword: &str) -> Option<String> {
    let (word, rest) = arguments.split_at_checked(keyword.len())?;
    if !word.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = rest.trim_start();
    let inside = match rest.strip_prefix('<') {
        Some(inside) => inside.split_once('>')?.0,
        None => rest.split_ascii_whitespace().next()?,
    };
    Some(printable(inside))
}
