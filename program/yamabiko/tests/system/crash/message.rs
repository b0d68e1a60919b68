//! What is sent, to whom, and how it must arrive: every message can be made again from a few words in its own header.

use std::fmt::Write;

use super::random::Random;

/// A kind of recipient, by what becomes of its mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum To {
    /// virtual(8), one file.
    File,
    /// virtual(8), a Maildir.
    Dir,
    /// local(8), one file, under a user's own ID.
    User,
    /// local(8), a Maildir, under a user's own ID.
    UserDir,
    /// local(8), an alias: a file, and an address far away, which makes a message of its own.
    Alias,
    /// Taken by the next hop.
    Far,
    /// Put off by the next hop twice, then taken.
    Later,
    /// Put off by the next hop for ever.
    Never,
    /// Refused by the next hop: comes back.
    Gone,
}

impl To {
    const ALL: [Self; 9] = [
        Self::File,
        Self::Dir,
        Self::User,
        Self::UserDir,
        Self::Alias,
        Self::Far,
        Self::Later,
        Self::Never,
        Self::Gone,
    ];
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Has a Maildir here.
    Here,
    /// Gets its notices through the next hop.
    There,
    /// Nobody: what fails is not told.
    Nobody,
}

impl From {
    /// The reverse-path.
    pub fn address(self) -> &'static str {
        match self {
            Self::Here => "sender@box.example",
            Self::There => "sender@far.example",
            Self::Nobody => "",
        }
    }
}

/// A message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its name, which no other has.
    pub word: String,
    pub from: From,
    pub to: Vec<To>,
    /// Lines of its body.
    pub lines: usize,
}

/// Lines of the largest messages: more than a megabyte.
const LARGE: usize = 20_000;

impl Message {
    /// A message like no other.
    pub fn new(word: String, random: &mut Random) -> Self {
        let from = match random.below(10) {
            0 => From::Nobody,
            1 => From::There,
            _ => From::Here,
        };
        let mut to: Vec<To> = To::ALL.into_iter().filter(|_| random.below(5) == 0).collect();
        // What is never delivered stays for the whole chapter.
        if random.below(4) != 0 {
            to.retain(|to| *to != To::Never);
        }
        if to.is_empty() {
            to.push(if random.below(2) == 0 { To::Far } else { To::Dir });
        }
        let lines = match random.below(80) {
            0 => LARGE,
            1..=8 => 400,
            _ => 1,
        };
        Self { word, from, to, lines }
    }

    /// An address of a recipient; `users` are those of this machine who get mail.
    pub fn address(&self, to: To, users: &[String; 2]) -> String {
        let word = &self.word;
        match to {
            To::File => "file@box.example".to_owned(),
            To::Dir => "dir@box.example".to_owned(),
            To::User => format!("{}@local.example", users[0]),
            To::UserDir => format!("{}@dirs.example", users[1]),
            To::Alias => "alias@local.example".to_owned(),
            To::Far => "far@far.example".to_owned(),
            To::Later => format!("later-{word}@far.example"),
            To::Never => format!("never-{word}@far.example"),
            To::Gone => format!("gone-{word}@far.example"),
        }
    }

    /// Where it must arrive, by the names of [`super::arrivals`]. What stays in the queue is not among them.
    pub fn due(&self) -> Vec<&'static str> {
        let mut due = Vec::new();
        for to in &self.to {
            match to {
                To::File => due.push("file"),
                To::Dir => due.push("dir"),
                To::User => due.push("user"),
                To::UserDir => due.push("userdir"),
                To::Alias => due.extend(["aliased", "twice"]),
                To::Far => due.push("far"),
                To::Later => due.push("later"),
                To::Gone if self.from != From::Nobody => due.push("notice"),
                To::Gone | To::Never => {}
            }
        }
        due
    }

    /// Header and body, LF line ends.
    pub fn text(&self) -> String {
        let word = &self.word;
        format!(
            "From: load@load.example\nTo: many@load.example\nSubject: {word}\nMessage-ID: <{word}@load.example>\n\
             X-Lines: {}\n\n{}",
            self.lines,
            body(word, self.lines)
        )
    }
}

/// The body that belongs to a word.
pub fn body(word: &str, lines: usize) -> String {
    let mut text = String::with_capacity(lines * 64 + 200);
    text.push_str("From the beginning\n.\n..two dots\n");
    for line in 0..lines {
        let _ = writeln!(text, "{word} {line} 0123456789 abcdefghijklmnopqrstuvwxyz 0123456789");
    }
    let _ = writeln!(text, "end {word}");
    text
}

/// What a mail that arrived says of itself, and whether all of it is there, byte for byte.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// The message, or the one that a notice is about. Empty when even that is not there.
    pub word: String,
    pub whole: bool,
    /// It is a notice.
    pub notice: bool,
}

/// Reads a mail, LF line ends; in an mbox `From ` is quoted.
pub fn read(mail: &str, mbox: bool) -> Read {
    let (header, rest) = mail.split_once("\n\n").unwrap_or((mail, ""));
    let field = |name: &str| header.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    if header.contains("multipart/report") {
        let about = rest.lines().find_map(|line| line.strip_prefix("Final-Recipient: rfc822; gone-"));
        let word = about.and_then(|about| about.split('@').next()).unwrap_or_default().to_owned();
        let boundary = header.split("boundary=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        let whole = rest.trim_end().ends_with(&format!("--{boundary}--")) && rest.contains(&format!("Subject: {word}"));
        return Read { word, whole, notice: true };
    }
    let word = field("Subject: ").to_owned();
    let lines = field("X-Lines: ").parse().unwrap_or(0);
    let mut expected = body(&word, lines);
    if mbox {
        expected = format!(">{expected}\n");
    }
    Read { whole: rest == expected, word, notice: false }
}

#[test]
fn a_message_is_known_again() {
    let mut random = Random(7);
    for number in 0..20 {
        let message = Message::new(format!("w{number}"), &mut random);
        let text = message.text();
        let read_back = read(&text, false);
        assert_eq!(read_back, Read { word: message.word.clone(), whole: true, notice: false });
        assert!(!read(&text[..text.len() - 1], false).whole);
        assert!(!message.to.is_empty());
    }
}
