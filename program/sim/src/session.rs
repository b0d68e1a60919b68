//! One conversation of a simulated receiver, without I/O: bytes in, [`Act`]s out, the time as an argument.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use yamabiko_smtp::data::{DataDecoder, LineEnds, Progress};

use crate::behaviour::{Behaviour, Stage, System};
use crate::profile::{StartTls, When};
use crate::site::Site;
use crate::tally::{Tally, number_of};

/// How long greylisting recipients refuse, unless the command line says otherwise.
pub const GREYLISTING: Duration = Duration::from_secs(5);
/// What a slow recipient adds to each reply.
const SLOW: Duration = Duration::from_secs(2);
/// Between two bytes of a tarpit.
pub const TRICKLE: Duration = Duration::from_millis(200);
/// Longer command lines are answered 500 and forgotten.
const LINE_LIMIT: usize = 2048;
/// Larger messages are answered 552.
const MESSAGE_LIMIT: usize = 64 << 20;
/// Where `dropcontent` hangs up.
const CONTENT_UNTIL_DROP: usize = 512;

/// What the driver is to do next, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Wait so long.
    Pause(Duration),
    /// Send this.
    Say(String),
    /// Send this a byte at a time.
    Trickle(String),
    /// Close the connection in an orderly way.
    Close,
    /// Close it by a reset.
    Reset,
    /// Do a handshake.
    Secure,
    /// Send mail back after the time that the command line says.
    Return(Box<Return>),
}

/// Mail that a receiver sends back later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Return {
    /// To whom: the reverse-path.
    pub to: String,
    /// About whom.
    pub recipient: String,
    /// What it is.
    pub kind: Returned,
    /// The receiver's own number of the message.
    pub id: String,
    /// The receiver's host name.
    pub host: String,
    /// What was received.
    pub message: Arc<[u8]>,
}

/// Kinds of mail that come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// A bounce; `None` takes the systems in turns.
    Bounce(Option<System>),
    /// A complaint.
    Complaint,
    /// An automatic reply.
    Vacation,
}

#[derive(Debug, Default)]
struct Mail {
    sender: String,
    recipients: Vec<String>,
}

#[derive(Debug)]
enum Phase {
    /// Commands are read.
    Commands,
    /// A line that is too long is read to its end.
    Overlong,
    /// A message is read.
    Content(DataDecoder, Vec<u8>),
    /// Nothing is read any more.
    Ended,
}

/// What all sessions share.
#[derive(Clone, Debug)]
pub struct World {
    /// The site.
    pub site: Arc<Site>,
    /// The counters.
    pub tally: Arc<Tally>,
    /// How long greylisting recipients refuse.
    pub greylisting: Duration,
}

/// One conversation.
#[derive(Debug)]
pub struct Session {
    world: World,
    client: IpAddr,
    host: String,
    phase: Phase,
    input: Vec<u8>,
    acts: VecDeque<Act>,
    mail: Option<Mail>,
    messages: u32,
    /// The slowest recipient of the session sets the pace.
    slow: bool,
    /// A handshake was made.
    secured: bool,
    trickle: bool,
}

impl Session {
    /// A client that was let in, at the host of this name.
    pub fn new(world: World, client: IpAddr, host: &str) -> Self {
        let mut session = Self {
            world,
            client,
            host: host.to_owned(),
            phase: Phase::Commands,
            input: Vec::new(),
            acts: VecDeque::new(),
            mail: None,
            messages: 0,
            slow: false,
            secured: false,
            trickle: false,
        };
        let greeting = session.world.site.profile.greeting.clone();
        session.say(&format!("220 {greeting}"));
        session
    }

