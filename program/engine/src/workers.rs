//! The workers of local delivery as the engine sees them: a pool per user, each worker one job at a time.
//!
//! A worker is kept for a moment after its last job, because mail for one user comes in bursts and a process is dear.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use yamabiko_deliver_local::agent::As;
use yamabiko_deliver_local::job::{Done, Job};
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
/// A command's own time limit ends it; this is for a worker that is stuck altogether.
const PATIENCE: Duration = Duration::from_secs(3600);

struct Idle {
    socket: UnixStream,
    since: Instant,
}

/// The pool.
pub struct Workers {
    boss: Boss,
    idle: Mutex<HashMap<WorkerUser, Vec<Idle>>>,
    slots: Semaphore,
}

impl Workers {
    /// An empty pool, and the task that ends workers that have nothing to do.
    pub fn new(boss: Boss) -> Arc<Self> {
        let workers = Arc::new(Self { boss, idle: Mutex::default(), slots: Semaphore::new(WORKERS) });
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
    pub async fn run(&self, user: As, job: &Job, content: Option<&Content>) -> io::Result<Done> {
        let user = match user {
            As::Login { name, spool } => WorkerUser::Login { name, spool_group: spool },
            As::Ids { uid, gid } => WorkerUser::Virtual { uid, gid },
        };
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

    async fn hire(&self, user: &WorkerUser) -> io::Result<UnixStream> {
        let socket = self.boss.worker(user.clone()).await.map_err(io::Error::other)?;
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket)
    }
}

async fn converse(socket: &mut UnixStream, job: &Job, content: Option<&Content>) -> io::Result<Done> {
    let talk = async {
        let mut out = worker::frame(worker::MESSAGE, &serde_json::to_vec(job)?)?;
        if let Some(content) = content {
            send_content(socket, &mut out, content).await?;
            out.extend_from_slice(&worker::frame(worker::BYTES, b"")?);
        }
        socket.write_all(&out).await?;
        let mut head = [0; 5];
        socket.read_exact(&mut head).await?;
        let [a, b, c, d, _] = head;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > worker::FRAME_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "worker's answer is too long"));
        }
        let mut payload = vec![0; len];
        socket.read_exact(&mut payload).await?;
        serde_json::from_slice(&payload).map_err(io::Error::from)
    };
    match tokio::time::timeout(PATIENCE, talk).await {
        Ok(done) => done,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Small messages go with the job in one write, large ones piece by piece.
async fn send_content(socket: &mut UnixStream, out: &mut Vec<u8>, content: &Content) -> io::Result<()> {
    const PIECE: usize = 256 << 10;
    let len = content.len();
    let mut at = 0;
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(PIECE).min(PIECE)];
    while at < len {
        let n = content.read_at(&mut buffer, at)?;
        out.extend_from_slice(&worker::frame(worker::BYTES, &buffer[..n])?);
        at += n as u64;
        if at < len {
            socket.write_all(out).await?;
            out.clear();
        }
    }
    Ok(())
}
