//! `yamabiko queue`: many messages at once by what they are, and the queue itself: how it is, whether it is sound, out
//! of it and into it.
//!
//! With a running engine everything goes over the control socket; without one the queue is opened here. What works on
//! the files as a whole ([`store`]) wants the mail system stopped.

mod store;

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use jiff::tz::TimeZone;
use yamabiko_engine::listing::put_selected;
use yamabiko_envelope::Timestamp;
use yamabiko_ipc::control::{Caller, Operation, Reply, Request, What};
use yamabiko_ipc::listing::Writer;
use yamabiko_queue::{Found, Predicate};

use crate::context::{Context, exit, instance};
use crate::listing::{self, NoListing};
use crate::offline;
use crate::queue_view::{mailq, queue_json};

const USAGE: &str = "\
usage: yamabiko queue [-c DIR] COMMAND ...

  list [-j] PREDICATE...       show messages (-j: as JSON)
  count PREDICATE...           count them
  hold|release|requeue|delete|expire|flush [-n] [--yes] PREDICATE...
                               count them, then do it; -n only counts, --yes does not ask
  status                       how the queue is
  verify                       read everything and check every checksum  (mail system stopped)
  dump                         every record of the log, for people        (stopped)
  repair                       set aside what is damaged, keep the rest   (stopped)
  export DIR [PREDICATE...]    each message as a file: envelope as header fields, then its content  (stopped)
  import DIR|FILE...           take such files back                       (stopped)

A predicate is words of key=value (also --key value); the same key again is an alternative, different keys must all hold:
  all id= queue=incoming|active|deferred|hold sender= sender-domain= recipient= recipient-domain=
  older=2d newer=90m reason=TEXT status=4.4.1|4.4|4 larger=1M smaller=10K";

/// What was asked for on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    directory: Option<String>,
    /// `-n`
    only_count: bool,
    /// `--yes`
    yes: bool,
    /// `-j`
    json: bool,
    /// Command and words; `--key value` as `key=value`.
    words: Vec<String>,
}

impl Asked {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut asked = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = |of: &str| args.next().cloned().ok_or_else(|| format!("{of}: a value is due"));
            match arg.as_str() {
                "-c" => asked.directory = Some(value("-c")?),
                "-n" | "--dry-run" => asked.only_count = true,
                "-y" | "--yes" => asked.yes = true,
                "-j" | "--json" => asked.json = true,
                "--all" => asked.words.push("all".to_owned()),
                word => match word.strip_prefix("--") {
                    Some(pair) if pair.contains('=') => asked.words.push(pair.to_owned()),
                    Some(key) if !key.is_empty() => {
                        let value = value(word)?;
                        asked.words.push(format!("{key}={value}"));
                    }
                    _ if word.starts_with('-') => return Err(format!("unknown option: {word}")),
                    _ => asked.words.push(word.to_owned()),
                },
            }
        }
        Ok(asked)
    }
}

/// What changes messages, by its name: the operation, and how it is spoken of before and after.
fn operation(name: &str) -> Option<(What, &'static str, &'static str)> {
    Some(match name {
        "hold" => (What::Operate(Operation::Hold), "Hold", "Placed on hold"),
        "release" => (What::Operate(Operation::Release), "Release", "Released from hold"),
        "requeue" => (What::Operate(Operation::Requeue), "Requeue", "Requeued"),
        "delete" => (What::Operate(Operation::Delete), "Delete", "Deleted"),
        "expire" => (What::Operate(Operation::ExpireNow), "Return to sender as expired", "Force-expired"),
        "flush" => (What::Flush, "Try", "To be tried now"),
        _ => return None,
    })
}

