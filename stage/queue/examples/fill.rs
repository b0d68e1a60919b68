//! Fills a queue directory with messages that wait: `fill DIR MESSAGES [BYTES [DESTINATIONS [RECIPIENTS]]]`.
//!
//! They arrived over the last three days, were tried once and are due again between one and two hours from now. For
//! measuring: `cargo xtask scale` starts an engine on it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use yamabiko_envelope::{
    ClientAttributes, Envelope, Failure, QueueId, Recipient, RecipientState, RewriteContext, Timestamp,
};
use yamabiko_queue::fs::RealFileSystem;
use yamabiko_queue::{NewMessage, Options, Queue};
use yamabiko_status::EnhancedStatus;

/// Messages that may wait for the disk at once.
const AHEAD: usize = 2000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: fill DIR MESSAGES [BYTES [DESTINATIONS [RECIPIENTS]]]";
    let dir = PathBuf::from(args.next().ok_or(usage)?);
    let mut number = |default: Option<u64>| match args.next() {
        Some(arg) => arg.parse::<u64>().map_err(|_| usage),
        None => default.ok_or(usage),
    };
    let (count, bytes) = (number(None)?, number(Some(4096))?);
    let (destinations, recipients) = (number(Some(1000))?.max(1), number(Some(1))?.max(1));
    let (queue, _) = Queue::open(Arc::new(RealFileSystem), &dir, Options::default())?;
    let content = bytes::Bytes::from(mail(bytes as usize));
    let begin = Instant::now();
    let now = Timestamp::now();
    let step = (3 * 86_400 * 1_000_000 / count.max(1)).max(1);
    let failed = Arc::new(AtomicU64::new(0));
    let (tell, told) = mpsc::sync_channel::<()>(AHEAD);
    for n in 0..count {
        let arrival = Timestamp(now.0 - (count - n) * step);
        let envelope = envelope(n, arrival, bytes, destinations, recipients);
        let (tell, failed) = (tell.clone(), Arc::clone(&failed));
        if n >= AHEAD as u64 {
            told.recv()?;
            defer(&queue, n - AHEAD as u64, now, count, step, destinations, recipients)?;
        }
        let done = move |result: Result<(), _>| {
            failed.fetch_add(u64::from(result.is_err()), Ordering::Relaxed);
            // Never more of them than the channel has places.
            let _ = tell.send(());
        };
        queue.append(NewMessage::new(envelope, content.clone()), Box::new(done));
    }
    queue.sync()?;
    for n in count.saturating_sub(AHEAD as u64)..count {
        defer(&queue, n, now, count, step, destinations, recipients)?;
    }
    queue.sync()?;
    queue.close();
    let failed = failed.load(Ordering::Relaxed);
    println!("{count} messages in {:.1} s, {failed} failed", begin.elapsed().as_secs_f64());
    // The log's thread may still be telling.
    std::thread::sleep(Duration::from_millis(10));
    if failed > 0 { Err("some messages could not be stored".into()) } else { Ok(()) }
}

fn mail(bytes: usize) -> Vec<u8> {
    let mut mail = b"From: sender@bench.example\nTo: somebody\nSubject: waiting\n\n".to_vec();
    while mail.len() < bytes {
        mail.extend_from_slice(
            b"A line of text that is about as long as lines of text in mail are, with a word more.\n",
        );
    }
    mail.truncate(bytes.max(1));
    mail
}

fn envelope(n: u64, arrival: Timestamp, bytes: u64, destinations: u64, recipients: u64) -> Envelope {
    let mut envelope = Envelope::new(QueueId::new(arrival.0, 1), arrival, "");
    envelope.sender = format!("bench@src{}.example", n % 100);
    envelope.size = bytes;
    envelope.message_id = format!("<{n}.{}@src.example>", arrival.seconds());
    envelope.context = RewriteContext::Remote;
    envelope.client = ClientAttributes {
        name: "client.src.example".into(),
        reverse_name: "client.src.example".into(),
        address: "192.0.2.10".parse().ok(),
        port: 40_000,
        helo: "client.src.example".into(),
        protocol: "ESMTP".into(),
        ident: String::new(),
        server: None,
    };
    let recipient = |r: u64| Recipient {
        address: format!("user{n}.{r}@d{}.example", (n + r) % destinations),
        original: format!("user{n}.{r}@d{}.example", (n + r) % destinations),
        ..Recipient::default()
    };
    envelope.recipients = (0..recipients).map(recipient).collect();
    envelope
}

fn defer(
    queue: &Queue,
    n: u64,
    now: Timestamp,
    count: u64,
    step: u64,
    destinations: u64,
    recipients: u64,
) -> Result<(), yamabiko_queue::QueueError> {
    let id = QueueId::new(now.0 - (count - n) * step, 1);
    let state = |r: u64| {
        let domain = (n + r) % destinations;
        RecipientState::Deferred(Box::new(Failure {
            status: EnhancedStatus::transient(4, 1),
            reason: format!("connect to mx.d{domain}.example[192.0.2.{}]:25: Connection refused", domain % 250),
            diagnostic: String::new(),
            remote_mta: String::new(),
            relay: "none".to_owned(),
            settled: Vec::new(),
        }))
    };
    let states: Vec<_> = (0..recipients).map(|r| (r as u32, state(r))).collect();
    queue.defer(id, now + Duration::from_secs(3600 + n * 7919 % 3600), &states, false)
}
