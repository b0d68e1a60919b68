//! MTA-STS (RFC 8461): which domains demand TLS with a certificate, found in DNS and over HTTPS, and remembered.
//!
//! * [`StsPolicy`] is what a domain demands; [`record_id`] reads the record that announces it.
//! * [`Sts`] remembers policies, in memory and in a directory with a file for each domain, so that they survive restarts.
//!   [`Sts::find`] says what holds for a domain now, and fetches it when it is new; [`Sts::refresh`] fetches again before
//!   policies run out.
//!
//! A policy that is known holds until its `max_age` is over, whatever DNS and the web server say in the meantime, but for a
//! new policy: who stands in between cannot make it go away. What cannot be fetched and was not known is as if there were
//! none. No policy is ever fetched over a connection whose certificate is not good for `mta-sts.DOMAIN`.

mod policy;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use yamabiko_dns::Resolver;
use yamabiko_tls::Client;

use crate::https::{self, Request, Trouble};

pub use policy::{Mode, StsPolicy, record_id};

/// Domains that are remembered.
const MOST: usize = 10_000;
/// After a fetch that failed the next one waits for so long. RFC 8461 section 3.3
const PAUSE: u64 = 300;
/// Policies older than this are fetched again in the background.
const DAY: u64 = 24 * 3600;
/// A refresh that failed is tried again after this.
const AGAIN: u64 = 3600;
/// Policies that nobody asked for in this time are not refreshed.
const FORGOTTEN: u64 = 14 * DAY;
/// A policy may be so long. RFC 8461 section 3.3
const LONGEST: usize = 64 * 1024;

/// What is known of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What it demands.
    pub policy: StsPolicy,
    /// `id` of the record that announced it.
    pub id: String,
    /// When it was fetched, seconds since 1970.
    pub fetched: u64,
}

impl Known {
    /// It holds until then, seconds since 1970.
    pub fn until(&self) -> u64 {
        self.fetched.saturating_add(self.policy.max_age)
    }
}

/// Why a policy that is announced could not be had (RFC 8460 section 4.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchFailure {
    /// `sts-policy-fetch-error`, `sts-policy-invalid` or `sts-webpki-invalid`.
    pub kind: &'static str,
    /// In words.
    pub why: String,
}

/// What holds for a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// The policy, if there is one.
    pub known: Option<Arc<Known>>,
    /// A newer or first one is announced, but could not be had.
    pub failure: Option<FetchFailure>,
    /// It was fetched just now, or could not be.
    pub fresh: bool,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    known: Option<Arc<Known>>,
    /// When it was asked for last.
    used: u64,
    /// When a fetch failed last, and how.
    failed: Option<(u64, FetchFailure)>,
}

#[derive(Default)]
struct State {
    entries: HashMap<String, Entry>,
    /// Domains whose policy is being fetched.
    fetching: HashSet<String>,
}

/// How policies are fetched.
#[derive(Clone)]
pub struct Fetching {
    /// Does handshakes with web servers; its authorities are those of the system and of `smtp_tls_CAfile`.
    pub client: Arc<Client>,
    /// Port of web servers.
    pub port: u16,
    /// For one fetch.
    pub limit: Duration,
}

/// Policies of domains. Shared by all clients; it stays when the configuration changes.
pub struct Sts {
    directory: Option<PathBuf>,
    state: Mutex<State>,
    bell: Notify,
}

/// Takes a domain off the list of those that are being fetched, however that ends.
struct Busy<'a>(&'a Sts, String);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.lock().fetching.remove(&self.1);
        self.0.bell.notify_waiters();
    }
}

fn file_of(directory: &Path, domain: &str) -> PathBuf {
    directory.join(format!("{domain}.policy"))
}

/// A file: what is known of the policy, an empty line, the policy.
fn to_file(known: &Known) -> String {
    format!("id: {}\nfetched: {}\n\n{}", known.id, known.fetched, known.policy.to_text())
}

fn from_file(text: &str) -> Option<Known> {
    let (head, body) = text.split_once("\n\n")?;
    let mut known = Known { policy: StsPolicy::parse(body).ok()?, ..Known::default() };
    for line in head.lines() {
        match line.split_once(": ")? {
            ("id", id) => id.clone_into(&mut known.id),
            ("fetched", at) => known.fetched = at.parse().ok()?,
            _ => {}
        }
    }
    Some(known)
}

