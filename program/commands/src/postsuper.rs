//! postsuper(1): delete, hold, release, requeue and expire messages; check the queue's structure.

use std::io::BufRead;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use yamabiko_envelope::{QueueId, Severity};
use yamabiko_ipc::control::{Caller, Operation, QueueName, Reply, Request, Selection};

use crate::context::{Context, instance};
use crate::getopt::{Flag, parse};

const USAGE: &str = "usage: postsuper [-c config_dir] [-d queue_id (delete)] [-e queue_id (expire)] [-f queue_id \
                     (force-expire)] [-h queue_id (hold)] [-H queue_id (un-hold)] [-p (purge temporary files)] \
                     [-r queue_id (requeue)] [-s (structure fix)] [-S (redundant structure fix)] [-v (verbose)] [queue...]";

/// How an operation is spoken of: the line per message, and the total.
fn words(operation: Operation) -> (&'static str, &'static str) {
    match operation {
        Operation::Delete => ("removed", "Deleted"),
        Operation::Hold => ("placed on hold", "Placed on hold"),
        Operation::Release => ("released from hold", "Released from hold"),
        Operation::Requeue => ("requeued", "Requeued"),
        Operation::Expire | Operation::ExpireNow => ("expired", "Force-expired"),
    }
}

/// Runs it.
pub fn run(args: &[String], called_as_yamabiko: bool) -> ExitCode {
    let (flags, words) = match parse("c:d:e:f:h:H:pr:sSv", args) {
        Ok(parsed) => parsed,
        Err(bad) => {
            eprintln!("postsuper: {bad}");
            eprintln!("postsuper: fatal: {USAGE}");
            return ExitCode::from(1);
        }
    };
    let directory = flags.iter().rev().find_map(|flag| match flag {
        Flag::Value('c', dir) => Some(dir.as_str()),
        _ => None,
    });
    let which = instance(directory, called_as_yamabiko);
    let mut context = match Context::open_running("postsuper", which) {
        Ok(context) => context,
        Err(code) => return code,
    };
    if !may_operate(&context) {
        eprintln!("postsuper: fatal: use of this command is reserved for the superuser");
        return ExitCode::from(1);
    }
    let mut queues = Vec::new();
    for word in &words {
        match QueueName::by_name(word) {
            Some(queue) => queues.push(queue),
            // Queues of Postfix that hold nothing here.
            None if ["bounce", "defer", "trace", "flush", "corrupt", "saved"].contains(&word.as_str()) => {}
            None => return context.fatal(1, &format!("bad queue name: {word}")),
        }
    }
    let only_elsewhere = !words.is_empty() && queues.is_empty();
    let mut worked = false;
    for flag in &flags {
        let (operation, argument) = match flag {
            Flag::Value('d', id) => (Operation::Delete, id),
            Flag::Value('e', id) => (Operation::Expire, id),
            Flag::Value('f', id) => (Operation::ExpireNow, id),
            Flag::Value('h', id) => (Operation::Hold, id),
            Flag::Value('H', id) => (Operation::Release, id),
            Flag::Value('r', id) => (Operation::Requeue, id),
            Flag::Plain('p' | 's' | 'S') => {
                worked = true;
                continue;
            }
            _ => continue,
        };
        worked = true;
        let result = if only_elsewhere { Ok(0) } else { operate(&mut context, operation, argument, &queues) };
        match result {
            Ok(count) => total(&mut context, operation, count),
            Err(code) => return code,
        }
    }
    if !worked {
        // As Postfix without options: purge and check. There are no loose files to purge, and the structure is checked
        // by the engine whenever it opens the queue.
        return ExitCode::SUCCESS;
    }
    ExitCode::SUCCESS
}

/// Root, or the ordinary user whose whole mail system this is.
fn may_operate(context: &Context) -> bool {
    let me = nix::unistd::geteuid();
    if me.is_root() {
        return true;
    }
    let owner = context.main().text("mail_owner");
    let is_owner = nix::unistd::User::from_name(&owner).ok().flatten().is_some_and(|user| user.uid == me);
    // Started by an ordinary user, the queue is that user's whoever `mail_owner` is.
    let queue = context.queue_directory().join("queue");
    is_owner || std::fs::metadata(queue).is_ok_and(|found| found.uid() == me.as_raw())
}

fn total(context: &mut Context, operation: Operation, count: usize) {
    let plural = if count == 1 { "" } else { "s" };
    let text = format!("{}: {count} message{plural}", words(operation).1);
    eprintln!("postsuper: {text}");
    context.log(Severity::Info, None, &text);
}

fn operate(
    context: &mut Context,
    operation: Operation,
    argument: &str,
    queues: &[QueueName],
) -> Result<usize, ExitCode> {
    if argument == "ALL" {
        return Ok(ask(context, operation, Selection::All(queues.to_vec()))?.1);
    }
    let mut ids = Vec::new();
    if argument == "-" {
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| context.fatal(1, &format!("standard input: {error}")))?;
            for word in line.split_whitespace() {
                ids.extend(queue_id(context, word));
            }
        }
    } else {
        ids.extend(queue_id(context, argument));
    }
    if ids.is_empty() {
        return Ok(0);
    }
    let (changed, _) = ask(context, operation, Selection::Messages(ids, queues.to_vec()))?;
    for id in &changed {
        let line = words(operation).0;
        eprintln!("postsuper: {id}: {line}");
        context.log(Severity::Info, Some(*id), line);
    }
    Ok(changed.len())
}

/// A name that looks like a queue ID of some mail system, if not of ours, is only not found.
fn queue_id(context: &mut Context, word: &str) -> Option<QueueId> {
    if let Ok(id) = word.parse() {
        return Some(id);
    }
    let looks_like_one = (5..=100).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphanumeric());
    if !looks_like_one {
        context.warn(&format!("invalid mail queue id: {word}"));
    }
    None
}

/// The messages that were changed, where they were named; how many.
fn ask(context: &mut Context, operation: Operation, selection: Selection) -> Result<(Vec<QueueId>, usize), ExitCode> {
    let queue = context.queue_directory();
    let answer =
        Caller::ask(&queue, Request::Operate(operation, selection.clone())).and_then(|mut caller| caller.reply());
    match answer {
        Ok(Reply::Changed(ids)) => Ok((ids.clone(), ids.len())),
        Ok(Reply::Count(count)) => Ok((Vec::new(), usize::try_from(count).unwrap_or(usize::MAX))),
        Ok(Reply::Refused(why) | Reply::TryLater(why)) => Err(context.fatal(1, &why)),
        Ok(other) => Err(context.fatal(1, &format!("unexpected answer from the engine: {other:?}"))),
        Err(error) if crate::offline::is_down(&error) => {
            let ids = crate::offline::operate(context, operation, &selection)?;
            Ok((ids.clone(), ids.len()))
        }
        Err(error) => Err(context.fatal(1, &format!("cannot talk to the engine: {error}"))),
    }
}
