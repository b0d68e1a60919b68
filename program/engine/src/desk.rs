//! The postmaster's desk: every notice about trouble passes here on its way into the queue.
//!
//! * Notices that the stage that saw the trouble cannot make are made here (the client's).
//! * With `notify_digest_classes` or `notify_hourly_limit` some are only counted; the summaries are made here.
//! * Trouble of the classes in `notify_channel_classes` goes a second way too.
//! * Notices to senders pass the governor: what is beyond a budget is held or listed in `notices-not-sent.jsonl`.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify as Bell;
use tokio::task::JoinHandle;
use yamabiko_bounce::{Budget, Digest, DigestSettings, Fate, Governor, GovernorSettings, Rates, Summary};
use yamabiko_config::View;
use yamabiko_deliver::{ClientTrouble, TellTrouble};
use yamabiko_envelope::{
    Content, Envelope, Kind, Notify, Recipient, Severity, Source, Submission, Timestamp, Trouble, TroubleClass,
};
use yamabiko_message::date::Zone;
use yamabiko_receive::Admission as _;
use yamabiko_report::SessionNotice;

use crate::accept::Acceptance;
use crate::boss::Boss;
use crate::channel::{Channel, Means};

/// Bytes of the list of notices that were not sent; then it is begun anew and the old one kept once.
const LIST: u64 = 10 << 20;

/// The settings of a configuration.
#[derive(Clone, Debug)]
pub struct DeskSettings {
    digest: DigestSettings,
    governor: GovernorSettings,
    channel: Channel,
    list: std::path::PathBuf,
    backscatter_limit: u64,
    backscatter_unit: Duration,
}

impl DeskSettings {
    /// From main.cf, and what an administrator should know.
    pub fn from_view(view: &View) -> (Self, Vec<String>) {
        let (digest, mut warnings) = DigestSettings::from_view(view);
        let (governor, said) = GovernorSettings::from_view(view);
        warnings.extend(said);
        let (channel, said) = Channel::from_view(view);
        warnings.extend(said);
        let list = Path::new(&view.text("data_directory")).join("notices-not-sent.jsonl");
        let backscatter_limit = u64::try_from(view.int("backscatter_recipient_limit")).unwrap_or(0);
        let backscatter_unit = view.duration("backscatter_time_unit");
        (Self { digest, governor, channel, list, backscatter_limit, backscatter_unit }, warnings)
    }
}

/// Made before the rest of the engine is, so the rest is put in later.
pub struct Desk {
    acceptance: OnceLock<Acceptance>,
    /// Notices to the postmaster.
    digest: Mutex<Digest>,
    /// Notices to senders that were held or only listed.
    held: Mutex<Digest>,
    governor: Mutex<Governor>,
    backscatter: Mutex<Rates>,
    /// When it was told last that there is no room for mail; `None` while there is.
    no_room: Mutex<Option<Timestamp>>,
    bell: Bell,
}

/// How often it is told that there is no room, while there is none.
const TOLD_AGAIN: Duration = Duration::from_secs(3600);
/// Room that comes and goes is not told of each time.
const SETTLED: Duration = Duration::from_secs(60);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held notices are always told of in summaries.
fn held_settings(digest: &DigestSettings) -> DigestSettings {
    DigestSettings { classes: HashSet::from([TroubleClass::Bounce]), hourly_limit: 0, ..digest.clone() }
}

impl Desk {
    /// Without the rest of the engine as yet.
    pub fn new(view: &View) -> Arc<Self> {
        let settings = DigestSettings::from_view(view).0;
        Arc::new(Self {
            acceptance: OnceLock::new(),
            held: Mutex::new(Digest::new(held_settings(&settings))),
            digest: Mutex::new(Digest::new(settings)),
            governor: Mutex::default(),
            backscatter: Mutex::default(),
            no_room: Mutex::default(),
            bell: Bell::new(),
        })
    }

    /// Other settings; what was counted stays.
    pub fn reconfigure(&self, settings: &DeskSettings) {
        lock(&self.held).reconfigure(held_settings(&settings.digest));
        lock(&self.digest).reconfigure(settings.digest.clone());
    }

