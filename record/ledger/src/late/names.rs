//! Names of messages in the text of a report: ours, and those that other hosts gave them.

use crate::remote_id;

/// How much of a report is searched for IDs.
const SEARCHED: usize = 256 << 10;
/// IDs that are tried.
const TRIED: usize = 12;

/// Words after `with ESMTP id`, `id`, `X-Postfix-Queue-ID:`: queue IDs that may be ours.
pub(super) fn queue_ids(message: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let text = message.get(..message.len().min(SEARCHED)).unwrap_or_default();
    for line in text.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let line = line.trim_end();
        let lower = line.to_ascii_lowercase();
        let at = if let Some(at) = lower.find("queue-id:") {
            Some(at + "queue-id:".len())
        } else {
            lower.find(" id ").map(|at| at + 4).or_else(|| lower.starts_with("\tid ").then_some(4))
        };
        let Some(rest) = at.and_then(|at| line.get(at..)) else { continue };
        let word: &str = rest.trim_start().split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("");
        if is_queue_id(word) && !found.iter().any(|known| known == word) {
            found.push(word.to_owned());
        }
        if found.len() >= TRIED {
            break;
        }
    }
    found
}

/// The report names this message as the one that its writer had in its queue: `X-Postfix-Queue-ID:` of its fields.
pub(super) fn is_notice_of(message: &[u8], queue_id: &str) -> bool {
    let text = message.get(..message.len().min(SEARCHED)).unwrap_or_default();
    text.split(|byte| *byte == b'\n').any(|line| {
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else {
            return false;
        };
        name.to_ascii_lowercase().ends_with("-queue-id") && value.trim() == queue_id
    })
}

/// Long, or short: six to twenty hexadecimal digits.
fn is_queue_id(word: &str) -> bool {
    word.parse::<yamabiko_envelope::QueueId>().is_ok()
        || ((6..=20).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)))
}

/// IDs that the report quotes as other hosts': `queued as`, `id=`, and IDs in `Received:` of any form.
pub(super) fn remote_ids(message: &[u8]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let text = message.get(..message.len().min(SEARCHED)).unwrap_or_default();
    let mut add = |word: &str| {
        if word.len() >= 6 && found.len() < TRIED && !found.iter().any(|known| known == word) {
            found.push(word.to_owned());
        }
    };
    for line in text.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let line = line.trim();
        add(remote_id(line));
        for marker in [" id ", "id "] {
            let at = if marker.starts_with(' ') { line.find(marker) } else { line.starts_with(marker).then_some(0) };
            if let Some(rest) = at.and_then(|at| line.get(at + marker.len()..)) {
                let word = rest.split([' ', ';', '\t', ')', ',']).next().unwrap_or("");
                if word.bytes().any(|byte| byte.is_ascii_digit()) {
                    add(word);
                }
            }
        }
        // qmail: `(qmail 12345 invoked ...)`; its name in our ledger is the process behind `qp`.
    }
    found
}

/// The header section of a message.
pub(super) fn header(message: &[u8]) -> &[u8] {
    let end = message.windows(2).position(|pair| pair == b"\n\n");
    let end = end.or_else(|| message.windows(4).position(|four| four == b"\r\n\r\n"));
    message.get(..end.unwrap_or(message.len()).min(SEARCHED)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_reports() {
        let ids = queue_ids(b"Received: from x (y [1.2.3.4])\n\tby mx (Postfix) with ESMTPS id 4XyZ\n\tid AB12CD34EF0; Mon\nX-Postfix-Queue-ID: 0123456789A\nid abc\n\xff\xfe id AB12CD\n");
        assert_eq!(ids, ["AB12CD34EF0", "0123456789A"]);
    }
}