    /// What is to be done next.
    pub fn act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// Bytes from the client.
    pub fn feed(&mut self, bytes: &[u8], now: Instant) {
        if matches!(self.phase, Phase::Ended) {
            return;
        }
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut at = 0;
        while at < input.len() {
            match &mut self.phase {
                Phase::Ended => return,
                Phase::Content(decoder, content) => {
                    let progress = decoder.decode(&input[at..], content);
                    if content.len() > MESSAGE_LIMIT {
                        self.say("552 5.3.4 Message is too large for a rehearsal");
                        return self.close();
                    }
                    let dropped = content.len() >= CONTENT_UNTIL_DROP && self.drops(Stage::Content);
                    match progress {
                        _ if dropped => return self.hang_up(Stage::Content),
                        Progress::More => at = input.len(),
                        Progress::End(used) => {
                            at += used;
                            if self.drops(Stage::Content) {
                                return self.hang_up(Stage::Content);
                            }
                            if let Phase::Content(_, content) = std::mem::replace(&mut self.phase, Phase::Commands) {
                                self.dot(content, now);
                            }
                        }
                    }
                }
                Phase::Commands | Phase::Overlong => {
                    let Some(end) = input[at..].iter().position(|byte| *byte == b'\n') else { break };
                    let line = String::from_utf8_lossy(&input[at..at + end]).trim_end().to_owned();
                    at += end + 1;
                    if matches!(self.phase, Phase::Overlong) || end > LINE_LIMIT {
                        self.phase = Phase::Commands;
                        self.say("500 5.5.2 Line too long");
                    } else {
                        let before = self.secured;
                        self.command(&line, now);
                        if self.secured != before {
                            // What was said before the handshake is not heard (RFC 3207 section 4.2).
                            at = input.len();
                        }
                    }
                }
            }
        }
        input.drain(..at);
        if input.len() > LINE_LIMIT && matches!(self.phase, Phase::Commands | Phase::Overlong) {
            self.phase = Phase::Overlong;
            input.clear();
        }
        self.input = input;
    }

    fn command(&mut self, line: &str, now: Instant) {
        let (verb, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "HELO" => self.say(&format!("250 {}", self.host)),
            "EHLO" => self.ehlo(),
            "MAIL" => self.mail(rest, now),
            "RCPT" => self.rcpt(rest, now),
            "DATA" => self.data(now),
            "RSET" => {
                self.mail = None;
                self.say("250 2.0.0 Ok");
            }
            "NOOP" => self.say("250 2.0.0 Ok"),
            "VRFY" => self.say("252 2.0.0 Send it and see"),
            "STARTTLS" if self.secured => self.say("503 5.5.1 TLS is in force already"),
            "STARTTLS" => match self.world.site.profile.starttls {
                StartTls::Works => {
                    self.say("220 2.0.0 Ready to start TLS");
                    self.mail = None;
                    self.secured = true;
                    self.acts.push_back(Act::Secure);
                }
                StartTls::No => self.say("502 5.5.1 Not here"),
                StartTls::Refuses => self.say("454 4.7.0 TLS not available due to local problem"),
                StartTls::Breaks => {
                    self.say("220 2.0.0 Ready to start TLS");
                    // What comes next is no record of TLS.
                    self.acts.push_back(Act::Say("421 what was that?\r\n".to_owned()));
                    self.close();
                }
            },
            "QUIT" => {
                self.say("221 2.0.0 Bye");
                self.close();
            }
            _ => self.say("502 5.5.2 Command not recognized"),
        }
    }

    fn ehlo(&mut self) {
        let mut text = format!("250-{}\n250-PIPELINING\n250-8BITMIME\n250-ENHANCEDSTATUSCODES\n", self.host);
        if self.world.site.profile.starttls != StartTls::No && !self.secured {
            text.push_str("250-STARTTLS\n");
        }
        text.push_str(&format!("250 SIZE {MESSAGE_LIMIT}"));
        self.say(&text);
    }

    fn mail(&mut self, rest: &str, now: Instant) {
        let Some(sender) = path(rest, "FROM:") else { return self.say("501 5.5.4 Syntax: MAIL FROM:<address>") };
        if self.mail.is_some() {
            return self.say("503 5.5.1 Nested MAIL command");
        }
        let site = Arc::clone(&self.world.site);
        if !site.begins(self.messages + 1) {
            let text = site.profile.messages_refusal.clone();
            return self.refuse_and_maybe_close(&text);
        }
        let (when, text) = &site.profile.rate_refusal;
        if *when == When::Mail && !site.within_rate(self.client, now) {
            return self.refuse_and_maybe_close(text);
        }
        self.mail = Some(Mail { sender, recipients: Vec::new() });
        self.say("250 2.1.0 Ok");
    }