/// Runs it.
pub fn run(args: &[String], called_as_yamabiko: bool) -> ExitCode {
    let usage = |why: &str| {
        if !why.is_empty() {
            eprintln!("yamabiko queue: {why}\n");
        }
        eprintln!("{USAGE}");
        ExitCode::from(exit::USAGE)
    };
    let asked = match Asked::parse(args) {
        Ok(asked) => asked,
        Err(why) => return usage(&why),
    };
    let Some((command, words)) = asked.words.split_first() else { return usage("") };
    let which = instance(asked.directory.as_deref(), called_as_yamabiko);
    let mut context = match Context::open_running("queue", which) {
        Ok(context) => context,
        Err(code) => return code,
    };
    let context = &mut context;
    match (command.as_str(), words) {
        ("status", []) => store::status(context),
        ("verify", []) => store::verify(context),
        ("dump", []) => store::dump(context),
        ("repair", []) => store::repair(context),
        ("export", [dir, words @ ..]) => match Predicate::parse(words) {
            Ok(predicate) => store::export(context, dir.as_ref(), &predicate),
            Err(why) => usage(&why),
        },
        ("import", [_, ..]) => store::import(context, words),
        ("list" | "count", words) => match Predicate::parse(words) {
            Ok(predicate) if command == "count" => {
                count(context, words, &predicate).map_or_else(|code| code, |count| say(&format!("{count}")))
            }
            Ok(predicate) => list(context, words, &predicate, asked.json),
            Err(why) => usage(&why),
        },
        (name, words) => match (operation(name), Predicate::parse(words)) {
            (None, _) => usage(&format!("{name}: not known, or something is missing after it")),
            (_, Err(why)) => usage(&why),
            (_, Ok(_)) if words.is_empty() => usage(&format!("{name}: which messages? `all` are all")),
            (Some(operation), Ok(predicate)) => change(context, &asked, operation, words, &predicate),
        },
    }
}

