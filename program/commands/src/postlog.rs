//! postlog(1): lines for the mail log, from the command line or standard input.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;

use yamabiko_envelope::Severity;

use crate::context::{Context, instance};
use crate::getopt::{Flag, parse};

/// Runs `postlog [-iv] [-c dir] [-p priority] [-t tag] [text...]`.
pub fn run(args: &[String], called_as_yamabiko: bool) -> ExitCode {
    let usage = "postlog: fatal: usage: postlog [-c config_dir] [-i] [-p priority] [-t tag] [text...]";
    let (flags, words) = match parse("c:ip:t:v", args) {
        Ok(parsed) => parsed,
        Err(bad) => {
            eprintln!("postlog: {bad}\n{usage}");
            return ExitCode::from(1);
        }
    };
    let (mut directory, mut severity, mut tag) = (None, Severity::Info, None);
    for flag in &flags {
        match flag {
            Flag::Value('c', dir) => directory = Some(dir.as_str()),
            // A line end within it would begin a line of its own.
            Flag::Value('t', name) => tag = Some(name.replace(char::is_control, "?")),
            Flag::Value('p', name) => {
                severity = match name.as_str() {
                    "info" => Severity::Info,
                    "warn" | "warning" => Severity::Warning,
                    "error" => Severity::Error,
                    "fatal" => Severity::Fatal,
                    "panic" => Severity::Panic,
                    other => {
                        eprintln!("postlog: fatal: unknown logging priority: {other}");
                        return ExitCode::from(1);
                    }
                }
            }
            _ => {}
        }
    }
    let mut context = match Context::open_running("postlog", instance(directory, called_as_yamabiko)) {
        Ok(context) => context,
        Err(code) => return code,
    };
    let mut line = |text: &str| {
        match &tag {
            Some(tag) => context.log_tagged(tag, severity, text),
            None => context.log(severity, None, text),
        }
        if std::io::stderr().is_terminal() {
            let word = match severity {
                Severity::Info => "",
                Severity::Warning => "warning: ",
                Severity::Error => "error: ",
                Severity::Fatal => "fatal: ",
                Severity::Panic => "panic: ",
            };
            eprintln!("{}: {word}{text}", tag.as_deref().unwrap_or("postlog"));
        }
    };
    if words.is_empty() {
        for text in std::io::stdin().lock().lines().map_while(Result::ok) {
            line(&text);
        }
    } else {
        line(&words.join(" "));
    }
    ExitCode::SUCCESS
}
