//! One message from standard input into the mail system.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::SystemTime;

use yamabiko_address::header::AddressList;
use yamabiko_envelope::{Timestamp, Trace, VerpDelimiters};
use yamabiko_ipc::control::{Caller, Reply, Request, SubmitEnvelope};
use yamabiko_pickup::maildrop::Draft;

use super::options::Options;
use crate::context::{Context, caller, exit};

/// Recipient fields of a message, and those that stand for them when it is resent (RFC 5322 section 3.6.6).
const RECIPIENTS: [&str; 3] = ["to", "cc", "bcc"];
const RESENT: [&str; 3] = ["resent-to", "resent-cc", "resent-bcc"];

/// Submits what is on standard input.
pub fn submit(context: &mut Context, options: Options) -> ExitCode {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    let login = user.as_ref().map_or_else(|| "nobody".to_owned(), |user| user.name.clone());
    let full_name = options
        .full_name
        .clone()
        .or_else(|| std::env::var("NAME").ok().filter(|name| !name.is_empty()))
        .or_else(|| user.as_ref().map(|user| gecos_name(&user.gecos.to_string_lossy(), &user.name)))
        .unwrap_or_default();
    let verp = match options.verp {
        Some(Some(delimiters)) => Some(delimiters),
        Some(None) => delimiters(&context.main().text("default_verp_delimiters")),
        None => None,
    };
    if let Some(delimiters) = verp {
        let allowed = context.main().text("verp_delimiter_filter");
        if !allowed.contains(delimiters.first) || !allowed.contains(delimiters.second) {
            return refuse(context, &format!("-V requires two characters from {allowed}"));
        }
    }
    if options.requiretls && !context.main().bool("requiretls_enable") {
        // It would go like any other mail: not what was asked for.
        return refuse(context, "-O requiretls=yes: REQUIRETLS is disabled (requiretls_enable = no)");
    }
    let mut envelope = SubmitEnvelope {
        sender: options.sender.clone().unwrap_or_else(|| login.clone()),
        full_name,
        recipients: recipients(&options.recipients),
        envid: options.envid.clone(),
        ret: options.ret,
        notify: options.notify,
        body: options.body,
        smtputf8: options.smtputf8,
        requiretls: options.requiretls,
        trace: options.trace,
        verp,
    };
    // `<>` and the empty string are the null reverse-path.
    if envelope.sender.trim_matches(['<', '>', ' ']).is_empty() {
        envelope.sender.clear();
    }
    if options.trace != Trace::No {
        crate::say!("Mail Delivery Status Report will be mailed to <{}>.", envelope.sender);
    }
    if options.recipients.is_empty() && !options.extract {
        return refuse(context, "Recipient addresses must be specified on the command line or via the -t option");
    }
    let mut input: Box<dyn BufRead> = if options.trace == Trace::ProbeReport {
        let to = envelope.recipients.join(", ");
        let text = format!("From: {}\nSubject: probe\nTo: {to}\n\n", envelope.sender);
        Box::new(std::io::Cursor::new(text.into_bytes()))
    } else {
        Box::new(BufReader::with_capacity(1 << 16, std::io::stdin()))
    };
    let mut lines = Lines { input: &mut *input, dot_ends: options.dot_ends, ended: false };
    let mut head = Vec::new();
    if options.extract {
        match read_header(&mut lines, &mut head) {
            Ok(found) => envelope.recipients.extend(found),
            Err(error) => return refuse(context, &format!("error reading input: {error}")),
        }
        if envelope.recipients.is_empty() {
            return refuse(context, "No recipient addresses found in message header");
        }
    }
    let limit = u64::try_from(context.main().int("message_size_limit")).unwrap_or(0);
    hand_in(context, envelope, head, &mut lines, limit)
}

/// As Postfix words it: who, then what. All of sendmail's own errors are temporary to its caller.
fn refuse(context: &mut Context, why: &str) -> ExitCode {
    let text = format!("{}: {why}", caller());
    context.fatal(exit::TEMPFAIL, &text)
}

fn delimiters(text: &str) -> Option<VerpDelimiters> {
    let mut pair = text.chars();
    Some(VerpDelimiters { first: pair.next()?, second: pair.next()? })
}

/// The first part of the GECOS field, `&` standing for the login name.
fn gecos_name(gecos: &str, login: &str) -> String {
    let name = gecos.split(',').next().unwrap_or_default();
    let mut capital = login.to_owned();
    if let Some(first) = capital.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    name.replace('&', &capital)
}

/// Addresses of the command line: each argument may hold several.
fn recipients(args: &[String]) -> Vec<String> {
    args.iter().flat_map(|arg| addresses(arg)).collect()
}

