//! Several processors, one order: messages are read by one thread, analysed in batches by several, and what they give is
//! written in the order in which it was read, so that the output does not depend on how many there were.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};

use yamabiko_analyze::Analyzer;

use super::files::{self, Found, Piece};
use super::report::{Reported, Reporter};

/// A batch is handed on when it holds this many bytes ...
const BATCH_BYTES: usize = 256 << 10;
/// ... or this many messages.
const BATCH_ITEMS: usize = 128;
/// As many tokens there are beside one for each thread.
const MORE_TOKENS: usize = 4;
/// Files up to this size are opened by the thread that analyses them; opening is most of the work for a small file.
const SMALL: u64 = 128 << 10;

/// Messages to analyse, in the order in which they were read.
#[derive(Default)]
pub struct Batch {
    data: Vec<u8>,
    items: Vec<Item>,
}

struct Item {
    origin: Arc<Path>,
    offset: u64,
    what: What,
}

enum What {
    Message(Range<usize>),
    Events(Range<usize>),
    Trouble(String),
    /// A small file that nobody has opened yet.
    File,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.data.len() >= BATCH_BYTES || self.items.len() >= BATCH_ITEMS
    }

    fn push(&mut self, origin: &Arc<Path>, offset: u64, piece: Piece) {
        let from = self.data.len();
        let what = match piece {
            // A long one is not copied.
            Piece::Message(bytes) if from == 0 && bytes.len() >= BATCH_BYTES => {
                self.data = bytes;
                What::Message(0..self.data.len())
            }
            Piece::Message(bytes) => {
                self.data.extend_from_slice(&bytes);
                What::Message(from..self.data.len())
            }
            Piece::Events(bytes) => {
                self.data.extend_from_slice(&bytes);
                What::Events(from..self.data.len())
            }
            Piece::Trouble(why) => What::Trouble(why),
        };
        self.items.push(Item { origin: origin.clone(), offset, what });
    }
}

/// How far the reading is, for whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes read.
    pub bytes: AtomicU64,
    /// Files begun.
    pub files: AtomicU64,
}

/// Reads everything, analyses it with `jobs` threads, and gives every batch's result to `take`, in order. `take` says
/// whether to go on.
pub fn run(
    found: impl Iterator<Item = Result<Found, (PathBuf, String)>> + Send,
    analyzer: &Analyzer,
    reporter: &Reporter,
    jobs: usize,
    progress: &Progress,
    mut take: impl FnMut(Reported) -> bool,
) {
    let jobs = jobs.max(1);
    // Tokens bound what is on its way: a batch takes some when it is made and gives them back when it has been written.
    let most = jobs + MORE_TOKENS;
    let (token, tokens) = sync_channel::<()>(most);
    let (batches, work) = sync_channel::<(u64, Batch)>(most);
    let (done, results) = channel::<(u64, usize, Reported)>();
    let work = Mutex::new(work);
    let spare = Spare::default();
    std::thread::scope(|scope| {
        let (spare, work) = (&spare, &work);
        scope.spawn(move || read(found, progress, Sending { token, most, batches, number: 0, spare }));
        for _ in 0..jobs {
            let done = done.clone();
            scope.spawn(move || analyse(work, spare, &done, analyzer, reporter));
        }
        drop(done);
        let mut early = BTreeMap::new();
        let mut next = 0;
        'all: for (number, size, result) in results {
            early.insert(number, (size, result));
            while let Some((size, result)) = early.remove(&next) {
                if !take(result) {
                    break 'all;
                }
                next += 1;
                for _ in 0..weight(size, most) {
                    if tokens.recv().is_err() {
                        break 'all;
                    }
                }
            }
        }
        // Whoever still waits for a token or a receiver finds that there is none.
        drop(tokens);
    });
}

/// How many of `most` tokens a batch of this many bytes takes. A message of megabytes takes most of them: few such are on
/// their way at a time, however many threads there are.
fn weight(size: usize, most: usize) -> usize {
    size.div_ceil(BATCH_BYTES).clamp(1, most)
}

/// Memory of batches that are done, for the next ones: what one thread takes and another one gives back, an allocator keeps
/// for long.
#[derive(Default)]
struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop().unwrap_or_default()
    }
    fn give(&self, mut data: Vec<u8>) {
        // A message of megabytes leaves more behind than is worth keeping.
        if data.capacity() <= 4 * BATCH_BYTES {
            data.clear();
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(data);
        }
    }
}

struct Sending<'s> {
    token: SyncSender<()>,
    /// How many tokens there are.
    most: usize,
    batches: SyncSender<(u64, Batch)>,
    number: u64,
    spare: &'s Spare,
}