    fn rcpt(&mut self, rest: &str, now: Instant) {
        let Some(recipient) = path(rest, "TO:") else { return self.say("501 5.5.4 Syntax: RCPT TO:<address>") };
        let Some(mail) = &self.mail else { return self.say("503 5.5.1 Need MAIL command") };
        let site = Arc::clone(&self.world.site);
        let limit = site.profile.recipients as usize;
        if limit > 0 && mail.recipients.len() >= limit {
            site.refused_recipient();
            return self.say(&site.profile.recipients_refusal);
        }
        let behaviour = Behaviour::of(&recipient);
        match behaviour {
            Behaviour::Drop(Stage::Mail | Stage::Rcpt) => {
                self.world.tally.of(&recipient, |of| of.dropped += 1);
                return self.close();
            }
            Behaviour::Refused(name) => {
                let (when, text) = site.profile.reply(name);
                if matches!(when, When::Rcpt | When::Mail) {
                    return self.refuse(text, &recipient);
                }
            }
            Behaviour::Grey if !site.known(self.client, &mail.sender, &recipient, self.world.greylisting, now) => {
                return self.refuse("450 4.2.0 <${recipient}>: Recipient address rejected: Greylisted", &recipient);
            }
            Behaviour::Slow => self.slow = true,
            Behaviour::Tarpit => self.trickle = true,
            _ => {}
        }
        if let Some(mail) = &mut self.mail {
            mail.recipients.push(recipient);
        }
        self.say("250 2.1.5 Ok");
    }

    fn data(&mut self, now: Instant) {
        let Some(mail) = &self.mail else { return self.say("503 5.5.1 Need MAIL command") };
        if mail.recipients.is_empty() {
            return self.say("554 5.5.1 Error: no valid recipients");
        }
        let site = Arc::clone(&self.world.site);
        if self.drops(Stage::Data) {
            return self.hang_up(Stage::Data);
        }
        let (when, text) = &site.profile.rate_refusal;
        if *when == When::Data && !site.within_rate(self.client, now) {
            self.mail = None;
            return self.refuse_and_maybe_close(text);
        }
        if let Some((text, recipient)) = self.refusal(When::Data) {
            return self.refuse_all(&text, &recipient);
        }
        self.phase = Phase::Content(DataDecoder::new(LineEnds::Standard), Vec::new());
        self.say("354 End data with <CR><LF>.<CR><LF>");
    }

    fn dot(&mut self, content: Vec<u8>, now: Instant) {
        let site = Arc::clone(&self.world.site);
        if self.drops(Stage::Dot) {
            return self.hang_up(Stage::Dot);
        }
        let (when, text) = &site.profile.rate_refusal;
        if *when == When::Dot && !site.within_rate(self.client, now) {
            self.mail = None;
            return self.refuse_and_maybe_close(text);
        }
        if let Some((text, recipient)) = self.refusal(When::Dot) {
            return self.refuse_all(&text, &recipient);
        }
        let Some(mail) = self.mail.take() else { return };
        self.messages += 1;
        let id = site.took(self.client, self.messages, self.secured, now);
        let unsaid = mail.recipients.iter().any(|one| Behaviour::of(one) == Behaviour::LostReply);
        self.world.tally.took(&number_of(&content), mail.recipients.iter().map(String::as_str), !unsaid);
        self.give_back(&mail, &id, content);
        if unsaid {
            return self.close();
        }
        let text = site.profile.accepted.replace("${id}", &id);
        self.say(&text);
    }

    /// What is sent back later.
    fn give_back(&mut self, mail: &Mail, id: &str, content: Vec<u8>) {
        let message: Arc<[u8]> = content.into();
        for recipient in &mail.recipients {
            let kind = match Behaviour::of(recipient) {
                Behaviour::Later(system) => Returned::Bounce(system),
                Behaviour::Complaint => Returned::Complaint,
                Behaviour::Vacation => Returned::Vacation,
                _ => continue,
            };
            if mail.sender.is_empty() {
                continue;
            }
            self.acts.push_back(Act::Return(Box::new(Return {
                to: mail.sender.clone(),
                recipient: recipient.clone(),
                kind,
                id: id.to_owned(),
                host: self.host.clone(),
                message: Arc::clone(&message),
            })));
        }
    }

