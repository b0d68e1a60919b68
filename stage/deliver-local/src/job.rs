//! What the engine asks of a worker, and what it hears back.

use serde::{Deserialize, Serialize};

/// A style of locking a mailbox (`mailbox_delivery_lock`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lock {
    /// fcntl(2)
    Fcntl,
    /// flock(2)
    Flock,
    /// A file of the same name with `.lock`
    Dotlock,
}

/// How often and how long to try for a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locking {
    /// Styles, in the order in which they are taken.
    pub styles: Vec<Lock>,
    /// `deliver_lock_attempts`
    pub attempts: u32,
    /// `deliver_lock_delay`, milliseconds.
    pub delay_ms: u64,
    /// `stale_lock_time`, seconds.
    pub stale_s: u64,
}

/// Where a message is to be put.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Appended to an mbox file.
    Mailbox {
        /// The file. Relative to the worker's home when it does not begin with `/`.
        path: String,
        /// The `From ` line, without its line end.
        from_line: String,
        /// Locks to hold.
        locking: Locking,
        /// Largest size of the file, bytes; 0 is no limit.
        limit: u64,
        /// The file must not be writable to others and must belong to the worker's user (a mailbox; not `/file/name`).
        strict_owner: bool,
        /// Status where the system's error has none of its own: `4.2.0` for a mailbox, `5.2.0` for `/file/name`.
        trouble: String,
    },
    /// A new file in a maildir.
    Maildir {
        /// The directory, with or without its final slash.
        path: String,
        /// Largest size of the message, bytes; 0 is no limit.
        limit: u64,
        /// Status where the system's error has none of its own.
        trouble: String,
    },
    /// Standard input of a command.
    Command {
        /// The command as written.
        command: String,
        /// Run it through this shell even if it is simple; empty: only if it needs `/bin/sh`.
        shell: String,
        /// Arguments, where there is no command line to take apart (pipe(8)).
        argv: Vec<String>,
        /// Name and value.
        environment: Vec<(String, String)>,
        /// Working directory; empty for the default.
        directory: String,
        /// Killed after this many seconds.
        time_limit_s: u64,
        /// How the command wants to read the message.
        form: Form,
        /// How its exit status is read.
        exits: Exits,
        /// Who runs it, for error messages: `local` or `pipe`.
        agent: String,
    },
}

/// How a command wants to read a message (pipe(8)'s `eol=` and `flags=`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// Line end; empty for LF.
    pub eol: String,
    /// `.`: a second dot before lines that begin with one.
    pub dot: bool,
    /// `>`: `>` before lines that begin with `From `.
    pub from: bool,
    /// `B`: an empty line at the end.
    pub blank: bool,
}

/// How the exit status of a command is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exits {
    /// sysexits(3), or an enhanced status code at the beginning of the output.
    #[default]
    Sysexits,
    /// qmail-command(8): 0, 99, 100, 111 and their kin.
    Qmail,
}

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Job {
    /// Put a message somewhere. Its bytes follow: LF line ends.
    Deliver {
        /// Where.
        place: Place,
        /// Header lines to stand before the message, each with its line end.
        prepend: String,
    },
    /// As [`Job::Deliver`] if none of these files is there; otherwise nothing is delivered, and what they say decides. Most users have no
    /// `.forward`: asking first would be another turn of the worker for each of their messages.
    DeliverUnless {
        /// Candidates of `forward_path`, expanded.
        files: Vec<String>,
        /// Where: a mailbox or maildir.
        place: Place,
        /// Header lines to stand before the message, each with its line end.
        prepend: String,
    },
    /// Read the first of these files that is there and may be trusted.
    Forward {
        /// Candidates of `forward_path`, expanded.
        paths: Vec<String>,
        /// Largest size in bytes.
        limit: u64,
    },
    /// Read the first of these `.qmail` files that is there. Only a home that nobody else can write to will do.
    DotQmail {
        /// The home directory.
        home: String,
        /// Names in it.
        candidates: Vec<String>,
        /// The name to which `-owner` is added.
        base: String,
        /// Largest size in bytes.
        limit: u64,
    },
    /// See whether a home directory is there (`require_home_directory`).
    Home {
        /// The directory.
        path: String,
    },
    /// Read an `:include:` file.
    Include {
        /// The file.
        path: String,
        /// Largest size in bytes.
        limit: u64,
    },
}

impl Job {
    /// It appends to a mailbox or runs a command: it may wait for long, and is done for good when it ends.
    pub(crate) fn stands_alone(&self) -> bool {
        let (Self::Deliver { place, .. } | Self::DeliverUnless { place, .. }) = self else { return false };
        matches!(place, Place::Mailbox { .. } | Place::Command { .. })
    }
}

/// A `.qmail` file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QmailFile {
    /// Which of the candidates.
    pub index: usize,
    /// What is in it.
    pub text: String,
    /// Its owner may execute it: it names addresses only.
    pub executable: bool,
    /// There is a file for the owner of the address.
    pub has_owner: bool,
    /// There is one for each recipient of the owner's.
    pub has_owner_default: bool,
}

impl Done {
    /// Failed for a reason that no command gave.
    pub fn failed(status: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Failed { status: status.into(), reason: reason.into(), diagnostic: None }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// The message is where it should be, on stable storage; or the command took it. Text: the command's output.
    Delivered(String),
    /// A command took it, and says that the rest of the list is not wanted (qmail's 99). Text: its output.
    Enough(String),
    /// It is not.
    Failed {
        /// `4.2.0` or `5.2.2` and their kin.
        status: String,
        /// For log and notice.
        reason: String,
        /// What the command itself said, for `Diagnostic-Code: x-unix;`. `None` where the reason is ours.
        diagnostic: Option<String>,
    },
    /// The `.qmail` file; `None`: there is none.
    Qmail(Option<QmailFile>),
    /// The file's text and name; none of the candidates was there.
    Text(Option<(String, String)>),
    /// Nothing was delivered: one of the files is there ([`Job::DeliverUnless`]).
    Withheld,
    /// Candidates that were there but could not be trusted: warnings for the log.
    Unsafe(Vec<String>),
}
