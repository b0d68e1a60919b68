//! The log as text: every segment, every record, every stretch that is none. For people who look for what went wrong.

use std::path::Path;

use yamabiko_envelope::Timestamp;

use crate::QueueError;
use crate::codec;
use crate::fs::{FileSystem, read_at_most};
use crate::readable::calendar;
use crate::record::{Found, RECORDS, RecordKind, SegmentHeader, scan};
use crate::recover::segment_name;
use crate::shared::{Paths, io_error};

/// Shows the log of the queue in a directory, a line at a time, oldest segment first. Takes no lock and changes nothing.
pub fn dump(fs: &dyn FileSystem, dir: &Path, mut show: impl FnMut(&str)) -> Result<(), QueueError> {
    let paths = Paths::new(dir);
    let listed = fs.list(&paths.log).map_err(|e| io_error("reading the directory", &paths.log, &e))?;
    let mut segments = Vec::new();
    for file in listed {
        let Some((number, "seg")) = segment_name(&file.name) else { continue };
        let path = paths.segment(number);
        let handle = fs.open(&path, false).map_err(|e| io_error("opening", &path, &e))?;
        let mut block = vec![0; RECORDS as usize];
        let got = read_at_most(&*handle, &mut block, 0).map_err(|e| io_error("reading", &path, &e))?;
        block.truncate(got);
        segments.push((SegmentHeader::from_block(&block), path, handle, file.len));
    }
    segments.sort_by_key(|(header, ..)| header.map_or(0, |header| header.seal.epoch));
    let first_live = segments.iter().filter_map(|(header, ..)| header.map(|h| h.first_live)).max().unwrap_or(1);
    for (header, path, file, len) in segments {
        let Some(SegmentHeader { seal, first_live: floor, previous_end, newest }) = header else {
            show(&format!("{}: {len} bytes, not in use", path.display()));
            continue;
        };
        let state = if seal.epoch < first_live { ", given back" } else { "" };
        show(&format!(
            "{}: {len} bytes, epoch {}{state}, live from {floor}, the one before ends at {previous_end}, newest {newest}",
            path.display(),
            seal.epoch
        ));
        if seal.epoch < first_live {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let got = read_at_most(&*file, &mut bytes, 0).map_err(|e| io_error("reading", &path, &e))?;
        bytes.truncate(got);
        let end = scan(&bytes, seal, u32::MAX, |found| show(&line(&found)));
        for hole in end.holes {
            let whose = hole.id.map_or(String::new(), |id| format!(" of {id}"));
            show(&format!("  {:>9} {} bytes are not a record{whose}", hole.offset, hole.len));
        }
        show(&format!("  {:>9} end; known to be durable up to {}", end.end, end.synced));
    }
    Ok(())
}

/// A record.
fn line(found: &Found<'_>) -> String {
    let head = &found.head;
    let (at, id) = (found.offset, head.id);
    let standing = |standing: codec::Standing| {
        let codec::Standing { next_attempt, attempts, flags } = standing;
        let next = if next_attempt == Timestamp(0) { "-".to_owned() } else { calendar(next_attempt) };
        format!("attempts {attempts}, next {next}, marks {flags:?}")
    };
    match head.kind {
        RecordKind::Message => {
            let place = if head.large { "in its own file" } else { "here" };
            let copied = if head.copied { ", copied forward" } else { "" };
            let about = codec::message(id, found.payload).map_or("unreadable".to_owned(), |part| {
                let replaces = part.replaces.map_or(String::new(), |old| format!(", replaces {old}"));
                let to: Vec<&str> = part.envelope.recipients.iter().map(|r| r.address.as_str()).take(3).collect();
                format!(
                    "from <{}> to {} ({}), {}{replaces}",
                    part.envelope.sender.escape_debug(),
                    part.envelope.recipients.len(),
                    to.join(", ").escape_debug(),
                    standing(part.standing)
                )
            });
            format!("  {at:>9} message {id}: {} bytes {place}{copied}; {about}", head.content_len)
        }
        RecordKind::State | RecordKind::Settle => {
            let word = if head.kind == RecordKind::State { "state" } else { "settle" };
            let about = codec::change(found.payload).map_or("unreadable".to_owned(), |part| {
                format!("{} recipients, {}", part.recipients.len(), standing(part.standing))
            });
            format!("  {at:>9} {word} {id}: {about}")
        }
        RecordKind::Remove => format!("  {at:>9} remove {id}"),
        RecordKind::Reclaim => format!("  {at:>9} reclaim: nothing before epoch {} counts", id.micros()),
        RecordKind::Mark => format!("  {at:>9} mark"),
        RecordKind::Other(kind) => format!("  {at:>9} of a newer version, kind {kind}"),
    }
}