    /// The refusal of the first recipient that wants one now; it is that of the whole message.
    fn refusal(&self, at: When) -> Option<(String, String)> {
        let profile = &self.world.site.profile;
        self.mail.as_ref()?.recipients.iter().find_map(|recipient| match Behaviour::of(recipient) {
            Behaviour::Refused(name) => {
                let (when, text) = profile.reply(name);
                (when == at).then(|| (text.to_owned(), recipient.clone()))
            }
            _ => None,
        })
    }

    fn drops(&self, stage: Stage) -> bool {
        let recipients = self.mail.iter().flat_map(|mail| &mail.recipients);
        recipients.into_iter().any(|one| Behaviour::of(one) == Behaviour::Drop(stage))
    }

    fn hang_up(&mut self, stage: Stage) {
        for recipient in self.mail.take().map(|mail| mail.recipients).unwrap_or_default() {
            self.world.tally.of(&recipient, |of| of.dropped += 1);
        }
        self.phase = Phase::Ended;
        // In the middle of what the client says, a reset is what it sees of a machine that died.
        self.acts.push_back(if stage == Stage::Content { Act::Reset } else { Act::Close });
    }

    fn refuse(&mut self, text: &str, recipient: &str) {
        let text = self.filled(text, recipient);
        self.count_refusal(&text, recipient);
        self.say(&text);
    }

    fn refuse_all(&mut self, text: &str, recipient: &str) {
        let text = self.filled(text, recipient);
        for each in self.mail.take().map(|mail| mail.recipients).unwrap_or_default() {
            self.count_refusal(&text, &each);
        }
        self.refuse_and_maybe_close(&text);
    }

    fn count_refusal(&self, text: &str, recipient: &str) {
        self.world.tally.of(recipient, |of| {
            *(if text.starts_with('5') { &mut of.refused } else { &mut of.deferred }) += 1;
            of.reply = text.to_owned();
        });
    }

    fn filled(&self, text: &str, recipient: &str) -> String {
        let domain = recipient.rsplit_once('@').map_or("", |(_, domain)| domain);
        text.replace("${recipient}", recipient).replace("${domain}", domain)
    }

    /// After 421 the receiver hangs up (RFC 5321 section 3.8).
    fn refuse_and_maybe_close(&mut self, text: &str) {
        self.say(text);
        if text.starts_with("421") {
            self.close();
        }
    }

    fn say(&mut self, text: &str) {
        let text = text.replace("${host}", &self.host).replace("${client}", &self.client.to_string());
        let mut wire = text.replace("\\n", "\n").replace('\n', "\r\n");
        wire.push_str("\r\n");
        let pause = self.world.site.profile.delay + if self.slow { SLOW } else { Duration::ZERO };
        if !pause.is_zero() {
            self.acts.push_back(Act::Pause(pause));
        }
        self.acts.push_back(if self.trickle { Act::Trickle(wire) } else { Act::Say(wire) });
    }

    fn close(&mut self) {
        self.phase = Phase::Ended;
        self.acts.push_back(Act::Close);
    }
}

