//! Body of the fuzz target, run as an ordinary test too.

use jiff::tz::TimeZone;
use yamabiko_envelope::Timestamp;
use yamabiko_maillog::join::Join;
use yamabiko_maillog::lines::Lines;
use yamabiko_maillog::reader::Reader;
use yamabiko_maillog::reply::said;
use yamabiko_maillog::summary::Summary;

/// A whole log, through everything that reads it: every byte of it is accounted for.
pub fn maillog(data: &[u8]) {
    let mut reader = Reader::new(TimeZone::UTC, Timestamp::from_seconds(1_796_000_000), None, "h");
    let (mut join, mut summary) = (Join::default(), Summary::default());
    let mut lines = Lines::new(data, 0);
    while let Ok(Some(line)) = lines.next_line() {
        reader.line(&line, &mut |entry| {
            said(entry.system, entry.text);
            summary.entry(entry);
            join.entry(entry, &mut |_, _| {});
        });
    }
    assert_eq!(reader.counts().bytes, data.len() as u64);
    join.finish(&mut |_| {});
}
