//! `yamabiko limits`: what receiving sites have taught, and what an operator makes of it.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Deserialize;
use yamabiko_envelope::Timestamp;
use yamabiko_ipc::control::{Caller, Reply, Request};

use crate::context::{Context, exit, instance};

const USAGE: &str = "\
usage: yamabiko limits [-c config_directory] [list [--json] [SITE]]
       yamabiko limits freeze SITE | thaw SITE | forget SITE | forget ALL
       yamabiko limits set SITE concurrency=N messages=N rate_delay=SECONDS     (0: none; what is set is frozen)
       yamabiko limits profiles                                                 the shipped sending profiles";

#[derive(Deserialize)]
struct Sheet {
    sites: Vec<Site>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Site {
    site: String,
    source: String,
    concurrency: u32,
    rate_delay_ms: u64,
    session_messages: u32,
    suspended_until: Option<u64>,
    blocked: bool,
    reply: String,
    at: Option<u64>,
    frozen: bool,
    busy: u32,
}

/// Runs it. Exit status 0; 1 for wrong usage; 69 when the mail system does not answer or refuses.
pub fn run(args: &[String]) -> ExitCode {
    let (mut directory, mut json, mut words) = (None, false, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-c" => directory = args.next().map(String::as_str),
            "--json" => json = true,
            "-h" | "--help" => {
                crate::say!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            _ => words.push(arg.clone()),
        }
    }
    if words.is_empty() {
        words.push("list".to_owned());
    }
    let only = (words.len() == 2 && words.first().is_some_and(|word| word == "list")).then(|| words.pop()).flatten();
    match words.first().map(String::as_str) {
        Some("profiles") => {
            crate::say_text!("{}", yamabiko_engine::profiles::SHIPPED);
            return ExitCode::SUCCESS;
        }
        Some("list" | "freeze" | "thaw" | "forget" | "set") => {}
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(1);
        }
    }
    let mut context = match Context::open_running("limits", instance(directory, true)) {
        Ok(context) => context,
        Err(code) => return code,
    };
    let looks = words.first().is_some_and(|word| word == "list");
    let asked = Caller::ask(&context.queue_directory(), Request::Limits(words)).and_then(|mut caller| caller.reply());
    let text = match asked {
        Ok(Reply::Remark(text)) => text,
        Ok(Reply::Refused(why) | Reply::TryLater(why)) => return context.fatal(exit::UNAVAILABLE, &why),
        Ok(other) => return context.fatal(exit::UNAVAILABLE, &format!("unexpected answer: {other:?}")),
        Err(error) => return context.fatal(exit::UNAVAILABLE, &format!("mail system is down: {error}")),
    };
    if !looks || json {
        crate::say!("{text}");
        return ExitCode::SUCCESS;
    }
    match serde_json::from_str::<Sheet>(&text) {
        Ok(sheet) => {
            let wanted = |site: &&Site| only.as_ref().is_none_or(|only| site.site == *only);
            let sites: Vec<&Site> = sheet.sites.iter().filter(wanted).collect();
            crate::say_text!("{}", table(&sites, Timestamp::now().0 / 1_000_000));
            ExitCode::SUCCESS
        }
        Err(error) => context.fatal(exit::UNAVAILABLE, &format!("the answer is not understood: {error}")),
    }
}

fn table(sites: &[&Site], now: u64) -> String {
    if sites.is_empty() {
        return "No site has taught anything.\n".to_owned();
    }
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(out, "{:<28} {:>4} {:>4} {:>9} {:>8}  state", "site", "now", "max", "delay", "messages");
    let number = |n: u32| if n == 0 { "-".to_owned() } else { n.to_string() };
    for site in sites {
        let delay = match site.rate_delay_ms {
            0 => "-".to_owned(),
            ms => format!("{}.{:03}s", ms / 1000, ms % 1000),
        };
        let mut state = Vec::new();
        if let Some(until) = site.suspended_until.filter(|until| *until > now) {
            let word = if site.blocked { "blocks us, left alone" } else { "left alone" };
            state.push(format!("{word} for {}s", until - now));
        }
        if site.frozen {
            state.push("frozen".to_owned());
        }
        if !site.source.is_empty() {
            state.push(format!("from {}", site.source));
        }
        let (limit, messages) = (number(site.concurrency), number(site.session_messages));
        let line =
            format!("{:<28} {:>4} {limit:>4} {delay:>9} {messages:>8}  {}", site.site, site.busy, state.join(", "));
        let _ = writeln!(out, "{}", line.trim_end());
        if !site.reply.is_empty() {
            let ago = site.at.map_or(String::new(), |at| format!("{}s ago: ", now.saturating_sub(at)));
            let _ = writeln!(out, "    {ago}{}", site.reply);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown() {
        let site = Site {
            site: "docomo.ne.jp".into(),
            concurrency: 1,
            rate_delay_ms: 220,
            reply: "421 too many connections".into(),
            at: Some(90),
            suspended_until: Some(160),
            busy: 1,
            ..Site::default()
        };
        let text = table(&[&site], 100);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "docomo.ne.jp                    1    1    0.220s        -  left alone for 60s");
        assert_eq!(lines[2], "    10s ago: 421 too many connections");
        assert_eq!(table(&[], 0), "No site has taught anything.\n");
    }
}
