//! Commands to the engine. One connection, one request, one answer (for listings: many frames and an end).

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use yamabiko_envelope::{BodyType, Envelope, Notify, QueueId, Ret, Timestamp, Trace, VerpDelimiters};

use crate::{VERSION, frame};

/// Below the queue directory.
pub const SOCKET: &str = "public/control";

/// Path of the control socket of an instance.
pub fn socket_path(queue_directory: &Path) -> PathBuf {
    queue_directory.join(SOCKET)
}

/// The part of the queue a message is in, as commands name it; in the order in which listings show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueName {
    /// Written by `postdrop`, not taken up yet.
    Maildrop,
    /// The schedule works on it.
    Active,
    /// Accepted, not looked at by the schedule yet.
    Incoming,
    /// Waits for its next attempt.
    Deferred,
    /// Waits for an operator.
    Hold,
}

impl QueueName {
    /// The queues in the order in which listings show them.
    pub const ALL: [QueueName; 5] =
        [QueueName::Maildrop, QueueName::Active, QueueName::Incoming, QueueName::Deferred, QueueName::Hold];

    /// As commands write it.
    pub fn as_str(self) -> &'static str {
        match self {
            QueueName::Maildrop => "maildrop",
            QueueName::Incoming => "incoming",
            QueueName::Active => "active",
            QueueName::Deferred => "deferred",
            QueueName::Hold => "hold",
        }
    }

    /// By its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|q| q.as_str() == name)
    }
}

/// What `postsuper` can do to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// `-d`
    Delete,
    /// `-h`
    Hold,
    /// `-H`
    Release,
    /// `-r`: through cleanup again, under a new name.
    Requeue,
    /// `-e`: expire at the next attempt; `-f` is this and a flush.
    Expire,
    /// `-f`
    ExpireNow,
}

/// Which messages an operation is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selection {
    /// By name, in these queues only (empty: the operation's usual ones).
    Messages(Vec<QueueId>, Vec<QueueName>),
    /// `ALL`, in these queues (empty: the operation's usual ones).
    All(Vec<QueueName>),
}

/// Which mail to try now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flush {
    /// `postqueue -f`
    All,
    /// `postqueue -i`
    Message(QueueId),
    /// `postqueue -s`
    Site(String),
}

/// A submission's envelope as `sendmail` knows it; the content follows in byte frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitEnvelope {
    /// Envelope sender as given with `-f`, or the login name; `""` is the null reverse-path.
    pub sender: String,
    /// Full name for a `From:` that has to be made.
    pub full_name: String,
    /// Recipients as given on the command line, and with `-t` those of the header.
    pub recipients: Vec<String>,
    /// `-V`
    pub envid: String,
    /// `-R`
    pub ret: Option<Ret>,
    /// `-N`
    pub notify: Notify,
    /// `-B`
    pub body: BodyType,
    /// `-O smtputf8` or addresses that need it
    pub smtputf8: bool,
    /// `-O requiretls`. Files in `maildrop/` from before there was such a thing do without.
    #[serde(default)]
    pub requiretls: bool,
    /// `-v`, `-bv`
    pub trace: Trace,
    /// `-XV`
    pub verp: Option<VerpDelimiters>,
}

/// What a command wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// These queues, or all if none is named: frames of [`crate::listing`], then [`Reply::End`].
    List(Vec<QueueName>),
    /// One message: envelope, then content.
    Cat(QueueId),
    /// Try now.
    Flush(Flush),
    /// Change the queue. Root and the mail owner only.
    Operate(Operation, Selection),
    /// What is to be done with the messages that these words mean (`yamabiko_queue::Predicate`). Before anything is done to
    /// them the answer says how many they are ([`Reply::Count`]); if there are any it is done when [`Go`] comes, to those that
    /// were counted, and then a second one says to how many.
    Select(What, Vec<String>),
    /// How the queue itself is.
    QueueStatus,
    /// Accept a message; byte frames follow.
    Submit(SubmitEnvelope),
    /// The files in `maildrop/` want to be taken up.
    Pickup,
    /// Speak SMTP on this connection from now on, as `smtpd` does on stdin (`sendmail -bs`).
    Smtp,
    /// Is the engine there, and since when?
    Status,
    /// `yamabiko limits`, with its words; the answer is a [`Reply::Remark`]. Changing is for root and the mail owner only.
    Limits(Vec<String>),
}

