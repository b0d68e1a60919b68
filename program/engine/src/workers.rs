//! The workers of local delivery as the engine sees them.
//!
//! Mailboxes, maildirs and files of a user are the business of that user's *crew*: a few workers that are given several
//! jobs at once, so that what they write shares a sync and there is not a process for every message under way. A command
//! may run for long, so it has a worker of its own.
//!
//! A worker is kept for a moment after its last job, because mail for one user comes in bursts and a process is dear.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::WriteHalf;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use yamabiko_deliver_local::agent::As;
use yamabiko_deliver_local::job::{Done, Job, Place};
use yamabiko_deliver_local::worker;
use yamabiko_envelope::Content;
use yamabiko_ipc::boss::WorkerUser;

use crate::boss::Boss;

/// Idle workers live this long.
const IDLE: Duration = Duration::from_secs(5);
/// Workers of all users at once that have something to do: processes are not free.
const WORKERS: usize = 100;
/// Idle workers of all users: mail for many users, one message each, must not leave a process for each of them.
const KEPT: usize = 50;
/// Workers of one crew.
const CREW: usize = 3;
/// Jobs that a worker of a crew is given at once.
const AT_ONCE: usize = 16;
/// This is for a worker that is stuck altogether. A command's own time limit ends it before.
const PATIENCE: Duration = Duration::from_secs(3600);

struct Idle {
    socket: UnixStream,
    since: Instant,
}

/// The pool.
pub struct Workers {
    boss: Boss,
    idle: Mutex<HashMap<WorkerUser, Vec<Idle>>>,
    crews: Mutex<HashMap<WorkerUser, Vec<Member>>>,
    slots: Semaphore,
}

/// A worker of a crew: where its jobs are left, and how many it has.
struct Member {
    number: u64,
    jobs: mpsc::UnboundedSender<Task>,
    load: usize,
}

/// A job of a crew, and who waits for it.
struct Task {
    job: Vec<u8>,
    content: Option<Content>,
    answer: oneshot::Sender<io::Result<Done>>,
}