impl Sts {
    /// Remembers in memory only.
    pub fn in_memory() -> Self {
        Self { directory: None, state: Mutex::default(), bell: Notify::new() }
    }

    /// Remembers in a directory, which is made when there is something to remember. What is there is read; what makes no
    /// sense or is over is passed over.
    pub fn open(directory: &Path, now: u64) -> Self {
        let mut sts = Self::in_memory();
        sts.directory = Some(directory.to_owned());
        for entry in std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).take(MOST) {
            let path = entry.path();
            let domain = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".policy"));
            let Some(domain) = domain else { continue };
            // What is no small file is not opened: a FIFO would keep us waiting.
            let small = entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= 2 * LONGEST as u64);
            let text = small.then(|| std::fs::read_to_string(&path).ok()).flatten();
            let known = text.and_then(|text| from_file(&text));
            match known.filter(|known| known.until() > now) {
                Some(known) => {
                    let used = known.fetched;
                    let entry = Entry { known: Some(Arc::new(known)), used, failed: None };
                    sts.state
                        .get_mut()
                        .unwrap_or_else(PoisonError::into_inner)
                        .entries
                        .insert(domain.to_owned(), entry);
                }
                None => drop(std::fs::remove_file(&path)),
            }
        }
        sts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What holds for `domain` (ASCII, in small letters) at `now`, seconds since 1970. Asks DNS, and the web server when the
    /// policy is new.
    pub async fn find(&self, domain: &str, dns: &dyn Resolver, how: &Fetching, now: u64) -> Finding {
        let name = format!("_mta-sts.{domain}");
        let answer = dns.txt(&name).await;
        let id = record_id(answer.records().iter().map(String::as_str));
        loop {
            let bell = self.bell.notified();
            {
                let mut state = self.lock();
                if let Some(entry) = state.entries.get_mut(domain) {
                    entry.used = now;
                    let known = entry.known.clone().filter(|known| known.until() > now);
                    // Without a record a policy that is known goes on to hold, and one that is not is not looked for.
                    if id.is_none() || known.as_ref().is_some_and(|known| Some(&known.id) == id.as_ref()) {
                        return Finding { known, failure: None, fresh: false };
                    }
                    if let Some((at, failure)) = &entry.failed
                        && at.saturating_add(PAUSE) > now
                    {
                        return Finding { known, failure: Some(failure.clone()), fresh: false };
                    }
                } else if id.is_none() {
                    return Finding::default();
                }
                if state.fetching.insert(domain.to_owned()) {
                    break;
                }
            }
            bell.await;
        }
        let _busy = Busy(self, domain.to_owned());
        self.fetch(domain, &id.unwrap_or_default(), dns, how, now).await
    }

    async fn fetch(&self, domain: &str, id: &str, dns: &dyn Resolver, how: &Fetching, now: u64) -> Finding {
        match fetch(domain, dns, how).await {
            Ok(policy) => {
                let known = Arc::new(Known { policy, id: id.to_owned(), fetched: now });
                self.remember(domain, Arc::clone(&known), now);
                Finding { known: Some(known), failure: None, fresh: true }
            }
            Err(failure) => {
                let mut state = self.lock();
                make_room(&mut state.entries, domain);
                let entry = state.entries.entry(domain.to_owned()).or_default();
                entry.used = now;
                entry.failed = Some((now, failure.clone()));
                let known = entry.known.clone().filter(|known| known.until() > now);
                Finding { known, failure: Some(failure), fresh: true }
            }
        }
    }

    fn remember(&self, domain: &str, known: Arc<Known>, now: u64) {
        if let Some(directory) = &self.directory {
            let (path, new) = (file_of(directory, domain), directory.join(format!("{domain}.new")));
            let made = std::fs::create_dir_all(directory);
            // A policy that is not on disk is fetched again after a restart.
            let _ =
                made.and_then(|()| std::fs::write(&new, to_file(&known))).and_then(|()| std::fs::rename(&new, path));
        }
        let mut state = self.lock();
        let gone = make_room(&mut state.entries, domain);
        state.entries.insert(domain.to_owned(), Entry { known: Some(known), used: now, failed: None });
        drop(state);
        if let (Some(directory), Some(gone)) = (&self.directory, gone) {
            let _ = std::fs::remove_file(file_of(directory, &gone));
        }
    }

    /// Fetches again what is older than a day and was used lately, and forgets what is over. To be called now and then.
    /// Domains whose policy could not be fetched come back with the reason.
    pub async fn refresh(&self, dns: &dyn Resolver, how: &Fetching, now: u64) -> Vec<(String, FetchFailure)> {
        let (old, over) = {
            let mut state = self.lock();
            let mut over = Vec::new();
            state.entries.retain(|domain, entry| {
                let holds = entry.known.as_ref().is_some_and(|known| known.until() > now);
                let waits = entry.failed.as_ref().is_some_and(|(at, _)| at.saturating_add(PAUSE) > now);
                if entry.known.is_some() && !holds {
                    over.push(domain.clone());
                    entry.known = None;
                }
                holds || waits
            });
            let due = |entry: &Entry| {
                let known = entry.known.as_ref()?;
                let tried = entry.failed.as_ref().map_or(0, |(at, _)| *at);
                let wanted = now.saturating_sub(entry.used) < FORGOTTEN;
                let often = DAY.min(known.policy.max_age / 2);
                let old = now.saturating_sub(known.fetched) >= often;
                (wanted && old && now.saturating_sub(tried) >= often.min(AGAIN)).then(|| known.id.clone())
            };
            let old: Vec<(String, String)> =
                state.entries.iter().filter_map(|(domain, entry)| Some((domain.clone(), due(entry)?))).collect();
            (old, over)
        };
        if let Some(directory) = &self.directory {
            for domain in over {
                let _ = std::fs::remove_file(file_of(directory, &domain));
            }
        }
        let mut failures = Vec::new();
        for (domain, known_id) in old {
            if !self.lock().fetching.insert(domain.clone()) {
                continue;
            }
            let _busy = Busy(self, domain.clone());
            let answer = dns.txt(&format!("_mta-sts.{domain}")).await;
            // RFC 8461 section 3.3: a refresh does not need the record.
            let id = record_id(answer.records().iter().map(String::as_str)).unwrap_or(known_id);
            let used = self.lock().entries.get(&domain).map_or(now, |entry| entry.used);
            let finding = self.fetch(&domain, &id, dns, how, now).await;
            if let Some(entry) = self.lock().entries.get_mut(&domain) {
                entry.used = used;
            }
            failures.extend(finding.failure.map(|failure| (domain, failure)));
        }
        failures
    }
}

