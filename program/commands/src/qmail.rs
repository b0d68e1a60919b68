//! The helpers of `.qmail` files: bouncesaying, condredirect, except, forward, preline, maildirmake, datemail, mailsubj,
//! qreceipt.
//!
//! They share a convention: what is before the program's name in the arguments is theirs, the program runs with the
//! message as its standard input, and exit codes are those of qmail-command(8): 0 done, 99 done and nothing more, 100
//! permanent, 111 temporary. Mail goes out through `sendmail`, this program by another name.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

use yamabiko_envelope::Timestamp;

/// Every program here, by the name it is called by.
pub const NAMES: [&str; 9] =
    ["bouncesaying", "condredirect", "except", "forward", "preline", "maildirmake", "datemail", "mailsubj", "qreceipt"];

/// Done; nothing more is to be done.
const ENOUGH: u8 = 99;
/// It will never work.
const PERMANENT: u8 = 100;
/// It may work later.
const TEMPORARY: u8 = 111;

/// Why a program ends without having done its work.
struct Failure {
    code: u8,
    text: String,
}

type Ended = Result<u8, Failure>;

fn permanent(text: impl Into<String>) -> Failure {
    Failure { code: PERMANENT, text: text.into() }
}

fn temporary(text: impl Into<String>) -> Failure {
    Failure { code: TEMPORARY, text: text.into() }
}

/// Runs one of them; `None` for a name that is none of theirs.
pub fn run(name: &str, args: &[String], called_as_yamabiko: bool) -> Option<ExitCode> {
    let mail = Sendmail { ours: called_as_yamabiko };
    let ended = match name {
        "bouncesaying" => bouncesaying(args),
        "condredirect" => condredirect(args, &mail),
        "except" => except(args),
        "forward" => forward(args, &mail),
        "preline" => preline(args),
        "maildirmake" => maildirmake(args),
        "datemail" => datemail(args, &mail),
        "mailsubj" => mailsubj(args, &mail),
        "qreceipt" => qreceipt(args, &mail),
        _ => return None,
    };
    Some(ExitCode::from(ended.unwrap_or_else(|failure| {
        eprintln!("{name}: {}", failure.text);
        failure.code
    })))
}

fn usage(text: &str) -> Failure {
    permanent(format!("usage: {text}"))
}

fn variable(name: &str) -> Result<String, Failure> {
    match std::env::var_os(name) {
        Some(value) => Ok(value.to_string_lossy().into_owned()),
        None => Err(permanent(format!("fatal: {name} not set"))),
    }
}

/// Runs a program with our standard input, or with `input`; its exit code. One that cannot be run counts as one that
/// ended with 100, or 111 where it is the system's trouble.
fn program(words: &[String], input: Option<Stdio>) -> Result<u8, Failure> {
    let Some((program, args)) = words.split_first() else { return Err(permanent("fatal: no program")) };
    let mut command = Command::new(program);
    command.args(args).stdin(input.unwrap_or_else(Stdio::inherit));
    let status = match command.status() {
        Ok(status) => status,
        Err(error) => return Ok(code_of(&error)),
    };
    match status.code() {
        Some(code) => Ok(u8::try_from(code).unwrap_or(TEMPORARY)),
        None => Err(temporary("fatal: child crashed")),
    }
}

fn code_of(error: &io::Error) -> u8 {
    use nix::errno::Errno;
    let lasting = [Errno::EAGAIN, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE, Errno::EIO, Errno::ETXTBSY];
    if error.raw_os_error().is_some_and(|code| lasting.contains(&Errno::from_raw(code))) {
        TEMPORARY
    } else {
        PERMANENT
    }
}

/// `bouncesaying ERROR [PROGRAM [ARG...]]`
fn bouncesaying(args: &[String]) -> Ended {
    let Some((error, words)) = args.split_first() else {
        return Err(usage("bouncesaying error [ program [ arg ... ] ]"));
    };
    if !words.is_empty() {
        match program(words, None)? {
            0 => {}
            TEMPORARY => return Err(temporary("fatal: temporary child error")),
            _ => return Ok(0),
        }
    }
    eprintln!("{error}");
    Ok(PERMANENT)
}

