//! What the pass over a message's headers costs: `cargo bench -p yamabiko-cleanup`.

#[path = "../tests/common/mod.rs"]
mod common;

use criterion::{Criterion, criterion_group, criterion_main};

fn cleanup(c: &mut Criterion) {
    let bench = common::Bench::new("");
    let received =
        "Received: from a.example (a.example [192.0.2.1])\n\tby b.example with ESMTPS id 1\n\tfor <c@example>; now\n";
    let short = "From: a@b.test\nTo: c@d.test\nSubject: x\nDate: x\nMessage-Id: <1@b.test>\n".to_owned();
    let usual = format!("{}{short}MIME-Version: 1.0\nContent-Type: text/plain\nX-Mailer: x\n", received.repeat(4));
    let lists = format!("{short}Cc: {}\n", vec!["A Person <person@site.example>"; 100].join(",\n\t"));
    for (name, header) in [("short", short), ("usual", usual), ("a hundred copies", lists)] {
        let content = format!("{header}\n{}", "A line of text.\n".repeat(250));
        c.bench_function(&format!("cleanup, {name} header"), |b| {
            b.iter(|| bench.accept(common::message("s@lab.test", &["x@remote.test"], content.as_str())));
        });
    }
}

criterion_group!(benches, cleanup);
criterion_main!(benches);
