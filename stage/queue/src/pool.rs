//! The helper's thread: makes segments ready before they are needed, and gets back those whose mail is gone.
//!
//! Segments are given back strictly oldest first, because a record that says "message M is gone" may only vanish after
//! the segment in which M is. When the oldest has little that counts, or all of them together hold too much that does
//! not, what counts in the oldest is written anew at the end of the log. A *reclaim* record then says that all before
//! an epoch is free; the files are used again only when that record is durable.

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use yamabiko_envelope::{QueueId, RecipientState};

use crate::codec;
use crate::fs::{FileSystem, StoredFile, read_exact_at, write_all_at};
use crate::log::RESERVE;
use crate::messages::Location;
use crate::queue::write_own_file;
use crate::read::{ReadError, read_message};
use crate::record::{self, HEAD, RECORDS, RecordKind, record_len};
use crate::shared::{Free, Op, OpKind, Shared, State};
use crate::sidecar;
use crate::{Damage, Options};

/// How long to wait before trying again to make a segment for which there was no space, to take a segment that
/// somebody still reads, or to copy what could not be copied.
const RETRY: Duration = Duration::from_secs(1);

/// A segment made on the spot because none was ready: reserved, not filled with zeros. Slower to sync the first time
/// it is used.
pub fn cold_segment(shared: &Shared) -> io::Result<Free> {
    let number = {
        let mut state = shared.lock();
        within_limit(&state, &shared.options)?;
        take_number(&mut state)
    };
    let path = shared.paths.segment(number);
    let file = shared.fs.create(&path)?;
    let ready =
        file.allocate(u64::from(shared.options.segment_size)).and_then(|()| shared.fs.sync_dir(&shared.paths.log));
    if let Err(e) = ready {
        // Nothing was written in it; if the name stays it is an empty segment.
        let _ = shared.fs.unlink(&path);
        return Err(e);
    }
    Ok(Free { number, file })
}

fn take_number(state: &mut State) -> u32 {
    let number = state.next_number;
    state.next_number += 1;
    number
}

fn within_limit(state: &State, options: &Options) -> io::Result<()> {
    let count = state.index.segments.len() + state.ready.len() + state.draining.len() + 1;
    let bytes = (count as u64).saturating_mul(u64::from(options.segment_size));
    match options.max_log {
        Some(most) if bytes > most => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    }
}

/// Zeros that are written at once.
const PIECE: u32 = 64 << 10;
static ZEROS: [u8; PIECE as usize] = [0; PIECE as usize];

/// A segment filled with zeros, so that writing it changes nothing in the file system but the bytes.
fn zeroed_segment(shared: &Shared) -> io::Result<Free> {
    let number = {
        let mut state = shared.lock();
        within_limit(&state, &shared.options)?;
        take_number(&mut state)
    };
    let path = shared.paths.new_segment(number);
    let file = shared.fs.create(&path)?;
    let fill = || -> io::Result<()> {
        let size = shared.options.segment_size;
        file.allocate(u64::from(size))?;
        let mut at = 0;
        while at < size {
            // The same zeros over and over: a megabyte of them would stay in memory.
            let pieces = ((size - at) / PIECE).min(16);
            let mut slices = vec![IoSlice::new(&ZEROS); pieces as usize];
            if pieces == 0 {
                // Below the length of the zeros.
                slices.push(IoSlice::new(&ZEROS[..(size - at) as usize]));
            }
            write_all_at(&*file, &mut slices, u64::from(at))?;
            at += if pieces == 0 { size - at } else { pieces * PIECE };
        }
        file.fdatasync()?;
        shared.fs.rename(&path, &shared.paths.segment(number))?;
        shared.fs.sync_dir(&shared.paths.log)
    };
    if let Err(e) = fill() {
        // Whatever name it has now, it is in nobody's use.
        let _ = shared.fs.unlink(&path);
        return Err(e);
    }
    Ok(Free { number, file })
}

/// There may be something for the helper to give back.
pub fn worth_reclaiming(state: &State, options: &Options) -> bool {
    !state.reclaiming && !state.copying && (dead_below(state).is_some() || copy_pays(state, options))
}

