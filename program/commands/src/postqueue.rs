//! postqueue(1): list the queue, try delivery now.

use std::process::ExitCode;

use jiff::tz::TimeZone;
use yamabiko_ipc::control::{Caller, Flush, Reply, Request};

use crate::context::{Context, exit, instance};
use crate::getopt::{Flag, parse};
use crate::listing::{self, NoListing};
use crate::queue_view::{mailq, queue_json};

const USAGE: &str = "usage: postqueue -f | postqueue -i queueid | postqueue -j | postqueue -p | postqueue -s site";

/// Bytes that are written at once.
const OUTPUT: usize = 1 << 16;

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
    let out = std::io::BufWriter::with_capacity(OUTPUT, std::io::stdout().lock());
    let shown = match form {
        Form::Classic => {
            let long = context.main().bool("enable_long_queue_ids");
            let mut printer = mailq::Printer::new(out, long, TimeZone::system());
            let all = listing::each(context, &[], say_down, &mut |message, left| printer.message(message, left));
            all.and_then(|()| printer.end().map_err(NoListing::Output))
        }
        Form::Json => {
            let mut printer = queue_json::Printer::new(out);
            let all = listing::each(context, &[], say_down, &mut |message, left| printer.message(message, left));
            all.and_then(|()| printer.end().map_err(NoListing::Output))
        }
    };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(NoListing::Refused(why)) => context.fatal(exit::UNAVAILABLE, &why),
        Err(NoListing::Broken(why)) => context.fatal(exit::UNAVAILABLE, &format!("Queue report unavailable: {why}")),
        Err(NoListing::Down(_)) => context.fatal(exit::UNAVAILABLE, "Queue report unavailable - mail system is down"),
        // `mailq | head`: the reader has seen enough.
        Err(NoListing::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(NoListing::Output(error)) => context.fatal(exit::UNAVAILABLE, &format!("standard output: {error}")),
    }
}

/// Before what is read from the disk itself.
fn say_down(context: &mut Context) {
    let path = yamabiko_ipc::control::socket_path(&context.queue_directory());
    context.warn(&format!(
        "Mail system is down -- accessing queue directly (Connect to the Yamabiko control service: {})",
        path.display()
    ));
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