    /// A notice to the postmaster on its way into the queue. False when it was counted instead.
    pub fn passes(&self, engine: &Acceptance, submission: &Submission) -> bool {
        let Some(trouble) = &submission.trouble else { return true };
        let generation = engine.current().get();
        let settings = &generation.desk;
        let now = Timestamp::now();
        if is_about_notices(submission, trouble, generation.bounce.double_bounce_address()) {
            let text = "no postmaster notification about a session in which another one was sent";
            engine.current().say(Severity::Info, None, text);
            return false;
        }
        let fate = if settings.digest.is_on() {
            let sample = sample(engine, trouble, now);
            let fate = lock(&self.digest).take(trouble, &sample, now);
            self.bell.notify_one();
            fate
        } else {
            Fate::Send
        };
        if let Some(class) = trouble.classes.iter().copied().max()
            && fate == Fate::Send
            && settings.channel.covers(class)
        {
            settings.channel.tell(means(engine), object(engine, class, trouble, 1, now));
        }
        fate == Fate::Send
    }

    /// Trouble that no mail can tell of: the second way only. Whoever is about to end waits for what this gives.
    pub fn alarm(&self, class: TroubleClass, text: &str) -> Option<JoinHandle<()>> {
        let engine = self.acceptance.get()?;
        let generation = engine.current().get();
        if !generation.desk.channel.covers(class) {
            return None;
        }
        let trouble = Trouble { classes: vec![class], reason: text.to_owned(), ..Trouble::default() };
        generation.desk.channel.tell(means(engine), object(engine, class, &trouble, 1, Timestamp::now()))
    }

    /// Trouble of the mail system itself: told the second way, and by mail to `error_notice_recipient` where
    /// `notify_classes` has the class. Ends when both are done; what fails of it is in the log.
    pub async fn trouble(&self, engine: &Acceptance, class: TroubleClass, subject: &str, text: String) {
        let told = self.alarm(class, subject);
        let classes = engine.current().get().config.main().list("notify_classes");
        if classes.iter().any(|word| TroubleClass::of(word) == Some(class)) {
            let _ = self.mail(engine, "error_notice_recipient", subject, text).await;
        }
        if let Some(told) = told {
            let _ = told.await;
        }
    }

    /// A message was not taken, or would not be, for want of room. The notice that `notify_classes` may ask for has no room either.
    pub fn no_room(&self, text: &str) {
        let now = Timestamp::now();
        let first = {
            let mut told = lock(&self.no_room);
            let first = told.is_none_or(|told| now.since(told) >= TOLD_AGAIN);
            if first {
                *told = Some(now);
            }
            first
        };
        if first {
            let _told = self.alarm(TroubleClass::Resource, text);
            self.bell.notify_one();
        }
    }

    /// There is room.
    pub fn room_again(&self) {
        let mut told = lock(&self.no_room);
        if told.is_some_and(|told| Timestamp::now().since(told) >= SETTLED) {
            *told = None;
            drop(told);
            let _told = self.alarm(TroubleClass::Resource, "there is room for mail again");
        }
    }

    /// What becomes of a notice to a sender: `None` when it is not to be sent at all.
    pub async fn govern(
        &self,
        engine: &Acceptance,
        mut submission: Submission,
        about: &Envelope,
        original: Option<&[u8]>,
    ) -> Option<Submission> {
        let generation = engine.current().get();
        let settings = &generation.desk;
        let recipient = submission.envelope.recipients.first().map_or("", |to| to.address.as_str()).to_owned();
        let now = Timestamp::now();
        let say = |id, text: &str| {
            let kind = Kind::Text { severity: Severity::Info, queue_id: Some(id), text: text.to_owned() };
            engine.current().emit("bounce", now, kind);
        };
        let ours = settings.governor.asks_for_networks() && generation.proofs.is_of_mynetworks(&about.client).await;
        if !settings.governor.is_worth_a_notice(about, original, ours) {
            let why = "the message was not authenticated, local or aligned (bounce_requires)";
            say(about.queue_id, &format!("no notification to <{recipient}>: {why}"));
            self.list(engine, settings, about, &recipient, why);
            return None;
        }
        let (why, keep) = match lock(&self.governor).take(&settings.governor, &recipient, about, now) {
            Budget::Send => return Some(submission),
            Budget::Hold(why) => (why, true),
            Budget::Count(why) => (why, false),
        };
        let client =
            about.client.address.map_or_else(String::new, |address| format!("{}[{address}]", about.client.name));
        let destination = yamabiko_address::split_domain(&recipient).1.unwrap_or_default().to_owned();
        let trouble = Trouble {
            classes: vec![TroubleClass::Bounce],
            reason: why.clone(),
            destination,
            sender: recipient.clone(),
            client,
        };
        let first = lock(&self.held).take(&trouble, &sample(engine, &trouble, now), now) == Fate::Send;
        self.bell.notify_one();
        if first {
            self.tell_of_hold(engine, &why);
        }
        if keep {
            let id = submission.envelope.queue_id;
            submission.hold = true;
            say(id, &format!("notification to <{recipient}> is held: {why}"));
            return Some(submission);
        }
        say(about.queue_id, &format!("no notification to <{recipient}>: {why}"));
        self.list(engine, settings, about, &recipient, &why);
        None
    }

