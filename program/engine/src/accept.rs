//! From a submission to a message in the queue: cleanup, then the log, then the manager.
//!
//! This is the only way into the queue. [`Acceptance::accept`] returns when the message is on stable storage, which is
//! the moment of `250`.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::oneshot;
use yamabiko_cleanup::Verdict;
use yamabiko_envelope::{Content, Envelope, Kind, QueueId, QueueIdSource, Severity, Source, Submission, Timestamp};
use yamabiko_message::date::Zone;
use yamabiko_queue::fs::{FileSystem as _, RealFileSystem};
use yamabiko_queue::{NewMessage, Queue, QueueError};
use yamabiko_receive::verification::Verification;
use yamabiko_receive::{Accepted, Admission, BeginCall, Etrn, Filtering, Later, Refusal};
use yamabiko_schedule::Origin;
use yamabiko_status::{EnhancedStatus, ReplyCode};

use crate::blocking::where_it_may_block;
use crate::boss::Boss;
use crate::desk::Desk;
use crate::filter::Filtered;
use crate::generation::{Current, Generation};
use crate::ledger::Remembered;
use crate::ledger_late::Reader as Late;
use crate::orders::{Manager, Order};
use crate::stall::Stall;
use crate::trip::trip;
use crate::verify::Verifier;

/// Takes messages.
#[derive(Clone)]
pub struct Acceptance {
    inner: Arc<Inner>,
}

struct Inner {
    ids: QueueIdSource,
    queue: Arc<Queue>,
    current: Current,
    manager: Manager,
    zone: Zone,
    spool: std::path::PathBuf,
    verifier: Verifier,
    desk: Arc<Desk>,
    /// Starts programs for us.
    boss: OnceLock<Boss>,
    /// Free space in the spool when it was last asked for.
    space: Mutex<Option<(Instant, Option<u64>)>>,
    /// Whether the queue's disk hangs.
    stall: Arc<Stall>,
}

/// A message that was taken, or was made to vanish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in the queue.
    Queued(QueueId),
    /// DISCARD
    Discarded(QueueId),
    /// It went back to its sender: a notice is in the queue.
    Returned(QueueId),
    /// A notice to the postmaster that was counted and comes in a summary.
    Counted(QueueId),
}

/// A message is on stable storage; the manager hears of it when this is dropped, wherever that is.
struct Stored {
    /// None when the message waits for an operator.
    manager: Option<Manager>,
    id: QueueId,
    /// Whom it is from.
    origin: Origin,
    /// For the ledger, which hears of it before anything can be delivered.
    remembered: Option<(Remembered, Arc<Envelope>, bool)>,
}

