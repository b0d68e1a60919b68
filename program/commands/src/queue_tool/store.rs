//! The queue as a whole: how it is, whether it is sound, out of it and into it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};

use yamabiko_envelope::{Content, Timestamp};
use yamabiko_ipc::control::{Reply, Request};
use yamabiko_queue::fs::RealFileSystem;
use yamabiko_queue::{Inspection, Options, Predicate, Queue, QueueError, readable};

use crate::context::{Context, exit};
use crate::offline;
use crate::queue_tool::{ask, messages, say, unexpected};

/// Fields of an envelope that are read of a file: some hundred thousand recipients with their reasons.
const FIELDS: u64 = 256 << 20;

fn directory(context: &Context) -> PathBuf {
    context.queue_directory().join("queue")
}

/// The mail system has to be down: what is read while an engine writes would be half of the truth.
fn stopped(context: &mut Context) -> Result<PathBuf, ExitCode> {
    if let Some(pid) = yamabiko_supervisor::running_pid(&context.queue_directory()) {
        return Err(context.fatal(1, &format!("the mail system is running (process {pid}): stop it first")));
    }
    if !offline::has_queue(context) {
        return Err(context.fatal(1, &format!("there is no queue in {}", directory(context).display())));
    }
    Ok(directory(context))
}

/// `status`
pub fn status(context: &mut Context) -> ExitCode {
    match ask(context, Request::QueueStatus) {
        Err(code) => code,
        Ok(Some((_, Reply::Remark(text)))) => {
            let failed = text.starts_with("state: READ-ONLY");
            let said = say(&text);
            if failed { ExitCode::FAILURE } else { said }
        }
        Ok(Some((_, other))) => unexpected(context, &other),
        Ok(None) => {
            let aside = yamabiko_queue::set_aside_files(&directory(context));
            let mut text = "state: the mail system is down\n".to_owned();
            if offline::has_queue(context) {
                match offline::inspect(context) {
                    Ok(inspection) => text.push_str(&format!("messages: {}\n", inspection.list().count())),
                    Err(why) => return context.fatal(1, &why),
                }
            }
            text.push_str(&format!("set aside: {}", aside.len()));
            aside.iter().for_each(|file| text.push_str(&format!("\n  {file}")));
            say(&text)
        }
    }
}