/// Room for one more domain: that which was asked for longest ago goes.
fn make_room(entries: &mut HashMap<String, Entry>, domain: &str) -> Option<String> {
    if entries.len() < MOST || entries.contains_key(domain) {
        return None;
    }
    let oldest = entries.iter().min_by_key(|(_, entry)| entry.used).map(|(domain, _)| domain.clone())?;
    entries.remove(&oldest);
    Some(oldest)
}

/// Fetches the policy of a domain (RFC 8461 section 3.3): redirects are no policy.
pub(crate) async fn fetch(domain: &str, dns: &dyn Resolver, how: &Fetching) -> Result<StsPolicy, FetchFailure> {
    let host = format!("mta-sts.{domain}");
    let request = Request {
        method: "GET",
        host: &host,
        port: how.port,
        path: "/.well-known/mta-sts.txt",
        content_type: "",
        body: b"",
        most: LONGEST,
        limit: how.limit,
    };
    let failed =
        |kind, why: String| FetchFailure { kind, why: format!("https://{host}/.well-known/mta-sts.txt: {why}") };
    let answer = https::ask(&how.client, dns, request).await.map_err(|trouble| {
        let certificate = matches!(trouble, Trouble::Certificate(_));
        failed(if certificate { "sts-webpki-invalid" } else { "sts-policy-fetch-error" }, trouble.to_string())
    })?;
    if answer.code != 200 {
        return Err(failed("sts-policy-fetch-error", format!("the server answers {}", answer.code)));
    }
    if answer.content_type != "text/plain" {
        let kind = policy::shown(&answer.content_type);
        return Err(failed("sts-policy-invalid", format!("its type is \"{kind}\", not text/plain")));
    }
    let text =
        std::str::from_utf8(&answer.body).map_err(|_| failed("sts-policy-invalid", "it is no text".to_owned()))?;
    StsPolicy::parse(text).map_err(|why| failed("sts-policy-invalid", why))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