impl Sending<'_> {
    /// Sends a batch and leaves an empty one. False when nobody listens any more.
    fn send(&mut self, batch: &mut Batch) -> bool {
        let batch = std::mem::replace(batch, Batch { data: self.spare.take(), items: Vec::new() });
        let paid = (0..weight(batch.data.len(), self.most)).all(|_| self.token.send(()).is_ok());
        let sent = paid && self.batches.send((self.number, batch)).is_ok();
        self.number += 1;
        sent
    }
}

fn read(found: impl Iterator<Item = Result<Found, (PathBuf, String)>>, progress: &Progress, mut out: Sending<'_>) {
    let mut batch = Batch::default();
    for step in found {
        let wanted = match step {
            Err((path, why)) => {
                batch.push(&Arc::from(path), 0, Piece::Trouble(why));
                true
            }
            Ok(file) => {
                progress.files.fetch_add(1, Ordering::Relaxed);
                let origin: Arc<Path> = Arc::from(file.path);
                if file.size > 0 && file.size <= SMALL {
                    progress.bytes.fetch_add(file.size, Ordering::Relaxed);
                    batch.items.push(Item { origin, offset: 0, what: What::File });
                    true
                } else {
                    read_large(&origin, progress, &mut batch, &mut out)
                }
            }
        };
        if !wanted || (batch.is_full() && !out.send(&mut batch)) {
            return;
        }
    }
    if !batch.items.is_empty() {
        out.send(&mut batch);
    }
}

fn read_large(origin: &Arc<Path>, progress: &Progress, batch: &mut Batch, out: &mut Sending<'_>) -> bool {
    let file = match files::open(origin) {
        Ok(file) => file,
        Err(error) => {
            batch.push(origin, 0, Piece::Trouble(error.to_string()));
            return true;
        }
    };
    files::pieces(Counted { file, bytes: &progress.bytes }, &mut |offset, piece| {
        batch.push(origin, offset, piece);
        !batch.is_full() || out.send(batch)
    })
}

/// A file whose progress is shown.
struct Counted<'p> {
    file: File,
    bytes: &'p AtomicU64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl files::Input for Counted<'_> {
    fn rewound(self) -> io::Result<File> {
        self.file.rewound()
    }
}

fn analyse(
    work: &Mutex<Receiver<(u64, Batch)>>,
    spare: &Spare,
    done: &Sender<(u64, usize, Reported)>,
    analyzer: &Analyzer,
    reporter: &Reporter,
) {
    loop {
        // A thread that panicked held no lock: what it analysed is caught below.
        let next = work.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
        let Ok((number, batch)) = next else { return };
        let mut result = Reported::default();
        for item in &batch.items {
            let origin = item.origin.to_string_lossy();
            let mut one = |offset: u64, message: Taken<'_>| {
                guarded(reporter, &origin, offset, message, analyzer, &mut result);
            };
            match &item.what {
                What::Message(range) => one(item.offset, Taken::Message(&batch.data[range.clone()])),
                What::Events(range) => one(item.offset, Taken::Events(&batch.data[range.clone()])),
                What::Trouble(why) => one(item.offset, Taken::Trouble(why)),
                What::File => match files::open(&item.origin) {
                    // Taken away by another program since the directory was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => one(0, Taken::Trouble(&error.to_string())),
                    Ok(file) => {
                        files::pieces(file, &mut |offset, piece| {
                            match &piece {
                                Piece::Message(bytes) => one(offset, Taken::Message(bytes)),
                                Piece::Events(bytes) => one(offset, Taken::Events(bytes)),
                                Piece::Trouble(why) => one(offset, Taken::Trouble(why)),
                            }
                            true
                        });
                    }
                },
            }
        }
        let size = batch.data.len();
        spare.give(batch.data);
        if done.send((number, size, result)).is_err() {
            return;
        }
    }
}

enum Taken<'a> {
    Message(&'a [u8]),
    Events(&'a [u8]),
    Trouble(&'a str),
}

/// One message. A defect of ours that one message brings to light must not cost the result of the others.
fn guarded(
    reporter: &Reporter,
    origin: &str,
    offset: u64,
    message: Taken<'_>,
    analyzer: &Analyzer,
    result: &mut Reported,
) {
    let analysed = catch_unwind(AssertUnwindSafe(|| match message {
        Taken::Message(bytes) => Ok(vec![analyzer.analyze(bytes)]),
        Taken::Events(bytes) => {
            analyzer.analyze_event(bytes).ok_or("it is JSON, but not an event of Amazon SES, SendGrid or Mailgun")
        }
        Taken::Trouble(why) => Err(why),
    }));
    match analysed {
        Ok(Ok(analyses)) => analyses.iter().for_each(|analysis| reporter.report(origin, offset, analysis, result)),
        Ok(Err(why)) => reporter.trouble(origin, offset, why, result),
        Err(_) => {
            reporter.trouble(origin, offset, "a defect of this program: please report it with this message", result)
        }
    }
}
