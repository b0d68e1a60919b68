//! What a message costs in the dialogue alone, without sockets, disk or log: `cargo bench -p yamabiko-receive`.

#[path = "../tests/common/mod.rs"]
mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// A session of one message, turn by turn, with a body of so many lines.
fn message(world: &common::World, body: &[u8]) {
    let mut talk = world.connect("127.0.0.1");
    talk.say(b"");
    for line in ["EHLO client.lab.test", "MAIL FROM:<a@lab.test>", "RCPT TO:<user1@lab.test>", "DATA"] {
        talk.say(format!("{line}\r\n").as_bytes());
    }
    let reply = talk.say(body);
    assert!(reply.starts_with("250 "), "{reply}");
    talk.say(b"QUIT\r\n");
    world.engine.submissions.lock().unwrap().clear();
    world.log.0.lock().unwrap().clear();
}

fn dialogue(c: &mut Criterion) {
    let world = common::World::new("");
    let mut group = c.benchmark_group("dialogue");
    for lines in [1, 60, 1000] {
        let header = "From: a@lab.test\r\nTo: user1@lab.test\r\nSubject: bench\r\n\r\n";
        let body = "A line of text as they are in mail, with some sixty bytes on.\r\n".repeat(lines);
        let content = format!("{header}{body}.\r\n").into_bytes();
        group.throughput(Throughput::Bytes(content.len() as u64));
        group.bench_function(format!("message of {lines} lines"), |b| b.iter(|| message(&world, &content)));
    }
    group.finish();
}

criterion_group!(benches, dialogue);
criterion_main!(benches);
