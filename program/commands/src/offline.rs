//! The queue when no engine runs: read it, or open it and change it.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use nix::unistd::{Gid, Uid, User};
use yamabiko_envelope::{QueueId, Timestamp};
use yamabiko_ipc::control::{Entry, Operation, Selection};
use yamabiko_queue::{Found, Inspection, Meta, Options, Predicate, Queue, State, fs::RealFileSystem};

use crate::context::Context;

/// The error of a control socket that nobody listens on.
pub fn is_down(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

pub use yamabiko_engine::listing::name_of;

/// An entry for a listing.
pub fn entry(envelope: &yamabiko_envelope::Envelope, meta: &Meta) -> Entry {
    Entry {
        queue: name_of(meta.state()),
        envelope: envelope.clone(),
        forced_expire: meta.flags.expire(),
        next_attempt: (meta.state() == State::Deferred).then_some(meta.next_attempt),
    }
}

/// Whether there is a queue at all: a mail system that was never started has none yet.
pub fn has_queue(context: &Context) -> bool {
    context.queue_directory().join("queue/log").is_dir()
}

/// Reads the queue as it lies on disk.
pub fn inspect(context: &Context) -> Result<Inspection, String> {
    let dir = context.queue_directory().join("queue");
    Inspection::open(Arc::new(RealFileSystem), &dir).map_err(|error| format!("cannot read {}: {error}", dir.display()))
}

/// While it lives, a command that root has called acts under the mail owner's ID.
pub(crate) struct AsOwner(Option<(Uid, Gid)>);

impl AsOwner {
    pub(crate) fn become_owner(context: &Context) -> io::Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(Self(None));
        }
        let name = context.main().text("mail_owner");
        let owner = User::from_name(&name)?.ok_or_else(|| io::Error::other(format!("unknown user: {name}")))?;
        let before = (nix::unistd::geteuid(), nix::unistd::getegid());
        nix::unistd::setegid(owner.gid)?;
        // From here on dropping it gives the rights back, whatever fails.
        let acting = Self(Some(before));
        nix::unistd::seteuid(owner.uid)?;
        Ok(acting)
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        if let Some((uid, gid)) = self.0 {
            // What a saved ID allows cannot fail.
            let _ = nix::unistd::seteuid(uid);
            let _ = nix::unistd::setegid(gid);
        }
    }
}

/// Which messages of a queue that was opened.
type Pick<'a> = dyn Fn(&Queue) -> Vec<Meta> + 'a;

/// Does an operation on a queue that no engine has open.
pub fn operate(context: &mut Context, operation: Operation, selection: &Selection) -> Result<Vec<QueueId>, ExitCode> {
    let (ids, queues) = match selection {
        Selection::Messages(ids, queues) => (Some(ids), queues),
        Selection::All(queues) => (None, queues),
    };
    let usual = yamabiko_engine::operate::usual_queues(operation);
    let wanted = if queues.is_empty() { usual } else { queues };
    let fits = |meta: &Meta| wanted.contains(&name_of(meta.state()));
    change(context, operation, &|queue| match ids {
        Some(ids) => ids.iter().filter_map(|id| queue.meta(*id)).filter(fits).collect(),
        None => queue.list(fits),
    })
}

/// Does an operation to messages that were found in the files at `then`, as far as they are still meant: a mail system may have
/// run in between.
pub fn operate_on_found(
    context: &mut Context,
    operation: Operation,
    (predicate, then): (&Predicate, Timestamp),
    found: &Found,
) -> Result<Vec<QueueId>, ExitCode> {
    let usual = yamabiko_engine::operate::usual_queues(operation);
    change(context, operation, &|queue| {
        let mut metas = queue.still(predicate, then, &found.iter().collect::<Vec<_>>());
        metas.retain(|meta| usual.contains(&name_of(meta.state())));
        metas
    })
}

fn change(context: &mut Context, operation: Operation, pick: &Pick<'_>) -> Result<Vec<QueueId>, ExitCode> {
    let dir = context.queue_directory().join("queue");
    if !has_queue(context) {
        return Ok(Vec::new());
    }
    if operation == Operation::Requeue {
        return Err(context.fatal(1, "requeueing needs a running mail system: messages go through cleanup again"));
    }
    // Files that are made now must be the engine's at the next start, not root's.
    let _owner = match AsOwner::become_owner(context) {
        Ok(owner) => owner,
        Err(error) => return Err(context.fatal(1, &format!("cannot act as the mail owner: {error}"))),
    };
    let opened = Queue::open(Arc::new(RealFileSystem), &dir, Options::default());
    let (queue, _) = opened.map_err(|error| context.fatal(1, &format!("cannot open {}: {error}", dir.display())))?;
    let mut changed = Vec::new();
    for meta in pick(&queue) {
        let (id, now) = (meta.queue_id, Timestamp::now());
        let done = match operation {
            Operation::Delete => queue.remove(id),
            Operation::Hold => queue.hold(id),
            Operation::Release => queue.release(id, now),
            Operation::Expire => queue.expire(id, meta.next_attempt),
            Operation::ExpireNow if meta.flags.hold() => queue.expire(id, now).and_then(|()| queue.release(id, now)),
            Operation::ExpireNow => queue.expire(id, now),
            Operation::Requeue => continue,
        };
        if done.is_ok() {
            changed.push(id);
        }
    }
    queue.sync().map_err(|error| context.fatal(1, &format!("cannot write the queue: {error}")))?;
    queue.close();
    Ok(changed)
}
