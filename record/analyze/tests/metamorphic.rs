//! Changes that do not change what a bounce means, and the demand that the answer stays the same: other line ends, a few
//! more hops, folded fields, other letters in field names, the text encoded otherwise, another recipient, another queue id, the
//! whole forwarded as an attachment. It needs no expected values, so it runs over every mail there is: the project's
//! fixtures, and the collection of bounces beside the repository where that is (`YAMABIKO_SHARED`, or `../shared`).

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use yamabiko_analyze::{Analysis, Analyzer, Kind, Reason};
use yamabiko_report::decode;
use yamabiko_report::structure::{Media, Structure, Transfer};

fn below(folder: &Path) -> Vec<PathBuf> {
    let mut todo = vec![folder.to_owned()];
    let mut all = Vec::new();
    while let Some(folder) = todo.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "eml") {
                all.push(path);
            }
        }
    }
    all.sort();
    all
}

/// Every mail that is a bounce and has LF line ends.
fn bounces(analyzer: &Analyzer) -> Vec<(String, Vec<u8>, Analysis)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = below(&root.join("tests/fixtures"));
    let shared = std::env::var_os("YAMABIKO_SHARED").map(PathBuf::from);
    let places = [shared, Some(root.join("../../../shared")), Some(root.join("../../../../shared"))];
    match places.into_iter().flatten().map(|place| place.join("bounce-corpus/emails")).find(|place| place.is_dir()) {
        Some(place) => ["bsd", "err", "not"].iter().for_each(|folder| paths.extend(below(&place.join(folder)))),
        None => println!("no collection of bounces beside the repository: only the project's own mails are changed"),
    }
    let mails = paths.into_iter().filter_map(|path| {
        let message = fs::read(&path).ok().filter(|message| !message.contains(&b'\r'))?;
        let analysis = analyzer.analyze(&message);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (analysis.kind == Kind::Bounce && !analysis.findings.is_empty()).then_some((name, message, analysis))
    });
    mails.collect()
}

/// What must stay: who, why, for how long.
fn essence(analysis: &Analysis) -> Vec<String> {
    let findings = analysis.findings.iter();
    findings
        .map(|f| {
            let status = f.status.map(|s| s.to_string()).unwrap_or_default();
            let hard = if f.hard_bounce { "hard" } else { "soft" };
            format!("{} {} {hard} {status}", f.recipient.to_lowercase(), f.reason)
        })
        .collect()
}

/// A change: the mail as it is then, and the answer that is due. `None` where it cannot be applied.
type Change = fn(&[u8], &Analysis) -> Option<(Vec<u8>, Vec<String>)>;

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 8);
    let mut rest = text;
    while let Some(at) = rest.windows(from.len()).position(|here| here == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// Header and body; the empty line belongs to the body.
fn split(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = message.windows(2).position(|two| two == b"\n\n")? + 1;
    Some(message.split_at(end))
}

fn crlf(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    Some((replaced(message, b"\n", b"\r\n"), essence(analysis)))
}

fn cr(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    Some((replaced(message, b"\n", b"\r"), essence(analysis)))
}

fn another_hop(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    let start = message.iter().position(|byte| *byte != b'\n')?;
    let message = &message[start..];
    let message = if message.starts_with(b"From ") {
        &message[message.iter().position(|byte| *byte == b'\n')? + 1..]
    } else {
        message
    };
    let mut out = b"X-Original-To: bounces@collector.example\nX-Virus-Scanned: by a scanner\nReceived: from relay.collector.example (relay.collector.example [198.51.100.7])\n\
        \tby mx.collector.example with ESMTPS id 4Zz9Qx0000z\n\tfor <bounces@collector.example>; Sun, 22 Nov 2026 01:02:03 +0000 (UTC)\n\
        X-Spam-Status: No, score=-1.9 required=5.0 tests=BAYES_00\n\tautolearn=ham\n"
        .to_vec();
    out.extend_from_slice(message);
    Some((out, essence(analysis)))
}

/// Long fields of the header folded at their blanks.
fn folded_header(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    let (header, body) = split(message)?;
    let text = std::str::from_utf8(header).ok()?;
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        let folds = ["Subject:", "From:", "To:", "Received:", "Message-Id:", "Return-Path:", "Auto-Submitted:"];
        match line.split_once(": ") {
            Some((name, value)) if folds.iter().any(|fold| *fold == format!("{name}:")) && !value.trim().is_empty() => {
                let _ = write!(out, "{name}: ");
                let mut length = name.len();
                for (number, word) in value.split(' ').enumerate() {
                    // A line of blanks would end the header.
                    if number > 0 && length > 20 && !word.trim().is_empty() {
                        out.push_str("\n\t");
                        length = 0;
                    } else if number > 0 {
                        out.push(' ');
                    }
                    out.push_str(word);
                    length += word.len();
                }
            }
            _ => out.push_str(line),
        }
    }
    Some(([out.as_bytes(), body].concat(), essence(analysis)))
}

