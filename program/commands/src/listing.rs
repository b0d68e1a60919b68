//! The queue as the commands show it: from the engine, or read from disk when it is down.

use std::io;

use yamabiko_envelope::{Envelope, RecipientState};
use yamabiko_ipc::control::{Caller, Entry, QueueName, Reply, Request};

use crate::context::Context;
use crate::offline;
use crate::queue_view::{Listed, ListedRecipient, ReasonKind, sort};

/// Why there is no listing.
#[derive(Debug)]
pub enum NoListing {
    /// The engine refused.
    Refused(String),
    /// It could not be had.
    Broken(String),
    /// The mail system is down and this user may not look at the directory.
    Down(io::Error),
}

/// Everything in the queue, in the order in which it is shown. True when the mail system was down.
pub fn read(context: &Context) -> Result<(Vec<Listed>, bool), NoListing> {
    let mut caller = match Caller::ask(&context.queue_directory(), Request::List) {
        Ok(caller) => caller,
        Err(error) if offline::is_down(&error) => return read_offline(context, error),
        Err(error) => return Err(NoListing::Broken(error.to_string())),
    };
    let mut found = Vec::new();
    loop {
        match caller.reply().map_err(|error| NoListing::Broken(error.to_string()))? {
            Reply::Entry(entry) => found.push(listed(&entry)),
            Reply::Dropped { name, time, size, sender, recipients } => {
                let recipients = recipients.into_iter().map(|address| ListedRecipient {
                    address,
                    original: String::new(),
                    reason: None,
                });
                found.push(Listed {
                    queue: QueueName::Maildrop,
                    id: name,
                    arrival: time,
                    size,
                    forced_expire: false,
                    sender,
                    recipients: recipients.collect(),
                });
            }
            Reply::End => break,
            Reply::Refused(why) => return Err(NoListing::Refused(why)),
            other => return Err(NoListing::Broken(format!("unexpected answer: {other:?}"))),
        }
    }
    sort(&mut found);
    Ok((found, false))
}

fn read_offline(context: &Context, down: io::Error) -> Result<(Vec<Listed>, bool), NoListing> {
    let dir = context.queue_directory().join("queue");
    if std::fs::read_dir(&dir).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
        return Err(NoListing::Down(down));
    }
    let mut found = Vec::new();
    if offline::has_queue(context) {
        let inspection = offline::inspect(context).map_err(NoListing::Broken)?;
        for meta in inspection.list() {
            if let Ok(stored) = inspection.load(meta.queue_id) {
                found.push(listed(&offline::entry(&stored.envelope, &meta)));
            }
        }
    }
    for path in
        std::fs::read_dir(context.queue_directory().join("maildrop")).into_iter().flatten().filter_map(Result::ok)
    {
        if let Ok(yamabiko_pickup::maildrop::Found::Whole(dropped)) = yamabiko_pickup::maildrop::read(&path.path()) {
            let to = dropped.envelope.recipients.into_iter();
            found.push(Listed {
                queue: QueueName::Maildrop,
                id: path.file_name().to_string_lossy().into_owned(),
                arrival: yamabiko_envelope::Timestamp::from_seconds(dropped.changed),
                size: dropped.size,
                forced_expire: false,
                sender: dropped.envelope.sender,
                recipients: to
                    .map(|address| ListedRecipient { address, original: String::new(), reason: None })
                    .collect(),
            });
        }
    }
    sort(&mut found);
    Ok((found, true))
}

/// An entry as it is shown: the recipients that are left, each with its last reason.
pub fn listed(entry: &Entry) -> Listed {
    let Envelope { queue_id, arrival, size, sender, recipients, .. } = &entry.envelope;
    let left = recipients.iter().filter_map(|recipient| {
        let reason = match &recipient.state {
            RecipientState::Done => return None,
            RecipientState::Pending => None,
            RecipientState::Deferred(failure) => Some((ReasonKind::Delay, failure.reason.clone())),
            RecipientState::Failed(failure) => Some((ReasonKind::Bounce, failure.reason.clone())),
        };
        Some(ListedRecipient { address: recipient.address.clone(), original: recipient.original.clone(), reason })
    });
    Listed {
        queue: entry.queue,
        id: queue_id.to_string(),
        arrival: *arrival,
        size: *size,
        forced_expire: entry.forced_expire,
        sender: sender.clone(),
        recipients: left.collect(),
    }
}
