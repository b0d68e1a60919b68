//! Reading the log when the queue is opened.
//!
//! Segments are read whole, in the order of their epochs, and every record is checked. What is damaged is saved in
//! `corrupt/` and reported; the records after it are found again.

use std::collections::HashMap;
use std::path::PathBuf;

use yamabiko_envelope::{QueueId, Timestamp};

use crate::fs::{FileSystem, read_at_most, read_exact_at};
use crate::index::{Index, Segment};
use crate::messages::{Entry, Location};
use crate::pool::{damage_name, save_bytes};
use crate::record::{Hole, RECORDS, SegmentHeader, scan};
use crate::shared::{Free, Paths, io_error};
use crate::sidecar::{self, Note, Says};
use crate::{Damage, QueueError, Recovered};

/// The queue as it was found.
#[derive(Default)]
pub struct Recovery {
    /// Messages and segments.
    pub index: Index,
    /// Segment files that hold nothing that counts.
    pub free: Vec<Free>,
    /// Files that can go.
    pub unlink: Vec<PathBuf>,
    /// Below this epoch nothing counts.
    pub first_live: u32,
    /// The epoch of the next segment.
    pub next_epoch: u32,
    /// The number of the next segment file.
    pub next_number: u32,
    /// Where the records of the newest segment end.
    pub previous_end: u32,
    /// The newest ID seen; 0 when none.
    pub newest: Option<QueueId>,
    /// For the caller.
    pub recovered: Recovered,
    /// For reading segments.
    buffer: Vec<u8>,
    /// Damage found so far, by epoch.
    holes: Vec<(u32, Damage)>,
    /// Lengths of large contents.
    large: HashMap<QueueId, u64>,
    /// Only read.
    read_only: bool,
    /// Read every record.
    thorough: bool,
}

struct SegmentFile {
    number: u32,
    file: std::sync::Arc<dyn crate::fs::StoredFile>,
    len: u64,
}

/// Reads everything. With `read_only` nothing is written, saved or made.
pub fn recover(fs: &dyn FileSystem, paths: &Paths, read_only: bool, thorough: bool) -> Result<Recovery, QueueError> {
    let mut recovery = Recovery { read_only, thorough, first_live: 1, previous_end: RECORDS, ..Recovery::default() };
    let mut headers = Vec::new();
    if !read_only {
        // For the same reason as the sync in `read_segment`.
        fs.sync_dir(&paths.log).map_err(|e| io_error("syncing the directory", &paths.log, &e))?;
    }
    let listed = fs.list(&paths.log).map_err(|e| io_error("reading the directory", &paths.log, &e))?;
    for file in listed {
        let Some((number, kind)) = segment_name(&file.name) else { continue };
        recovery.next_number = recovery.next_number.max(number.saturating_add(1));
        if kind == "new" {
            recovery.unlink.push(paths.new_segment(number));
            continue;
        }
        let path = paths.segment(number);
        let error = |e| io_error("opening", &path, &e);
        let handle = fs.open(&path, !read_only).map_err(error)?;
        let len = handle.len().map_err(error)?;
        let mut block = vec![0; RECORDS as usize];
        let got = read_at_most(&*handle, &mut block, 0).map_err(error)?;
        block.truncate(got);
        let segment = SegmentFile { number, file: handle, len };
        match SegmentHeader::from_block(&block) {
            Some(header) => headers.push((header, segment)),
            None => recovery.free.push(Free { number, file: segment.file }),
        }
    }
    headers.sort_by_key(|(header, _)| header.seal.epoch);
    recovery.first_live = headers.iter().map(|(header, _)| header.first_live).max().unwrap_or(1);
    recovery.next_epoch = headers.last().map_or(1, |(header, _)| header.seal.epoch.saturating_add(1));
    recovery.newest = headers.iter().map(|(h, _)| h.newest).max().filter(|id| id.micros() > 0);
    let uses: Vec<(u32, u32)> = headers.iter().map(|(h, _)| (h.seal.epoch, h.previous_end)).collect();
    let ends: Vec<Option<u32>> = headers
        .iter()
        .enumerate()
        .map(|(n, (header, _))| {
            let next = headers.get(n + 1).map(|(next, _)| next)?;
            (next.seal.epoch == header.seal.epoch + 1).then_some(next.previous_end)
        })
        .collect();
    let last = headers.len().saturating_sub(1);
    for (n, ((header, segment), end)) in headers.into_iter().zip(ends).enumerate() {
        if header.seal.epoch < recovery.first_live {
            recovery.free.push(Free { number: segment.number, file: segment.file });
            continue;
        }
        recovery.read_segment(fs, paths, header, segment, end, n == last)?;
    }
    // Damage is reported when it is known which segments count: what the others hold may be half overwritten.
    recovery.report_gaps(fs, paths, &uses);
    recovery.report_holes(fs, paths);
    recovery.buffer = Vec::new();
    recovery.drop_reclaimed();
    recovery.check_large(fs, paths)?;
    recovery.recovered.messages = recovery.index.messages.len();
    recovery.recovered.newest = recovery.newest;
    Ok(recovery)
}

