//! postcat(1): show a message of the queue.

use std::io::Write;
use std::process::ExitCode;

use jiff::tz::TimeZone;
use yamabiko_envelope::{Content, Envelope, QueueId};
use yamabiko_ipc::control::{Caller, Reply, Request};
use yamabiko_ipc::frame;

use crate::context::{Context, instance};
use crate::getopt::{Flag, parse};
use crate::offline;
use crate::queue_view::postcat::{Message, Options, write};

const USAGE: &str = "usage: postcat [-c config_dir] [-b (body text)] [-d (decimal record type)] [-e (envelope records)] \
                     [-f (flush)] [-h (header text)] [-q (access queue by ID)] [-v] [file(s)...]";

/// Runs it.
pub fn run(args: &[String], called_as_yamabiko: bool) -> ExitCode {
    let (flags, words) = match parse("bc:defhoqrs:v", args) {
        Ok(parsed) => parsed,
        Err(bad) => {
            eprintln!("postcat: {bad}");
            eprintln!("postcat: fatal: {USAGE}");
            return ExitCode::from(1);
        }
    };
    let (mut directory, mut options, mut by_id) = (None, Options::default(), false);
    for flag in &flags {
        match flag {
            Flag::Value('c', dir) => directory = Some(dir.as_str()),
            Flag::Value('s', offset) => match offset.parse() {
                Ok(offset) => options.skip = offset,
                Err(_) => {
                    eprintln!("postcat: fatal: bad offset: {offset}");
                    return ExitCode::from(1);
                }
            },
            Flag::Plain('b') => options.body = true,
            Flag::Plain('d') => options.types = true,
            Flag::Plain('e') => options.envelope = true,
            Flag::Plain('h') => options.header = true,
            Flag::Plain('o') => options.offsets = true,
            Flag::Plain('q') => by_id = true,
            Flag::Plain('v') => options.verbose = true,
            _ => {}
        }
    }
    let mut context = match Context::open_running("postcat", instance(directory, called_as_yamabiko)) {
        Ok(context) => context,
        Err(code) => return code,
    };
    if !by_id {
        return context
            .fatal(1, "queue files of one message each do not exist here: name the message with -q queue_id");
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for word in &words {
        let missing = format!("open queue file {word}: No such file or directory");
        let Ok(id) = word.parse::<QueueId>() else { return context.fatal(1, &missing) };
        let (path, envelope, content) = match fetch(&context, id) {
            Ok(Some(found)) => found,
            Ok(None) => return context.fatal(1, &missing),
            Err(why) => return context.fatal(1, &why),
        };
        let server = envelope.client.server.map(|ours| (ours.ip(), ours.port()));
        let message = Message { path: &path, envelope: &envelope, content: &content, server };
        let written = write(&mut out, &message, options, &TimeZone::system());
        if let Err(error) = written.and_then(|()| out.flush()) {
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                return ExitCode::SUCCESS;
            }
            return context.fatal(1, &format!("standard output: {error}"));
        }
    }
    ExitCode::SUCCESS
}

type Fetched = (String, Envelope, Content);

fn fetch(context: &Context, id: QueueId) -> Result<Option<Fetched>, String> {
    let mut caller = match Caller::ask(&context.queue_directory(), Request::Cat(id)) {
        Ok(caller) => caller,
        Err(error) if offline::is_down(&error) => return fetch_offline(context, id),
        Err(error) => return Err(format!("cannot talk to the engine: {error}")),
    };
    let entry = match caller.reply().map_err(|error| error.to_string())? {
        Reply::Entry(entry) => entry,
        Reply::Refused(why) if why.starts_with("no message") => return Ok(None),
        Reply::Refused(why) | Reply::TryLater(why) => return Err(why),
        other => return Err(format!("unexpected answer: {other:?}")),
    };
    let mut bytes = Vec::new();
    loop {
        match caller.frame().map_err(|error| error.to_string())? {
            Some((frame::BYTES, piece)) if piece.is_empty() => break,
            Some((frame::BYTES, piece)) => bytes.extend_from_slice(&piece),
            _ => return Err("the engine broke off in the middle of the message".to_owned()),
        }
    }
    Ok(Some((format!("{}/{id}", entry.queue.as_str()), entry.envelope, Content::from(bytes))))
}

fn fetch_offline(context: &Context, id: QueueId) -> Result<Option<Fetched>, String> {
    if !offline::has_queue(context) {
        return Ok(None);
    }
    let inspection = offline::inspect(context)?;
    let Some(meta) = inspection.meta(id) else { return Ok(None) };
    let stored = inspection.load(id).map_err(|error| error.to_string())?;
    let path = format!("{}/{id}", offline::name_of(meta.state()).as_str());
    Ok(Some((path, (*stored.envelope).clone(), stored.content)))
}
