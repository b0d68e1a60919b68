//! What the engine does for the SMTP server: names for messages, a durable place for them, and ETRN.

use std::any::Any;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;

use yamabiko_envelope::{QueueId, Submission};
use yamabiko_status::{EnhancedStatus, ReplyCode};

use crate::filter::Filtering;
use crate::verification::Verification;

/// A future in a box, so that the trait can be an object.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Notes that a call to the disk is under way until what it gives is dropped.
pub type BeginCall = Arc<dyn Fn() -> Box<dyn Any + Send> + Send + Sync>;

/// A message was taken: it is on stable storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The name to tell the client when it is not the one the submission came with.
    pub queue_id: Option<QueueId>,
}

/// A message was not taken. Our own trouble has a code of class 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 4xx or 5xx
    pub code: ReplyCode,
    /// Its class agrees with `code`.
    pub status: EnhancedStatus,
    /// The text after the code; lines are separated by LF.
    pub text: String,
}

/// What came of ETRN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Etrn {
    /// `250 Queuing started`
    Started,
    /// `459 <domain>: service unavailable`: not in `fast_flush_domains`.
    Denied,
    /// `458 Unable to queue messages`
    Failed,
}

/// A result of SPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpfVerdict {
    /// The client may not send for the domain.
    Fail,
    /// It probably may not.
    SoftFail,
    /// What the domain says makes no sense.
    PermError,
    /// Anything else: it may, nobody says, it could not be found out.
    Other,
}

/// SPF of a client and a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spf {
    /// What came of it.
    pub verdict: SpfVerdict,
    /// The domain.
    pub domain: String,
    /// What the domain wants the client to be told; printable, may be empty.
    pub explanation: String,
}

/// The engine, as this stage sees it.
pub trait Admission: Send + Sync {
    /// A name for a message whose first recipient was accepted.
    fn next_queue_id(&self) -> QueueId;
    /// Takes a message. Ready only when the message is durable or refused.
    fn submit(&self, submission: Submission) -> Later<'_, Result<Accepted, Refusal>>;
    /// As [`Admission::submit`], and mail filters are shown the message before it is taken.
    fn submit_filtered<'a>(
        &'a self,
        _submission: Submission,
        _filtering: Filtering<'a>,
    ) -> Later<'a, Result<Accepted, Refusal>> {
        let (code, status) = (ReplyCode(451), EnhancedStatus::transient(3, 0));
        let text = "Error: mail filters cannot be asked here".to_owned();
        Box::pin(std::future::ready(Err(Refusal { code, status, text })))
    }
    /// Starts delivery of the mail that waits for a domain.
    fn etrn<'a>(&'a self, domain: &'a str) -> Later<'a, Etrn>;
    /// Bytes free for mail on disk; `None` when that cannot be said.
    fn free_space(&self) -> Option<u64>;
    /// Nothing can be taken now: the disk does not answer.
    fn is_stuck(&self) -> bool {
        false
    }
    /// Ends when the disk does not answer.
    fn gets_stuck(&self) -> Later<'_, ()> {
        Box::pin(std::future::pending())
    }
    /// What is done where a call to the disk begins, on the thread that makes it; it is over when the answer is dropped.
    fn disk(&self) -> BeginCall {
        Arc::new(|| Box::new(()))
    }
    /// What is known of an address; a probe is sent when it is time for one. `None` when that cannot be done.
    fn verify<'a>(&'a self, _address: &'a str) -> Later<'a, Option<Verification>> {
        Box::pin(std::future::ready(None))
    }
    /// SPF of a reverse-path, of HELO for the null one (RFC 7208). `None` when that cannot be asked.
    fn spf<'a>(&'a self, _client: std::net::IpAddr, _helo: &'a str, _sender: &'a str) -> Later<'a, Option<Spf>> {
        Box::pin(std::future::ready(None))
    }
    /// Why mail of this sender to this recipient is not taken: the address is known to be dead. `None` where it is.
    fn suppressed(&self, _sender: &str, _recipient: &str) -> Option<String> {
        None
    }
    /// A connection to a process of a service of master.cf that runs spawn(8).
    fn spawn<'a>(&'a self, service: &'a str) -> Later<'a, io::Result<UnixStream>> {
        Box::pin(std::future::ready(Err(io::Error::other(format!("service {service} cannot be started here")))))
    }
}

/// Work on the mail's disk. One that does not answer is not waited for; what is done there goes on without anybody who hears
/// of it.
///
/// # Errors
/// Those of the work, and [`io::ErrorKind::TimedOut`] where the disk does not answer.
pub async fn on_disk<T: Send + 'static>(
    admission: &dyn Admission,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let stuck = || io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer");
    // Each call would keep a thread, and what it works on, until the disk answers.
    if admission.is_stuck() {
        return Err(stuck());
    }
    let begin = admission.disk();
    let done = tokio::task::spawn_blocking(move || {
        let _call = begin();
        work()
    });
    tokio::select! {
        biased;
        done = done => done.unwrap_or_else(|error| Err(io::Error::other(error))),
        () = admission.gets_stuck() => Err(stuck()),
    }
}
