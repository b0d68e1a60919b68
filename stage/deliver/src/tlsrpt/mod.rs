//! TLS reports (RFC 8460): what came of TLS with the servers of a domain, counted by day, and the report about it.
//!
//! * [`Collector`] counts sessions by day (UTC), domain and policy. It is bounded, and kept in a directory with a file for
//!   each day, so that a restart loses a minute at most.
//! * [`Rua`] is who wants reports ([`read_record`]); [`report`] is the report, [`message`] the mail with it.
//!
//! Nothing of a message, a sender or a recipient is counted: only domains, hosts and what went wrong.

mod mail;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use mail::message;
pub use record::{Rua, read_record};

/// Lines of a policy, and characters of a line or a reason, that are kept.
const MOST_LINES: usize = 50;
const MOST_CHARS: usize = 300;
/// Bytes of a day; then only what is known already is counted.
const MOST_BYTES: usize = 64 << 20;
/// A file of a day is never so long.
const LARGEST: u64 = 512 << 20;
/// Domains of a day.
const MOST_DOMAINS: usize = 10_000;
/// Policies of a domain on one day: it may change them.
const MOST_POLICIES: usize = 20;
/// Different failures under one policy.
const MOST_FAILURES: usize = 100;
/// Days that are kept when their reports cannot be sent. RFC 8460 section 5.4
const KEPT: u64 = 3;
/// Seconds of a day.
const DAY: u64 = 24 * 3600;

/// A policy as reports have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// `tlsa`, `sts` or `no-policy-found`.
    pub kind: String,
    /// Its lines: TLSA records, or the lines of an MTA-STS policy.
    pub strings: Vec<String>,
    /// Whose it is: the domain, or the host of TLSA records.
    pub domain: String,
    /// `mx` patterns of an MTA-STS policy.
    pub patterns: Vec<String>,
}

/// Something that failed, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// `starttls-not-supported`, `certificate-expired` ... (RFC 8460 section 4.3)
    pub kind: String,
    /// Our address; empty when there was no connection.
    pub ours: String,
    /// The mail exchanger; empty when none was reached.
    pub host: String,
    /// Its address.
    pub address: String,
    /// In words.
    pub reason: String,
    /// Sessions.
    pub count: u64,
}

/// Sessions under one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The policy.
    pub policy: Applied,
    /// Sessions that were as it wants them.
    pub successes: u64,
    /// Others.
    pub failures: Vec<Failed>,
    /// Failures that did not fit in the list any more.
    pub unlisted: u64,
}

/// A day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// By domain.
    pub domains: BTreeMap<String, Vec<Counted>>,
    /// Domains whose reports are on their way, or wanted by nobody.
    pub settled: BTreeSet<String>,
    /// Sessions with domains for which there was no room.
    pub passed_over: u64,
    /// Bytes of names, policies and reasons, roughly.
    #[serde(skip)]
    bytes: usize,
}

/// What came of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The domain that reports are for.
    pub domain: String,
    /// The policy that held.
    pub policy: Applied,
    /// `None`: it was as the policy wants it. The count is one, whatever it says.
    pub failure: Option<Failed>,
}

impl Session {
    /// Without what no report needs: policies and reasons are written by strangers, at any length.
    fn cut(mut self) -> Self {
        let policy = &mut self.policy;
        for list in [&mut policy.strings, &mut policy.patterns] {
            list.truncate(MOST_LINES);
            list.iter_mut().for_each(cut);
        }
        if let Some(failure) = &mut self.failure {
            cut(&mut failure.reason);
        }
        self
    }
}

fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(MOST_CHARS) {
        text.truncate(end);
    }
}

/// What an entry costs besides its texts.
const OVERHEAD: usize = 200;

impl Applied {
    fn bytes(&self) -> usize {
        let lists = self.strings.iter().chain(&self.patterns);
        OVERHEAD + 2 * self.domain.len() + lists.map(|line| line.len() + 32).sum::<usize>()
    }
}

impl Failed {
    fn bytes(&self) -> usize {
        OVERHEAD + self.host.len() + self.reason.len()
    }
}

/// Counts. Shared by all clients; it stays when the configuration changes.
pub struct Collector {
    directory: Option<PathBuf>,
    days: Mutex<BTreeMap<u64, Day>>,
    changed: AtomicBool,
}

/// `2026-11-22` of a day, counted from 1970.
pub fn date_of(day: u64) -> String {
    let seconds = i64::try_from(day.saturating_mul(DAY)).unwrap_or(0);
    jiff::Timestamp::from_second(seconds).map(|at| at.strftime("%Y-%m-%d").to_string()).unwrap_or_default()
}

