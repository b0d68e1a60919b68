//! What operators do to messages: delete, hold, release, requeue, expire; some by name, or all there are.
//!
//! All of a long queue is gone through a page at a time, away from the threads that serve connections, and the manager
//! hears of a page with one order. The queue is changed before the manager hears of it: what that begins afterwards, it
//! begins knowing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use yamabiko_envelope::{Kind, QueueId, RecipientState, Severity, Source, Submission, Timestamp};
use yamabiko_ipc::control::{Operation, QueueName, Reply, Selection};
use yamabiko_ledger::What;
use yamabiko_queue::{Found, Meta, QueueError, Seen};

use crate::accept::{Acceptance, Taken};
use crate::bulk::Meant;
use crate::listing::name_of;
use crate::orders::Order;

/// How long a requeue waits for deliveries of its message that are in progress.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(30);
/// Messages of one step through the queue.
const PAGE: usize = 1000;
/// The same where each takes its time.
const FEW: usize = 16;
/// How long a page waits for a ledger that is behind, and how often it looks.
const LEDGER_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Steps after which the log must have written what was done.
const PAGES_AHEAD: u32 = 10;

/// Does an operation. The answer names the messages that were named and changed; of all of them it says how many.
pub async fn operate(engine: &Acceptance, operation: Operation, selection: Selection) -> Reply {
    let (ids, queues) = match selection {
        Selection::Messages(ids, queues) => (Some(ids), queues),
        Selection::All(queues) => (None, queues),
    };
    let wanted = if queues.is_empty() { usual_queues(operation).to_vec() } else { queues };
    let fits = move |meta: &Meta| wanted.contains(&name_of(meta.state()));
    match ids {
        Some(ids) => {
            let queue = Arc::clone(engine.queue());
            let metas = ids.into_iter().filter_map(|id| queue.meta(id)).filter(fits).collect();
            Reply::Changed(page(engine, operation, metas).await)
        }
        None => Reply::Count(all(engine, operation, fits).await),
    }
}

/// Does an operation to messages that were found, as far as they are still meant and in the queues that it is for. How many
/// were changed.
pub(crate) async fn selected(engine: &Acceptance, operation: Operation, meant: &Arc<Meant>, found: &Found) -> u64 {
    // A requeue takes its time, and the more can happen to those behind it.
    let many = if operation == Operation::Requeue { FEW } else { PAGE };
    let (mut count, mut rest) = (0, found.iter());
    for n in 1usize.. {
        let part: Vec<Seen> = rest.by_ref().take(many).collect();
        if part.is_empty() {
            break;
        }
        let mut metas = meant.still(engine.queue(), part).await;
        metas.retain(|meta| usual_queues(operation).contains(&name_of(meta.state())));
        if !metas.is_empty() {
            count += page(engine, operation, metas).await.len() as u64;
        }
        if n.is_multiple_of(PAGES_AHEAD as usize) {
            settled(engine).await;
        }
    }
    count
}

/// The queues that an operation looks into when none is named.
pub fn usual_queues(operation: Operation) -> &'static [QueueName] {
    match operation {
        Operation::Hold => &[QueueName::Incoming, QueueName::Active, QueueName::Deferred],
        Operation::Release => &[QueueName::Hold],
        _ => &[QueueName::Hold, QueueName::Incoming, QueueName::Active, QueueName::Deferred],
    }
}

/// Every message that was there when the operation began.
async fn all(engine: &Acceptance, operation: Operation, fits: impl Fn(&Meta) -> bool) -> u64 {
    // What is requeued comes again under a newer name.
    let newest = QueueId::new(Timestamp::now().0, u32::MAX);
    let (mut count, mut after, mut pages) = (0, None, 0u32);
    loop {
        let metas = engine.queue().page(after, PAGE);
        let Some(last) = metas.last().map(|meta| meta.queue_id) else { return count };
        after = Some(last);
        let metas: Vec<Meta> = metas.into_iter().filter(|meta| meta.queue_id <= newest && fits(meta)).collect();
        if !metas.is_empty() {
            count += page(engine, operation, metas).await.len() as u64;
            pages += 1;
            // The log keeps up, or its records pile up in memory.
            if pages % PAGES_AHEAD == 0 {
                settled(engine).await;
            }
        }
        if last > newest {
            return count;
        }
    }
}

/// Waits until what was done so far is on the disk. A queue that cannot be written says so elsewhere.
async fn settled(engine: &Acceptance) {
    let (tell, told) = oneshot::channel();
    engine.queue().flush(Box::new(|result| drop(tell.send(result))));
    let _ = told.await;
}