/// Names of fields in other letters, as other systems write them.
fn other_letters(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    let mut out = message.to_vec();
    for name in ["Diagnostic-Code:", "Action:", "Status:", "Remote-MTA:", "Reporting-MTA:", "Content-Type:", "Subject:"]
    {
        let to = if name.len() % 2 == 0 { name.to_lowercase() } else { name.to_uppercase() };
        out = replaced(&out, format!("\n{name}").as_bytes(), format!("\n{to}").as_bytes());
    }
    (out != message).then(|| (out, essence(analysis)))
}

/// The fields of a delivery status folded anew.
fn folded_status(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    let text = std::str::from_utf8(message).ok()?;
    if text.contains("quoted-printable") || text.contains("base64") {
        return None;
    }
    let mut out = String::new();
    let mut changed = false;
    for line in text.split_inclusive('\n') {
        if line.starts_with("Diagnostic-Code:") && line.matches(' ').count() > 3 {
            changed = true;
            for (number, word) in line.split(' ').enumerate() {
                out.push_str(match number {
                    0 => "",
                    _ if number % 3 == 0 && !word.trim().is_empty() => "\n    ",
                    _ => " ",
                });
                out.push_str(word);
            }
        } else {
            out.push_str(line);
        }
    }
    changed.then(|| (out.into_bytes(), essence(analysis)))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in bytes.chunks(57) {
        for three in line.chunks(3) {
            let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
            for place in 0..4 {
                let six = (bits >> (18 - 6 * place) & 63) as usize;
                out.push(if place <= three.len() { ALPHABET[six] } else { b'=' });
            }
        }
        out.push(b'\n');
    }
    out
}

fn quoted(bytes: &[u8]) -> Vec<u8> {
    let mut out = String::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let mut length = 0;
        for byte in line {
            if length > 70 && *byte != b'\n' {
                out.push_str("=\n");
                length = 0;
            }
            match byte {
                b'\n' => out.push('\n'),
                b'=' | 0..=31 | 127.. => {
                    let _ = write!(out, "={byte:02X}");
                    length += 3;
                }
                _ => {
                    out.push(char::from(*byte));
                    length += 1;
                }
            }
        }
    }
    out.into_bytes()
}

