//! The list for other mail servers: tcp_table(5), socketmap_table(5) and the policy protocol, a thread per client.
//!
//! A table is asked for an address and not told who sends, so entries for one sender domain alone count in the policy
//! protocol only.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use yamabiko_envelope::Timestamp;
use yamabiko_ledger::suppress::table::{Remembered, action};

/// Clients at once; more are turned away.
const CLIENTS: usize = 200;
/// How long a client may say nothing.
const PATIENCE: Duration = Duration::from_secs(3600);
/// The longest request.
const LONGEST: u64 = 4096;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// tcp_table(5)
    Table,
    /// socketmap_table(5)
    Socketmap,
    /// That of `check_policy_service`.
    Policy,
}

/// Answers until interrupted.
pub fn run(list: &Path, listen: &str, protocol: Protocol) -> io::Result<()> {
    let list = Arc::new(Remembered::new(list));
    let clients = Arc::new(AtomicUsize::new(0));
    if listen.starts_with('/') {
        let _ = std::fs::remove_file(listen);
        let listener = UnixListener::bind(listen)?;
        eprintln!("yamabiko suppress: answering on {listen}");
        for stream in listener.incoming() {
            let stream = stream?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let reader = stream.try_clone()?;
            start(&list, &clients, reader, stream, protocol);
        }
        return Ok(());
    }
    let listener = TcpListener::bind(listen)?;
    eprintln!("yamabiko suppress: answering on {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        stream.set_read_timeout(Some(PATIENCE))?;
        let reader = stream.try_clone()?;
        start(&list, &clients, reader, stream, protocol);
    }
    Ok(())
}

fn start(
    list: &Arc<Remembered>,
    clients: &Arc<AtomicUsize>,
    reader: impl Read + Send + 'static,
    writer: impl Write + Send + 'static,
    protocol: Protocol,
) {
    if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
        clients.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let (list, counted) = (Arc::clone(list), Arc::clone(clients));
    let started = std::thread::Builder::new().spawn(move || {
        // A client that breaks off is nobody's trouble.
        let reader = BufReader::new(reader);
        let _ = match protocol {
            Protocol::Table => lines(&list, reader, writer),
            Protocol::Socketmap => netstrings(&list, reader, writer),
            Protocol::Policy => policy(&list, reader, writer),
        };
        counted.fetch_sub(1, Ordering::Relaxed);
    });
    if started.is_err() {
        clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `get KEY` is answered with `200 VALUE`, `500 not found` or `400 trouble`, all in the coding of the protocol.
pub fn lines(list: &Remembered, mut reader: impl BufRead, mut writer: impl Write) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        if reader.by_ref().take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if !line.ends_with(b"\n") {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line);
        let answer = match line.trim_end().split_once(' ') {
            Some(("get", key)) => match list.find(&decoded(key), "", Timestamp::now()) {
                Ok(Some(entry)) => format!("200 {}", encoded(&action(&entry))),
                Ok(None) => "500 not%20found".to_owned(),
                Err(error) => format!("400 {}", encoded(&error.to_string())),
            },
            _ => "400 only%20get%20is%20known".to_owned(),
        };
        writer.write_all(format!("{answer}\n").as_bytes())?;
    }
}

/// `9:map a@b.c,` is answered with `OK value`, `NOTFOUND `, `TEMP reason`.
pub fn netstrings(list: &Remembered, mut reader: impl BufRead, mut writer: impl Write) -> io::Result<()> {
    loop {
        let mut head = Vec::new();
        if reader.by_ref().take(8).read_until(b':', &mut head)? == 0 {
            return Ok(());
        }
        let length = head.strip_suffix(b":").and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
        let Some(length) = length.filter(|length| *length < LONGEST) else { return Ok(()) };
        let mut body = vec![0; usize::try_from(length).unwrap_or(0) + 1];
        reader.read_exact(&mut body)?;
        if body.pop() != Some(b',') {
            return Ok(());
        }
        let request = String::from_utf8_lossy(&body);
        let answer = match request.split_once(' ') {
            Some((_, key)) => match list.find(key, "", Timestamp::now()) {
                Ok(Some(entry)) => format!("OK {}", action(&entry)),
                Ok(None) => "NOTFOUND ".to_owned(),
                Err(error) => format!("TEMP {error}"),
            },
            None => "PERM a map and a key".to_owned(),
        };
        writer.write_all(format!("{}:{answer},", answer.len()).as_bytes())?;
    }
}

