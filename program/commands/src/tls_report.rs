//! `yamabiko tls-report`: what was counted of TLS with other servers, and the reports that would be sent about it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use yamabiko_deliver::tlsrpt::{self, Counted, Reporter};

use crate::context::{Context, instance};

/// What was counted of TLS with other servers (smtp_tlsrpt_enable), by day (UTC) and domain. Figures are up to a minute old.
#[derive(Debug, Parser)]
#[command(name = "yamabiko tls-report", bin_name = "yamabiko tls-report")]
struct Options {
    /// A day, 2026-11-22 [default: all that are there].
    day: Option<String>,
    /// The report about this domain as it would be sent (RFC 8460).
    #[arg(long, value_name = "DOMAIN")]
    json: Option<String>,
    /// A configuration directory.
    #[arg(short = 'c', value_name = "DIR")]
    config: Option<String>,
}

/// Runs the command.
pub fn run(arguments: &[String]) -> ExitCode {
    let words = std::iter::once("tls-report".to_owned()).chain(arguments.iter().cloned());
    let options = match Options::try_parse_from(words) {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    let context = match Context::open("tls-report", instance(options.config.as_deref(), true)) {
        Ok(context) => context,
        Err(code) => return code,
    };
    let wanted = match options.day.as_deref().map(tlsrpt::day_of) {
        Some(None) => {
            eprintln!("tls-report: fatal: a day is written 2026-11-22");
            return ExitCode::from(64);
        }
        other => other.flatten(),
    };
    let view = context.main();
    let directory = PathBuf::from(view.text("data_directory")).join("tls-reports");
    if directory.is_dir() && std::fs::read_dir(&directory).is_err() {
        eprintln!("tls-report: fatal: {} cannot be read: it belongs to the mail system", directory.display());
        return ExitCode::from(77);
    }
    let contact = view.text("tls_report_contact");
    let domain = contact.rsplit_once('@').map_or_else(|| view.text("mydomain"), |(_, domain)| domain.to_owned());
    let reporter = Reporter { organization: view.text("tls_report_organization"), contact, domain };
    let mut shown = false;
    for (day, counted) in tlsrpt::read_days(&directory) {
        if wanted.is_some_and(|wanted| wanted != day) {
            continue;
        }
        for (domain, policies) in &counted.domains {
            match &options.json {
                Some(name) if !name.eq_ignore_ascii_case(domain) => continue,
                Some(_) => crate::say!("{:#}", tlsrpt::report(day, domain, policies, &reporter)),
                None => crate::say_text!("{}", table(day, domain, policies, counted.settled.contains(domain))),
            }
            shown = true;
        }
        if counted.passed_over > 0 && options.json.is_none() {
            crate::say!("{} {} sessions with more domains than are kept", tlsrpt::date_of(day), counted.passed_over);
        }
    }
    if !shown {
        let on = view.bool("smtp_tlsrpt_enable");
        let why = if on { " (counts are written every minute)" } else { ": smtp_tlsrpt_enable = no" };
        eprintln!("tls-report: nothing is counted{why}");
        return ExitCode::from(1);
    }
    ExitCode::SUCCESS
}

fn table(day: u64, domain: &str, policies: &[Counted], settled: bool) -> String {
    let date = tlsrpt::date_of(day);
    let mut text = String::new();
    for counted in policies {
        let failed: u64 = counted.failures.iter().map(|one| one.count).sum::<u64>() + counted.unlisted;
        let done = if settled { ", settled" } else { "" };
        text.push_str(&format!(
            "{date} {domain} {}: {} well, {failed} failed{done}\n",
            counted.policy.kind, counted.successes
        ));
        for one in &counted.failures {
            let host = if one.host.is_empty() { "-" } else { &one.host };
            text.push_str(&format!("  {:6} {} {host}[{}] {}\n", one.count, one.kind, one.address, one.reason));
        }
    }
    text
}