/// One page. Those that were changed.
async fn page(engine: &Acceptance, operation: Operation, metas: Vec<Meta>) -> Vec<QueueId> {
    if operation == Operation::Requeue {
        let mut changed = Vec::new();
        for meta in metas {
            if requeue(engine, meta.queue_id).await {
                changed.push(meta.queue_id);
            }
        }
        return changed;
    }
    let queue = Arc::clone(engine.queue());
    let manager = engine.manager().clone();
    let remembered = engine.current().remembered().clone();
    let told = match operation {
        Operation::Delete => Some(What::Deleted),
        Operation::Hold => Some(What::Held),
        Operation::Release => Some(What::Released),
        // Told when they end.
        Operation::Expire | Operation::ExpireNow | Operation::Requeue => None,
    };
    let work = move || {
        let now = Timestamp::now();
        // What the manager lets go of, and what it is to try.
        let (mut changed, mut gone, mut offered) = (Vec::with_capacity(metas.len()), Vec::new(), Vec::new());
        for meta in metas {
            let id = meta.queue_id;
            let done = match operation {
                Operation::Delete => {
                    gone.push(id);
                    queue.remove(id).is_ok()
                }
                Operation::Hold => {
                    let held = queue.hold(id).is_ok();
                    gone.extend(held.then_some(id));
                    held
                }
                Operation::Release => {
                    let released = queue.release(id, now).is_ok();
                    offered.extend(released.then_some(id));
                    released
                }
                // Held mail stays held with `-e`; the rest is returned when it is next due.
                Operation::Expire => queue.expire(id, meta.next_attempt).is_ok(),
                Operation::ExpireNow => {
                    let marked = queue.expire(id, now).is_ok();
                    if marked && (!meta.flags.hold() || queue.release(id, now).is_ok()) {
                        offered.push(id);
                    }
                    marked
                }
                Operation::Requeue => false,
            };
            if done {
                if let Some(what) = told {
                    remembered.operated(what, id, None);
                }
                changed.push(id);
            }
        }
        (changed, gone, offered, now)
    };
    let Ok((changed, gone, offered, now)) = tokio::task::spawn_blocking(work).await else { return Vec::new() };
    // The manager is waited for: pages come quicker than it deals with them, and mail that arrives would stand behind all of
    // those that were sent ahead.
    let (answer, heard) = oneshot::channel();
    let order = match (gone.is_empty(), offered.is_empty()) {
        (true, true) => return changed,
        (false, _) => Order::WithdrawAll(gone, answer),
        // Their sites are learnt when they are next deferred; until then the queue is searched for them.
        (true, false) => Order::OfferAll(offered, now, answer),
    };
    manager.send(order);
    // A manager that is gone means that we are stopping.
    let _ = heard.await;
    // The ledger never makes mail wait, and loses what does not fit. An operator can wait, as long as it goes on at all.
    let since = Instant::now();
    while engine.current().remembered().is_behind() && since.elapsed() < LEDGER_PATIENCE {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    changed
}

/// Has the manager try a message at `due`.
async fn offer(engine: &Acceptance, id: QueueId, due: Timestamp) {
    let queue = Arc::clone(engine.queue());
    let sites = tokio::task::spawn_blocking(move || crate::outcome::sites_of(&queue, id)).await;
    engine.manager().send(Order::Offer(id, due, sites.unwrap_or_default()));
}

/// Through cleanup again, under a new name, with the recipients that are left.
async fn requeue(engine: &Acceptance, id: QueueId) -> bool {
    let Some(before) = engine.queue().meta(id) else { return false };
    let (answer, free) = oneshot::channel();
    engine.manager().send(Order::Withdraw(id, Some(answer)));
    if !matches!(tokio::time::timeout(DELIVERY_PATIENCE, free).await, Ok(Ok(()))) {
        // Under a new name it would be delivered once more to those who are getting it now.
        engine.current().say(Severity::Warning, Some(id), "not requeued: a delivery of it is in progress");
        put_back(engine, id, &before).await;
        return false;
    }
    let queue = Arc::clone(engine.queue());
    let stored = tokio::task::spawn_blocking(move || queue.load(id)).await.unwrap_or(Err(QueueError::Closed));
    let stored = match stored {
        Ok(stored) => stored,
        Err(QueueError::NotFound(_)) => return false,
        Err(error) => {
            engine.current().complain(Some(id), &error);
            put_back(engine, id, &before).await;
            return false;
        }
    };
    if stored.envelope.recipients.iter().all(|recipient| recipient.state == RecipientState::Done) {
        // The delivery that was waited for was the last: nothing is left but to be removed.
        put_back(engine, id, &before).await;
        return false;
    }
    let mut envelope = (*stored.envelope).clone();
    envelope.queue_id = engine.next_id();
    let (done, mut open): (Vec<_>, Vec<_>) =
        std::mem::take(&mut envelope.recipients).into_iter().partition(|known| known.state == RecipientState::Done);
    let done: HashSet<String> = done.into_iter().map(|known| known.original).collect();
    open.iter_mut().for_each(|recipient| recipient.state = RecipientState::Pending);
    envelope.recipients = open;
    for recipient in &mut envelope.recipients {
        // Aliases are looked up anew for what was given; not where some of what it became has been delivered to.
        if !recipient.original.is_empty() && !done.contains(&recipient.original) {
            recipient.address.clone_from(&recipient.original);
        }
    }
    envelope.recipients.dedup_by(|a, b| a.address == b.address);
    let mut submission = Submission::new(envelope, stored.content, Source::Requeued);
    let generation = engine.current().get();
    let (new, now) = (submission.envelope.queue_id, Timestamp::now());
    submission.trace_fields = format!(
        "Received: by {} ({}, from userid {})\n\tid {new}; {}\n",
        generation.myhostname,
        generation.mail_name,
        nix::unistd::geteuid(),
        engine.date(now)
    )
    .into_bytes();
    drop(generation);
    let sender = submission.envelope.sender.clone();
    let picked = Kind::PickedUp { queue_id: new, uid: nix::unistd::geteuid().as_raw(), sender };
    engine.current().emit("pickup", now, picked);
    match engine.accept(submission, Some(id)).await {
        Ok(Taken::Queued(_)) => {
            engine.current().remembered().operated(What::Requeued, id, Some(new));
            true
        }
        Ok(Taken::Discarded(_) | Taken::Returned(_) | Taken::Counted(_)) => engine.queue().remove(id).is_ok(),
        Err(refusal) => {
            engine.current().say(Severity::Warning, Some(id), &format!("not requeued: {}", refusal.text));
            put_back(engine, id, &before).await;
            false
        }
    }
}

/// A message that was withdrawn waits again as it did before.
async fn put_back(engine: &Acceptance, id: QueueId, before: &Meta) {
    if !before.flags.hold() {
        offer(engine, id, before.next_attempt).await;
    }
}