/// The day of a date.
pub fn day_of(date: &str) -> Option<u64> {
    let at: jiff::Timestamp = format!("{date}T00:00:00Z").parse().ok()?;
    u64::try_from(at.as_second()).ok().map(|seconds| seconds / DAY)
}

fn time_of(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(0);
    jiff::Timestamp::from_second(seconds).map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}

/// The days of a directory, the oldest first. What makes no sense is passed over.
pub fn read_days(directory: &Path) -> Vec<(u64, Day)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).take(1000);
    let read = |path: PathBuf| {
        let day = day_of(path.file_name()?.to_str()?.strip_suffix(".json")?)?;
        // What is no file of ours is not opened: a FIFO would keep us waiting.
        let ours = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= LARGEST);
        let text = ours.then(|| std::fs::read(&path).ok()).flatten()?;
        let read: Day = serde_json::from_slice(&text).ok()?;
        Some((day, Day { bytes: text.len(), ..read }))
    };
    let mut days: Vec<(u64, Day)> = entries.filter_map(|entry| read(entry.path())).collect();
    days.sort_by_key(|(day, _)| *day);
    days
}

impl Collector {
    /// Counts in memory only.
    pub fn in_memory() -> Self {
        Self { directory: None, days: Mutex::default(), changed: AtomicBool::new(false) }
    }