/// How a message ends before it is stored.
enum Ended {
    /// It is taken care of.
    Taken(Taken),
    /// Whoever hands it in hears of it.
    Refused(Refusal),
    /// It goes back to its sender.
    Back(Box<yamabiko_cleanup::Accepted>, yamabiko_cleanup::Refusal),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The message as it is to be stored, or how it ended.
type Step = Result<Box<yamabiko_cleanup::Accepted>, Ended>;

/// What the network sends is refused there; what our users send goes back to them.
fn refused_by_filter(refusal: Refusal, message: Option<Box<yamabiko_cleanup::Accepted>>, source: Source) -> Ended {
    match message {
        Some(accepted) if refusal.code.is_permanent() && matches!(source, Source::Local { .. }) => {
            let reason = refusal.text.replace('\n', " ");
            let (code, status) = (refusal.code, refusal.status);
            Ended::Back(accepted, yamabiko_cleanup::Refusal { code, status, reason, specific: true })
        }
        _ => Ended::Refused(refusal),
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if let Some((remembered, envelope, hold)) = self.remembered.take() {
            remembered.queued(&envelope, hold);
        }
        if let Some(manager) = self.manager.take() {
            manager.send(Order::Arrived(self.id, self.origin));
        }
    }
}

/// How long an answer about free space serves: a system call per message less.
const SPACE_SERVES: Duration = Duration::from_secs(1);

impl Acceptance {
    /// `ids` goes on from the newest ID of the queue.
    pub fn new(
        ids: QueueIdSource,
        queue: Arc<Queue>,
        current: Current,
        manager: Manager,
        spool: std::path::PathBuf,
        desk: Arc<Desk>,
        stall: Arc<Stall>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                ids,
                queue,
                current,
                manager,
                zone: Zone::system(),
                spool,
                verifier: Verifier::default(),
                desk,
                boss: OnceLock::new(),
                space: Mutex::default(),
                stall,
            }),
        }
    }

    /// A new name.
    pub fn next_id(&self) -> QueueId {
        self.inner.ids.next(Timestamp::now())
    }

    /// The date of a moment, for fields that we write.
    pub fn date(&self, at: Timestamp) -> String {
        yamabiko_message::date::rfc5322(at.seconds(), &self.inner.zone)
    }

    /// The local time zone.
    pub fn zone(&self) -> &Zone {
        &self.inner.zone
    }

    /// Takes a message. In place of `old`, where that is given: there is no moment at which both or neither are there.
    pub async fn accept(&self, submission: Submission, old: Option<QueueId>) -> Result<Taken, Refusal> {
        self.accept_filtered(submission, old, None).await
    }

    /// As [`Acceptance::accept`], with the conversation that the message's session has had with mail filters. Mail of our
    /// own gets one made up, where it is to have one.
    pub async fn accept_filtered(
        &self,
        submission: Submission,
        old: Option<QueueId>,
        filtering: Option<Filtering<'_>>,
    ) -> Result<Taken, Refusal> {
        let source = submission.source;
        match self.prepare(submission, filtering).await {
            Ok(accepted) => self.store(accepted, source, old).await,
            Err(Ended::Taken(taken)) => Ok(taken),
            Err(Ended::Refused(refusal)) => Err(refusal),
            Err(Ended::Back(accepted, refusal)) => crate::report::send_back(self, *accepted, refusal).await,
        }
    }

    /// Everything before the disk: what there is to be proven, cleanup, filters, lists of addresses that get no mail. Under
    /// one configuration, whatever is reloaded meanwhile.
    async fn prepare(&self, mut submission: Submission, filtering: Option<Filtering<'_>>) -> Step {
        let inner = &self.inner;
        let id = submission.envelope.queue_id;
        if submission.trouble.is_some() && !inner.desk.passes(self, &submission) {
            return Err(Ended::Taken(Taken::Counted(id)));
        }
        Box::pin(crate::reverse_path::arrive(self, &mut submission)).await?;
        let source = submission.source;
        trip("cleanup");
        let generation = inner.current.get();
        // As it came: cleanup may change what was signed.
        let proven = match generation.proofs.wants(&submission).await {
            Some(wants) => Some(Box::pin(generation.proofs.examine(&inner.current, &submission, wants)).await?),
            None => None,
        };
        let signed = generation.proofs.signs(&submission).await;
        submission.hold |= proven.as_ref().is_some_and(|proven| proven.hold);
        let mut accepted = self.clean(&generation, submission).await?;
        let own = generation.own_filters.as_ref().filter(|_| match source {
            Source::Local { .. } => true,
            Source::Notice => generation.filters_notices,
            _ => false,
        });
        if filtering.is_some() || own.is_some() {
            // Rare, and large: not in the future of every message.
            let filtered = Box::pin(crate::filter::run(&generation, &inner.current, *accepted, source, filtering, own));
            accepted = match filtered.await {
                Filtered::Accept(accepted) => accepted,
                Filtered::Refuse(refusal, message) => return Err(refused_by_filter(refusal, message, source)),
                Filtered::Discard => return Err(Ended::Taken(Taken::Discarded(id))),
            };
        }
        if signed || proven.is_some() {
            Box::pin(generation.proofs.attest(&inner.current, &mut accepted, proven, signed)).await;
        }
        let envelope = &accepted.envelope;
        let suppressed = match source {
            Source::Smtp => generation.suppression.at_submission(&envelope.sender, &envelope.recipients),
            _ => None,
        };
        match suppressed {
            None => Ok(accepted),
            Some(text) => Err(Refusal { code: ReplyCode(550), status: EnhancedStatus::permanent(1, 1), text }.into()),
        }
    }

    async fn clean(&self, generation: &Generation, submission: Submission) -> Step {
        let id = submission.envelope.queue_id;
        let cleanup = &generation.cleanup;
        let process = Box::pin(cleanup.process(submission, Timestamp::now(), &self.inner.zone));
        match where_it_may_block(cleanup.is_remote(), process).await {
            Verdict::Accept(accepted) => Ok(accepted),
            Verdict::Discard => Err(Ended::Taken(Taken::Discarded(id))),
            Verdict::Return(accepted, refusal) => Err(Ended::Back(accepted, refusal)),
            Verdict::Refuse(refusal) => {
                let text = refusal.reply_text();
                // The status is in front of the text already.
                let text = EnhancedStatus::split(&text).map_or_else(|| text.clone(), |(_, rest)| rest.to_owned());
                Err(Refusal { code: refusal.code, status: refusal.status, text }.into())
            }
        }
    }

    /// Onto stable storage; the ledger and the manager hear of it.
    async fn store(
        &self,
        accepted: Box<yamabiko_cleanup::Accepted>,
        source: Source,
        old: Option<QueueId>,
    ) -> Result<Taken, Refusal> {
        let inner = &self.inner;
        let yamabiko_cleanup::Accepted { envelope, head, body, hold, expanded } = *accepted;
        let id = envelope.queue_id;
        let login = envelope.sasl.as_ref().map(|login| login.username.as_str());
        let origin = Origin::of(login, envelope.client.address, &envelope.sender);
        let envelope = Arc::new(envelope);
        let about = (!expanded.is_empty()).then(|| (Arc::clone(&envelope), head.clone()));
        let mut parts: Vec<Content> = Vec::with_capacity(1 + body.len());
        parts.push(head.into());
        parts.extend(body);
        let kept = inner.current.remembered();
        let remembered = kept.is_kept().then(|| (kept.clone(), Arc::clone(&envelope), hold));
        if let Some(late) = kept.late()
            && Late::wants(&envelope, &parts, source)
        {
            // Entered before its client reads 250: after that nobody would send it again.
            let ours = Box::pin(late.is_ours(Arc::clone(&envelope), parts.clone())).await;
            if ours && late.discards() {
                inner.current.say(
                    Severity::Info,
                    Some(id),
                    "discard: a bounce of a message of ours, entered in the ledger",
                );
                return Ok(Taken::Discarded(id));
            }
        }
        // What takes the place of another message is not refused: whoever wants that waits.
        let refusable = old.is_none();
        if refusable && inner.stall.hangs() {
            return Err(Self::hangs());
        }
        let message = NewMessage { next_attempt: envelope.arrival, envelope, parts, checksum: None, hold };
        let (sender, mut receiver) = oneshot::channel();
        let (manager, stall) = (inner.manager.clone(), Arc::clone(&inner.stall));
        let done = Box::new(move |result: Result<(), QueueError>| {
            // The manager is told by whoever drops the news: the waiting session, on its own thread, so that the
            // queue's thread wakes one task and not two; or nobody's session, when it has gone meanwhile.
            let stored = result.map(|()| Stored { manager: (!hold).then_some(manager), id, origin, remembered });
            if let Err(mut unheard) = sender.send(stored)
                && stall.take_back(id, unheard.is_ok())
                && let Ok(stored) = &mut unheard
            {
                (stored.manager, stored.remembered) = (None, None);
            }
        });
        match old {
            _ if crate::blocking::others_go_on() => inner.queue.append_leading(message, old, done),
            Some(old) => inner.queue.replace(old, message, done),
            None => inner.queue.append(message, done),
        }
        let heard = tokio::select! {
            biased;
            heard = &mut receiver => heard.ok(),
            () = inner.stall.begins(), if refusable => {
                inner.stall.refuse(id);
                // What was told before is here now; what comes later is told to nobody, and taken back.
                receiver.close();
                let Ok(heard) = receiver.try_recv() else { return Err(Self::hangs()) };
                inner.stall.heard(id);
                Some(heard)
            }
        };
        match heard.unwrap_or(Err(QueueError::Closed)) {
            Ok(stored) => {
                drop(stored);
                if let Some((envelope, head)) = about {
                    crate::report::tell_expanded(self, envelope, head, expanded);
                }
                Ok(Taken::Queued(id))
            }
            Err(error) => Err(self.refusal(id, &error)),
        }
    }

    /// The queue's disk does not answer.
    fn hangs() -> Refusal {
        let (code, status) = (ReplyCode(451), EnhancedStatus::transient(3, 0));
        Refusal { code, status, text: "Error: queue file write error".to_owned() }
    }

    /// Our own trouble is always "try again later".
    fn refusal(&self, id: QueueId, error: &QueueError) -> Refusal {
        self.inner.current.say(Severity::Error, Some(id), &format!("cannot store the message: {error}"));
        if matches!(error, QueueError::ReadOnly(_)) {
            // The alarm must not wait for the next delivery.
            self.inner.manager.send(Order::Look);
        } else if matches!(error, QueueError::NoSpace) {
            self.inner.desk.no_room("no mail is taken: there is no room left for the queue");
        }
        let (code, text) = match error {
            QueueError::NoSpace => (452, "Error: insufficient system storage"),
            _ => (451, "Error: queue file write error"),
        };
        let status = if code == 452 { EnhancedStatus::transient(3, 1) } else { EnhancedStatus::transient(3, 0) };
        Refusal { code: ReplyCode(code), status, text: text.to_owned() }
    }

    /// The queue, for those who have to look.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.inner.queue
    }

    /// The configuration in force and the log.
    pub fn current(&self) -> &Current {
        &self.inner.current
    }

    /// Who starts programs for us; `None` until all is complete.
    pub fn boss(&self) -> Option<Boss> {
        self.inner.boss.get().cloned()
    }

    /// Sets who starts programs for us.
    pub fn complete(&self, boss: Boss) {
        let _ = self.inner.boss.set(boss);
    }

    /// Where notices to the postmaster pass.
    pub fn desk(&self) -> &Arc<Desk> {
        &self.inner.desk
    }

    /// What is known of addresses.
    pub fn verifier(&self) -> &Verifier {
        &self.inner.verifier
    }

    /// The manager's line.
    pub fn manager(&self) -> &Manager {
        &self.inner.manager
    }

    /// Says that a message was dropped before it was whole.
    pub fn abandoned(&self, id: QueueId, why: &'static str) {
        self.inner.current.emit("cleanup", Timestamp::now(), Kind::Abandoned { queue_id: id, why });
    }
}