/// The text for people (the first part, or the whole of a mail without parts) in another transfer encoding.
fn encoded(
    message: &[u8],
    analysis: &Analysis,
    name: &str,
    encode: fn(&[u8]) -> Vec<u8>,
) -> Option<(Vec<u8>, Vec<String>)> {
    let structure = Structure::of(message);
    let part = structure.parts.first().filter(|part| part.media == Media::Plain)?;
    if part.transfer != Transfer::Identity || part.body.is_empty() {
        return None;
    }
    // The part is a range of the message.
    let start = part.body.as_ptr() as usize - message.as_ptr() as usize;
    let (before, after) = (&message[..start], &message[start + part.body.len()..]);
    let field = format!("Content-Transfer-Encoding: {name}\n");
    let mut out;
    if structure.parts.len() == 1 && structure.body.len() == part.body.len() {
        let (header, _) = split(message)?;
        if header.to_ascii_lowercase().windows(26).any(|here| here == b"content-transfer-encoding:") {
            return None;
        }
        out = header.to_vec();
        out.extend_from_slice(field.as_bytes());
        out.push(b'\n');
    } else {
        let above = before.strip_suffix(b"\n")?;
        let lines = above
            .rsplit(|byte| *byte == b'\n')
            .take(8)
            .any(|line| line.to_ascii_lowercase().starts_with(b"content-transfer-encoding:"));
        if lines {
            return None;
        }
        out = above.to_vec();
        out.extend_from_slice(field.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(&encode(part.body));
    out.extend_from_slice(after);
    Some((out, essence(analysis)))
}

fn in_base64(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    encoded(message, analysis, "base64", base64)
}

fn in_quoted_printable(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    encoded(message, analysis, "quoted-printable", quoted)
}

/// A notice in plain text without MIME as a page.
fn as_html(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    let (header, body) = split(message)?;
    let lower = header.to_ascii_lowercase();
    if lower.windows(13).any(|here| here == b"content-type:") || !body.is_ascii() {
        return None;
    }
    let mut out = header.to_vec();
    out.extend_from_slice(b"MIME-Version: 1.0\nContent-Type: text/html; charset=utf-8\n\n<!DOCTYPE html>\n<html><head><title>Notice</title></head>\n<body>");
    for byte in body {
        match byte {
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'&' => out.extend_from_slice(b"&amp;"),
            b'\n' => out.extend_from_slice(b"<br>"),
            _ => out.push(*byte),
        }
    }
    out.extend_from_slice(b"</body></html>\n");
    Some((out, essence(analysis)))
}

/// A text in ISO-2022-JP as UTF-8.
fn in_utf8(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    let structure = Structure::of(message);
    let part =
        structure.parts.first().filter(|part| part.media == Media::Plain && part.transfer == Transfer::Identity)?;
    let label = part.charset.filter(|label| label.eq_ignore_ascii_case(b"iso-2022-jp"))?;
    let text = decode::charset(part.body, part.charset);
    // Both are ranges of the message, the label before the text.
    let (at, start) =
        (label.as_ptr() as usize - message.as_ptr() as usize, part.body.as_ptr() as usize - message.as_ptr() as usize);
    let pieces = [
        &message[..at],
        b"utf-8",
        &message[at + label.len()..start],
        text.as_bytes(),
        &message[start + part.body.len()..],
    ];
    Some((pieces.concat(), essence(analysis)))
}

/// Another local part of the same domain.
fn another_recipient(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    let text = String::from_utf8_lossy(message);
    if analysis.findings.len() != 1
        || text.to_lowercase().contains("base64")
        || text.to_lowercase().contains("quoted-printable")
    {
        return None;
    }
    let recipient = &analysis.findings[0].recipient;
    let (local, domain) = recipient.rsplit_once('@')?;
    let due: Vec<String> = essence(analysis)
        .iter()
        .map(|line| line.replacen(&recipient.to_lowercase(), &format!("lee.q-7@{}", domain.to_lowercase()), 1))
        .collect();
    let named = |address: &[u8]| {
        text.as_bytes().windows(address.len()).filter(|here| here.eq_ignore_ascii_case(address)).count()
    };
    // As written there, and no other address ends like it.
    if local.len() < 3 || named(recipient.as_bytes()) != text.matches(recipient.as_str()).count() {
        return None;
    }
    let bytes = message.windows(recipient.len()).enumerate().filter(|(_, here)| *here == recipient.as_bytes());
    let within =
        |at: usize| at > 0 && (message[at - 1].is_ascii_alphanumeric() || b".-_+=\"".contains(&message[at - 1]));
    if bytes.clone().count() == 0 || bytes.clone().any(|(at, _)| within(at)) {
        return None;
    }
    Some((replaced(message, recipient.as_bytes(), format!("lee.q-7@{domain}").as_bytes()), due))
}

/// The clock of every machine a few seconds later, queue ids of another day: digits that mean nothing.
fn other_seconds(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    let mut out = message.to_vec();
    for at in 0..out.len().saturating_sub(10) {
        let here = &out[at..at + 10];
        let clock = here[0] == b' '
            && here[3] == b':'
            && here[6] == b':'
            && here[9] == b' '
            && [1, 2, 4, 5, 7, 8].iter().all(|place| here[*place].is_ascii_digit());
        if clock {
            out[at + 7] = b'0';
            out[at + 8] = b'7';
        }
    }
    (out != message).then(|| (out, essence(analysis)))
}

/// Somebody forwarded it as an attachment.
fn attached(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    let mut out = b"From: Hanako <hanako@collector.example>\nTo: postmaster@collector.example\nSubject: Fwd: what is this?\n\
        Message-ID: <77@collector.example>\nDate: Sun, 22 Nov 2026 01:02:03 +0000\nMIME-Version: 1.0\n\
        Content-Type: multipart/mixed; boundary=\"=_forwarded_77\"\n\n--=_forwarded_77\nContent-Type: text/plain\n\nCan you tell me?\n\n\
        --=_forwarded_77\nContent-Type: message/rfc822\nContent-Disposition: attachment\n\n"
        .to_vec();
    out.extend_from_slice(message);
    out.extend_from_slice(b"\n--=_forwarded_77--\n");
    Some((out, essence(analysis)))
}

/// A gateway that puts a blank at the end of each line with text.
fn blanks_at_the_ends(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    let lower = message.to_ascii_lowercase();
    let encoded = |name: &[u8]| lower.windows(name.len()).any(|here| here == name);
    // Within these a blank at the end is something else.
    if encoded(b"quoted-printable") || encoded(b"format=flowed") {
        return None;
    }
    let mut out = Vec::new();
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) if !text.is_empty() => {
                out.extend_from_slice(text);
                out.extend_from_slice(b" \n");
            }
            _ => out.extend_from_slice(line),
        }
    }
    Some((out, essence(analysis)))
}