/// The epoch below which nothing counts, if that sets any segment free.
fn dead_below(state: &State) -> Option<u32> {
    // The newest segment is the one being written, or the one before it until the first record comes.
    let newest = *state.index.segments.keys().next_back()?;
    let first = *state.index.segments.keys().next()?;
    let (below, _) = state.index.segments.iter().find(|(epoch, segment)| segment.live > 0 || **epoch == newest)?;
    (*below > first).then_some(*below)
}

/// The oldest segment is worth emptying: less than 12 percent of it counts, or of all segments less than a quarter.
/// The second bounds the disk: a few old deferred messages cannot hold many dead segments behind them. Each message
/// is copied at most once per turn of the log, whose length is then three times what counts in it.
fn copy_pays(state: &State, options: &Options) -> bool {
    let segments = &state.index.segments;
    let size = u64::from(options.segment_size);
    let (Some(oldest), true) = (segments.values().next(), segments.len() > 2) else { return false };
    let live = state.index.live();
    oldest.live * 100 < size * 12 || segments.len() as u64 * size > 4 * live + 4 * size
}

/// The oldest segment that wants a side index: the newest do not, because most of them are empty before long.
fn to_be_indexed(state: &State) -> Option<u32> {
    let (epoch, _) = state.index.segments.iter().rev().skip(YOUNG).rfind(|(_, s)| !s.indexed && s.live > 0)?;
    Some(*epoch)
}

/// Segments without side index at the end of the log: the one being written, and those after which mail that goes out
/// at once has gone.
const YOUNG: usize = 3;

/// The helper's thread.
pub struct Helper {
    shared: Arc<Shared>,
    /// Not before this is the oldest segment looked at again.
    copy_after: Option<Instant>,
}

enum Work {
    Unlink(PathBuf),
    Fill,
    Reclaim,
    Copy(u32),
    Index(u32),
}