    /// One recipient gets more mail without a sender than `backscatter_recipient_limit`.
    pub fn is_flooded(&self, settings: &DeskSettings, recipient: &str, now: Timestamp) -> bool {
        let key = || yamabiko_address::domain::fold_case(recipient).into_owned();
        settings.backscatter_limit > 0
            && lock(&self.backscatter).is_over(key(), settings.backscatter_limit, settings.backscatter_unit, now)
    }

    /// The first notice that is held: somebody has to know.
    fn tell_of_hold(&self, engine: &Acceptance, why: &str) {
        let text = format!(
            "Notices to senders of undeliverable mail are kept on hold: {why}.\n\n\
             Either something is wrong with a list of addresses, or somebody sends mail in the names of others.\n\
             A summary follows. To look at them, to release or to delete them:\n\n\
             \u{20}   mailq\n    postsuper -H QUEUE_ID\n    postsuper -d QUEUE_ID\n"
        );
        self.mail(engine, "bounce_notice_recipient", "notices of failure are kept on hold", text);
    }

    /// A line for the list of notices that were not sent.
    fn list(&self, engine: &Acceptance, settings: &DeskSettings, about: &Envelope, recipient: &str, why: &str) {
        let line = serde_json::json!({
            "time": engine.date(Timestamp::now()),
            "queue_id": about.queue_id.to_string(),
            "notice_to": recipient,
            "recipients": about.recipients.iter().take(10).map(|one| one.address.as_str()).collect::<Vec<_>>(),
            "client": about.client.address.map(|address| address.to_string()),
            "why": why,
        });
        let path = &settings.list;
        if std::fs::metadata(path).is_ok_and(|found| found.len() > LIST) {
            let _ = std::fs::rename(path, path.with_extension("jsonl.1"));
        }
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
        if let Err(error) = opened.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
            engine.current().say(Severity::Warning, None, &format!("{}: {error}", path.display()));
        }
    }

    /// Sends the summaries when they are due, and looks whether there is room again: nobody may come and ask for it.
    pub async fn run(self: Arc<Self>, engine: Acceptance) {
        loop {
            let next = [lock(&self.digest).next(), lock(&self.held).next()].into_iter().flatten().min();
            let wait =
                next.map_or(Duration::from_secs(3600), |at| at.since(Timestamp::now()) + Duration::from_millis(5));
            let full = lock(&self.no_room).is_some();
            tokio::select! {
                () = tokio::time::sleep(if full { wait.min(SETTLED) } else { wait }) => {}
                () = self.bell.notified() => {}
            }
            if full {
                // Tells of it if so.
                let _free = engine.free_space();
            }
            let now = Timestamp::now();
            let due = lock(&self.digest).due(now, engine.zone());
            let held = lock(&self.held).due(now, engine.zone());
            self.send(&engine, due, held);
        }
    }

    /// Everything that was counted goes out before the end.
    pub async fn flush(&self, engine: &Acceptance) {
        let now = Timestamp::now();
        let due = lock(&self.digest).flush(now, engine.zone());
        let held = lock(&self.held).flush(now, engine.zone());
        for task in self.send(engine, due, held) {
            let _ = task.await;
        }
    }

    fn send(&self, engine: &Acceptance, due: Vec<Summary>, held: Vec<Summary>) -> Vec<JoinHandle<()>> {
        let generation = engine.current().get();
        let channel = &generation.desk.channel;
        let mut tasks = Vec::new();
        for summary in due {
            let to = match summary.class {
                TroubleClass::Bounce => "bounce_notice_recipient",
                TroubleClass::DoubleBounce => "2bounce_notice_recipient",
                TroubleClass::Delay => "delay_notice_recipient",
                _ => "error_notice_recipient",
            };
            if channel.covers(summary.class) {
                let trouble = Trouble { reason: summary.subject.clone(), ..Trouble::default() };
                channel.tell(means(engine), object(engine, summary.class, &trouble, summary.count, Timestamp::now()));
            }
            tasks.push(self.mail(engine, to, &summary.subject, summary.text));
        }
        for summary in held {
            let subject = format!("{} more notices of failure were kept back", summary.count);
            let list = generation.desk.list.display();
            let text = format!(
                "{}\nNotices on hold are in the queue (mailq); those beyond bounce_hold_limit are in {list}.\n",
                summary.text
            );
            tasks.push(self.mail(engine, "bounce_notice_recipient", &subject, text));
        }
        tasks
    }

    fn mail(&self, engine: &Acceptance, to: &str, subject: &str, text: String) -> JoinHandle<()> {
        let (id, now) = (engine.next_id(), Timestamp::now());
        let generation = engine.current().get();
        let to = generation.config.main().text(to);
        let (host, name) = (&generation.myhostname, &generation.mail_name);
        let date = engine.date(now);
        let text = format!(
            "Date: {date}\nFrom: Mail Delivery System <MAILER-DAEMON>\nTo: Postmaster <{to}>\nSubject: {name}: {subject}\n\
             Auto-Submitted: auto-generated\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\
             Content-Transfer-Encoding: 8bit\n\n{text}"
        );
        let sender = generation.bounce.double_bounce_address();
        let mut submission = own_notice(Envelope::new(id, now, sender), &to, text.into_bytes());
        submission.trace_fields = format!("Received: by {host} ({name})\n\tid {id}; {date}\n").into_bytes();
        queue(engine.clone(), submission)
    }

    /// The rest of the engine.
    pub fn complete(&self, acceptance: Acceptance) {
        let _ = self.acceptance.set(acceptance);
    }

    /// For the client: who hears of servers that do not understand us.
    pub fn ear(self: &Arc<Self>) -> TellTrouble {
        let desk = Arc::downgrade(self);
        Arc::new(move |trouble| {
            if let Some(desk) = desk.upgrade() {
                desk.tell_of_server(trouble);
            }
        })
    }

    /// `notify_classes = protocol` of the client.
    fn tell_of_server(&self, trouble: ClientTrouble) {
        let Some(engine) = self.acceptance.get().cloned() else { return };
        let (id, now) = (engine.next_id(), Timestamp::now());
        let generation = engine.current().get();
        let main = generation.config.main();
        let (host, name) = (&generation.myhostname, &generation.mail_name);
        let (date, to) = (engine.date(now), main.text("error_notice_recipient"));
        let text = SessionNotice {
            date: &date,
            postmaster: &to,
            subject: &format!("{name} {} client: errors from {}", trouble.protocol, trouble.peer),
            opening: &format!("Unexpected response from {}.", trouble.peer),
            transcript: &trouble.transcript,
            reason: None,
            of_server: false,
        }
        .compose();
        let sender = generation.bounce.double_bounce_address();
        let mut submission = own_notice(Envelope::new(id, now, sender), &to, text);
        submission.trace_fields = format!("Received: by {host} ({name})\n\tid {id}; {date}\n").into_bytes();
        submission.trouble = Some(Box::new(Trouble {
            classes: vec![TroubleClass::Protocol],
            reason: trouble.reply,
            destination: trouble.destination,
            sender: trouble.sender,
            client: trouble.peer,
        }));
        drop(generation);
        queue(engine, submission);
    }
}