/// A disclaimer below everything. (Where a notice gives no reason at all, any word below it is taken for one.)
fn disclaimer(message: &[u8], analysis: &Analysis) -> Option<(Vec<u8>, Vec<String>)> {
    if analysis.findings.iter().any(|finding| finding.reason == Reason::OnHold) {
        return None;
    }
    let mut out = message.to_vec();
    out.extend_from_slice(
        b"\n\n_______________________________________________\nThis e-mail and its attachments are confidential. If you are not the one it is meant for,\n\
        please tell the sender and delete it. Scanned for viruses.\n",
    );
    Some((out, essence(analysis)))
}

const CHANGES: &[(&str, Change)] = &[
    ("lines end in CRLF", crlf),
    ("lines end in CR", cr),
    ("another hop", another_hop),
    ("header folded", folded_header),
    ("other letters", other_letters),
    ("status folded", folded_status),
    ("text in base64", in_base64),
    ("text in quoted-printable", in_quoted_printable),
    ("as HTML", as_html),
    ("in UTF-8", in_utf8),
    ("another recipient", another_recipient),
    ("other seconds", other_seconds),
    ("attached", attached),
    ("blanks at the ends", blanks_at_the_ends),
    ("disclaimer", disclaimer),
];

#[test]
fn changes_that_change_nothing() {
    let analyzer = Analyzer::embedded();
    let mails = bounces(&analyzer);
    assert!(mails.len() > 60);
    let mut wrong = String::new();
    for (what, change) in CHANGES {
        let (mut all, mut same) = (0, 0);
        for (name, message, analysis) in &mails {
            let Some((changed, due)) = change(message, analysis) else { continue };
            all += 1;
            let got = essence(&analyzer.analyze(&changed));
            if got == due {
                same += 1;
            } else {
                let _ = writeln!(wrong, "{what}: {name}: {due:?} became {got:?}");
            }
        }
        println!("{what}: {same} of {all}");
        assert!(all > 0, "{what} was tried on no mail");
    }
    assert!(wrong.is_empty(), "{wrong}");
}
