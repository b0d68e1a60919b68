//! What the ledger costs: N histories through recorder and writer, bytes on disk, lookups by address.
//!
//! `cargo run --release -p yamabiko-ledger --example cost -- 1000000`; with `line` behind it through the line and the
//! journal of a running engine too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use yamabiko_envelope::{
    Delays, Delivery, DeliveryStatus, Envelope, Event, Kind, Origin, QueueId, Recipient, Timestamp,
};
use yamabiko_ledger::{Feed, Field, Input, Journal, Ledger, Options, Query, Recorder, Source, Surroundings, Writer};
use yamabiko_status::EnhancedStatus;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let directory = std::env::temp_dir().join(format!("ledger-cost-{}", std::process::id()));
    let writer = Writer::open(&directory, Options { source: Source::Live, once: false })?;
    let line = std::env::args().nth(2).is_some_and(|word| word == "line");
    let mut recorder = Recorder::default();
    let name: Arc<str> = "postfix".into();
    let start = 1_790_000_000_000_000u64;
    let (mut writer, feed) = match line {
        false => (Some(writer), None),
        true => {
            let surroundings = Surroundings { journal: Some(Journal::open(&directory)?.0), ..Surroundings::default() };
            (None, Some(Feed::start(writer, usize::MAX, surroundings)?))
        }
    };
    let begun = Instant::now();
    let mut failed = None;
    for n in 0..count {
        let id = QueueId::new(start + n * 1000, 1);
        let recipient = format!("user{:07}@customer{:03}.example.jp", n % 3_000_000, n % 300);
        let mut envelope = Envelope::new(id, Timestamp(id.micros()), "newsletter@shop.example.jp");
        envelope.message_id = format!("<20261122.{n:010}@shop.example.jp>");
        envelope.size = 4321;
        envelope.recipients = vec![Recipient { address: recipient.clone(), ..Recipient::default() }];
        let delivery = Delivery {
            queue_id: id,
            recipient,
            original: String::new(),
            sender: "newsletter@shop.example.jp".to_owned(),
            relay: format!("mx{}.customer{:03}.example.jp[192.0.2.{}]:25", n % 3, n % 300, n % 250),
            connection_use: 1,
            tls: None,
            tls_status: None,
            delays: Delays::default(),
            dsn: EnhancedStatus::success(0, 0),
            status: DeliveryStatus::Sent,
            reason: format!("250 2.0.0 Ok: queued as 4B{n:010X}"),
            stage: Some(yamabiko_envelope::SmtpStage::EndOfData),
            reply: Some(yamabiko_status::ReplyCode(250)),
            remote_mta: None,
            action: None,
        };
        let kind = Kind::Delivered(Box::new(delivery));
        let event = Event { at: Timestamp(id.micros() + 150_000), origin: Origin::new(&name, "smtp"), kind };
        let inputs = [Input::Queued { envelope: &envelope, hold: false }, Input::Event(&event)];
        if let Some(feed) = &feed {
            inputs.into_iter().for_each(|input| feed.push(input));
            continue;
        }
        let Some(writer) = &mut writer else { continue };
        let mut give = |entry| failed = writer.append(&entry).err().or(failed.take());
        inputs.into_iter().for_each(|input| recorder.take(input, &mut give));
        if n % 4000 == 0 {
            writer.commit()?;
        }
    }
    if let Some(writer) = &mut writer {
        writer.commit_all()?;
    }
    if let Some(feed) = &feed {
        feed.close();
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    let took = begun.elapsed();
    drop(writer);
    let size: u64 =
        std::fs::read_dir(&directory)?.filter_map(Result::ok).filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
    println!(
        "{count} histories: {:.2} microseconds and {} bytes each",
        took.as_secs_f64() * 1e6 / count as f64,
        size / count.max(1)
    );
    let mut ledger = Ledger::open(&directory);
    for (what, warm) in [("cold", 1), ("warm", 200)] {
        let (mut all, mut longest, mut found) = (Duration::ZERO, Duration::ZERO, 0);
        for n in 0..warm {
            let number = n * 7919 % count.min(3_000_000);
            let address = format!("user{number:07}@customer{:03}.example.jp", number % 300);
            let begun = Instant::now();
            found += ledger.histories(&Query::new(Field::Recipient, address))?.len();
            all += begun.elapsed();
            longest = longest.max(begun.elapsed());
        }
        println!("{what}: {found} histories found; {:?} for a query, {longest:?} at most", all / u32::try_from(warm)?);
    }
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
