//! Prints a JSON object for every finding in the files below a directory, with Sisimai's field names: what the corpus'
//! `score` reads.

use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use yamabiko_analyze::Analyzer;

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, out);
        } else {
            out.push(path);
        }
    }
}

fn main() {
    let analyzer = Analyzer::embedded();
    let mut all = Vec::new();
    for dir in std::env::args().skip(1) {
        files(Path::new(&dir), &mut all);
    }
    for path in all {
        let bytes = fs::read(&path).unwrap_or_default();
        let messages: Vec<&[u8]> =
            if path.to_string_lossy().contains("/mbox/") { split_mbox(&bytes) } else { vec![&bytes] };
        for message in messages {
            for f in analyzer.analyze(message).findings {
                println!(
                    "{}",
                    json!({
                        "origin": path, "recipient": f.recipient, "alias": f.alias, "reason": f.reason.name(),
                        "deliverystatus": f.status.map(|s| s.to_string()).unwrap_or_default(),
                        "replycode": f.reply_code.map(|c| c.to_string()).unwrap_or_default(),
                        "action": f.action.map(|a| a.name()).unwrap_or_default(), "hardbounce": f.hard_bounce,
                        "addresser": f.addresser, "senderdomain": f.sender_domain, "destination": f.destination,
                        "rhost": f.rhost, "lhost": f.lhost, "diagnosticcode": f.diagnostic.text,
                        "diagnostictype": f.diagnostic.kind, "command": f.command, "decodedby": f.decoded_by,
                        "messageid": f.message_id, "subject": f.subject, "listid": f.list_id,
                        "timestamp": f.date.map(|d| d.seconds), "timezoneoffset": f.date.map(|d| d.offset()),
                        "feedbacktype": f.feedback_type, "feedbackid": f.feedback_id,
                        "why": f.evidence.iter().take(4).map(|e| format!("{} {} {} {} {:?}", e.reason, e.weight, e.rule, e.place, e.text)).collect::<Vec<_>>(),
                    })
                );
            }
        }
    }
}

fn split_mbox(bytes: &[u8]) -> Vec<&[u8]> {
    let mut starts: Vec<usize> = Vec::new();
    let mut at = 0;
    let mut blank = true;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        if blank && line.starts_with(b"From ") {
            starts.push(at);
        }
        blank = line.trim_ascii().is_empty();
        at += line.len();
    }
    starts.push(bytes.len());
    starts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect()
}
