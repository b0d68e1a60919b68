//! `smtpd_sasl_type = yamabiko`: logins from a table of password hashes, for sites without Dovecot.
//!
//! `smtpd_sasl_path` is `type:table`, or the path of a text file that `yamabiko passwd` keeps. Comparing a password takes
//! some ten milliseconds on purpose; so many at once as [`AT_ONCE`], on threads of their own.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;
use yamabiko_lookup::{Maps, TableSet};
use yamabiko_sasl::exchange::{self, Exchange, Step};
use yamabiko_sasl::mechanisms::Mechanism;
use yamabiko_sasl::passwords;
use yamabiko_sasl::scram::{Hash, Verifier};

use super::Verdict;

/// Passwords that are compared at the same time; each takes a processor and up to 19 MB.
const AT_ONCE: usize = 2;
/// Attempts that may wait for that; more are told to come again.
const IN_LINE: usize = 200;
/// A file larger than this is not read for its kinds of hashes.
const MAX_FILE: u64 = 16 << 20;

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);
static LINE: Semaphore = Semaphore::const_new(IN_LINE);

/// The table.
pub struct Store {
    maps: Maps,
    mechanisms: Arc<[Mechanism]>,
}

/// One client's attempt.
pub struct Attempt {
    maps: Maps,
    exchange: Exchange,
}

/// For users who are not there: the same answers each time, which nobody can foresee.
fn secret() -> &'static [u8; 32] {
    static SECRET: OnceLock<[u8; 32]> = OnceLock::new();
    // Without random numbers there is no exchange in which it would be asked for.
    SECRET.get_or_init(|| passwords::random().unwrap_or_default())
}

impl Store {
    /// The table, and what is to be said about it.
    pub(super) fn open(tables: &TableSet, path: &str) -> (Self, Vec<String>) {
        let mut notices = Vec::new();
        let (spec, file) = match path.split_once(':') {
            None => (format!("texthash:{path}"), Some(path)),
            Some(("texthash" | "hash", file)) => (path.to_owned(), Some(file)),
            Some(_) => (path.to_owned(), None),
        };
        if file.is_some_and(|file| !Path::new(file).is_absolute()) {
            notices.push(format!(
                "smtpd_sasl_path = {path} names no table: write the path of a file that \"yamabiko passwd\" makes"
            ));
        }
        let scram = file.is_some_and(only_scram);
        let maps = Maps::open(tables, "smtpd_sasl_path", &spec);
        (Self { maps, mechanisms: exchange::mechanisms(scram).into() }, notices)
    }

    pub(super) fn mechanisms(&self) -> Arc<[Mechanism]> {
        Arc::clone(&self.mechanisms)
    }

    pub(super) async fn begin(&self, mechanism: &str, initial: Option<&str>) -> (Option<Attempt>, Verdict) {
        let nonce = match passwords::random::<18>() {
            Ok(random) => yamabiko_sasl::base64::encode(&random),
            Err(why) => return (None, Verdict::Trouble(why.to_string())),
        };
        let (exchange, step) = Exchange::begin(mechanism, initial, nonce);
        let mut attempt = Attempt { maps: self.maps.clone(), exchange };
        let verdict = attempt.go_on(step).await;
        (Some(attempt), verdict)
    }

    /// The table answers from a socket, waited for with blocking calls.
    pub(super) fn is_remote(&self) -> bool {
        self.maps.is_remote()
    }
}

/// Every user of a text file has a SCRAM verifier: only then SCRAM is offered, as clients do not fall back to another
/// mechanism.
fn only_scram(file: &str) -> bool {
    if std::fs::metadata(file).map_or(true, |found| found.len() > MAX_FILE) {
        return false;
    }
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let entries = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let mut all = entries.map(|line| {
        let stored = line.split_once([' ', '\t']).map_or("", |(_, stored)| stored);
        passwords::scram(stored, Hash::Sha256).is_some()
    });
    let first = all.next().unwrap_or(false);
    first && all.all(|scram| scram)
}

impl Attempt {
    pub(super) async fn respond(&mut self, response: &str) -> Verdict {
        let step = self.exchange.respond(response);
        self.go_on(step).await
    }

    async fn go_on(&mut self, step: Step) -> Verdict {
        match step {
            Step::Challenge(text) => Verdict::Challenge(text),
            Step::Done(user) => Verdict::Done(user),
            Step::Failed { user, reason } => {
                let reason = (reason != "(reason unavailable)").then(|| reason.to_owned());
                Verdict::Failed { user, reason, temporary: false }
            }
            Step::Check { user, password } => self.check(user, password).await,
            Step::Find { user, hash } => match self.maps.find(&user).await {
                Err(error) => Verdict::Trouble(error.to_string()),
                Ok(found) => {
                    let verifier = found.and_then(|stored| passwords::scram(&stored, hash));
                    let verifier = verifier.unwrap_or_else(|| Verifier::of_nobody(hash, &user, secret()));
                    match self.exchange.found(verifier) {
                        Step::Challenge(text) => Verdict::Challenge(text),
                        _ => Verdict::failed("authentication protocol error"),
                    }
                }
            },
        }
    }

    async fn check(&self, user: String, password: String) -> Verdict {
        let stored = match self.maps.find(&user).await {
            Ok(stored) => stored,
            Err(error) => return Verdict::Trouble(error.to_string()),
        };
        let Ok(_place) = LINE.try_acquire() else {
            return Verdict::Trouble("SASL: too many passwords to compare at once".to_owned());
        };
        // Never closed.
        let _turn = TURNS.acquire().await;
        let compared = tokio::task::spawn_blocking(move || match stored {
            Some(stored) => passwords::verify(&password, &stored),
            // As long as for a user who is there.
            None => passwords::verify(&password, NOBODY).map(|_| false),
        });
        match compared.await {
            Ok(Ok(true)) => Verdict::Done(user),
            Ok(Ok(false)) => Verdict::Failed { user: Some(user), reason: None, temporary: false },
            Ok(Err(why)) => Verdict::Trouble(format!("SASL: password table: entry of {user}: {why}")),
            Err(error) => Verdict::Trouble(error.to_string()),
        }
    }
}

/// A hash that no password fits.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
