//! The worker's loop: one job after the other over one socket, until the engine closes it.
//!
//! Privileges were dropped for good before the program was started, so nothing here can do more than its user could at
//! a shell prompt. The message is never held in memory whole.

mod command;
mod mailbox;
mod maildir;
mod user_file;

use std::io::{self, Read, Write};

use crate::job::{Done, Job, Place};

pub use command::exit_status;

/// Payload kind of a typed message; the same letters as everywhere between our processes.
pub const MESSAGE: u8 = b'J';
/// Payload kind of message content.
pub const BYTES: u8 = b'B';
/// No frame is longer than this.
pub const FRAME_LIMIT: usize = 8 << 20;

/// Reads one frame; `None` at a clean end.
pub fn read_frame(input: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut head = [0; 5];
    let mut got = 0;
    while got < head.len() {
        match input.read(&mut head[got..])? {
            0 if got == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => got += n,
        }
    }
    let [a, b, c, d, kind] = head;
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if len > FRAME_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame is too long"));
    }
    let mut payload = vec![0; len];
    input.read_exact(&mut payload)?;
    Ok(Some((kind, payload)))
}

/// A frame ready to be written; the payload is within [`FRAME_LIMIT`] or this is an error.
pub fn frame(kind: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    if payload.len() > FRAME_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame is too long"));
    }
    let mut all = Vec::with_capacity(5 + payload.len());
    // Within the limit, so within 32 bits.
    all.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    all.push(kind);
    all.extend_from_slice(payload);
    Ok(all)
}

/// The message as it comes over the socket: byte frames up to an empty one.
pub(crate) struct Incoming<'a, R> {
    input: &'a mut R,
    frame: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<'a, R: Read> Incoming<'a, R> {
    fn new(input: &'a mut R) -> Self {
        Self { input, frame: Vec::new(), at: 0, ended: false }
    }

    /// Takes what the job did not want, so that the next job begins at its own first byte.
    fn drain(&mut self) -> io::Result<()> {
        let mut scratch = [0; 4096];
        while self.read(&mut scratch)? > 0 {}
        Ok(())
    }
}

impl<R: Read> Read for Incoming<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.frame.len() {
            if self.ended {
                return Ok(0);
            }
            match read_frame(self.input)? {
                Some((BYTES, payload)) => {
                    self.ended = payload.is_empty();
                    self.frame = payload;
                    self.at = 0;
                }
                Some(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "content expected")),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let n = buffer.len().min(self.frame.len() - self.at);
        buffer[..n].copy_from_slice(&self.frame[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Serves jobs until the other side closes. An error means that the conversation itself is broken.
pub fn serve(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    while let Some((kind, payload)) = read_frame(input)? {
        if kind != MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a job expected"));
        }
        let job: Job = serde_json::from_slice(&payload)?;
        let done = match job {
            Job::Deliver { place, prepend } => {
                let mut message = Incoming::new(input);
                let done = deliver(&place, prepend.as_bytes(), &mut message);
                message.drain()?;
                done
            }
            Job::Forward { paths, limit } => user_file::forward(&paths, limit),
            Job::Include { path, limit } => user_file::include(&path, limit),
        };
        output.write_all(&frame(MESSAGE, &serde_json::to_vec(&done)?)?)?;
    }
    Ok(())
}

fn deliver(place: &Place, prepend: &[u8], message: &mut impl Read) -> Done {
    match place {
        Place::Mailbox { path, from_line, locking, limit, strict_owner } => {
            let mailbox = mailbox::Mailbox { path, from_line, locking, limit: *limit, strict_owner: *strict_owner };
            mailbox.append(prepend, message)
        }
        Place::Maildir { path, limit } => maildir::deliver(path, *limit, prepend, message),
        Place::Command { command, shell, argv, environment, directory, time_limit_s, eol } => {
            let spec = command::Spec { command, shell, argv, environment, directory, time_limit_s: *time_limit_s, eol };
            command::run(&spec, prepend, message)
        }
    }
}

/// Status for a system error while a mailbox is opened or written (Postfix: `mbox_dsn`).
pub(crate) fn status_for(error: &io::Error, default: &str) -> String {
    use nix::errno::Errno;
    let status = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN | Errno::ESTALE) => "4.2.0",
        Some(Errno::ENOSPC | Errno::EIO | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => "4.3.0",
        Some(Errno::EDQUOT | Errno::EFBIG) => "5.2.2",
        _ => default,
    };
    status.to_owned()
}

/// What went wrong, in the system's words without Rust's addition.
pub(crate) fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}