/// Addresses of a field value, in external form.
fn addresses(value: &str) -> Vec<String> {
    AddressList::parse(value.as_bytes())
        .addresses()
        .map(|address| yamabiko_address::quote(address).into_owned())
        .collect()
}

/// Lines of standard input with LF ends: CRLF becomes LF, a dot alone may end the message.
struct Lines<'a> {
    input: &'a mut dyn BufRead,
    dot_ends: bool,
    ended: bool,
}

/// A line is taken in pieces of this many bytes, so that one without an end costs no more than that.
const PIECE: u64 = 64 << 10;

impl Lines<'_> {
    /// Appends the next line, or a piece of one that is very long. False at the end.
    fn next(&mut self, out: &mut Vec<u8>) -> std::io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let start = out.len();
        let n = (&mut *self.input).take(PIECE).read_until(b'\n', out)?;
        if n == 0 {
            self.ended = true;
            return Ok(false);
        }
        let whole = out.ends_with(b"\n");
        if out.ends_with(b"\r\n") {
            out.truncate(out.len() - 2);
            out.push(b'\n');
        }
        if self.dot_ends && (&out[start..] == b".\n" || (!whole && &out[start..] == b".")) {
            out.truncate(start);
            self.ended = true;
            return Ok(false);
        }
        Ok(true)
    }
}

/// More header than this is not looked through for recipients.
const HEADER: usize = 16 << 20;

/// Reads the header into `head` and gives the recipients in it.
fn read_header(lines: &mut Lines<'_>, head: &mut Vec<u8>) -> std::io::Result<Vec<String>> {
    let mut fields: Vec<(String, Vec<u8>)> = Vec::new();
    loop {
        let start = head.len();
        if head.len() > HEADER || !lines.next(head)? {
            break;
        }
        let line = &head[start..];
        if line == b"\n" {
            break;
        }
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            if let Some((_, value)) = fields.last_mut() {
                value.extend_from_slice(line);
            }
            continue;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else { break };
        let name = String::from_utf8_lossy(&line[..colon]).trim().to_ascii_lowercase();
        if name.is_empty() || name.contains([' ', '\t']) {
            break;
        }
        fields.push((name, line[colon + 1..].to_vec()));
    }
    let of = |names: [&str; 3]| -> Vec<String> {
        let chosen = fields.iter().filter(|(name, _)| names.contains(&name.as_str()));
        chosen.flat_map(|(_, value)| addresses(&String::from_utf8_lossy(value))).collect()
    };
    let resent = of(RESENT);
    Ok(if resent.is_empty() { of(RECIPIENTS) } else { resent })
}

/// To the engine; to `maildrop/` when it is down.
fn hand_in(
    context: &mut Context,
    envelope: SubmitEnvelope,
    head: Vec<u8>,
    lines: &mut Lines<'_>,
    limit: u64,
) -> ExitCode {
    let queue = context.queue_directory();
    let mut place = match Caller::ask(&queue, Request::Submit(envelope.clone())) {
        Ok(caller) => Place::Engine(caller),
        // It may also end between our call and our first word.
        Err(error) if crate::offline::is_down(&error) || has_ended(&error) => {
            match Place::maildrop(context, &queue, &envelope, true) {
                Ok(place) => place,
                Err(why) => return refuse(context, &why),
            }
        }
        Err(error) => return refuse(context, &format!("cannot talk to the mail system: {error}")),
    };
    let mut hand = Hand { buffer: head, size: 0, limit, kept: Some(Vec::new()), ended: false };
    let written = match hand.over(lines, &mut place) {
        Err(Stopped::Unfit(why)) => return refuse(context, &why),
        Err(Stopped::Unwritable(error)) => Err(error),
        Ok(()) => Ok(()),
    };
    let answer = written.and_then(|()| place.finish());
    // Who refuses does not wait for all of the message: the reason lies there although we could not write any more.
    let mut answer = answer.or_else(|error| place.refusal().ok_or(error));
    if let (Err(_), Place::Engine(_)) = (&answer, &place)
        && let Some(kept) = hand.kept.take()
    {
        // It ended while it listened to us. Our caller may know nothing better than to give up, so the message waits
        // for the next start; should this one have been stored in its last moment, then it is delivered twice.
        place = match Place::maildrop(context, &queue, &envelope, true) {
            Ok(place) => place,
            Err(why) => return refuse(context, &why),
        };
        answer = match hand.again(&kept, lines, &mut place) {
            Err(Stopped::Unfit(why)) => return refuse(context, &why),
            Err(Stopped::Unwritable(error)) => Err(error),
            Ok(answer) => Ok(answer),
        };
        // Where only the conversation was broken nobody need wait.
        let _ = Caller::ask(&queue, Request::Pickup).and_then(|mut caller| caller.reply());
    }
    if let Ok(Reply::Wait(why)) = &answer {
        // As behind Postfix's pickup: it is tried again from there until it is taken.
        let kept = hand.kept.take().ok_or(());
        let waits = kept.and_then(|kept| {
            let mut place = Place::maildrop(context, &queue, &envelope, false).map_err(|_| ())?;
            hand.again(&kept, lines, &mut place).map_err(|_| ())
        });
        if waits != Ok(Reply::Done) {
            return refuse(context, why);
        }
        return ExitCode::SUCCESS;
    }
    match answer {
        Ok(Reply::Accepted(_) | Reply::Done) => ExitCode::SUCCESS,
        Ok(Reply::Refused(why) | Reply::TryLater(why)) => refuse(context, &why),
        Ok(other) => refuse(context, &format!("unexpected answer from the mail system: {other:?}")),
        Err(error) => refuse(context, &format!("queue file write error: {error}")),
    }
}