/// `verify`: every record, every content. Exit code 1 when something is damaged.
pub fn verify(context: &mut Context) -> ExitCode {
    let dir = match stopped(context) {
        Ok(dir) => dir,
        Err(code) => return code,
    };
    let inspection = match Inspection::open_thorough(Arc::new(RealFileSystem), &dir) {
        Ok(inspection) => inspection,
        Err(error) => return context.fatal(1, &format!("cannot read {}: {error}", dir.display())),
    };
    let found = inspection.recovered();
    let mut damaged = 0;
    for damage in &found.damaged {
        let word = if damage.torn { "cut off by a crash, nothing acknowledged is lost" } else { "DAMAGED" };
        damaged += usize::from(!damage.torn);
        crate::say!("{word}: {damage}");
    }
    let mut bytes = 0;
    for meta in inspection.list() {
        match inspection.load(meta.queue_id) {
            Ok(stored) => bytes += stored.content.len(),
            Err(error) => {
                damaged += 1;
                crate::say!("DAMAGED: {error}");
            }
        }
    }
    let aside = yamabiko_queue::set_aside_files(&dir);
    for file in &aside {
        crate::say!("set aside earlier: {file}");
    }
    crate::say!(
        "{} with {bytes} bytes of content, {} records in {} segments, {damaged} damaged",
        messages(found.messages as u64),
        found.records,
        found.segments
    );
    if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `dump`
pub fn dump(context: &mut Context) -> ExitCode {
    let dir = match stopped(context) {
        Ok(dir) => dir,
        Err(code) => return code,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut broken = None;
    let dumped = yamabiko_queue::dump(&RealFileSystem, &dir, |line| {
        if broken.is_none() {
            broken = writeln!(out, "{line}").err();
        }
    });
    if let Err(error) = dumped {
        return context.fatal(1, &format!("cannot read {}: {error}", dir.display()));
    }
    match broken.or_else(|| out.flush().err()) {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            context.fatal(1, &format!("standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// `repair`: opening sets damaged stretches aside; then each message is read, and those that cannot be are set aside.
pub fn repair(context: &mut Context) -> ExitCode {
    let dir = match stopped(context) {
        Ok(dir) => dir,
        Err(code) => return code,
    };
    let _owner = match offline::AsOwner::become_owner(context) {
        Ok(owner) => owner,
        Err(error) => return context.fatal(1, &format!("cannot act as the mail owner: {error}")),
    };
    let options = Options { thorough: true, ..Options::default() };
    let (queue, recovered) = match Queue::open(Arc::new(RealFileSystem), &dir, options) {
        Ok(opened) => opened,
        Err(error) => return context.fatal(1, &format!("cannot open {}: {error}", dir.display())),
    };
    let mut aside = 0;
    for damage in recovered.damaged.iter().filter(|damage| !damage.torn) {
        crate::say!("set aside: {damage}");
        aside += 1;
    }
    for meta in queue.list(|_| true) {
        let Err(QueueError::Damaged(id, what)) = queue.load(meta.queue_id) else { continue };
        match queue.set_aside(id, what) {
            Ok(damage) => crate::say!("set aside: {damage}"),
            Err(error) => return context.fatal(1, &format!("message {id}: {what}; cannot set it aside: {error}")),
        }
        aside += 1;
    }
    if let Err(error) = queue.sync() {
        return context.fatal(1, &format!("cannot write the queue: {error}"));
    }
    let kept = queue.len() as u64;
    queue.close();
    say(&format!("{aside} set aside, {} kept", messages(kept)))
}

/// `export`: a file for each message, named by its queue ID.
pub fn export(context: &mut Context, to: &Path, predicate: &Predicate) -> ExitCode {
    let dir = match stopped(context) {
        Ok(dir) => dir,
        Err(code) => return code,
    };
    let inspection = match Inspection::open(Arc::new(RealFileSystem), &dir) {
        Ok(inspection) => inspection,
        Err(error) => return context.fatal(1, &format!("cannot read {}: {error}", dir.display())),
    };
    if let Err(error) = std::fs::create_dir_all(to) {
        return context.fatal(1, &format!("cannot make {}: {error}", to.display()));
    }
    let (mut written, mut failed) = (0, 0);
    for seen in inspection.select(predicate, Timestamp::now()).iter() {
        let id = seen.queue_id;
        let path = to.join(format!("{id}.eml"));
        let result = inspection.load(id).map_err(|error| error.to_string()).and_then(|stored| {
            let sum = sum_of(&stored.content).map_err(|error| error.to_string())?;
            let head = readable::head(&stored.envelope, &stored.meta.standing(), stored.content.len(), sum);
            write_file(&path, head.as_bytes(), &stored.content).map_err(|error| format!("{}: {error}", path.display()))
        });
        match result {
            Ok(()) => written += 1,
            Err(why) => {
                failed += 1;
                context.warn(&why);
            }
        }
    }
    if let Err(error) = File::open(to).and_then(|dir| dir.sync_all()) {
        return context.fatal(1, &format!("{}: {error}", to.display()));
    }
    say(&format!("{} in {}, {failed} failed", messages(written), to.display()));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn sum_of(content: &Content) -> io::Result<u32> {
    let (mut buffer, mut at, mut sum) = (vec![0; 64 << 10], 0, 0);
    loop {
        let got = content.read_at(&mut buffer, at)?;
        if got == 0 {
            return Ok(sum);
        }
        // Never more than the buffer.
        sum = yamabiko_queue::checksum(sum, &buffer[..got]);
        at += got as u64;
    }
}

/// A new file, durable. One that is there is not touched.
fn write_file(path: &Path, head: &[u8], content: &Content) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(head)?;
    io::copy(&mut content.reader(), &mut file)?;
    file.sync_all()
}

/// `import`: files as [`export`] writes them.
pub fn import(context: &mut Context, from: &[String]) -> ExitCode {
    let dir = match stopped(context) {
        Ok(dir) => dir,
        Err(code) => return code,
    };
    let mut paths = Vec::new();
    for place in from.iter().map(Path::new) {
        if !place.is_dir() {
            paths.push(place.to_path_buf());
            continue;
        }
        match std::fs::read_dir(place) {
            Ok(entries) => {
                let files = entries.filter_map(Result::ok).map(|entry| entry.path());
                let from = paths.len();
                paths.extend(files.filter(|path| path.extension().is_some_and(|end| end == "eml")));
                // All of them come after what was there.
                paths[from..].sort();
            }
            Err(error) => return context.fatal(1, &format!("{}: {error}", place.display())),
        }
    }
    // Opened with the rights of whoever calls; the queue is written with those of its owner.
    let files: Vec<_> = paths.into_iter().map(|path| (File::open(&path), path)).collect();
    let _owner = match offline::AsOwner::become_owner(context) {
        Ok(owner) => owner,
        Err(error) => return context.fatal(1, &format!("cannot act as the mail owner: {error}")),
    };
    let queue = match Queue::open(Arc::new(RealFileSystem), &dir, Options::default()) {
        Ok((queue, _)) => queue,
        Err(error) => return context.fatal(1, &format!("cannot open {}: {error}", dir.display())),
    };
    let (mut taken, mut failed) = (0, 0);
    for (file, path) in files {
        match file.map_err(|error| error.to_string()).and_then(|file| import_one(&queue, file)) {
            Ok(()) => taken += 1,
            Err(why) => {
                failed += 1;
                eprintln!("queue: warning: {}: {why}", path.display());
            }
        }
    }
    queue.close();
    say(&format!("{} taken back, {failed} not", messages(taken)));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(exit::UNAVAILABLE) }
}

/// Takes one file; the error says why not.
fn import_one(queue: &Queue, file: File) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let all = file.metadata().map_err(text)?.len();
    // The fields are mostly short: more is read when they are not all there.
    let (mut bytes, mut want) = (Vec::new(), 64 << 10);
    let head = loop {
        (&file).take(want - bytes.len() as u64).read_to_end(&mut bytes).map_err(text)?;
        match readable::parse(&bytes) {
            Err(_) if bytes.len() as u64 == want && want < FIELDS => want *= 4,
            parsed => break parsed.map_err(|error| error.to_string())?,
        }
    };
    let offset = head.len as u64;
    if all.saturating_sub(offset) != head.content_len {
        return Err(format!("{} bytes of content are there, not {}", all.saturating_sub(offset), head.content_len));
    }
    let content = Content::File { file: Arc::new(file), offset, len: head.content_len };
    if sum_of(&content).map_err(text)? != head.content_crc {
        return Err("the content is not what was exported: its checksum is another".to_owned());
    }
    let (tell, told) = mpsc::channel();
    // The receiver waits just below.
    queue.import(head.envelope, head.standing, content, Box::new(move |result| drop(tell.send(result))));
    told.recv().unwrap_or(Err(QueueError::Closed)).map_err(|error| error.to_string())
}