    /// Goes on with what is in a directory.
    pub fn open(directory: &Path) -> Self {
        let days = read_days(directory).into_iter().collect();
        Self { directory: Some(directory.to_owned()), days: Mutex::new(days), changed: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Day>> {
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a session, at `now` in seconds since 1970.
    pub fn count(&self, session: Session, now: u64) {
        self.changed.store(true, Ordering::Relaxed);
        let session = session.cut();
        let mut days = self.lock();
        let day = days.entry(now / DAY).or_default();
        let full = day.domains.len() >= MOST_DOMAINS || day.bytes >= MOST_BYTES;
        if full && !day.domains.contains_key(&session.domain) {
            day.passed_over += 1;
            return;
        }
        let full = day.bytes >= MOST_BYTES;
        let policies = day.domains.entry(session.domain).or_default();
        let at = policies.iter().position(|counted| counted.policy == session.policy);
        let at = match at {
            Some(at) => at,
            None if full || policies.len() >= MOST_POLICIES => {
                day.passed_over += 1;
                return;
            }
            None => {
                day.bytes += session.policy.bytes();
                policies.push(Counted { policy: session.policy, ..Counted::default() });
                policies.len() - 1
            }
        };
        let Some(counted) = policies.get_mut(at) else { return };
        let Some(failure) = session.failure else {
            counted.successes += 1;
            return;
        };
        let same = |one: &&mut Failed| {
            (&one.kind, &one.ours, &one.host, &one.address, &one.reason)
                == (&failure.kind, &failure.ours, &failure.host, &failure.address, &failure.reason)
        };
        if let Some(known) = counted.failures.iter_mut().find(same) {
            known.count += 1;
        } else if counted.failures.len() < MOST_FAILURES && !full {
            day.bytes += failure.bytes();
            counted.failures.push(Failed { count: 1, ..failure });
        } else {
            counted.unlisted += 1;
        }
    }

    /// Writes what is new to the directory. To be called every minute and at the end.
    ///
    /// # Errors
    /// It cannot be written; it is tried again at the next call.
    pub fn save(&self) -> std::io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        if !self.changed.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let days: Vec<(u64, Vec<u8>)> = {
            let days = self.lock();
            days.iter().map(|(day, counted)| (*day, serde_json::to_vec(counted).unwrap_or_default())).collect()
        };
        let write = || {
            std::fs::create_dir_all(directory)?;
            for (day, text) in &days {
                let (path, new) = (directory.join(format!("{}.json", date_of(*day))), directory.join("new"));
                std::fs::write(&new, text)?;
                std::fs::rename(&new, path)?;
            }
            Ok(())
        };
        write().inspect_err(|_| self.changed.store(true, Ordering::Relaxed))
    }

    /// Reports of days that are over, and for which it is time: each domain has its own within `spread` seconds after
    /// midnight. RFC 8460 section 4.1
    pub fn due(&self, now: u64, spread: u64) -> Vec<(u64, String, Vec<Counted>)> {
        let (today, days) = (now / DAY, self.lock());
        let mut due = Vec::new();
        for (day, counted) in days.range(..today) {
            let over = (day + 1) * DAY;
            for (domain, policies) in &counted.domains {
                // Not secret: only so that not all the world's reports are sent at midnight.
                let mixed = domain.bytes().fold(5381u64, |sum, byte| sum.wrapping_mul(33) ^ u64::from(byte));
                let delay = mixed.checked_rem(spread).unwrap_or(0);
                if !counted.settled.contains(domain) && over + delay <= now {
                    due.push((*day, domain.clone(), policies.clone()));
                }
            }
        }
        due
    }

    /// A report needs no more care.
    pub fn settle(&self, day: u64, domain: &str) {
        self.changed.store(true, Ordering::Relaxed);
        if let Some(counted) = self.lock().get_mut(&day) {
            counted.settled.insert(domain.to_owned());
        }
    }

    /// Forgets days whose reports are settled, and those that are too old.
    pub fn forget(&self, now: u64) {
        let today = now / DAY;
        let mut gone = Vec::new();
        self.lock().retain(|day, counted| {
            let done = counted.domains.keys().all(|domain| counted.settled.contains(domain));
            let keep = *day >= today || (!done && day + KEPT >= today);
            if !keep {
                gone.push(*day);
            }
            keep
        });
        if let Some(directory) = &self.directory {
            for day in gone {
                let _ = std::fs::remove_file(directory.join(format!("{}.json", date_of(day))));
            }
        }
    }
}

/// Who reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reporter {
    /// `organization-name`
    pub organization: String,
    /// `contact-info`, and the sender of the mail.
    pub contact: String,
    /// The domain that reports are from.
    pub domain: String,
}

/// The name of a report: the same for the same one.
pub fn report_id(day: u64, domain: &str, reporter: &Reporter) -> String {
    format!("{}-{domain}@{}", date_of(day), reporter.domain)
}

/// The report about a domain. RFC 8460 section 4.4
pub fn report(day: u64, domain: &str, policies: &[Counted], reporter: &Reporter) -> Value {
    let one = |counted: &Counted| {
        let failures: u64 = counted.failures.iter().map(|one| one.count).sum();
        let mut policy = json!({
            "policy-type": counted.policy.kind,
            "policy-domain": counted.policy.domain,
        });
        if !counted.policy.strings.is_empty() {
            policy["policy-string"] = json!(counted.policy.strings);
        }
        if !counted.policy.patterns.is_empty() {
            policy["mx-host"] = json!(counted.policy.patterns);
        }
        let mut value = json!({
            "policy": policy,
            "summary": {
                "total-successful-session-count": counted.successes,
                "total-failure-session-count": failures + counted.unlisted,
            },
        });
        if !counted.failures.is_empty() {
            value["failure-details"] = counted.failures.iter().map(details).collect();
        }
        value
    };
    json!({
        "organization-name": reporter.organization,
        "date-range": { "start-datetime": time_of(day * DAY), "end-datetime": time_of((day + 1) * DAY - 1) },
        "contact-info": reporter.contact,
        "report-id": report_id(day, domain, reporter),
        "policies": policies.iter().map(one).collect::<Vec<_>>(),
    })
}

fn details(one: &Failed) -> Value {
    let mut value = json!({ "result-type": one.kind, "failed-session-count": one.count });
    let fields = [
        ("sending-mta-ip", &one.ours),
        ("receiving-mx-hostname", &one.host),
        ("receiving-ip", &one.address),
        ("failure-reason-code", &one.reason),
    ];
    for (name, text) in fields {
        if !text.is_empty() {
            value[name] = json!(text);
        }
    }
    value
}

/// Hands a compressed report over by HTTPS (RFC 8460 section 5.4).
///
/// # Errors
/// It was not taken; why.
pub async fn post(
    how: &crate::sts::Fetching,
    dns: &dyn yamabiko_dns::Resolver,
    (host, port, path): (&str, u16, &str),
    report: &[u8],
) -> Result<(), String> {
    let request = crate::https::Request {
        method: "POST",
        host,
        port,
        path,
        content_type: "application/tlsrpt+gzip",
        body: report,
        most: 64 * 1024,
        limit: how.limit,
    };
    match crate::https::ask(&how.client, dns, request).await {
        Ok(answer) if (200..300).contains(&answer.code) => Ok(()),
        Ok(answer) => Err(format!("the server answers {}", answer.code)),
        Err(trouble) => Err(trouble.to_string()),
    }
}

/// A report as it is sent.
pub fn compressed(report: &Value) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    // A vector takes everything.
    let _ = encoder.write_all(report.to_string().as_bytes());
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
