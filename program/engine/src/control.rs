//! The control socket: what `postqueue`, `postsuper`, `sendmail` and their kin ask of the running engine.
//!
//! Anybody may connect; the kernel says who it is, and each request has its rule: looking at and flushing the queue by
//! `authorized_mailq_users` and `authorized_flush_users`, submitting by `authorized_submit_users`, changing the queue for
//! root and the mail owner only. What a caller sends is bounded, and a caller that stalls is dropped.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use yamabiko_envelope::{Content, Kind, QueueId, RewriteContext, Severity, Timestamp};
use yamabiko_ipc::control::{Entry, Flush, Hello, QueueName, Reply, Request, SubmitEnvelope};
use yamabiko_ipc::frame;
use yamabiko_lookup::matchlist::StringList;
use yamabiko_queue::{Meta, QueueError, State};
use yamabiko_status::EnhancedStatus;

use crate::accept::{Acceptance, Taken};
use crate::blocking::where_it_may_block;
use crate::gate::Gate;
use crate::listing::{Listing, name_of};
use crate::orders::Order;

/// A caller that says nothing for so long is dropped.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// The same for a whole conversation: the slowest `sendmail` that is still worth waiting for.
const CONVERSATION: Duration = Duration::from_secs(3600);
/// Largest request, in bytes: a submission with a hundred thousand recipients fits. Root's and our own may be as large as
/// the protocol allows.
const REQUEST: usize = 8 << 20;
/// Largest piece of a message's content.
const PIECE: usize = 1 << 20;
/// Callers of one user that are served at once, and how many more may wait for their turn.
const SERVED: usize = 50;
const WAITING: usize = 200;
/// Submissions above this many bytes wait in a file.
const IN_MEMORY: usize = 1 << 20;

/// Answers callers.
#[derive(Clone)]
pub struct Control {
    pub(crate) engine: Acceptance,
    since: Timestamp,
    spool: PathBuf,
    maildrop: PathBuf,
    pickup: Arc<tokio::sync::Notify>,
    smtp: Arc<dyn Fn(UnixStream, u32) -> JoinHandle<()> + Send + Sync>,
    callers: Arc<Mutex<HashMap<u32, Callers>>>,
    /// Kilobytes of lists that wait while somebody thinks about a count.
    pub(crate) kept: Arc<Semaphore>,
    /// A submission is accepted and its submitter told, or its file removed, behind it.
    pub gate: Gate,
}

/// Callers of one user.
struct Callers {
    known: usize,
    turns: Arc<Semaphore>,
}

/// A caller's place among those of its user.
struct Seat {
    callers: Arc<Mutex<HashMap<u32, Callers>>>,
    uid: u32,
    turns: Arc<Semaphore>,
}

impl Seat {
    /// `None` when the user has too many callers already.
    fn take(callers: &Arc<Mutex<HashMap<u32, Callers>>>, uid: u32) -> Option<Self> {
        let mut all = callers.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(uid).or_insert_with(|| Callers { known: 0, turns: Arc::new(Semaphore::new(SERVED)) });
        if own.known >= SERVED + WAITING {
            return None;
        }
        own.known += 1;
        Some(Self { callers: Arc::clone(callers), uid, turns: Arc::clone(&own.turns) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.uid) {
            own.known -= 1;
            if own.known == 0 {
                all.remove(&self.uid);
            }
        }
    }
}

/// Who may ask for something.
enum Right {
    Anybody,
    /// Root, and the user that the mail system runs as.
    Master,
    /// Users that a parameter lists, who are told what they must not.
    Listed(&'static str, &'static str),
}

impl Right {
    fn to(request: &Request) -> Self {
        match request {
            Request::List(_) | Request::QueueStatus => Self::Listed("authorized_mailq_users", "view the mail queue"),
            Request::Limits(words) if words.first().is_some_and(|word| word == "list") => {
                Self::Listed("authorized_mailq_users", "view the mail queue")
            }
            Request::Flush(_) => Self::Listed("authorized_flush_users", "flush the mail queue"),
            Request::Submit(_) | Request::Smtp => Self::Listed("authorized_submit_users", "submit mail"),
            Request::Cat(_) | Request::Operate(..) | Request::Limits(_) => Self::Master,
            // A selection depends on what shall be done with it.
            Request::Select(..) | Request::Pickup | Request::Status => Self::Anybody,
        }
    }
}

impl Control {
    /// `pickup` is told when there is something in `maildrop/`; `smtp` takes a connection over for `sendmail -bs`.
    pub fn new(
        engine: Acceptance,
        queue_directory: &std::path::Path,
        pickup: Arc<tokio::sync::Notify>,
        smtp: Arc<dyn Fn(UnixStream, u32) -> JoinHandle<()> + Send + Sync>,
        gate: Gate,
    ) -> Self {
        let (spool, maildrop) = (queue_directory.join("spool"), queue_directory.join("maildrop"));
        let kept = Arc::new(Semaphore::new(crate::bulk::KEPT));
        Self { engine, since: Timestamp::now(), spool, maildrop, pickup, smtp, callers: Arc::default(), kept, gate }
    }

