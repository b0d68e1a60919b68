//! `yamabiko classify`: what a single reply means.

use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;

use yamabiko_analyze::{Analyzer, Date, Reply, Verdict};

use super::options::Classify;
use super::{exit, record, select, width};

/// A reply is not longer; what follows is left out.
const LONGEST: u64 = 64 << 10;

/// Runs it.
pub fn run(args: &[String]) -> ExitCode {
    let options: Classify = match super::parsed("yamabiko classify", args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let date = match options.date.as_deref().map(|text| select::moment(text, super::now())).transpose() {
        Ok(seconds) => seconds.map(Date::utc),
        Err(why) => {
            eprintln!("yamabiko classify: {why}");
            return ExitCode::from(exit::USAGE);
        }
    };
    let analyzer = match super::analyzer("yamabiko classify", &options.rules) {
        Ok(analyzer) => analyzer,
        Err(code) => return code,
    };
    let classified = if options.text.is_empty() {
        every_line(&mut io::stdin().lock(), &analyzer, &options, date)
    } else {
        let mut out = Vec::new();
        one(&options.text.join(" "), &analyzer, &options, date, &mut out);
        io::stdout().write_all(&out)
    };
    match classified {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("yamabiko classify: {error}");
            ExitCode::from(exit::TROUBLE)
        }
    }
}

fn every_line(input: &mut impl BufRead, analyzer: &Analyzer, options: &Classify, date: Option<Date>) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let (mut line, mut text) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        if (&mut *input).take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            return out.flush();
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == LONGEST {
            skip_line(input)?;
        }
        let reply = String::from_utf8_lossy(&line);
        if reply.trim().is_empty() {
            continue;
        }
        text.clear();
        one(reply.trim_end(), analyzer, options, date, &mut text);
        out.write_all(&text)?;
        // A program may wait for this answer before it sends the next line.
        out.flush()?;
    }
}

fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let (used, ended) = {
            let buffer = input.fill_buf()?;
            match memchr::memchr(b'\n', buffer) {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            }
        };
        input.consume(used);
        if ended {
            return Ok(());
        }
    }
}

fn one(text: &str, analyzer: &Analyzer, options: &Classify, date: Option<Date>, out: &mut Vec<u8>) {
    let reply = Reply { text, stage: options.stage, remote_host: &options.host, recipient: &options.recipient, date };
    let verdict = analyzer.classify(&reply);
    let reason = if options.merged_reasons { verdict.reason.merged_name() } else { verdict.reason.name() };
    if options.json {
        json(text, reason, &verdict, options.why, out);
        return;
    }
    let status = verdict.status.map(|status| status.to_string()).unwrap_or_default();
    let hard = if verdict.hard_bounce { "hard" } else { "soft" };
    out.extend_from_slice(format!("{reason}\t{hard}\t{status}\t{}\n", width::visible(text)).as_bytes());
    if options.why {
        out.extend_from_slice(format!("    {} % sure\n", verdict.confidence).as_bytes());
        for piece in &verdict.evidence {
            out.extend_from_slice(format!("    {}\n", record::sentence(piece)).as_bytes());
        }
    }
}

fn json(text: &str, reason: &str, verdict: &Verdict, why: bool, out: &mut Vec<u8>) {
    let status = verdict.status.map(|status| status.to_string()).unwrap_or_default();
    let reply = verdict.reply_code.map(|code| code.to_string()).unwrap_or_default();
    out.push(b'{');
    for (name, value) in [("text", text), ("reason", reason), ("deliverystatus", &status), ("replycode", &reply)] {
        record::quoted(out, name);
        out.extend_from_slice(b": ");
        record::quoted(out, value);
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(format!("\"hardbounce\": {}", verdict.hard_bounce).as_bytes());
    if why {
        out.extend_from_slice(b", ");
        record::json_why(out, verdict.confidence, &verdict.evidence);
    }
    out.extend_from_slice(b"}\n");
}