/// The address in `FROM:<...> ...`; a source route is left out.
fn path(rest: &str, word: &str) -> Option<String> {
    let after = rest.get(..word.len()).filter(|begin| begin.eq_ignore_ascii_case(word)).map(|_| &rest[word.len()..])?;
    let (inner, _) = after.trim_start().strip_prefix('<')?.rsplit_once('>')?;
    let address =
        if inner.starts_with('@') { inner.split_once(':').map_or(inner, |(_, address)| address) } else { inner };
    Some(address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{SHIPPED, parse};

    fn world(name: &str) -> World {
        let mut profiles = Vec::new();
        parse(SHIPPED, &mut profiles).expect("shipped");
        let at = profiles.iter().position(|profile| profile.name == name).expect("a profile");
        World { site: Arc::new(Site::new(profiles.remove(at))), tally: Arc::default(), greylisting: GREYLISTING }
    }

    /// What is said to these bytes: the codes of replies, `!` for a close, `#` for a reset, `~` for a handshake, `<` for
    /// mail sent back.
    fn talk(session: &mut Session, text: &str, now: Instant) -> String {
        session.feed(text.replace('\n', "\r\n").as_bytes(), now);
        let mut all = Vec::new();
        while let Some(act) = session.act() {
            match act {
                Act::Pause(_) => {}
                Act::Say(text) | Act::Trickle(text) => {
                    let last = text.trim_end().rsplit("\r\n").next().unwrap_or_default().to_owned();
                    all.push(last[..3].to_owned());
                }
                Act::Close => all.push("!".to_owned()),
                Act::Reset => all.push("#".to_owned()),
                Act::Secure => all.push("~".to_owned()),
                Act::Return(_) => all.push("<".to_owned()),
            }
        }
        all.join(" ")
    }

    fn one(recipient: &str) -> String {
        format!("MAIL FROM:<s@x>\nRCPT TO:<{recipient}>\nDATA\nMessage-ID: <1@x>\n\n{}\n.\n", "text ".repeat(200))
    }

    #[test]
    fn behaviours() {
        let cases = [
            ("docomo", "hanako@docomo.ne.jp", "220 250 250 354 250", 1),
            ("docomo", "unknown-1@docomo.ne.jp", "220 250 550 554 502 502 502 502", 0),
            ("docomo", "filtered-1@docomo.ne.jp", "220 250 250 354 550", 0),
            ("plain", "defer@x", "220 250 450 554 502 502 502 502", 0),
            ("plain", "deferdata@x", "220 250 250 354 451", 0),
            ("plain", "droprcpt@x", "220 250 !", 0),
            ("plain", "dropdata@x", "220 250 250 !", 0),
            ("plain", "dropcontent@x", "220 250 250 354 #", 0),
            ("plain", "dropdot@x", "220 250 250 354 !", 0),
            ("plain", "lostreply@x", "220 250 250 354 !", 1),
            ("plain", "lost@x", "220 250 250 354 250", 1),
            ("plain", "later@x", "220 250 250 354 < 250", 1),
            ("plain", "complaint@x", "220 250 250 354 < 250", 1),
            ("plain", "grey@x", "220 250 450 554 502 502 502 502", 0),
            ("yahoo", "unknown@yahoo.co.jp", "220 250 250 354 554", 0),
        ];
        for (profile, recipient, said, taken) in cases {
            let world = world(profile);
            let mut session = Session::new(world.clone(), [127, 0, 0, 1].into(), "mx.test");
            assert_eq!(talk(&mut session, &one(recipient), Instant::now()), said, "{recipient}");
            assert_eq!(world.tally.messages(), taken, "{recipient}");
        }
    }

    #[test]
    fn greylisting_ends() {
        let world = world("plain");
        let start = Instant::now();
        let mut session = Session::new(world, [127, 0, 0, 1].into(), "mx.test");
        let ask = "RSET\nMAIL FROM:<s@x>\nRCPT TO:<grey-1@x>\n";
        assert_eq!(talk(&mut session, ask, start), "220 250 250 450");
        assert_eq!(talk(&mut session, ask, start + GREYLISTING / 2), "250 250 450");
        assert_eq!(talk(&mut session, ask, start + GREYLISTING), "250 250 250");
    }

    #[test]
    fn the_result_does_not_depend_on_the_pieces() {
        let text = one("a@x").replace('\n', "\r\n");
        for size in [1, 2, 3, 7, 100, 5000] {
            let world = world("plain");
            let mut session = Session::new(world.clone(), [127, 0, 0, 1].into(), "mx.test");
            for piece in text.as_bytes().chunks(size) {
                session.feed(piece, Instant::now());
            }
            assert_eq!(world.tally.messages(), 1, "{size}");
        }
    }

    #[test]
    fn limits_of_a_session() {
        let mut session = Session::new(world("docomo"), [127, 0, 0, 1].into(), "mx.test");
        let now = Instant::now();
        for number in 1..=20 {
            let said = talk(&mut session, &one("a@docomo.ne.jp"), now);
            assert_eq!(said.trim_start_matches("220 "), "250 250 354 250", "{number}");
        }
        assert_eq!(talk(&mut session, "MAIL FROM:<s@x>\n", now), "421 !");
        assert_eq!(talk(&mut session, "NOOP\n", now), "");

        let mut session = Session::new(world("plain"), [127, 0, 0, 1].into(), "mx.test");
        let long = format!("{}\nNOOP\n", "x".repeat(5000));
        for piece in long.as_bytes().chunks(1000) {
            session.feed(piece, now);
        }
        assert_eq!(talk(&mut session, "", now), "220 500 250");
        assert!(session.input.is_empty());
    }
}