fn has_ended(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// So much of a message is remembered until the engine has answered.
const KEPT: usize = 16 << 20;

/// A message on its way from standard input.
struct Hand {
    /// Read and not yet handed over.
    buffer: Vec<u8>,
    size: u64,
    /// `message_size_limit`
    limit: u64,
    /// All that was read so far, unless it is too much.
    kept: Option<Vec<u8>>,
    ended: bool,
}

/// Why a message is not handed over.
enum Stopped {
    /// It cannot be read, or is too large.
    Unfit(String),
    /// Whoever takes it does not.
    Unwritable(std::io::Error),
}

impl Hand {
    /// Hands over what was kept, and what is left, to another place.
    fn again(&mut self, kept: &[u8], lines: &mut Lines<'_>, place: &mut Place) -> Result<Reply, Stopped> {
        place.write(kept).map_err(Stopped::Unwritable)?;
        self.over(lines, place)?;
        place.finish().map_err(Stopped::Unwritable)
    }

    /// Hands over what is left.
    fn over(&mut self, lines: &mut Lines<'_>, place: &mut Place) -> Result<(), Stopped> {
        while !self.ended {
            match lines.next(&mut self.buffer) {
                Ok(true) if self.buffer.len() < 1 << 16 => continue,
                Ok(more) => self.ended = !more,
                Err(error) => return Err(Stopped::Unfit(format!("error reading input: {error}"))),
            }
            self.size += self.buffer.len() as u64;
            if self.limit > 0 && self.size > self.limit {
                return Err(Stopped::Unfit("message file too big".to_owned()));
            }
            let piece = std::mem::take(&mut self.buffer);
            self.kept = self.kept.take().filter(|kept| kept.len() + piece.len() <= KEPT).map(|mut kept| {
                kept.extend_from_slice(&piece);
                kept
            });
            place.write(&piece).map_err(Stopped::Unwritable)?;
        }
        Ok(())
    }
}

/// Where a submission goes.
enum Place {
    Engine(Caller),
    Maildrop(Option<Draft>),
    Postdrop(std::process::Child),
}

impl Place {
    /// In `maildrop/`. `down`: because there is no engine, which is said as postdrop(1) says it.
    fn maildrop(context: &mut Context, queue: &Path, envelope: &SubmitEnvelope, down: bool) -> Result<Self, String> {
        let maildrop = queue.join("maildrop");
        if down {
            let text = "unable to look up public/pickup: No such file or directory";
            eprintln!("postdrop: warning: {text}");
            context.log_as("postdrop", yamabiko_envelope::Severity::Warning, None, text);
        }
        match Draft::begin(&maildrop, &file_name(), envelope) {
            Ok(draft) => Ok(Self::Maildrop(Some(draft))),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Self::postdrop(context, envelope),
            Err(error) => Err(format!("cannot write to {}: {error}", maildrop.display())),
        }
    }

    /// The setgid helper, where it is installed.
    fn postdrop(context: &Context, envelope: &SubmitEnvelope) -> Result<Self, String> {
        let yamabiko_supervisor::Instance::Directory(dir) = &context.instance else {
            return Err("the mail system is down, and only the user who started it can leave mail for it".to_owned());
        };
        let program = Path::new(&context.main().text("command_directory")).join("postdrop");
        // Another mail system's postdrop (Postfix's own, still installed) reads something else.
        let asked = Command::new(&program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output();
        if asked.is_ok_and(|said| !said.stdout.starts_with(POSTDROP_VERSION.as_bytes())) {
            return Err(format!(
                "the mail system is down, and mail cannot wait for it: {} is another mail system's; a copy of this \
                 program, set-gid {}, has to be there (command_directory)",
                program.display(),
                context.main().text("setgid_group")
            ));
        }
        let mut command = Command::new(&program);
        command.arg("-c").arg(dir);
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(|error| {
            format!("the mail system is down, and mail cannot wait for it: {}: {error}", program.display())
        })?;
        let head = yamabiko_ipc::frame::encode(envelope).map_err(|error| error.to_string())?;
        if let Some(pipe) = &mut child.stdin {
            pipe.write_all(&head).map_err(|error| error.to_string())?;
        }
        Ok(Self::Postdrop(child))
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Place::Engine(_) if bytes.is_empty() => Ok(()),
            Place::Engine(caller) => bytes.chunks(1 << 16).try_for_each(|piece| caller.content(piece)),
            Place::Maildrop(Some(draft)) => draft.write(bytes),
            Place::Maildrop(None) => Ok(()),
            Place::Postdrop(child) => child.stdin.as_mut().map_or(Ok(()), |pipe| pipe.write_all(bytes)),
        }
    }

    /// What the engine said before it hung up.
    fn refusal(&mut self) -> Option<Reply> {
        match self {
            Place::Engine(caller) => caller.reply().ok(),
            Place::Maildrop(_) | Place::Postdrop(_) => None,
        }
    }

    fn finish(&mut self) -> std::io::Result<Reply> {
        match self {
            Place::Engine(caller) => {
                caller.content(b"")?;
                caller.reply()
            }
            Place::Maildrop(draft) => {
                if let Some(draft) = draft.take() {
                    draft.finish()?;
                }
                Ok(Reply::Done)
            }
            Place::Postdrop(child) => {
                child.stdin = None;
                let status = child.wait()?;
                Ok(if status.success() {
                    Reply::Done
                } else {
                    Reply::TryLater("postdrop could not take the message".to_owned())
                })
            }
        }
    }
}

/// A name nobody else uses: microseconds and process.
fn file_name() -> String {
    let now = Timestamp::from(SystemTime::now());
    format!("{:X}{:X}", now.0, std::process::id())
}

/// The beginning of what our `postdrop --version` prints.
const POSTDROP_VERSION: &str = "yamabiko postdrop ";

/// postdrop(1): installed setgid, it may only create a file. The envelope and the message come on standard input from
/// our own `sendmail`; nothing in them is believed later but the file's owner.
pub fn postdrop(args: &[String]) -> ExitCode {
    if args.first().is_some_and(|word| word == "--version") {
        crate::say!("{POSTDROP_VERSION}{}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let parsed = crate::getopt::parse("c:rv", args);
    let Ok((flags, _)) = parsed else {
        eprintln!("postdrop: fatal: usage: postdrop [-c config_dir] [-v]");
        return ExitCode::from(exit::USAGE);
    };
    let directory = flags.iter().find_map(|flag| match flag {
        crate::getopt::Flag::Value('c', dir) => Some(dir.as_str()),
        _ => None,
    });
    // Whoever is not root chooses among the directories that root has listed (Postfix: alternate_config_directories).
    let which = if crate::context::is_set_id() {
        match crate::context::guarded_instance(directory) {
            Ok(which) => which,
            Err(why) => {
                eprintln!("postdrop: fatal: {why}");
                return ExitCode::from(exit::TEMPFAIL);
            }
        }
    } else {
        crate::context::instance(directory, false)
    };
    let context = match Context::open_running("postdrop", which) {
        Ok(context) => context,
        Err(code) => return code,
    };
    let maildrop = context.queue_directory().join("maildrop");
    let limit = u64::try_from(context.main().int("message_size_limit")).unwrap_or(0);
    let mut input = std::io::stdin().lock();
    let dropped = yamabiko_ipc::frame::receive::<SubmitEnvelope>(&mut input).and_then(|envelope| {
        let mut draft = Draft::begin(&maildrop, &file_name(), &envelope)?;
        let mut buffer = vec![0; 1 << 16];
        let mut size = 0u64;
        loop {
            let n = input.read(&mut buffer)?;
            if n == 0 {
                return draft.finish();
            }
            size += n as u64;
            if limit > 0 && size > limit {
                return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "message file too big"));
            }
            draft.write(&buffer[..n])?;
        }
    });
    match dropped {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postdrop: fatal: {}: {error}", maildrop.display());
            ExitCode::from(exit::TEMPFAIL)
        }
    }
}