/// `condredirect NEWADDRESS PROGRAM [ARG...]`
fn condredirect(args: &[String], mail: &Sendmail) -> Ended {
    let [address, words @ ..] = args else { return Err(usage("condredirect newaddress program [ arg ... ]")) };
    if words.is_empty() {
        return Err(usage("condredirect newaddress program [ arg ... ]"));
    }
    let (sender, line) = (variable("SENDER")?, variable("DTLINE")?);
    let mut message = rewindable()?;
    let copy = message.try_clone().map_err(|error| temporary(format!("fatal: {error}")))?;
    match program(words, Some(copy.into()))? {
        0 => {}
        TEMPORARY => return Err(temporary("fatal: temporary child error")),
        _ => return Ok(0),
    }
    message.seek(SeekFrom::Start(0)).map_err(|error| temporary(format!("fatal: unable to rewind message: {error}")))?;
    let number = mail.send(&sender, std::slice::from_ref(address), line.as_bytes(), &mut message)?;
    crate::say!("condredirect: qp {number}");
    Ok(ENOUGH)
}

/// `except PROGRAM [ARG...]`
fn except(args: &[String]) -> Ended {
    if args.is_empty() {
        return Err(usage("except program [ arg ... ]"));
    }
    match program(args, None)? {
        0 => Ok(PERMANENT),
        TEMPORARY => Err(temporary("fatal: temporary child error")),
        _ => Ok(0),
    }
}

/// `forward ADDRESS...`
fn forward(args: &[String], mail: &Sendmail) -> Ended {
    if args.is_empty() {
        return Err(usage("forward address ..."));
    }
    let (sender, line) = (variable("NEWSENDER")?, variable("DTLINE")?);
    let number = mail.send(&sender, args, line.as_bytes(), &mut io::stdin().lock())?;
    crate::say!("forward: qp {number}");
    Ok(0)
}

/// `preline [-frdFRD] COMMAND [ARG...]`
fn preline(args: &[String]) -> Ended {
    let (mut from, mut path, mut delivered) = (true, true, true);
    let mut words = args;
    while let [option, rest @ ..] = words
        && let Some(letters) = option.strip_prefix('-').filter(|letters| !letters.is_empty())
    {
        words = rest;
        if letters == "-" {
            break;
        }
        for letter in letters.chars() {
            let which = match letter.to_ascii_lowercase() {
                'f' => &mut from,
                'r' => &mut path,
                'd' => &mut delivered,
                _ => return Err(usage("preline [ -frdFRD ] cmd [ arg ... ]")),
            };
            *which = letter.is_ascii_uppercase();
        }
    }
    if words.is_empty() {
        return Err(usage("preline [ -frdFRD ] cmd [ arg ... ]"));
    }
    let mut lines = String::new();
    for (name, wanted) in [("UFLINE", from), ("RPLINE", path), ("DTLINE", delivered)] {
        if wanted {
            lines.push_str(&variable(name)?);
        }
    }
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    let mut child = match command.stdin(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            return Err(Failure { code: code_of(&error), text: format!("fatal: unable to run {}: {error}", words[0]) });
        }
    };
    feed(&mut child, lines.as_bytes(), &mut io::stdin().lock())?;
    let status = child.wait().map_err(|error| temporary(format!("fatal: {error}")))?;
    match status.code() {
        Some(code) => Ok(u8::try_from(code).unwrap_or(TEMPORARY)),
        None => Err(temporary("fatal: child crashed")),
    }
}

/// `maildirmake NAME`
fn maildirmake(args: &[String]) -> Ended {
    let [name] = args else { return Err(usage("maildirmake name")) };
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    for part in ["", "tmp", "new", "cur"] {
        let path = if part.is_empty() { name.clone() } else { format!("{name}/{part}") };
        if let Err(error) = std::fs::create_dir(&path) {
            return Err(temporary(format!("fatal: unable to mkdir {path}: {error}")));
        }
    }
    Ok(0)
}