/// A message arrived at another time than its name says: it was requeued.
pub fn is_renamed(id: QueueId, arrival: Timestamp) -> bool {
    arrival.0.abs_diff(id.micros()) > 2_000_000
}

/// Number and kind of a file of the log.
pub fn segment_name(name: &str) -> Option<(u32, &str)> {
    let (number, kind) = name.split_once('.')?;
    (matches!(kind, "seg" | "new") && number.len() >= 8).then_some(())?;
    Some((number.parse().ok()?, kind))
}

impl Recovery {
    /// Epochs that count and have no segment: a header that cannot be read. A segment that was begun when the power
    /// failed leaves no gap, because its epoch is given out again; one that was given up before its first record
    /// says so in the header of the next.
    fn report_gaps(&mut self, fs: &dyn FileSystem, paths: &Paths, uses: &[(u32, u32)]) {
        let mut expected = self.first_live;
        let mut lost = false;
        for &(epoch, previous_end) in uses.iter().filter(|(epoch, _)| *epoch >= self.first_live) {
            if epoch > expected && previous_end > RECORDS || epoch > expected.saturating_add(1) {
                lost = true;
                self.recovered.damaged.push(Damage {
                    file: paths.log.clone(),
                    offset: 0,
                    len: 0,
                    queue_id: None,
                    saved: None,
                    torn: false,
                    what: "a segment of the log is missing or its header cannot be read",
                });
            }
            expected = epoch.saturating_add(1);
        }
        if !lost || self.read_only {
            return;
        }
        // One of the files without a header may be the missing one: none of those that hold anything is used again.
        for free in std::mem::take(&mut self.free) {
            let mut start = vec![0; RECORDS as usize];
            let zero = read_at_most(&*free.file, &mut start, 0).is_ok_and(|_| start.iter().all(|b| *b == 0));
            if zero {
                self.free.push(free);
                continue;
            }
            let saved = paths.corrupt.join(format!("{:08}.segment", free.number));
            let moved = fs.rename(&paths.segment(free.number), &saved);
            let synced = moved.and_then(|()| fs.sync_dir(&paths.corrupt)).and_then(|()| fs.sync_dir(&paths.log));
            if synced.is_ok() {
                self.recovered.damaged.push(Damage {
                    file: paths.segment(free.number),
                    offset: 0,
                    len: 0,
                    queue_id: None,
                    saved: Some(saved),
                    torn: false,
                    what: "a segment without a readable header",
                });
            }
        }
    }