impl Workers {
    /// An empty pool, and the task that ends workers that have nothing to do.
    pub fn new(boss: Boss) -> Arc<Self> {
        let workers =
            Arc::new(Self { boss, idle: Mutex::default(), crews: Mutex::default(), slots: Semaphore::new(WORKERS) });
        let pool = Arc::downgrade(&workers);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE).await;
                let Some(pool) = pool.upgrade() else { return };
                pool.lock().retain(|_, idle| {
                    idle.retain(|worker| worker.since.elapsed() < IDLE);
                    !idle.is_empty()
                });
            }
        });
        workers
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<WorkerUser, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a job done under a user's ID.
    pub async fn run(self: &Arc<Self>, user: As, job: &Job, content: Option<&Content>) -> io::Result<Done> {
        let user = match user {
            As::Login { name, spool } => WorkerUser::Login { name, spool_group: spool },
            As::Ids { uid, gid } => WorkerUser::Virtual { uid, gid },
            As::Service { name, user, chroot } => WorkerUser::Service { name, user, chroot },
        };
        if matches!(job, Job::Deliver { place: Place::Command { .. }, .. }) {
            return self.run_alone(user, job, content).await;
        }
        let (answer, done) = oneshot::channel();
        self.leave_to_crew(user, Task { job: serde_json::to_vec(job)?, content: content.cloned(), answer });
        done.await.unwrap_or_else(|_| Err(io::Error::other("the worker's task ended")))
    }

    /// Has a job done by a worker that does nothing else meanwhile.
    async fn run_alone(&self, user: WorkerUser, job: &Job, content: Option<&Content>) -> io::Result<Done> {
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await.map_err(io::Error::other)?;
        let kept = {
            let mut idle = self.lock();
            let kept = idle.get_mut(&user).and_then(Vec::pop);
            if idle.get(&user).is_some_and(Vec::is_empty) {
                idle.remove(&user);
            }
            kept
        };
        let (mut socket, fresh) = match kept {
            Some(idle) => (idle.socket, false),
            None => (self.hire(&user).await?, true),
        };
        let mut done = converse(&mut socket, job, content).await;
        if done.is_err() && !fresh {
            // The kept worker was gone before it had heard anything we could know of: once more with a new one. A job
            // that was done all the same is done twice, which is what a crash of a delivery agent costs.
            socket = self.hire(&user).await?;
            done = converse(&mut socket, job, content).await;
        }
        if done.is_ok() {
            self.keep(user, socket);
        }
        done
    }

    /// Keeps a worker for the next job of its user; where too many are kept, the one that waits longest ends.
    fn keep(&self, user: WorkerUser, socket: UnixStream) {
        let mut idle = self.lock();
        if idle.values().map(Vec::len).sum::<usize>() >= KEPT {
            let oldest =
                idle.iter().filter_map(|(user, kept)| Some((kept.first()?.since, user))).min_by_key(|(at, _)| *at);
            if let Some(user) = oldest.map(|(_, user)| user.clone())
                && let Some(kept) = idle.get_mut(&user)
            {
                kept.remove(0);
                if kept.is_empty() {
                    idle.remove(&user);
                }
            }
        }
        idle.entry(user).or_default().push(Idle { socket, since: Instant::now() });
    }

    fn crews(&self) -> std::sync::MutexGuard<'_, HashMap<WorkerUser, Vec<Member>>> {
        self.crews.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a job to the worker of the user's crew that has least to do; to a new one, where all have something.
    fn leave_to_crew(self: &Arc<Self>, user: WorkerUser, mut task: Task) {
        let mut crews = self.crews();
        let crew = crews.entry(user.clone()).or_default();
        let size = crew.len();
        let least = crew.iter_mut().min_by_key(|member| member.load);
        if let Some(member) = least.filter(|member| member.load == 0 || size >= CREW) {
            member.load += 1;
            let number = member.number;
            let Err(mpsc::error::SendError(back)) = member.jobs.send(task) else { return };
            // A member takes itself off the list before it stops listening, unless a bug has ended it.
            crew.retain(|member| member.number != number);
            task = back;
        }
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (jobs, line) = mpsc::unbounded_channel();
        let _ = jobs.send(task);
        crew.push(Member { number, jobs, load: 1 });
        tokio::spawn(Arc::clone(self).work(user, number, line));
    }

    /// A member of a crew, as long as it has something to do and for a while after.
    async fn work(self: Arc<Self>, user: WorkerUser, number: u64, mut line: mpsc::UnboundedReceiver<Task>) {
        let mut socket = None;
        loop {
            let Ok(first) = tokio::time::timeout(IDLE, line.recv()).await else {
                if self.leave(&user, number, &line) { return } else { continue }
            };
            let Some(first) = first else { return };
            let mut tasks = VecDeque::from([first]);
            while tasks.len() < AT_ONCE
                && let Ok(task) = line.try_recv()
            {
                tasks.push_back(task);
            }
            let count = tasks.len();
            self.give(&user, &mut socket, tasks).await;
            let members = {
                let mut crews = self.crews();
                if let Some(member) = crews.get_mut(&user).and_then(|crew| crew.iter_mut().find(|m| m.number == number))
                {
                    member.load -= count;
                }
                crews.values().map(Vec::len).sum::<usize>()
            };
            if members > KEPT && self.leave(&user, number, &line) {
                return;
            }
        }
    }

    /// Gives jobs to a worker and sees to it that each is answered.
    async fn give(&self, user: &WorkerUser, socket: &mut Option<UnixStream>, mut tasks: VecDeque<Task>) {
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        // What a kept worker leaves behind when it is gone is done once more by a new one: it may have been gone before it
        // heard anything. A job that was done all the same is done twice, which is what a crash of a delivery agent costs.
        let mut kept = socket.is_some();
        while !tasks.is_empty() {
            let trouble = match socket {
                Some(open) => converse_in_turn(open, &mut tasks).await.err(),
                None => match self.hire(user).await {
                    Ok(hired) => {
                        *socket = Some(hired);
                        continue;
                    }
                    Err(error) => Some(error),
                },
            };
            let Some(error) = trouble else { return };
            *socket = None;
            if !std::mem::take(&mut kept) {
                for task in tasks.drain(..) {
                    let _ = task.answer.send(Err(io::Error::new(error.kind(), error.to_string())));
                }
            }
        }
    }

    /// Takes a worker off its crew, unless it has been given something.
    fn leave(&self, user: &WorkerUser, number: u64, line: &mpsc::UnboundedReceiver<Task>) -> bool {
        // Jobs are given under this lock.
        let mut crews = self.crews();
        if !line.is_empty() {
            return false;
        }
        if let Some(crew) = crews.get_mut(user) {
            crew.retain(|member| member.number != number);
            if crew.is_empty() {
                crews.remove(user);
            }
        }
        true
    }

    async fn hire(&self, user: &WorkerUser) -> io::Result<UnixStream> {
        let socket = self.boss.worker(user.clone()).await.map_err(io::Error::other)?;
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket)
    }
}

