//! What the text of an event costs: `cargo bench -p yamabiko-log`.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use yamabiko_envelope::{Client, Delays, Delivery, DeliveryStatus, Event, Kind, Origin, QueueId, SmtpStage, Timestamp};
use yamabiko_log::line::{self, Style};
use yamabiko_status::{EnhancedStatus, ReplyCode};

fn events() -> Vec<(&'static str, Event)> {
    let (at, id) = (Timestamp(1_795_280_034_000_000), QueueId::new(1_795_279_346_000_000, 7));
    let event = |kind| Event { at, origin: Origin::new(&Arc::from("postfix"), "smtp"), kind };
    let client = Client { name: "client.example".into(), address: "198.51.100.7".parse().ok(), port: None };
    let delivered = Delivery {
        queue_id: id,
        recipient: "b@remote.example".into(),
        original: String::new(),
        sender: "a@here.example".into(),
        relay: "mx1.remote.example[192.0.2.25]:25".into(),
        connection_use: 1,
        tls: None,
        tls_status: None,
        delays: Delays { before_queue: Duration::from_millis(20), ..Delays::default() },
        dsn: EnhancedStatus::success(0, 0),
        status: DeliveryStatus::Sent,
        reason: "250 2.0.0 Ok: queued as 4X".into(),
        stage: Some(SmtpStage::EndOfData),
        reply: Some(ReplyCode(250)),
        remote_mta: Some("mx1.remote.example".into()),
        action: None,
    };
    vec![
        ("connect", event(Kind::Connected { client })),
        ("removed", event(Kind::Removed { queue_id: id })),
        ("delivered", event(Kind::Delivered(Box::new(delivered)))),
    ]
}

fn lines(c: &mut Criterion) {
    let mut out = String::new();
    for (name, event) in events() {
        c.bench_function(&format!("line, {name}"), |b| {
            b.iter(|| {
                out.clear();
                line::push_text(&mut out, &event, Style::default());
                out.len()
            });
        });
    }
}

criterion_group!(benches, lines);
criterion_main!(benches);