/// Lines of a policy request, at most.
const ATTRIBUTES: usize = 200;

/// `name=value` lines and an empty one are answered with `action=REJECT ...` or `action=DUNNO`.
pub fn policy(list: &Remembered, mut reader: impl BufRead, mut writer: impl Write) -> io::Result<()> {
    loop {
        let (mut sender, mut recipient) = (String::new(), String::new());
        let mut lines = 0;
        loop {
            let mut line = Vec::new();
            reader.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
            lines += 1;
            if !line.ends_with(b"\n") || lines > ATTRIBUTES {
                return Ok(());
            }
            let line = String::from_utf8_lossy(&line);
            match line.trim_end_matches(['\r', '\n']).split_once('=') {
                None => break,
                Some(("sender", value)) => value.clone_into(&mut sender),
                Some(("recipient", value)) => value.clone_into(&mut recipient),
                Some(_) => {}
            }
        }
        // Notices go to whom they are for; what cannot be looked up keeps nobody's mail back.
        let found = match recipient.is_empty() || sender.is_empty() {
            true => None,
            false => list.find(&recipient, &sender, Timestamp::now()).unwrap_or(None),
        };
        let answer = found.map_or_else(|| "DUNNO".to_owned(), |entry| action(&entry));
        writer.write_all(format!("action={answer}\n\n").as_bytes())?;
    }
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=b' ' | 0x7f.. => out.push_str(&format!("%{byte:02x}")),
            byte => out.push(char::from(byte)),
        }
    }
    out
}

fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        if byte == b'%'
            && let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next()))
        {
            // Two hexadecimal digits fit.
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_ledger::suppress::{List, Suppressed};

    #[test]
    fn both_protocols() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        let entry = Suppressed {
            address: "dead@b.test".into(),
            sender: String::new(),
            reason: "userunknown".into(),
            evidence: "550 no".into(),
            since: Timestamp::from_seconds(1_795_309_323),
            until: None,
            source: "rules".into(),
        };
        let file = List::open(&path).unwrap();
        file.add(&entry).unwrap();
        let narrow = Suppressed { address: "full@b.test".into(), sender: "news.test".into(), ..entry };
        file.add(&narrow).unwrap();
        let list = Remembered::new(&path);
        let mut out = Vec::new();
        lines(&list, &b"get DEAD@b.test\nget%20\nget x%40b.test\nput a b\n"[..], &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let said: Vec<&str> = out.lines().collect();
        assert!(said[0].starts_with("200 REJECT%205.1.1%20recipient%20is%20on%20the%20suppression"), "{out}");
        assert_eq!(said[1..], ["400 only%20get%20is%20known", "500 not%20found", "400 only%20get%20is%20known"]);
        let mut out = Vec::new();
        netstrings(&list, &b"13:s dead@b.test,10:s a@b.test,5:alone,"[..], &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains(":OK REJECT 5.1.1 "), "{out}");
        assert!(out.ends_with("9:NOTFOUND ,20:PERM a map and a key,"), "{out}");
        let mut out = Vec::new();
        let asked = "request=smtpd_access_policy\nsender=a@news.test\nrecipient=full@b.test\n\n\
                     sender=a@other.test\nrecipient=full@b.test\n\nsender=\nrecipient=dead@b.test\n\n\
                     sender=a@b\nrecipient=Dead@b.test\n\nsender=cut";
        policy(&list, asked.as_bytes(), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let said: Vec<&str> = out.split("\n\n").map(|line| &line[..line.len().min(13)]).collect();
        assert_eq!(said, ["action=REJECT", "action=DUNNO", "action=DUNNO", "action=REJECT", ""]);
        for rubbish in [&b"99999:x"[..], b"x", b"3:abc;", b":", b""] {
            let _ = netstrings(&list, rubbish, &mut Vec::new());
            let _ = lines(&list, rubbish, &mut Vec::new());
            let _ = policy(&list, rubbish, &mut Vec::new());
        }
    }
}
