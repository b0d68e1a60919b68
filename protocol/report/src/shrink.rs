//! A notice of ours made smaller: only the headers of the message that it returned whole.

use memchr::memmem;
use yamabiko_message::header_block;

use crate::qsbmf::{BOUNCE_BELOW, COPY_BELOW};

/// The notice with the headers of the original message in place of all of it. `None` when it is no notice written here,
/// or returns no more than headers already.
pub fn headers_only(notice: &[u8]) -> Option<Vec<u8>> {
    mime(notice).or_else(|| qsbmf(notice)).filter(|small| small.len() < notice.len())
}

fn mime(notice: &[u8]) -> Option<Vec<u8>> {
    const OURS: &[u8] = b"\nContent-Type: multipart/report; report-type=delivery-status;\n\tboundary=\"";
    let header = header_block(notice);
    let at = memmem::find(header, OURS)? + OURS.len();
    let boundary = header.get(at..)?.split(|b| *b == b'"').next()?;
    let delimiter = [b"\n--", boundary, b"\n"].concat();
    let end = [b"\n--", boundary, b"--"].concat();
    // The message is the last part; what it holds cannot have our boundary, which names the queue ID and the second.
    let start = memmem::find_iter(notice, &delimiter).nth(2)? + delimiter.len();
    let part = notice.get(start..)?;
    let part = &part[..memmem::rfind(part, &end)?];
    let part_header = header_block(part);
    let mut out = notice[..start].to_vec();
    for line in part_header.split_inclusive(|b| *b == b'\n') {
        match line {
            b"Content-Description: Undelivered Message\n" => {
                out.extend_from_slice(b"Content-Description: Undelivered Message Headers\n");
            }
            b"Content-Type: message/rfc822\n" => out.extend_from_slice(b"Content-Type: text/rfc822-headers\n"),
            b"Content-Type: message/global\n" => out.extend_from_slice(b"Content-Type: message/global-headers\n"),
            line if line.starts_with(b"Content-Description: ") => return None,
            line => out.extend_from_slice(line),
        }
    }
    out.push(b'\n');
    let original = part.get(part_header.len()..)?;
    out.extend_from_slice(header_block(original.strip_prefix(b"\n").unwrap_or(original)));
    // `end` begins with its line end: the empty line before it.
    out.extend_from_slice(&end);
    out.push(b'\n');
    Some(out)
}

fn qsbmf(notice: &[u8]) -> Option<Vec<u8>> {
    let body = notice.get(header_block(notice).len()..)?;
    if !body.trim_ascii_start().starts_with(b"Hi. This is the ") {
        return None;
    }
    let mark = [COPY_BELOW, BOUNCE_BELOW]
        .into_iter()
        .filter_map(|mark| {
            let mark = format!("\n{mark}\n\n");
            memmem::find(notice, mark.as_bytes()).map(|at| at + mark.len())
        })
        .min()?;
    let (before, original) = notice.split_at(mark);
    Some([before, header_block(original), b"\n"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_here() {
        for foreign in [
            &b""[..],
            b"Subject: x\n\nbody\n",
            b"Content-Type: multipart/report; report-type=delivery-status;\n\tboundary=\"b\"\n\n--b\n\n--b\n\n--b--\n",
            b"A: b\nContent-Type: multipart/report; report-type=delivery-status;\n\tboundary=\"b\"\n\n--b\n\n--b\n\n--b\n\nbody\n",
            b"A: b\nContent-Type: multipart/report; report-type=delivery-status;\n\tboundary=\"\n\n",
        ] {
            assert_eq!(headers_only(foreign), None);
        }
    }

    #[test]
    fn the_rest_stays() {
        let notice = b"A: b\nContent-Type: multipart/report; report-type=delivery-status;\n\tboundary=\"Q.1/h\"\nX: y\n\nThis\n\n\
            --Q.1/h\nContent-Description: Notification\n\ntext\n\n--Q.1/h\nContent-Type: message/delivery-status\n\nfields\n\n\
            --Q.1/h\nContent-Description: Undelivered Message\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\n\
            Return-Path: <s@x>\nSubject: s\n\nbody\n--Q.1/h--x\n\n--Q.1/h--\n";
        let small = headers_only(notice).unwrap();
        let text = String::from_utf8(small).unwrap();
        assert!(
            text.ends_with(
                "--Q.1/h\nContent-Description: Undelivered Message Headers\nContent-Type: text/rfc822-headers\n\
             Content-Transfer-Encoding: 8bit\n\nReturn-Path: <s@x>\nSubject: s\n\n--Q.1/h--\n"
            ),
            "{text}"
        );
        assert!(text.starts_with("A: b\nContent-Type: multipart/report") && text.contains("\nfields\n"));
        assert_eq!(headers_only(text.as_bytes()), None);
    }
}