impl Acceptance {
    /// A message of a session. A panic is a bug of ours: the client hears 451 and tries again, and the session goes on.
    async fn taken(&self, submission: Submission, filtering: Option<Filtering<'_>>) -> Result<Accepted, Refusal> {
        let accepted = self.accept_filtered(submission, None, filtering);
        match std::panic::AssertUnwindSafe(accepted).catch_unwind().await {
            Ok(Ok(Taken::Queued(_) | Taken::Discarded(_) | Taken::Returned(_) | Taken::Counted(_))) => {
                Ok(Accepted::default())
            }
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => {
                self.inner.current.say(Severity::Panic, None, "cleanup failed; the client was told to try again");
                Err(Refusal {
                    code: ReplyCode(451),
                    status: EnhancedStatus::transient(3, 0),
                    text: "Error: internal error".to_owned(),
                })
            }
        }
    }
}

impl Admission for Acceptance {
    fn next_queue_id(&self) -> QueueId {
        trip("session");
        self.next_id()
    }

    fn submit(&self, submission: Submission) -> Later<'_, Result<Accepted, Refusal>> {
        Box::pin(self.taken(submission, None))
    }

    fn submit_filtered<'a>(
        &'a self,
        submission: Submission,
        filtering: Filtering<'a>,
    ) -> Later<'a, Result<Accepted, Refusal>> {
        Box::pin(self.taken(submission, Some(filtering)))
    }

    fn is_stuck(&self) -> bool {
        self.inner.stall.hangs()
    }

    fn gets_stuck(&self) -> Later<'_, ()> {
        Box::pin(self.inner.stall.begins())
    }

    fn disk(&self) -> BeginCall {
        let watch = Arc::clone(&self.inner.stall.watch);
        Arc::new(move || Box::new(watch.note()))
    }

    fn suppressed(&self, sender: &str, recipient: &str) -> Option<String> {
        self.inner.current.get().suppression.at_rcpt(sender, recipient)
    }

    fn etrn<'a>(&'a self, domain: &'a str) -> Later<'a, Etrn> {
        Box::pin(async move {
            let listed = crate::flush::is_listed(&self.inner.current.get(), domain).await;
            match listed {
                Ok(true) => {
                    self.inner.manager.send(Order::FlushSite(domain.to_owned()));
                    Etrn::Started
                }
                Ok(false) => Etrn::Denied,
                Err(_) => Etrn::Failed,
            }
        })
    }

    fn spf<'a>(
        &'a self,
        client: std::net::IpAddr,
        helo: &'a str,
        sender: &'a str,
    ) -> Later<'a, Option<yamabiko_receive::Spf>> {
        Box::pin(async move { self.inner.current.get().proofs.spf(client, helo, sender).await })
    }

    fn verify<'a>(&'a self, address: &'a str) -> Later<'a, Option<Verification>> {
        Box::pin(async move { Some(crate::verify::verify(self, address)) })
    }

    fn spawn<'a>(&'a self, service: &'a str) -> Later<'a, io::Result<UnixStream>> {
        Box::pin(async move {
            let boss = self.inner.boss.get().ok_or_else(|| io::Error::other("the engine is not complete yet"))?;
            boss.spawn(service).await.map_err(io::Error::other)
        })
    }

    fn free_space(&self) -> Option<u64> {
        let mut space = self.inner.space.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = space.filter(|(asked, _)| asked.elapsed() < SPACE_SERVES) {
            return known;
        }
        let ask = |spool: &std::path::Path| RealFileSystem.free_space(spool);
        let free = self.inner.stall.watch.free_space(&self.inner.spool, ask).ok();
        *space = Some((Instant::now(), free));
        drop(space);
        if let Some(free) = free {
            let generation = self.inner.current.get();
            let number = |name: &str| u64::try_from(generation.config.main().int(name)).unwrap_or(0);
            // As the server compares it.
            if free / 3 < number("message_size_limit") / 2 || free < number("queue_minfree") {
                self.inner.desk.no_room(&format!("no mail is taken: {free} bytes are left for the queue"));
            } else {
                self.inner.desk.room_again();
            }
        }
        free
    }
}

/// How long a whole message may take from here; a session that waits longer has a client that has gone.
pub const PATIENCE: Duration = Duration::from_secs(600);
