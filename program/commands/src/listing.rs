//! The queue as the commands show it: from the engine, or read from disk when it is down. Message by message, as it
//! comes: a listing of a million is never in memory.

use std::io;

use yamabiko_engine::listing::{put, put_dropped};
use yamabiko_ipc::control::{Caller, QueueName, Reply, Request};
use yamabiko_ipc::frame;
use yamabiko_ipc::listing::{Items, LISTING, Message, Recipients, Writer};
use yamabiko_queue::{Meta, State};

use crate::context::Context;
use crate::offline;

/// Why there is no listing.
#[derive(Debug)]
pub enum NoListing {
    /// The engine refused.
    Refused(String),
    /// It could not be had.
    Broken(String),
    /// The mail system is down and this user may not look at the directory.
    Down(io::Error),
    /// It could not be shown.
    Output(io::Error),
}

/// Shows a message.
pub type Show<'s> = dyn FnMut(&Message<'_>, Recipients<'_>) -> io::Result<()> + 's;

/// Shows everything in these queues (all of them if none is named): `maildrop`, active, incoming, deferred, held, the
/// oldest first in each. `warn` is called before anything is shown when the mail system is down.
pub fn each(
    context: &mut Context,
    queues: &[QueueName],
    warn: impl FnOnce(&mut Context),
    show: &mut Show<'_>,
) -> Result<(), NoListing> {
    let mut caller = match Caller::ask(&context.queue_directory(), Request::List(queues.to_vec())) {
        Ok(caller) => caller,
        Err(error) if offline::is_down(&error) => return each_offline(context, error, queues, warn, show),
        Err(error) => return Err(NoListing::Broken(error.to_string())),
    };
    receive(&mut caller, context.program, show)
}

/// Shows what the engine sends, to its end.
pub fn receive(caller: &mut Caller, program: &str, show: &mut Show<'_>) -> Result<(), NoListing> {
    loop {
        let broken = |error: io::Error| NoListing::Broken(error.to_string());
        let (kind, payload) =
            caller.frame().map_err(broken)?.ok_or_else(|| broken(io::ErrorKind::UnexpectedEof.into()))?;
        if kind == LISTING {
            show_all(&payload, show)?;
            continue;
        }
        match frame::decode(kind, &payload).map_err(broken)? {
            Reply::End => return Ok(()),
            Reply::Remark(text) => eprintln!("{program}: warning: {text}"),
            Reply::Refused(why) => return Err(NoListing::Refused(why)),
            other => return Err(NoListing::Broken(format!("unexpected answer: {other:?}"))),
        }
    }
}

/// Shows what a writer has gathered.
pub fn show_all(payload: &[u8], show: &mut Show<'_>) -> Result<(), NoListing> {
    for item in Items::new(payload) {
        let (message, recipients) = item.map_err(|error| NoListing::Broken(error.to_string()))?;
        show(&message, recipients).map_err(NoListing::Output)?;
    }
    Ok(())
}

fn each_offline(
    context: &mut Context,
    down: io::Error,
    queues: &[QueueName],
    warn: impl FnOnce(&mut Context),
    show: &mut Show<'_>,
) -> Result<(), NoListing> {
    let dir = context.queue_directory().join("queue");
    if std::fs::read_dir(&dir).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
        return Err(NoListing::Down(down));
    }
    warn(context);
    let wanted = |queue: QueueName| queues.is_empty() || queues.contains(&queue);
    let mut writer = Writer::new();
    if wanted(QueueName::Maildrop) {
        for dropped in yamabiko_engine::listing::dropped_files(&context.queue_directory().join("maildrop")) {
            put_dropped(&mut writer, &dropped);
            show_all(writer.payload(), show)?;
            writer.clear();
        }
    }
    if !offline::has_queue(context) {
        return Ok(());
    }
    let inspection = offline::inspect(context).map_err(NoListing::Broken)?;
    for state in [State::Active, State::Incoming, State::Deferred, State::Hold] {
        if !wanted(offline::name_of(state)) {
            continue;
        }
        let (mut after, of_state) = (None, |meta: &Meta| meta.state() == state);
        while let Some(last) = inspection.outline(after, of_state, |outline| put(&mut writer, outline)) {
            show_all(writer.payload(), show)?;
            writer.clear();
            after = Some(last);
        }
    }
    Ok(())
}
