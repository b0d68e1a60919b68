//! What secure transport needs besides deliveries: policies of MTA-STS are refreshed, counts are written to disk, and the
//! TLS reports of days that are over are sent.

use std::sync::Arc;
use std::time::Duration;

use yamabiko_config::View;
use yamabiko_deliver::sts::Fetching;
use yamabiko_deliver::tlsrpt::{self, Counted, Reporter, Rua};
use yamabiko_deliver::{Memory, fetching};
use yamabiko_dns::{Answer, Resolver};
use yamabiko_envelope::{Content, Envelope, Kind, Notify, Recipient, Severity, Source, Submission, Timestamp, TlsWish};
use yamabiko_tls::Disk;

use crate::accept::Acceptance;

/// Between two rounds: what a crash may take of the counts.
const ROUND: Duration = Duration::from_secs(60);
/// Between two looks at policies that get old.
const REFRESH: Duration = Duration::from_secs(600);
/// Rounds between two tries to send what is due.
const SEND: u64 = 10;

fn say(engine: &Acceptance, severity: Severity, text: String) {
    let kind = Kind::Text { severity, queue_id: None, text };
    engine.current().emit("tlsrpt", Timestamp::now(), kind);
}

/// Runs as long as the engine does.
pub async fn keep(engine: Acceptance, memory: Arc<Memory>, dns: Arc<dyn Resolver>) {
    // Web servers that are slow do not keep counts from the disk.
    tokio::join!(refresh(&engine, &memory, &*dns), reports(&engine, &memory, &*dns));
}

/// Policies that get old are fetched again, whether there is mail for their domains or not.
async fn refresh(engine: &Acceptance, memory: &Memory, dns: &dyn Resolver) {
    loop {
        let generation = engine.current().get();
        let view = generation.config.main();
        let how = if view.bool("smtp_tls_mta_sts") { fetching(&view, &Disk, &mut Vec::new()) } else { None };
        drop(generation);
        if let Some(how) = how {
            for (domain, failure) in memory.sts.refresh(dns, &how, Timestamp::now().seconds()).await {
                say(engine, Severity::Warning, format!("MTA-STS policy of {domain}: {}", failure.why));
            }
        }
        tokio::time::sleep(REFRESH).await;
    }
}

/// What was counted is written, and reports are sent.
async fn reports(engine: &Acceptance, memory: &Arc<Memory>, dns: &dyn Resolver) {
    let mut failed = false;
    let mut round = 0u64;
    loop {
        let generation = engine.current().get();
        let view = generation.config.main();
        let wanted = view.bool("smtp_tlsrpt_enable") || view.bool("lmtp_tlsrpt_enable");
        let now = wanted && round.is_multiple_of(SEND);
        if let Some(how) = if now { fetching(&view, &Disk, &mut Vec::new()) } else { None } {
            send_due(engine, memory, dns, &view, &how).await;
        }
        drop(generation);
        let saver = Arc::clone(memory);
        match tokio::task::spawn_blocking(move || saver.reports.save()).await {
            Ok(Err(error)) if !failed => {
                failed = true;
                let text = format!("tls-reports in data_directory: {error}; counts for TLS reports are kept in memory");
                say(engine, Severity::Warning, text);
            }
            Ok(Ok(())) => failed = false,
            _ => {}
        }
        round += 1;
        tokio::time::sleep(ROUND).await;
    }
}

/// Sends the reports for which it is time.
async fn send_due(engine: &Acceptance, memory: &Memory, dns: &dyn Resolver, view: &View, how: &Fetching) {
    let now = Timestamp::now().seconds();
    let spread = view.duration("tls_report_delay").as_secs();
    let contact = view.text("tls_report_contact");
    let domain = contact.rsplit_once('@').map_or_else(|| view.text("mydomain"), |(_, domain)| domain.to_owned());
    let reporter = Reporter { organization: view.text("tls_report_organization"), contact, domain };
    for (day, domain, policies) in memory.reports.due(now, spread) {
        match send(engine, dns, how, (day, &domain), &policies, &reporter).await {
            Ok(None) => memory.reports.settle(day, &domain),
            Ok(Some(done)) => {
                memory.reports.settle(day, &domain);
                let date = tlsrpt::date_of(day);
                say(engine, Severity::Info, format!("TLS report of {date} about {domain}: {done}"));
            }
            Err(why) => {
                let date = tlsrpt::date_of(day);
                say(
                    engine,
                    Severity::Warning,
                    format!("TLS report of {date} about {domain}: {why}; it is tried again"),
                );
            }
        }
    }
    memory.reports.forget(now);
}

/// Sends one. `None`: nobody wants it.
async fn send(
    engine: &Acceptance,
    dns: &dyn Resolver,
    how: &Fetching,
    (day, domain): (u64, &str),
    policies: &[Counted],
    reporter: &Reporter,
) -> Result<Option<String>, String> {
    let answer = dns.txt(&format!("_smtp._tls.{domain}")).await;
    let places = match &answer {
        Answer::Found { records, .. } => tlsrpt::read_record(records.iter().map(String::as_str)),
        Answer::NotFound | Answer::NoData => None,
        Answer::TryAgain(why) | Answer::Fail(why) => return Err(format!("_smtp._tls.{domain}: {why}")),
    };
    let Some(places) = places else { return Ok(None) };
    let report = tlsrpt::compressed(&tlsrpt::report(day, domain, policies, reporter));
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    let mut addresses = Vec::new();
    for place in places {
        match place {
            Rua::Mail(address) => addresses.push(address),
            Rua::Https { host, port, path } => match tlsrpt::post(how, dns, (&host, port, &path), &report).await {
                Ok(()) => done.push(format!("posted to https://{host}:{port}{path}")),
                Err(why) => failed.push(format!("https://{host}:{port}{path}: {why}")),
            },
        }
    }
    if !addresses.is_empty() {
        match mail(engine, (day, domain), reporter, &addresses, &report).await {
            Ok(()) => done.push(format!("mailed to {}", addresses.join(", "))),
            Err(why) => failed.push(why),
        }
    }
    if done.is_empty() {
        Err(failed.join("; "))
    } else {
        Ok(Some(done.into_iter().chain(failed).collect::<Vec<_>>().join("; ")))
    }
}

/// A mail with a report. It goes out whatever becomes of TLS, of which it may be the news: RFC 8460 section 3
async fn mail(
    engine: &Acceptance,
    (day, domain): (u64, &str),
    reporter: &Reporter,
    to: &[String],
    report: &[u8],
) -> Result<(), String> {
    let now = Timestamp::now();
    let text = tlsrpt::message(day, domain, reporter, to, &engine.date(now), report);
    let mut envelope = Envelope::new(engine.next_id(), now, reporter.contact.clone());
    envelope.tls = TlsWish::NotRequired;
    for address in to {
        envelope.recipients.push(Recipient {
            address: address.clone(),
            original: address.clone(),
            notify: Notify { never: true, ..Notify::default() },
            ..Recipient::default()
        });
    }
    let submission = Submission::new(envelope, Content::from(text), Source::Notice);
    engine.accept(submission, None).await.map(drop).map_err(|refusal| format!("{refusal:?}"))
}