    /// Accepts callers for as long as the engine lives.
    pub async fn serve(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let control = self.clone();
                    tokio::spawn(async move {
                        // A caller that went away is not our trouble.
                        let _ = control.serve_one(stream).await;
                    });
                }
                Err(error) => {
                    self.engine.current().say(Severity::Warning, None, &format!("control socket: {error}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Each user's callers are served so many at a time: one user's load keeps nobody else waiting.
    async fn serve_one(&self, mut stream: UnixStream) -> io::Result<()> {
        let uid = stream.peer_cred()?.uid();
        let Some(seat) = Seat::take(&self.callers, uid) else {
            let why = format!("too many commands of user {} at once", named(uid));
            return reply(&mut stream, &Reply::TryLater(why)).await;
        };
        // The semaphore is never closed.
        let Ok(_turn) = seat.turns.acquire().await else { return Ok(()) };
        if let Some(session) = tokio::time::timeout(CONVERSATION, self.converse(stream, uid)).await?? {
            // It has its own time limits; how it ends is its own affair.
            let _ = session.await;
        }
        Ok(())
    }

    /// Answers one request. What comes back is the SMTP session that the conversation has become, if it has.
    async fn converse(&self, mut stream: UnixStream, uid: u32) -> io::Result<Option<JoinHandle<()>>> {
        let largest = if self.is_master(uid) { frame::LIMIT as usize } else { REQUEST };
        let Some((kind, payload)) = receive(&mut stream, largest).await? else { return Ok(None) };
        let hello = match Hello::read(kind, &payload) {
            Ok(hello) => hello,
            Err(why) => {
                reply(&mut stream, &Reply::Refused(why)).await?;
                return Ok(None);
            }
        };
        if let Err(why) = self.allowed(uid, &hello.request).await {
            reply(&mut stream, &Reply::Refused(why)).await?;
            return Ok(None);
        }
        match hello.request {
            Request::List(queues) => self.list(&mut stream, &queues).await?,
            Request::Cat(id) => self.cat(&mut stream, id).await?,
            Request::Select(what, words) => {
                if let Some(answer) = self.select(&mut stream, what, words, uid).await? {
                    reply(&mut stream, &answer).await?;
                }
            }
            Request::Submit(envelope) => self.submit(&mut stream, envelope, uid).await?,
            Request::Smtp => {
                reply(&mut stream, &Reply::Done).await?;
                return Ok(Some((self.smtp)(stream, uid)));
            }
            Request::Flush(what) => reply(&mut stream, &self.flush(what).await).await?,
            Request::QueueStatus => reply(&mut stream, &Reply::Remark(self.queue_status().await)).await?,
            Request::Operate(operation, selection) => {
                reply(&mut stream, &crate::operate::operate(&self.engine, operation, selection).await).await?;
            }
            Request::Pickup => {
                self.pickup.notify_one();
                reply(&mut stream, &Reply::Done).await?;
            }
            Request::Limits(words) => reply(&mut stream, &self.limits(words).await).await?,
            Request::Status => {
                reply(&mut stream, &Reply::Running { pid: std::process::id(), since: self.since }).await?;
            }
        }
        Ok(None)
    }

    /// Why a user must not ask for something.
    async fn allowed(&self, uid: u32, request: &Request) -> Result<(), String> {
        match Right::to(request) {
            Right::Anybody => Ok(()),
            Right::Master if self.is_master(uid) => Ok(()),
            Right::Master => Err("use of this command is reserved for the superuser".to_owned()),
            Right::Listed(parameter, what) => {
                let may = self.may(uid, parameter).await;
                may.map_err(|()| format!("User {} is not allowed to {what}", named(uid)))
            }
        }
    }

    async fn list(&self, stream: &mut UnixStream, queues: &[QueueName]) -> io::Result<()> {
        if let Some(why) = self.engine.queue().failure() {
            let text = format!("nothing is accepted or delivered until the next start: {why}");
            reply(stream, &Reply::Remark(text)).await?;
        }
        let dropped = queues.is_empty() || queues.contains(&QueueName::Maildrop);
        let maildrop = dropped.then_some(self.maildrop.as_path());
        Listing::new(Arc::clone(self.engine.queue()), queues).write(stream, maildrop, PATIENCE).await
    }

    async fn limits(&self, words: Vec<String>) -> Reply {
        let (answer, said) = oneshot::channel();
        self.engine.manager().send(Order::Limits(words, answer));
        match said.await {
            Ok(Ok(text)) => Reply::Remark(text),
            Ok(Err(why)) => Reply::Refused(why),
            Err(_) => Reply::TryLater("the mail system is going down".to_owned()),
        }
    }

    /// Root, or whoever we run as ourselves.
    pub(crate) fn is_master(&self, uid: u32) -> bool {
        uid == 0 || uid == nix::unistd::geteuid().as_raw()
    }

    pub(crate) async fn may(&self, uid: u32, parameter: &str) -> Result<(), ()> {
        if self.is_master(uid) {
            return Ok(());
        }
        let generation = self.engine.current().get();
        let list = StringList::new(&generation.tables, parameter, &generation.config.main().text(parameter), false);
        // The user database may be elsewhere.
        let found = tokio::task::spawn_blocking(move || nix::unistd::User::from_uid(uid.into())).await;
        let name = match found {
            Ok(Ok(Some(user))) => user.name,
            _ => "unknown".to_owned(),
        };
        match where_it_may_block(list.is_remote(), Box::pin(list.contains(&name))).await {
            Ok(true) => Ok(()),
            // A table that cannot be read is no permission.
            Ok(false) | Err(_) => Err(()),
        }
    }

    /// The answer to a user who may not use this envelope sender (`local_login_sender_maps`).
    pub(crate) async fn may_send(&self, uid: u32, sender: &str) -> Option<Reply> {
        let generation = self.engine.current().get();
        let senders = &generation.login_senders;
        match where_it_may_block(senders.is_remote(), Box::pin(senders.allow(uid, sender))).await {
            Ok(true) => None,
            Ok(false) => Some(Reply::Refused(format!("not authorized to use sender='{sender}'"))),
            Err(error) => Some(Reply::TryLater(error.to_string())),
        }
    }

    // ---- looking

    async fn cat(&self, stream: &mut UnixStream, id: QueueId) -> io::Result<()> {
        let queue = Arc::clone(self.engine.queue());
        let stored = tokio::task::spawn_blocking(move || queue.load(id)).await.unwrap_or(Err(QueueError::Closed));
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => return reply(stream, &Reply::Refused(error.to_string())).await,
        };
        reply(stream, &Reply::Entry(Box::new(entry(&stored.envelope, &stored.meta)))).await?;
        let (len, mut at) = (stored.content.len(), 0);
        let mut buffer = vec![0; 1 << 16];
        while at < len {
            let n = stored.content.read_at(&mut buffer, at)?;
            at += n as u64;
            let mut piece = frame::header(frame::BYTES, n)?.to_vec();
            piece.extend_from_slice(&buffer[..n]);
            write(stream, &piece).await?;
        }
        write(stream, &frame::header(frame::BYTES, 0)?).await
    }

    // ---- flushing

    async fn flush(&self, what: Flush) -> Reply {
        let manager = self.engine.manager();
        match what {
            Flush::All => manager.send(Order::FlushAll),
            Flush::Message(id) => {
                let (answer, _) = oneshot::channel();
                manager.send(Order::FlushMessage(id, answer));
            }
            Flush::Site(site) => {
                let listed = crate::flush::is_listed(&self.engine.current().get(), &site).await;
                match listed {
                    Ok(true) => manager.send(Order::FlushSite(site)),
                    Ok(false) => {
                        return Reply::Refused(format!("Flush service is not configured for destination \"{site}\""));
                    }
                    Err(error) => return Reply::TryLater(error.to_string()),
                }
            }
        }
        self.pickup.notify_one();
        Reply::Done
    }

    // ---- submitting

    async fn submit(&self, stream: &mut UnixStream, envelope: SubmitEnvelope, uid: u32) -> io::Result<()> {
        let limit = self.engine.current().get().config.main().int("message_size_limit");
        let limit = u64::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(u64::MAX);
        let mut collected = Collected::new(&self.spool);
        let mut too_large = false;
        loop {
            let Some((kind, payload)) = receive(stream, PIECE).await? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            if kind != frame::BYTES {
                return reply(stream, &Reply::Refused("content expected".to_owned())).await;
            }
            if payload.is_empty() {
                break;
            }
            too_large |= collected.len + payload.len() as u64 > limit;
            if !too_large && let Err(error) = collected.push(&self.engine, &payload).await {
                return self.full(stream, &error).await;
            }
        }
        if too_large {
            return reply(stream, &Reply::Refused("Message file too big".to_owned())).await;
        }
        // Without an answer the message waits in `maildrop/` for our successor.
        let Some(_passing) = self.gate.pass().await else { return Ok(()) };
        match collected.finish(&self.engine).await {
            Ok(content) => {
                let answer = self.take(envelope, content, uid).await;
                reply(stream, &answer).await
            }
            Err(error) => self.full(stream, &error).await,
        }
    }

    /// A submission cannot be kept while it comes in.
    async fn full(&self, stream: &mut UnixStream, error: &io::Error) -> io::Result<()> {
        let text = format!("write file in {}: {error}", self.spool.display());
        self.engine.current().say(Severity::Error, None, &text);
        let why = "queue file write error".to_owned();
        let answer = match error.kind() {
            // As for a message that is small enough to be refused later.
            io::ErrorKind::TimedOut => Reply::Wait(why),
            _ => Reply::TryLater(why),
        };
        reply(stream, &answer).await
    }

    /// Makes a submission of what somebody handed in and accepts it.
    pub async fn take(&self, envelope: SubmitEnvelope, content: Content, uid: u32) -> Reply {
        let engine = &self.engine;
        let (id, now) = (engine.next_id(), Timestamp::now());
        let generation = engine.current().get();
        let limit = u64::try_from(generation.config.main().int("message_size_limit")).unwrap_or(0);
        if limit > 0 && content.len() > limit {
            return Reply::Refused("Message file too big".to_owned());
        }
        if let Some(refused) = self.may_send(uid, &envelope.sender).await {
            return refused;
        }
        let date = engine.date(now);
        let facts = yamabiko_pickup::Facts {
            queue_id: id,
            now,
            uid,
            myhostname: &generation.myhostname,
            mail_name: &generation.mail_name,
            date: &date,
        };
        let submission = match yamabiko_pickup::submission(envelope, content, &facts) {
            Ok(mut submission) => {
                submission.envelope.filter.clone_from(&generation.pickup.filter);
                submission.no_address_mappings = generation.pickup.no_address_mappings;
                submission.no_header_body_checks = generation.pickup.no_header_body_checks;
                submission
            }
            Err(unfit) => return Reply::Refused(unfit.0),
        };
        drop(generation);
        let sender = submission.envelope.sender.clone();
        engine.current().emit("pickup", now, Kind::PickedUp { queue_id: id, uid, sender });
        match engine.accept(submission, None).await {
            Ok(Taken::Queued(id) | Taken::Discarded(id) | Taken::Returned(id) | Taken::Counted(id)) => {
                Reply::Accepted(id)
            }
            // There is no more room in another directory.
            Err(refusal) if refusal.code.0 == 452 => Reply::TryLater(refusal.text),
            Err(refusal) if refusal.code.is_transient() => Reply::Wait(refusal.text),
            Err(refusal) => Reply::Refused(refusal.text),
        }
    }
}

impl Control {
    /// A submission that was taken without a look, and cannot be accepted, goes back to its sender. False when nobody
    /// could be told.
    pub async fn give_back(&self, envelope: SubmitEnvelope, content: Content, uid: u32, why: &str) -> bool {
        let engine = &self.engine;
        let now = Timestamp::now();
        let (myhostname, mail_name, date) = (String::new(), String::new(), String::new());
        let facts = yamabiko_pickup::Facts {
            queue_id: engine.next_id(),
            now,
            uid,
            myhostname: &myhostname,
            mail_name: &mail_name,
            date: &date,
        };
        let Ok(submission) = yamabiko_pickup::submission(envelope, content, &facts) else { return false };
        let (mut envelope, content) = (submission.envelope, submission.content);
        let generation = engine.current().get();
        let complete = |address: &str| match address {
            "" => String::new(),
            address => generation.router.rewriter().rewrite(RewriteContext::Local, address).into_owned(),
        };
        envelope.sender = complete(&envelope.sender);
        for recipient in &mut envelope.recipients {
            recipient.address = complete(&recipient.address);
        }
        let bouncer = &generation.bounce;
        let failure = crate::outcome::plain(EnhancedStatus::permanent(0, 0), why);
        let failed: Vec<_> =
            envelope.recipients.iter().map(|recipient| bouncer.report_failure(recipient, &failure, false)).collect();
        let wanted = bouncer.wanted(&envelope);
        let original = tokio::task::spawn_blocking(move || yamabiko_bounce::read_original(&content, wanted)).await;
        let original = original.ok().and_then(Result::ok);
        let languages = generation.languages_for(&envelope.sender).await;
        let job = yamabiko_bounce::Job {
            envelope: &envelope,
            original: original.as_deref(),
            now,
            zone: engine.zone(),
            languages: &languages,
        };
        let plan = bouncer.failed(&job, &failed, &mut || engine.next_id());
        drop(generation);
        crate::report::send(engine, plan, None).await
    }
}

/// A submission's content while it comes in: in memory, or in a nameless file when it is large.
struct Collected {
    spool: PathBuf,
    memory: Vec<u8>,
    file: Option<std::fs::File>,
    len: u64,
}

impl Collected {
    fn new(spool: &std::path::Path) -> Self {
        Self { spool: spool.to_path_buf(), memory: Vec::new(), file: None, len: 0 }
    }

    async fn push(&mut self, engine: &Acceptance, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len() as u64;
        if self.memory.len() + bytes.len() > IN_MEMORY {
            self.store(engine).await?;
        }
        self.memory.extend_from_slice(bytes);
        Ok(())
    }

    /// What is in memory goes into the file.
    async fn store(&mut self, engine: &Acceptance) -> io::Result<()> {
        use std::io::Write;
        let (file, spool, bytes) = (self.file.take(), self.spool.clone(), std::mem::take(&mut self.memory));
        let stored = yamabiko_receive::on_disk(engine, move || {
            let mut file = file.map_or_else(|| tempfile::tempfile_in(&spool), Ok)?;
            file.write_all(&bytes).map(|()| file)
        });
        self.file = Some(stored.await?);
        Ok(())
    }

    async fn finish(mut self, engine: &Acceptance) -> io::Result<Content> {
        if self.file.is_some() {
            self.store(engine).await?;
        }
        Ok(match self.file {
            Some(file) => Content::File { file: Arc::new(file), offset: 0, len: self.len },
            None => Content::from(self.memory),
        })
    }
}

fn entry(envelope: &yamabiko_envelope::Envelope, meta: &Meta) -> Entry {
    Entry {
        queue: name_of(meta.state()),
        envelope: envelope.clone(),
        forced_expire: meta.flags.expire(),
        next_attempt: (meta.state() == State::Deferred).then_some(meta.next_attempt),
    }
}

/// `labuser1(5001)`
pub(crate) fn named(uid: u32) -> String {
    let name =
        nix::unistd::User::from_uid(uid.into()).ok().flatten().map_or_else(|| "unknown".to_owned(), |user| user.name);
    format!("{name}({uid})")
}

pub(crate) async fn receive(stream: &mut UnixStream, largest: usize) -> io::Result<Option<(u8, Vec<u8>)>> {
    let read = async {
        let mut head = [0; 5];
        match stream.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let (kind, len) = frame::parse_header(head)?;
        if len > largest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is over the limit"));
        }
        let mut payload = Vec::with_capacity(len.min(1 << 16));
        if stream.take(len as u64).read_to_end(&mut payload).await? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some((kind, payload)))
    };
    tokio::time::timeout(PATIENCE, read).await?
}

pub(crate) async fn write(stream: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
    tokio::time::timeout(PATIENCE, stream.write_all(bytes)).await?
}

pub(crate) async fn reply(stream: &mut UnixStream, answer: &Reply) -> io::Result<()> {
    write(stream, &frame::encode(answer)?).await
}
