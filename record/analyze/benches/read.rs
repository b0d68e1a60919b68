//! What it costs to read a bounce: the project's own fixtures in memory, by the system that wrote them.
//!
//!     cargo bench -p yamabiko-analyze

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use yamabiko_analyze::{Analyzer, Reply, Stage};

/// The messages of each folder of fixtures.
fn fixtures() -> Vec<(String, Vec<Vec<u8>>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let below = |folder: &Path| -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        all.sort();
        all
    };
    let mut all = Vec::new();
    for folder in below(&root).into_iter().filter(|path| path.is_dir()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mails = below(&folder).into_iter().filter(|path| path.extension().is_some_and(|e| e == "eml"));
        all.push((name, mails.filter_map(|path| fs::read(path).ok()).collect()));
    }
    all
}

/// A bounce that brings an attachment of this size back.
fn with_attachment(size: usize) -> Vec<u8> {
    let mut message = b"From: MAILER-DAEMON@example.jp\nTo: kim@example.jp\nSubject: Undelivered Mail Returned to Sender\n\
        Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\nNo such user.\n\n--b\n\
        Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.jp\n\nFinal-Recipient: rfc822; lee@example.org\n\
        Action: failed\nStatus: 5.1.1\nRemote-MTA: dns; mx.example.org\nDiagnostic-Code: smtp; 550 5.1.1 No such user\n\n--b\n\
        Content-Type: message/rfc822\n\nFrom: kim@example.jp\nTo: lee@example.org\nSubject: x\n\
        Content-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\n"
        .to_vec();
    while message.len() < size {
        message.extend_from_slice(b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4\n");
    }
    message.extend_from_slice(b"\n--b--\n");
    message
}

fn messages(criterion: &mut Criterion) {
    let analyzer = Analyzer::embedded();
    let mut group = criterion.benchmark_group("analyze");
    for (name, mails) in fixtures() {
        group.throughput(Throughput::Elements(mails.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| mails.iter().map(|mail| analyzer.analyze(black_box(mail)).findings.len()).sum::<usize>());
        });
    }
    let large = with_attachment(1 << 20);
    group.throughput(Throughput::Bytes(large.len() as u64));
    group.bench_function("attachment of 1 MB", |bencher| bencher.iter(|| analyzer.analyze(black_box(&large))));
    group.finish();
}

fn replies(criterion: &mut Criterion) {
    let analyzer = Analyzer::embedded();
    let reply = Reply {
        text: "550-5.1.1 The email account that you tried to reach does not exist. Please try 550 5.1.1 again",
        stage: Some(Stage::Rcpt),
        remote_host: "mx.example.org",
        recipient: "lee@example.org",
        date: None,
    };
    criterion.bench_function("classify", |bencher| bencher.iter(|| analyzer.classify(black_box(&reply))));
    criterion.bench_function("start", |bencher| bencher.iter(Analyzer::embedded));
}

criterion_group!(benches, messages, replies);
criterion_main!(benches);