impl Helper {
    /// A helper for this queue.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, copy_after: None }
    }

    /// Takes the free segments that opening found as ready.
    pub fn take_back(&self) {
        let mut state = self.shared.lock();
        self.drain(&mut state);
    }

    /// Works until the queue is closed.
    pub fn run(mut self) {
        while let Some(work) = self.wait() {
            match work {
                Work::Unlink(path) => {
                    // If it fails the next opening finds a file without a message and removes it.
                    let _ = self.shared.fs.unlink(&path);
                }
                Work::Fill => self.fill(),
                Work::Index(epoch) => self.write_side_index(epoch),
                Work::Reclaim => self.reclaim(),
                Work::Copy(epoch) => {
                    if !self.copy_forward(epoch) {
                        self.copy_after = Some(Instant::now() + RETRY);
                    }
                }
            }
        }
    }

    fn wait(&mut self) -> Option<Work> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            if state.closing {
                return None;
            }
            let now = Instant::now();
            if state.fatal.is_none() {
                if let Some(path) = state.unlink.pop() {
                    return Some(Work::Unlink(path));
                }
                self.drain(&mut state);
                let hindered = state.no_space.is_some_and(|since| now < since + RETRY);
                if state.ready.len() < state.ready_wanted && !hindered {
                    return Some(Work::Fill);
                }
                if !state.reclaiming && dead_below(&state).is_some() {
                    return Some(Work::Reclaim);
                }
                let pays = !state.reclaiming && !state.copying && copy_pays(&state, &shared.options);
                if pays && self.copy_after.is_none_or(|at| at <= now) {
                    self.copy_after = None;
                    return state.index.segments.keys().next().map(|epoch| Work::Copy(*epoch));
                }
                if let Some(epoch) = to_be_indexed(&state) {
                    return Some(Work::Index(epoch));
                }
            }
            if let Some(errand) = state.errands.helper.take() {
                drop(state);
                errand();
                state = shared.lock();
                continue;
            }
            state.helper_rests = state.draining.is_empty() && !state.reclaiming && !state.copying;
            shared.rested.notify_all();
            let again = !state.draining.is_empty() || state.no_space.is_some() || self.copy_after.is_some();
            state = if again {
                shared.wake_helper.wait_timeout(state, RETRY).unwrap_or_else(std::sync::PoisonError::into_inner).0
            } else {
                shared.wake_helper.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner)
            };
            state.helper_rests = false;
        }
    }

    /// Takes back segments that nobody reads any more: as ready, or unlinked when there are enough.
    fn drain(&self, state: &mut State) {
        let most = self.shared.options.segments_ready.1;
        let draining = std::mem::take(&mut state.draining);
        for free in draining {
            if Arc::strong_count(&free.file) > 1 || free.file.is_shared() {
                state.draining.push(free);
                continue;
            }
            // The last reader's reads happened before its count went down.
            std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
            let fits = free.file.len().is_ok_and(|len| len == u64::from(self.shared.options.segment_size));
            if fits && state.ready.len() < most {
                state.ready.push(free);
                state.no_space = None;
            } else {
                state.unlink.push(self.shared.paths.segment(free.number));
                state.unlink.push(self.shared.paths.side_index(free.number));
            }
        }
    }

    /// If anything is odd there is none, and the segment is read when the queue is opened.
    fn write_side_index(&self, epoch: u32) {
        let shared = &self.shared;
        let Some((file, seal, end, number)) = ({
            let mut state = shared.lock();
            state.index.segments.get_mut(&epoch).map(|segment| {
                segment.indexed = true;
                (Arc::clone(&segment.file), segment.seal, segment.end, segment.number)
            })
        }) else {
            return;
        };
        let Ok(Some(notes)) = sidecar::survey(&*file, seal, end) else { return };
        let bytes = sidecar::to_bytes(seal, end, &notes);
        if sidecar::store(&*shared.fs, &shared.paths.side_index(number), &bytes).is_ok() {
            shared.lock().stats.indexed += 1;
        }
    }

    fn fill(&self) {
        let made = zeroed_segment(&self.shared);
        let mut state = self.shared.lock();
        match made {
            Ok(free) => {
                state.no_space = None;
                state.ready.push(free);
            }
            // Whatever hinders it, the log's thread tries on its own and tells the real reason when it needs one.
            Err(_) => state.no_space = Some(Instant::now()),
        }
    }

    /// Says in the log that the oldest segments are free, and frees them when that is durable.
    fn reclaim(&self) {
        let mut state = self.shared.lock();
        let Some(below) = dead_below(&state) else { return };
        state.reclaiming = true;
        let mut op = Op::new(OpKind::Reclaim, QueueId::new(u64::from(below), 0), Vec::new());
        let shared = Arc::downgrade(&self.shared);
        op.done = Some(Box::new(move |result| {
            let Some(shared) = shared.upgrade() else { return };
            let mut state = shared.lock();
            state.reclaiming = false;
            if result.is_ok() {
                state.first_live = state.first_live.max(below);
                let kept = state.index.segments.split_off(&below);
                for segment in std::mem::replace(&mut state.index.segments, kept).into_values() {
                    state.draining.push(Free { number: segment.number, file: segment.file });
                }
            }
            shared.wake_helper.notify_one();
        }));
        self.shared.push(&mut state, op);
    }

    /// Writes what counts in a segment anew at the end of the log. False when nothing could be done.
    fn copy_forward(&self, epoch: u32) -> bool {
        let Some((file, seal, end, number)) = ({
            let state = self.shared.lock();
            state.index.segments.get(&epoch).map(|s| (Arc::clone(&s.file), s.seal, s.end, s.number))
        }) else {
            return false;
        };
        let mut bytes = vec![0; end as usize];
        if read_exact_at(&*file, &mut bytes, 0).is_err() {
            return false;
        }
        let bytes = Bytes::from(bytes);
        let mut found = Vec::new();
        record::scan(&bytes, seal, end, |record| {
            if record.head.kind == RecordKind::Message {
                found.push((record.offset, record.head));
            }
        });
        let spilled = self.spill(epoch, &found, &bytes);
        let mut copied = 0;
        for (offset, head) in found {
            let at = Location { epoch, offset };
            copied += usize::from(self.copy_message(at, &head, &bytes, spilled.contains(&offset)));
        }
        // Messages that the scan did not find are unreadable: nothing can be copied of them, and while they are
        // thought to be there the segment cannot be used again.
        if copied == 0 && self.set_aside_unreadable(epoch, number, &bytes) == 0 {
            return false;
        }
        let mut state = self.shared.lock();
        if state.writable().is_err() {
            return false;
        }
        state.copying = true;
        let shared = Arc::downgrade(&self.shared);
        let done = Box::new(move |_| {
            if let Some(shared) = shared.upgrade() {
                shared.lock().copying = false;
                shared.wake_helper.notify_one();
            }
        });
        self.shared.push(&mut state, Op::new(OpKind::Flush, QueueId::new(0, 0), Vec::new()).sync(done));
        true
    }

    /// Gives those messages files of their own that were copied before: they stay long, and are read by people then.
    /// Returns the positions of those whose file is durable; their records are still to be written.
    fn spill(&self, epoch: u32, found: &[(u32, record::Head)], segment: &Bytes) -> HashSet<u32> {
        let shared = &self.shared;
        let mut spilled = HashSet::new();
        let long = |head: &record::Head| head.copied && !head.large && head.content_len >= shared.options.spill;
        for (offset, head) in found.iter().filter(|(_, head)| long(head)) {
            let at = Location { epoch, offset: *offset };
            let id = head.id;
            let (standing, places) = {
                let state = shared.lock();
                match (state.index.messages.get(id), state.index.places(id)) {
                    (Some(entry), Some(places)) if entry.message == at => (entry.standing(), places),
                    _ => continue,
                }
            };
            let Ok((envelope, _)) = read_message(&*shared.fs, id, &places, None) else { continue };
            let path = shared.paths.content(id);
            // What an earlier attempt may have left: no record names it, or this one would not be here.
            let _ = shared.fs.unlink(&path);
            let content = content_of(at, head, segment).into();
            // If it cannot be written the message is copied as it is: a file that no record names costs nothing.
            match write_own_file(shared, &path, Some((&envelope, &standing)), &[content]) {
                Ok(sum) if sum == head.content_crc => {
                    spilled.insert(*offset);
                }
                _ => drop(shared.fs.unlink(&path)),
            }
        }
        if !spilled.is_empty() && shared.fs.sync_dir(&shared.paths.large).is_err() {
            let named = found.iter().filter(|(offset, _)| spilled.contains(offset));
            named.for_each(|(_, head)| drop(shared.fs.unlink(&shared.paths.content(head.id))));
            spilled.clear();
        }
        spilled
    }

    /// As [`Helper::hand_over`]; a file that was made for the message is removed when that is not done.
    fn copy_message(&self, at: Location, head: &record::Head, segment: &Bytes, spilled: bool) -> bool {
        let copied = self.hand_over(at, head, segment, spilled);
        if spilled && !copied {
            let _ = self.shared.fs.unlink(&self.shared.paths.content(head.id));
        }
        copied
    }

    /// Hands one message to the log's thread if it is still where it was, in the state in which it was read.
    fn hand_over(&self, at: Location, head: &record::Head, segment: &Bytes, spilled: bool) -> bool {
        let shared = &self.shared;
        let id = head.id;
        let large = head.large || spilled;
        let inline = if large { 0 } else { head.content_len };
        let unchanged = |state: &State| {
            let entry = state.index.messages.get(id)?;
            let same = entry.message == at && !state.waiting.contains_key(&id) && !state.leaving.contains(&id);
            same.then(|| (entry.standing(), state.index.messages.changes(id).to_vec()))
        };
        let (before, places) = {
            let state = shared.lock();
            let Some(before) = unchanged(&state) else { return false };
            let Some(places) = state.index.places(id) else { return false };
            (before, places)
        };
        let mut envelope = match read_message(&*shared.fs, id, &places, None) {
            Ok((envelope, _)) => envelope,
            Err(ReadError::Damaged(_) | ReadError::Io(_)) => return false,
        };
        let mut state = shared.lock();
        match unchanged(&state) {
            Some(now) if now == before && state.writable().is_ok() => {}
            _ => return false,
        }
        let limit = shared.options.segment_size - RECORDS - RESERVE;
        let mut payload = Vec::new();
        codec::put_message(&mut payload, &before.0, None, &envelope);
        let mut changes = Vec::new();
        if record_len(payload.len() as u64, inline).is_none_or(|len| len > limit) {
            // The reasons of very many recipients: they do not fit in with the message, which once did without them.
            let states = (0..).zip(envelope.recipients.iter_mut().map(|r| std::mem::take(&mut r.state)));
            let states: Vec<(u32, RecipientState)> = states.collect();
            let told = states.iter().filter(|(_, state)| *state != RecipientState::Pending);
            changes = codec::change_payloads(&before.0, told.map(|(n, state)| (*n, state)), limit / 4);
            payload.clear();
            codec::put_message(&mut payload, &before.0, None, &envelope);
        }
        let mut op = Op::new(OpKind::Copy { large }, id, payload);
        if !large {
            op.content = vec![content_of(at, head, segment)];
        }
        if spilled {
            state.spilling.insert(id);
        }
        op.content_len = head.content_len;
        op.content_crc = head.content_crc;
        shared.push(&mut state, op);
        for payload in changes {
            shared.push_change(&mut state, OpKind::Settle, id, payload);
        }
        true
    }

    /// Messages of a segment that is to be used again, whose records have gone bad since they were written.
    fn set_aside_unreadable(&self, epoch: u32, number: u32, bytes: &Bytes) -> usize {
        let shared = &self.shared;
        let listed: Vec<(QueueId, Location, u32)> = {
            let state = shared.lock();
            let here = state.index.messages.iter().filter(|(_, entry)| entry.message.epoch == epoch);
            here.map(|(id, entry)| (id, entry.message, entry.record_len())).collect()
        };
        let mut lost = 0;
        for (id, at, len) in listed {
            let places = shared.lock().index.places(id);
            let Some(places) = places else { continue };
            let what = match read_message(&*shared.fs, id, &places, Some(&shared.paths.content(id))) {
                Err(ReadError::Damaged(what)) => what,
                _ => continue,
            };
            let end = (at.offset as usize + len as usize).min(bytes.len());
            let record = bytes.get(at.offset as usize..end).unwrap_or_default();
            let saved = save(shared, epoch, at.offset, record);
            if saved.is_none() {
                // Kept where it is until it can be saved.
                continue;
            }
            let mut state = shared.lock();
            if state.index.messages.get(id).is_none_or(|entry| entry.message != at) {
                continue;
            }
            state.index.remove(id);
            shared.push(&mut state, Op::new(OpKind::Remove, id, Vec::new()));
            state.damaged.push(Damage {
                file: shared.paths.segment(number),
                offset: u64::from(at.offset),
                len: u64::from(len),
                queue_id: Some(id),
                saved,
                torn: false,
                what,
            });
            lost += 1;
        }
        lost
    }
}

