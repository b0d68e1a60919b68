//! postqueue(1): list the queue, try delivery now.

use std::io::Write;
use std::process::ExitCode;

use jiff::tz::TimeZone;
use yamabiko_ipc::control::{Caller, Flush, Reply, Request};

use crate::context::{Context, exit, instance};
use crate::getopt::{Flag, parse};
use crate::listing::{self, NoListing};
use crate::queue_view::{mailq, queue_json};

const USAGE: &str = "usage: postqueue -f | postqueue -i queueid | postqueue -j | postqueue -p | postqueue -s site";

/// How a listing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `-p`, mailq
    Classic,
    /// `-j`
    Json,
}

/// Runs it.
pub fn run(args: &[String], called_as_yamabiko: bool) -> ExitCode {
    let (flags, words) = match parse("c:fi:jps:v", args) {
        Ok(parsed) => parsed,
        Err(bad) => {
            eprintln!("postqueue: {bad}");
            eprintln!("postqueue: fatal: {USAGE}");
            return ExitCode::from(exit::UNAVAILABLE);
        }
    };
    let directory = flags.iter().rev().find_map(|flag| match flag {
        Flag::Value('c', dir) => Some(dir.as_str()),
        _ => None,
    });
    let mut context = match Context::open_running("postqueue", instance(directory, called_as_yamabiko)) {
        Ok(context) => context,
        Err(code) => return code,
    };
    let mut asked = flags.iter().filter(|flag| !matches!(flag, Flag::Value('c', _) | Flag::Plain('v')));
    let (Some(flag), None, true) = (asked.next(), asked.next(), words.is_empty()) else {
        eprintln!("postqueue: fatal: {USAGE}");
        return ExitCode::from(exit::UNAVAILABLE);
    };
    match flag {
        Flag::Plain('p') => list(&mut context, Form::Classic),
        Flag::Plain('j') => list(&mut context, Form::Json),
        Flag::Plain('f') => flush(&mut context, Flush::All),
        Flag::Value('s', site) => flush(&mut context, Flush::Site(site.clone())),
        Flag::Value('i', id) => match id.parse() {
            Ok(id) => flush(&mut context, Flush::Message(id)),
            // A name of some other mail system's queue is only not there.
            Err(_) if id.len() >= 5 && id.bytes().all(|b| b.is_ascii_alphanumeric()) => ExitCode::SUCCESS,
            Err(_) => context.fatal(exit::UNAVAILABLE, &format!("Invalid queue ID: {id}")),
        },
        _ => ExitCode::from(exit::UNAVAILABLE),
    }
}

/// Writes the queue to standard output.
pub fn list(context: &mut Context, form: Form) -> ExitCode {
    // All of these are postqueue's words, whatever name was called.
    context.program = "postqueue";
    let (messages, down) = match listing::read(context) {
        Ok(found) => found,
        Err(NoListing::Refused(why)) => return context.fatal(exit::UNAVAILABLE, &why),
        Err(NoListing::Broken(why)) => {
            return context.fatal(exit::UNAVAILABLE, &format!("Queue report unavailable: {why}"));
        }
        Err(NoListing::Down(_)) => {
            return context.fatal(exit::UNAVAILABLE, "Queue report unavailable - mail system is down");
        }
    };
    if down {
        let path = yamabiko_ipc::control::socket_path(&context.queue_directory());
        context.warn(&format!(
            "Mail system is down -- accessing queue directly (Connect to the Yamabiko control service: {})",
            path.display()
        ));
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let written = match form {
        Form::Classic => {
            let long = context.main().bool("enable_long_queue_ids");
            mailq::write(&mut out, &messages, long, &TimeZone::system())
        }
        Form::Json => queue_json::write(&mut out, &messages),
    };
    match written.and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // `mailq | head`: the reader has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => context.fatal(exit::UNAVAILABLE, &format!("standard output: {error}")),
    }
}

/// Asks for delivery now.
pub fn flush(context: &mut Context, what: Flush) -> ExitCode {
    context.program = "postqueue";
    match Caller::ask(&context.queue_directory(), Request::Flush(what)).and_then(|mut caller| caller.reply()) {
        Ok(Reply::Done) => ExitCode::SUCCESS,
        Ok(Reply::Refused(why) | Reply::TryLater(why)) => context.fatal(exit::UNAVAILABLE, &why),
        Ok(other) => context.fatal(exit::UNAVAILABLE, &format!("unexpected answer from the engine: {other:?}")),
        Err(error) if crate::offline::is_down(&error) => {
            context.fatal(exit::UNAVAILABLE, "Cannot flush mail queue - mail system is down")
        }
        Err(error) => context.fatal(exit::UNAVAILABLE, &format!("Cannot flush mail queue: {error}")),
    }
}