async fn converse(socket: &mut UnixStream, job: &Job, content: Option<&Content>) -> io::Result<Done> {
    let limit = match job {
        Job::Deliver { place: Place::Command { time_limit_s, .. }, .. } => Duration::from_secs(*time_limit_s),
        _ => Duration::ZERO,
    };
    let job = serde_json::to_vec(job)?;
    let talk = async {
        let (mut reader, mut writer) = socket.split();
        let mut out = Vec::new();
        put_job(&mut writer, &mut out, &job, content).await?;
        writer.write_all(&out).await?;
        read_answer(&mut reader).await
    };
    match tokio::time::timeout(limit.saturating_add(PATIENCE), talk).await {
        Ok(done) => done,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Writes a job, or leaves what is small in `out`.
async fn put_job(
    writer: &mut WriteHalf<'_>,
    out: &mut Vec<u8>,
    job: &[u8],
    content: Option<&Content>,
) -> io::Result<()> {
    let small = content.map_or(0, |content| usize::try_from(content.len()).unwrap_or(PIECE).min(PIECE));
    out.reserve(job.len() + small + 64);
    worker::put_frame(out, worker::MESSAGE, job)?;
    if let Some(content) = content {
        send_content(writer, out, content).await?;
        worker::put_frame(out, worker::BYTES, b"")?;
    }
    Ok(())
}

async fn read_answer(reader: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Done> {
    let mut head = [0; 5];
    reader.read_exact(&mut head).await?;
    let [a, b, c, d, _] = head;
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if len > worker::FRAME_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "worker's answer is too long"));
    }
    let mut payload = vec![0; len];
    reader.read_exact(&mut payload).await?;
    serde_json::from_slice(&payload).map_err(io::Error::from)
}

/// Gives a worker some jobs and tells those who wait for them, in order, as far as the worker answers.
async fn converse_in_turn(socket: &mut UnixStream, tasks: &mut VecDeque<Task>) -> io::Result<()> {
    // The jobs stay with the tasks: another worker may need them.
    let given: Vec<_> = tasks.iter().map(|task| (task.job.clone(), task.content.clone())).collect();
    let (reader, mut writer) = socket.split();
    let mut reader = BufReader::new(reader);
    // An answer may be larger than the socket holds: it is read while jobs are still being written.
    let write = async {
        let mut out = Vec::new();
        for (job, content) in &given {
            put_job(&mut writer, &mut out, job, content.as_ref()).await?;
            if out.len() >= PIECE {
                writer.write_all(&out).await?;
                out.clear();
            }
        }
        writer.write_all(&out).await
    };
    let read = async {
        while !tasks.is_empty() {
            let done = read_answer(&mut reader).await?;
            if let Some(task) = tasks.pop_front() {
                let _ = task.answer.send(Ok(done));
            }
        }
        Ok(())
    };
    match tokio::time::timeout(PATIENCE, async { tokio::try_join!(write, read) }).await {
        Ok(done) => done.map(|_| ()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Bytes of a message that go to a worker at once.
const PIECE: usize = 256 << 10;

/// Small messages go with the job in one write, large ones piece by piece. What lies in memory is copied once.
async fn send_content(socket: &mut WriteHalf<'_>, out: &mut Vec<u8>, content: &Content) -> io::Result<()> {
    let len = content.len();
    let mut at = 0;
    let mut buffer = Vec::new();
    while at < len {
        let piece = match content {
            Content::Memory(bytes) => {
                let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                rest.get(..PIECE).unwrap_or(rest)
            }
            Content::File { .. } => {
                buffer.resize(PIECE, 0);
                let n = content.read_at(&mut buffer, at)?;
                buffer.get(..n).unwrap_or_default()
            }
        };
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        worker::put_frame(out, worker::BYTES, piece)?;
        at += piece.len() as u64;
        if at < len {
            socket.write_all(out).await?;
            out.clear();
        }
    }
    Ok(())
}
