//! How fast a log is read: `cargo run --release -p yamabiko-maillog --example speed -- FILE`. Lines to entries to messages, without a
//! ledger; the time of the processor is that of `perf stat` or `time` around it.

use std::fs::File;

use jiff::tz::TimeZone;
use yamabiko_envelope::Timestamp;
use yamabiko_maillog::join::{Fact, Join};
use yamabiko_maillog::lines::Lines;
use yamabiko_maillog::reader::Reader;

fn main() -> std::io::Result<()> {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: speed FILE");
        return Ok(());
    };
    let begun = std::time::Instant::now();
    let mut reader = Reader::new(TimeZone::UTC, Timestamp::from_seconds(1_900_000_000), None, "here");
    let (mut join, mut lines) = (Join::default(), Lines::new(File::open(path)?, 0));
    let (mut messages, mut attempts) = (0u64, 0u64);
    while let Some(line) = lines.next_line()? {
        reader.line(&line, &mut |entry| {
            join.entry(entry, &mut |fact, _| match fact {
                Fact::Queued(..) => messages += 1,
                Fact::Attempt(..) => attempts += 1,
                Fact::Other(_) | Fact::NoQueue => {}
            });
        });
    }
    let (seconds, read) = (begun.elapsed().as_secs_f64(), reader.counts().lines);
    println!(
        "{read} lines, {messages} messages, {attempts} attempts in {seconds:.2} s: {:.0} lines/s",
        read as f64 / seconds
    );
    Ok(())
}