/// The content that stands in a record. The scan has seen the whole record within the segment.
fn content_of(at: Location, head: &record::Head, segment: &Bytes) -> Bytes {
    let begin = at.offset as usize + HEAD + head.payload_len as usize;
    segment.slice(begin..begin + head.inline_len() as usize)
}

/// Saves a damaged stretch in `corrupt/`; none when that fails. A file that is there already is kept.
pub fn save(shared: &Shared, epoch: u32, offset: u32, bytes: &[u8]) -> Option<PathBuf> {
    let path = shared.paths.corrupt.join(damage_name(epoch, offset));
    save_bytes(&*shared.fs, &shared.paths.corrupt, &path, bytes).ok()?;
    Some(path)
}

/// The name of a damaged stretch in `corrupt/`.
pub fn damage_name(epoch: u32, offset: u32) -> String {
    format!("{epoch:08}-{offset:08}.record")
}

/// Writes a file in `corrupt/` durably. False when it was there; one that was begun and not finished is written anew.
pub fn save_bytes(fs: &dyn FileSystem, dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let sync = |file: &dyn StoredFile| file.fdatasync().and_then(|()| fs.sync_dir(dir));
    let file = match fs.create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let file = fs.open(path, true)?;
            if file.len()? == bytes.len() as u64 {
                return sync(&*file).map(|()| false);
            }
            fs.unlink(path)?;
            fs.create(path)?
        }
        other => other?,
    };
    let written = write_all_at(&*file, &mut [IoSlice::new(bytes)], 0).and_then(|()| sync(&*file));
    if let Err(e) = written {
        let _ = fs.unlink(path);
        return Err(e);
    }
    Ok(true)
}