    fn read_segment(
        &mut self,
        fs: &dyn FileSystem,
        paths: &Paths,
        header: SegmentHeader,
        segment: SegmentFile,
        end: Option<u32>,
        newest: bool,
    ) -> Result<(), QueueError> {
        let path = paths.segment(segment.number);
        let len = u32::try_from(segment.len).unwrap_or(u32::MAX);
        let limit = end.unwrap_or(len).min(len);
        // Only what has a successor has an end that somebody else knows, too.
        if let (Some(end), false) = (end, self.thorough)
            && end <= len
            && let Some(notes) = sidecar::load(fs, &paths.side_index(segment.number), header.seal, end)
        {
            let (seal, number, file) = (header.seal, segment.number, segment.file);
            self.index.segments.insert(seal.epoch, Segment { file, number, seal, end, live: 0, indexed: true });
            notes.iter().for_each(|note| self.apply(seal.epoch, note));
            self.recovered.records += notes.len() as u64;
            self.recovered.segments += 1;
            self.recovered.indexed += 1;
            return Ok(());
        }
        // One buffer for all segments.
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(limit as usize, 0);
        read_exact_at(&*segment.file, &mut buffer, 0).map_err(|e| io_error("reading", &path, &e))?;
        let seal = header.seal;
        let (number, file) = (segment.number, segment.file);
        self.index.segments.insert(seal.epoch, Segment { file, number, seal, end: limit, live: 0, indexed: false });
        let mut found = 0;
        let mut malformed = Vec::new();
        let mut scanned = scan(&buffer, seal, limit, |record| {
            found += 1;
            if let Ok(note) = Note::of(&record) {
                self.apply(seal.epoch, &note);
            } else {
                let len = record.head.record_len().unwrap_or(0);
                malformed.push(Hole { offset: record.offset, len, id: Some(record.head.id) });
            }
        });
        self.buffer = buffer;
        self.recovered.records += found;
        self.recovered.segments += 1;
        if let Some(end) = end.filter(|end| scanned.end < *end) {
            // The next segment's header says that there are records up to here.
            scanned.holes.push(Hole { offset: scanned.end, len: end - scanned.end, id: None });
            scanned.synced = end;
        }
        let end = if end.is_some() { limit } else { scanned.end };
        if newest {
            self.previous_end = end;
            // After a kill these bytes may be in the kernel's memory only. From here on they count: what is read of
            // them is acted upon, and the next segment's header will say that they are durable.
            if let (Some(segment), false) = (self.index.segments.get(&seal.epoch), self.read_only) {
                segment.file.fdatasync().map_err(|e| io_error("syncing", &path, &e))?;
            }
        }
        if let Some(segment) = self.index.segments.get_mut(&seal.epoch) {
            segment.end = end;
        }
        let sealed = !newest;
        let torn = |hole: &Hole| !sealed && hole.offset >= scanned.synced;
        for hole in scanned.holes.into_iter().chain(malformed.iter().copied()) {
            let what = match (hole.id, malformed.contains(&hole)) {
                (_, true) => "a record whose envelope cannot be read",
                (Some(_), _) => "a record with a wrong checksum",
                (None, _) => "no record where there should be one",
            };
            self.holes.push((
                seal.epoch,
                Damage {
                    file: path.clone(),
                    offset: u64::from(hole.offset),
                    len: u64::from(hole.len),
                    queue_id: hole.id,
                    saved: None,
                    torn: torn(&hole),
                    what,
                },
            ));
        }
        Ok(())
    }

    /// Saves and reports what is damaged in segments that count.
    fn report_holes(&mut self, fs: &dyn FileSystem, paths: &Paths) {
        for (epoch, mut damage) in std::mem::take(&mut self.holes) {
            let Some(segment) = self.index.segments.get(&epoch).filter(|_| epoch >= self.first_live) else { continue };
            if !self.read_only {
                // Offset and length are those of a stretch of a segment, which is below 4 GB.
                let name = damage_name(epoch, damage.offset as u32);
                let path = paths.corrupt.join(name);
                let mut bytes = vec![0; damage.len as usize];
                let saved = read_at_most(&*segment.file, &mut bytes, damage.offset).and_then(|got| {
                    bytes.truncate(got);
                    save_bytes(fs, &paths.corrupt, &path, &bytes)
                });
                match saved {
                    // An earlier opening saved and reported it.
                    Ok(false) => continue,
                    Ok(true) => damage.saved = Some(path),
                    Err(_) => {}
                }
            }
            self.recovered.damaged.push(damage);
        }
    }