fn queue(engine: Acceptance, submission: Submission) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(refusal) = engine.accept(submission, None).await {
            let text = format!("notice could not be queued: {}", refusal.text);
            engine.current().say(Severity::Warning, None, &text);
        }
    })
}

/// The transcript is that of a session in which nothing but notices to a postmaster were sent, ours or another system's: two
/// systems that refuse each other's notices would tell of that for ever. `double_bounce` is whom ours come from.
fn is_about_notices(submission: &Submission, trouble: &Trouble, double_bounce: &str) -> bool {
    let ours = yamabiko_address::split_domain(double_bounce).0;
    let is_notice = |sender: &str| {
        let local = yamabiko_address::split_domain(sender).0;
        local.eq_ignore_ascii_case(ours) || local.eq_ignore_ascii_case("double-bounce") || sender == "#@[]"
    };
    if trouble.classes.iter().any(|class| !matches!(class, TroubleClass::Policy | TroubleClass::Protocol)) {
        return false;
    }
    let Content::Memory(text) = &submission.content else { return false };
    let text = String::from_utf8_lossy(text);
    let mut senders = text.lines().filter_map(|line| {
        let said =
            line.trim_start().strip_prefix("In:").or_else(|| line.trim_start().strip_prefix("Out:"))?.trim_start();
        let path = said.get(..10).filter(|verb| verb.eq_ignore_ascii_case("MAIL FROM:")).and(said.get(10..))?;
        Some(path.trim_start().trim_start_matches('<').split(['>', ' ']).next().unwrap_or_default())
    });
    senders.next().is_some_and(is_notice) && senders.all(is_notice)
}

