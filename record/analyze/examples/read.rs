//! Reads one message from standard input and says who was not reached, and why; then a single reply.
//!
//!     cargo run -p yamabiko-analyze --example read < bounce.eml

use std::io::{self, Read};

use yamabiko_analyze::{Analyzer, Kind, Reply, Stage};

fn main() -> io::Result<()> {
    let mut message = Vec::new();
    io::stdin().read_to_end(&mut message)?;

    // Made once; it can be shared by all threads.
    let analyzer = Analyzer::embedded();

    let analysis = analyzer.analyze(&message);
    if analysis.kind != Kind::Bounce {
        println!("no bounce: {:?}", analysis.kind);
    }
    for finding in &analysis.findings {
        let advice = if finding.hard_bounce { "take it off the list" } else { "it may work later" };
        println!("{}: {} ({} % sure), {advice}", finding.recipient, finding.reason, finding.confidence);
        for evidence in &finding.evidence {
            println!("    {:>3} {} \"{}\" in {}", evidence.weight, evidence.rule, evidence.text, evidence.place);
        }
    }
    if let Some(why) = analysis.undecoded {
        println!("a bounce that was not understood: {why}");
    }

    // What a mail server knows at the moment of the refusal, it can ask at once.
    let verdict = analyzer.classify(&Reply {
        text: "550 5.1.1 <kim@example.net>: Recipient address rejected: User unknown",
        stage: Some(Stage::Rcpt),
        remote_host: "mx.example.net",
        ..Reply::default()
    });
    println!("that reply means {}", verdict.reason);
    Ok(())
}