/// `datemail ARG...`: sendmail, with a date in the local time zone before the message.
fn datemail(args: &[String], mail: &Sendmail) -> Ended {
    let zone = yamabiko_message::date::Zone::system();
    let date = yamabiko_message::date::rfc5322(Timestamp::now().seconds(), &zone);
    mail.run(args, format!("Date: {date}\n").as_bytes(), &mut io::stdin().lock()).map(|_| 0)
}

/// `mailsubj SUBJECT ADDRESS...`
fn mailsubj(args: &[String], mail: &Sendmail) -> Ended {
    let Some((subject, addresses)) = args.split_first().filter(|(_, addresses)| !addresses.is_empty()) else {
        return Err(usage("mailsubj subject address ..."));
    };
    let mut body = Vec::new();
    io::stdin().lock().read_to_end(&mut body).map_err(|error| temporary(format!("fatal: unable to read: {error}")))?;
    let charset = if body.windows(2).any(|pair| pair == b"\x1b$") {
        Some(("iso-2022-jp", "7bit"))
    } else if !body.is_ascii() && std::str::from_utf8(&body).is_ok() {
        Some(("utf-8", "8bit"))
    } else {
        None
    };
    let mut header = format!("Subject: {}\nTo: {}\n", encoded(subject), addresses.join(", ").replace('\n', " "));
    if let Some((charset, encoding)) = charset {
        header.push_str(&format!(
            "MIME-Version: 1.0\nContent-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: {encoding}\n"
        ));
    }
    header.push('\n');
    let options = ["-i", "-t", "-oem"].map(str::to_owned);
    mail.run(&options, header.as_bytes(), &mut &body[..]).map(|_| 0)
}

/// A subject that is not ASCII, in encoded words (RFC 2047).
fn encoded(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ");
    if text.is_ascii() {
        return text;
    }
    const WORD: usize = 60;
    let mut words: Vec<String> = vec![String::new()];
    for character in text.chars() {
        let mut bytes = [0; 4];
        let bytes = character.encode_utf8(&mut bytes).as_bytes();
        let piece: String = match character {
            ' ' => "_".to_owned(),
            plain if plain.is_ascii_alphanumeric() => plain.to_string(),
            _ => bytes.iter().map(|byte| format!("={byte:02X}")).collect(),
        };
        if words.last().is_none_or(|word| word.len() + piece.len() > WORD) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push_str(&piece);
        }
    }
    let words: Vec<String> = words.iter().map(|word| format!("=?UTF-8?Q?{word}?=")).collect();
    words.join("\n ")
}

/// More header than this is not looked through.
const HEADER: u64 = 1 << 20;

/// `qreceipt ADDRESS`: a note of success to the sender, where the message asks for one.
fn qreceipt(args: &[String], mail: &Sendmail) -> Ended {
    let [address] = args else { return Err(usage("qreceipt deliveryaddress")) };
    let sender = variable("SENDER")?;
    if sender.is_empty() || sender == "#@[]" {
        return Ok(0);
    }
    let mut head = Vec::new();
    let read = io::stdin().lock().take(HEADER).read_to_end(&mut head);
    read.map_err(|error| temporary(format!("fatal: unable to read message: {error}")))?;
    let fields = fields(&String::from_utf8_lossy(&head));
    let of =
        |name: &'static str| fields.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str());
    let wanted = of("notice-requested-upon-delivery-to").any(|value| {
        let list = yamabiko_address::header::AddressList::parse(value.as_bytes());
        list.addresses().any(|found| found.eq_ignore_ascii_case(address))
    });
    if !wanted {
        return Ok(0);
    }
    let shown = yamabiko_address::quote(&sender).replace('\n', "_");
    let mut text = format!(
        "From: DELIVERY NOTICE SYSTEM <{shown}>\nTo: <{shown}>\nSubject: success notice\n\n\
         Hi! This is the qreceipt program. Your message was delivered to the\n\
         following address: {address}. Thanks for asking.\n"
    );
    if let Some(id) = of("message-id").next() {
        text.push_str(&format!("Your Message-ID: {}\n", id.trim()));
    }
    mail.send("", std::slice::from_ref(&sender), text.as_bytes(), &mut io::empty()).map(|_| 0)
}