/// A line that says which trouble it was.
fn sample(engine: &Acceptance, trouble: &Trouble, now: Timestamp) -> String {
    let mut text = format!("{}: {}", engine.date(now), trouble.reason);
    for (word, value) in [("client", &trouble.client), ("from", &trouble.sender), ("for", &trouble.destination)] {
        if !value.is_empty() {
            text.push_str(&format!(", {word} {value}"));
        }
    }
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(500).collect()
}

/// The engine did not come up, so there is no desk: told the second way. What was wrong with that is given back.
pub async fn alarm_without_engine(main: &View, boss: &Boss, class: TroubleClass, text: &str) -> Vec<String> {
    let channel = Channel::from_view(main).0;
    if !channel.covers(class) {
        return Vec::new();
    }
    let said = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&said);
    let say = Arc::new(move |text: &str| lock(&kept).push(text.to_owned()));
    let date = yamabiko_message::date::rfc5322(Timestamp::now().seconds(), &Zone::system());
    let trouble = Trouble { reason: text.to_owned(), ..Trouble::default() };
    let object = object_of(&date, &main.text("myhostname"), class, &trouble, 1);
    if let Some(told) = channel.tell(Means { boss: Some(boss.clone()), say }, object) {
        let _ = told.await;
    }
    std::mem::take(&mut *lock(&said))
}

fn means(engine: &Acceptance) -> Means {
    let current = engine.current().clone();
    Means { boss: engine.boss(), say: Arc::new(move |text| current.say(Severity::Warning, None, text)) }
}

/// For the second way.
fn object(engine: &Acceptance, class: TroubleClass, trouble: &Trouble, count: u64, now: Timestamp) -> String {
    object_of(&engine.date(now), &engine.current().get().myhostname, class, trouble, count)
}

fn object_of(date: &str, host: &str, class: TroubleClass, trouble: &Trouble, count: u64) -> String {
    serde_json::json!({
        "time": date,
        "host": host,
        "class": class.name(),
        "count": count,
        "reason": trouble.reason,
        "destination": trouble.destination,
        "sender": trouble.sender,
        "client": trouble.client,
    })
    .to_string()
}

/// A notice of ours for one recipient, about which nobody is told anything.
pub fn own_notice(mut envelope: Envelope, to: &str, text: Vec<u8>) -> Submission {
    envelope.recipients.push(Recipient {
        address: to.to_owned(),
        original: to.to_owned(),
        notify: Notify { never: true, ..Notify::default() },
        ..Recipient::default()
    });
    Submission::new(envelope, Content::from(text), Source::Notice)
}