    /// Makes a record count.
    fn apply(&mut self, epoch: u32, note: &Note) {
        let at = Location { epoch, offset: note.offset };
        let id = note.id;
        match note.what {
            Says::Message { standing, replaces, survey, large } => {
                self.newest = self.newest.max(Some(id));
                if let Some(old) = replaces {
                    self.forget(old);
                }
                let mut entry = Entry::new(at, note.len, survey.recipients, standing).with_hints(survey.hints);
                entry.set_renamed(is_renamed(id, survey.arrival));
                entry.set_large(large.is_some());
                if let Some(len) = large {
                    self.large.insert(id, len);
                }
                self.index.insert(id, entry);
            }
            Says::Change(standing, all) => {
                if let Some(entry) = self.index.messages.get_mut(id) {
                    entry.set_standing(standing);
                    if all {
                        self.index.messages.set_state(id, at);
                    } else {
                        self.index.messages.add_settle(id, at);
                    }
                }
            }
            Says::Standing(standing) => {
                if let Some(entry) = self.index.messages.get_mut(id) {
                    entry.set_standing(standing);
                }
            }
            Says::Remove => {
                self.newest = self.newest.max(Some(id));
                self.forget(id);
            }
            Says::Reclaim => {
                // Epochs have 32 bits: one that has more is none.
                self.first_live = self.first_live.max(u32::try_from(id.micros()).unwrap_or(0));
            }
            Says::Nothing => {}
        }
    }

    fn forget(&mut self, id: QueueId) {
        self.index.remove(id);
        self.large.remove(&id);
    }

    /// Frees the segments that a reclaim record has declared free. Nothing in them counts: what did was copied, and
    /// durable, before that record was written.
    fn drop_reclaimed(&mut self) {
        let newest = self.index.segments.keys().next_back().copied().unwrap_or(0);
        self.first_live = self.first_live.min(newest.max(1));
        let kept = self.index.segments.split_off(&self.first_live);
        for segment in std::mem::replace(&mut self.index.segments, kept).into_values() {
            self.free.push(Free { number: segment.number, file: segment.file });
        }
        let floor = self.first_live;
        let gone = self.index.messages.iter().filter(|(_, entry)| entry.message.epoch < floor);
        let gone: Vec<QueueId> = gone.map(|(id, _)| id).collect();
        gone.into_iter().for_each(|id| self.forget(id));
    }

    /// Every large message has its file, and every file its message.
    fn check_large(&mut self, fs: &dyn FileSystem, paths: &Paths) -> Result<(), QueueError> {
        let listed = match fs.list(&paths.large) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|e| io_error("reading the directory", &paths.large, &e))?,
        };
        let mut missing = self.large.clone();
        for file in listed {
            match file.name.parse::<QueueId>() {
                // Before the content stand the fields of the envelope.
                Ok(id) if self.large.get(&id).is_some_and(|len| *len <= file.len) => {
                    missing.remove(&id);
                }
                Ok(id) if self.large.contains_key(&id) => {}
                // Now and not later: the name may come back, when a message is imported. What cannot be removed is
                // not in the way of anything else.
                _ if self.read_only => {}
                _ => drop(fs.unlink(&paths.large.join(&file.name))),
            }
        }
        for (id, len) in missing {
            self.recovered.damaged.push(Damage {
                file: paths.content(id),
                offset: 0,
                len,
                queue_id: Some(id),
                saved: None,
                torn: false,
                what: "the file of a message's content is missing or too short",
            });
            // Kept in the queue: an admin may bring the file back. Reading it fails until then.
        }
        Ok(())
    }
}