fn say(text: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn messages(count: u64) -> String {
    format!("{count} message{}", if count == 1 { "" } else { "s" })
}

/// One question to the engine, and its first answer; `None` when the mail system is down.
fn ask(context: &mut Context, request: Request) -> Result<Option<(Caller, Reply)>, ExitCode> {
    let asked = Caller::ask(&context.queue_directory(), request);
    match asked.and_then(|mut caller| caller.reply().map(|reply| (caller, reply))) {
        Ok((_, Reply::Refused(why) | Reply::TryLater(why))) => Err(context.fatal(exit::UNAVAILABLE, &why)),
        Ok(answer) => Ok(Some(answer)),
        Err(error) if offline::is_down(&error) => Ok(None),
        Err(error) => Err(context.fatal(exit::UNAVAILABLE, &format!("cannot talk to the engine: {error}"))),
    }
}

fn unexpected(context: &mut Context, reply: &Reply) -> ExitCode {
    context.fatal(exit::UNAVAILABLE, &format!("unexpected answer from the engine: {reply:?}"))
}

/// The messages of a queue that no engine has open.
fn selected(context: &mut Context, predicate: &Predicate, now: Timestamp) -> Result<Found, ExitCode> {
    if !offline::has_queue(context) {
        return Ok(Found::default());
    }
    let inspection = offline::inspect(context).map_err(|why| context.fatal(1, &why))?;
    Ok(inspection.select(predicate, now))
}

fn count(context: &mut Context, words: &[String], predicate: &Predicate) -> Result<u64, ExitCode> {
    match ask(context, Request::Select(What::Count, words.to_vec()))? {
        Some((_, Reply::Count(count))) => Ok(count),
        Some((_, other)) => Err(unexpected(context, &other)),
        None => Ok(selected(context, predicate, Timestamp::now())?.len() as u64),
    }
}

fn list(context: &mut Context, words: &[String], predicate: &Predicate, json: bool) -> ExitCode {
    let out = std::io::BufWriter::new(std::io::stdout().lock());
    let shown = if json {
        let mut printer = queue_json::Printer::new(out);
        let all = each(context, words, predicate, &mut |message, left| printer.message(message, left));
        all.and_then(|()| printer.end().map_err(NoListing::Output))
    } else {
        let mut printer = mailq::Printer::new(out, true, TimeZone::system());
        let all = each(context, words, predicate, &mut |message, left| printer.message(message, left));
        all.and_then(|()| printer.end().map_err(NoListing::Output))
    };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(NoListing::Refused(why) | NoListing::Broken(why)) => context.fatal(exit::UNAVAILABLE, &why),
        Err(NoListing::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(NoListing::Output(error)) => context.fatal(exit::UNAVAILABLE, &format!("standard output: {error}")),
        Err(NoListing::Down(error)) => context.fatal(exit::UNAVAILABLE, &format!("the mail system is down: {error}")),
    }
}

/// Shows the messages that are meant, oldest first.
fn each(
    context: &mut Context,
    words: &[String],
    predicate: &Predicate,
    show: &mut listing::Show<'_>,
) -> Result<(), NoListing> {
    let request = Request::Select(What::List, words.to_vec());
    match Caller::ask(&context.queue_directory(), request) {
        Ok(mut caller) => return listing::receive(&mut caller, "yamabiko queue", show),
        Err(error) if offline::is_down(&error) => {}
        Err(error) => return Err(NoListing::Broken(format!("cannot talk to the engine: {error}"))),
    }
    if !offline::has_queue(context) {
        return Ok(());
    }
    let inspection = offline::inspect(context).map_err(NoListing::Broken)?;
    let found = inspection.select(predicate, Timestamp::now());
    let mut rest = found.iter();
    loop {
        let batch: Vec<_> = rest.by_ref().take(1000).filter_map(|seen| inspection.meta(seen.queue_id)).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let mut writer = Writer::new();
        put_selected(&mut writer, &batch, |after, wanted, show| inspection.outline(after, wanted, show));
        listing::show_all(writer.payload(), show)?;
    }
}

/// Counts, asks, does it to those that were counted.
fn change(
    context: &mut Context,
    asked: &Asked,
    (what, before, after): (What, &str, &str),
    words: &[String],
    predicate: &Predicate,
) -> ExitCode {
    let changed = match counted_and_changed(context, asked, (what, before), words, predicate) {
        Ok(changed) => changed,
        Err(code) => return code,
    };
    let text = format!("{after}: {}", messages(changed));
    context.log(yamabiko_envelope::Severity::Info, None, &format!("{text} ({})", words.join(" ")));
    say(&text)
}

/// How many were changed; otherwise how the command ends.
fn counted_and_changed(
    context: &mut Context,
    asked: &Asked,
    (what, before): (What, &str),
    words: &[String],
    predicate: &Predicate,
) -> Result<u64, ExitCode> {
    // The last word before anything is changed.
    let wanted = |many: u64| {
        crate::say!("{} match", messages(many));
        if many == 0 {
            return Err(ExitCode::SUCCESS);
        }
        if !asked.yes && !confirmed(&format!("{before}: {}?", messages(many))) {
            eprintln!("yamabiko queue: nothing was changed; --yes does it without asking");
            return Err(ExitCode::FAILURE);
        }
        Ok(())
    };
    if asked.only_count {
        let many = count(context, words, predicate)?;
        crate::say!("{} match", messages(many));
        return Err(ExitCode::SUCCESS);
    }
    if let Some((mut caller, reply)) = ask(context, Request::Select(what, words.to_vec()))? {
        let Reply::Count(many) = reply else { return Err(unexpected(context, &reply)) };
        wanted(many)?;
        return match caller.go().and_then(|()| caller.reply()) {
            Ok(Reply::Count(changed)) => Ok(changed),
            Ok(Reply::Refused(why) | Reply::TryLater(why)) => Err(context.fatal(exit::UNAVAILABLE, &why)),
            Ok(other) => Err(unexpected(context, &other)),
            Err(error) => Err(context.fatal(exit::UNAVAILABLE, &format!("cannot talk to the engine: {error}"))),
        };
    }
    let now = Timestamp::now();
    let found = selected(context, predicate, now)?;
    wanted(found.len() as u64)?;
    let What::Operate(operation) = what else {
        return Err(context.fatal(exit::UNAVAILABLE, "Cannot flush mail queue - mail system is down"));
    };
    Ok(offline::operate_on_found(context, operation, (predicate, now), &found)?.len() as u64)
}

/// Asks the person at the terminal; where there is none the answer is no.
fn confirmed(question: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (text, only_count, yes, json, expected) in [
            ("list", false, false, false, "list"),
            ("list -j queue=hold", false, false, true, "list queue=hold"),
            (
                "delete -n --sender-domain example.com --older=2d",
                true,
                false,
                false,
                "delete sender-domain=example.com older=2d",
            ),
            ("hold --yes --all", false, true, false, "hold all"),
        ] {
            let expected = Asked { directory: None, only_count, yes, json, words: words(expected) };
            assert_eq!(Asked::parse(&words(text)), Ok(expected), "{text}");
        }
        for (text, why) in [
            ("list -x", "unknown option: -x"),
            ("list --sender", "--sender: a value is due"),
            ("-c", "-c: a value is due"),
        ] {
            assert_eq!(Asked::parse(&words(text)), Err(why.to_owned()), "{text}");
        }
        for name in ["hold", "release", "requeue", "delete", "expire", "flush"] {
            assert!(operation(name).is_some(), "{name}");
        }
        assert!(operation("list").is_none());
    }
}