/// What `yamabiko queue` does with the messages that it is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Show them: entries and an end.
    List,
    /// Count them.
    Count,
    /// Try them now.
    Flush,
    /// Change them. Root and the mail owner only.
    Operate(Operation),
}

/// What was counted is to be done. Whoever does not want it hangs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Go;

/// The first frame of a conversation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the caller.
    pub version: u32,
    /// What it wants.
    pub request: Request,
}

impl Hello {
    /// Reads the first frame. The version is looked at before anything else: what another release asks may not even be
    /// readable. The error says what to do, and is for people.
    pub fn read(kind: u8, payload: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let not_understood = |error: io::Error| format!("not understood: {error}");
        let Version { version } = frame::decode(kind, payload).map_err(not_understood)?;
        if version != VERSION {
            return Err(format!(
                "this command speaks version {version} of the control protocol, the running mail system version {VERSION}: \
                 they are of different releases; stop and start the mail system with the commands of one release"
            ));
        }
        frame::decode(kind, payload).map_err(not_understood)
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it is.
    pub queue: QueueName,
    /// Its envelope, with what is known of each recipient.
    pub envelope: Envelope,
    /// `postsuper -e` or `-f` was said.
    pub forced_expire: bool,
    /// Time of the next attempt, where it waits for one.
    pub next_attempt: Option<Timestamp>,
}

/// What the engine answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// Accepted under this name.
    Accepted(QueueId),
    /// The message that was asked for.
    Entry(Box<Entry>),
    /// End of a listing.
    End,
    /// The messages that an operation changed.
    Changed(Vec<QueueId>),
    /// How many messages an operation on all of them changed; how many a selection is.
    Count(u64),
    /// Something worth knowing about the queue, on the way to the end of a listing.
    Remark(String),
    /// The engine's process and start time.
    Running {
        /// Process ID.
        pid: u32,
        /// Start.
        since: Timestamp,
    },
    /// Refused for good: not allowed, no such message, bad content. The text is for people.
    Refused(String),
    /// Not now.
    TryLater(String),
    /// Not now, and not for want of room (a table or a filter does not answer): the message can wait in `maildrop/`.
    Wait(String),
}

/// A command's end of a conversation.
#[derive(Debug)]
pub struct Caller {
    stream: UnixStream,
}

impl Caller {
    /// Connects and asks. An error of kind `NotFound` or `ConnectionRefused` means that the mail system is down.
    pub fn ask(queue_directory: &Path, request: Request) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket_path(queue_directory))?;
        stream.set_write_timeout(Some(Duration::from_secs(600)))?;
        stream.set_read_timeout(Some(Duration::from_secs(600)))?;
        frame::send(&mut stream, &Hello { version: VERSION, request })?;
        Ok(Self { stream })
    }

    /// The next answer.
    pub fn reply(&mut self) -> io::Result<Reply> {
        frame::receive(&mut self.stream)
    }

    /// What was counted is to be done. An engine that has waited too long has said so and gone: [`Caller::reply`] tells.
    pub fn go(&mut self) -> io::Result<()> {
        match frame::send(&mut self.stream, &Go) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent,
        }
    }

    /// Sends content bytes; call with an empty slice to end.
    pub fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        frame::write(&mut self.stream, frame::BYTES, bytes)
    }

    /// The next frame as it is, for content that the engine sends.
    pub fn frame(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        frame::read(&mut self.stream)
    }

    /// The bare connection, for SMTP.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_of_another_release_hears_so_whatever_it_asks() {
        let read = |text: &str| Hello::read(frame::MESSAGE, text.as_bytes());
        let ours = Hello { version: VERSION, request: Request::List(Vec::new()) };
        let text = serde_json::to_string(&ours).unwrap();
        assert_eq!(read(&text).map(|hello| hello.version), Ok(VERSION));
        for (text, said) in [
            (r#"{"version":1,"request":{"List":"of another form"}}"#, "this command speaks version 1 "),
            (r#"{"version":99,"request":"NotInventedYet"}"#, "stop and start the mail system"),
            (r#"{"request":"Flush"}"#, "not understood: missing field `version`"),
            ("GET / HTTP/1.1", "not understood: "),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(said), "{text}: {why}");
        }
        let unknown = format!(r#"{{"version":{VERSION},"request":"NotInventedYet"}}"#);
        assert!(read(&unknown).unwrap_err().starts_with("not understood: "));
        assert!(Hello::read(frame::BYTES, text.as_bytes()).is_err());
    }
}