/// Names, in small letters, and values of a header, unfolded.
fn fields(text: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in text.lines().take_while(|line| !line.is_empty()) {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = all.last_mut() {
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            all.push((name.trim().to_ascii_lowercase(), value.to_owned()));
        }
    }
    all
}

/// Standard input as a file that can be read twice: what comes through a pipe is kept in memory.
fn rewindable() -> Result<File, Failure> {
    let trouble = |error: io::Error| temporary(format!("fatal: unable to keep the message: {error}"));
    let stdin = io::stdin();
    let mut file = File::from(stdin.as_fd().try_clone_to_owned().map_err(trouble)?);
    if file.seek(SeekFrom::Start(0)).is_ok() {
        return Ok(file);
    }
    let mut kept = File::from(yamabiko_sys::fds::memory_file("message").map_err(trouble)?);
    io::copy(&mut file, &mut kept).map_err(trouble)?;
    kept.seek(SeekFrom::Start(0)).map_err(trouble)?;
    Ok(kept)
}

/// Gives a child lines and then the message. One that does not read to the end is no trouble.
fn feed(child: &mut Child, before: &[u8], message: &mut impl Read) -> Result<(), Failure> {
    let Some(mut pipe) = child.stdin.take() else { return Ok(()) };
    match pipe.write_all(before).and_then(|()| io::copy(message, &mut pipe)) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(temporary(format!("fatal: unable to pass the message on: {error}")))
        }
        _ => Ok(()),
    }
}

/// The way out.
struct Sendmail {
    /// We were called as `yamabiko`, and so is it.
    ours: bool,
}

impl Sendmail {
    /// Sends a message; the number of the process that took it.
    fn send(
        &self,
        sender: &str,
        recipients: &[String],
        before: &[u8],
        message: &mut impl Read,
    ) -> Result<u32, Failure> {
        let sender = if sender == "#@[]" { "" } else { sender };
        let args: Vec<String> = ["-i", "-f", sender, "--"]
            .iter()
            .map(|word| (*word).to_owned())
            .chain(recipients.iter().cloned())
            .collect();
        self.run(&args, before, message)
    }

    fn run(&self, args: &[String], before: &[u8], message: &mut impl Read) -> Result<u32, Failure> {
        let trouble = |error: io::Error| temporary(format!("fatal: unable to run sendmail: {error}"));
        let mut command = Command::new(std::env::current_exe().map_err(trouble)?);
        if self.ours {
            command.arg("sendmail");
        } else {
            command.arg0("sendmail");
        }
        let mut child = command.args(args).stdin(Stdio::piped()).spawn().map_err(trouble)?;
        let number = child.id();
        feed(&mut child, before, message)?;
        match child.wait().map_err(trouble)?.code() {
            Some(0) => Ok(number),
            Some(code) => Err(temporary(format!("fatal: sendmail ended with {code}"))),
            None => Err(temporary("fatal: sendmail crashed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        assert_eq!(encoded("plain = words"), "plain = words");
        assert_eq!(encoded("é x"), "=?UTF-8?Q?=C3=A9_x?=");
        let long = encoded(&"受け取り".repeat(6));
        assert!(long.lines().all(|line| line.trim().len() <= 75 && line.trim().ends_with("?=")), "{long}");
        assert_eq!(encoded("a\nBcc: x"), "a Bcc: x");
    }

    #[test]
    fn header_fields() {
        let text = "A: b\nNotice-Requested-Upon-Delivery-To: x@y.test,\n z@y.test\n\nC: d\n";
        assert_eq!(
            fields(text),
            [
                ("a".to_owned(), " b".to_owned()),
                ("notice-requested-upon-delivery-to".to_owned(), " x@y.test, z@y.test".to_owned()),
            ]
        );
    }
}
