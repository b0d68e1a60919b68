//! A session with a made-up engine, DNS and configuration, and scripts to run against it.

#![allow(dead_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use yamabiko_config::{Config, Host, ServiceType};
use yamabiko_dns::{FakeResolver, Hosts, Native, Resolver};
use yamabiko_envelope::{Event, EventSink, Kind, QueueId, Severity, Submission, Timestamp};
use yamabiko_lookup::TableSet;
use yamabiko_receive::{
    Accepted, Action, Admission, AuthStep, Etrn, Later, Limits, Refusal, Session, Settings, SettingsError,
    Surroundings, TlsSource, Verdict, look_up,
};
use yamabiko_sasl::{base64, mechanisms::Mechanism};
use yamabiko_tls::{Failure, Handed};

/// 2026-11-21 16:53:54 UTC
pub const NOW: Timestamp = Timestamp(1_795_280_034_000_000);

pub const MAIN: &str = "\
compatibility_level = 3.6
myhostname = mx.lab.test
mydomain = lab.test
myorigin = lab.test
mydestination = lab.test, mx.lab.test, localhost
mynetworks = 127.0.0.0/8, [::1]/128
inet_interfaces = all
alias_maps =
alias_database =
local_recipient_maps = inline:{user1=x, user2=x, user3=x, postmaster=x, root=x}
mail_name = Postfix
message_size_limit = 10240000
smtpd_forbid_bare_newline_exclusions =
smtpd_error_sleep_time = 0
parent_domain_matches_subdomains = debug_peer_list,fast_flush_domains,mynetworks,permit_mx_backup_networks,relay_domains,smtpd_access_maps
";

pub const ZONE: &str = "\
client.outside.test A 198.51.100.7
198.51.100.7 PTR client.outside.test
198.51.100.8 PTR forged.outside.test
forged.outside.test A 198.51.100.99
remote.test MX 10 mx1.remote.test
mx1.remote.test A 192.0.2.25
null.test MX 0 .
soft.test SERVFAIL
";

#[derive(Default)]
pub struct FakeEngine {
    pub submissions: Mutex<Vec<Submission>>,
    pub refuse: Mutex<Option<Refusal>>,
    pub free: Mutex<Option<u64>>,
    next: AtomicU64,
}

impl Admission for FakeEngine {
    fn next_queue_id(&self) -> QueueId {
        QueueId::new(NOW.0 + self.next.fetch_add(1, Ordering::Relaxed), 1)
    }
    fn submit(&self, submission: Submission) -> Later<'_, Result<Accepted, Refusal>> {
        let refused = self.refuse.lock().unwrap().clone();
        if refused.is_none() {
            self.submissions.lock().unwrap().push(submission);
        }
        Box::pin(async move { refused.map_or(Ok(Accepted::default()), Err) })
    }
    fn etrn<'a>(&'a self, domain: &'a str) -> Later<'a, Etrn> {
        Box::pin(async move { if domain == "backup.test" { Etrn::Started } else { Etrn::Denied } })
    }
    fn free_space(&self) -> Option<u64> {
        *self.free.lock().unwrap()
    }
}

#[derive(Default)]
pub struct Log(pub Mutex<Vec<Event>>);

impl EventSink for Log {
    fn emit(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Log {
    /// Lines somewhat as the log will have them.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|event| line(&event.kind)).collect()
    }
}

fn line(kind: &Kind) -> String {
    match kind {
        Kind::Accepted { client, forwarded, .. } => {
            format!("Q: client={} {}", client.name, forwarded.as_ref().map_or("", |(id, _)| id))
        }
        Kind::SessionEnded { how, after, .. } => format!("{how:?} after {after}"),
        Kind::Disconnected { counts, notes, .. } => {
            let counts: Vec<_> = counts.iter().map(|c| format!("{}={}/{}", c.name, c.ok, c.total)).collect();
            format!("disconnect {}{}", counts.join(" "), notes.iter().map(|n| format!(" {n}")).collect::<String>())
        }
        Kind::Decided(d) => format!(
            "{}: {}: {} from {}: {}; from={:?} to={:?} proto={} helo={:?}",
            d.queue_id.map_or("NOQUEUE", |_| "Q"),
            d.word,
            d.stage,
            d.client.name,
            d.text,
            d.sender,
            d.recipient,
            d.protocol,
            d.helo
        )
        .replace("Some(\"", "<")
        .replace("\")", ">")
        .replace("from=None", "from=-")
        .replace("to=None", "to=-"),
        Kind::Text { severity, text, .. } => match severity {
            Severity::Warning => format!("warning: {text}"),
            _ => text.clone(),
        },
        other => format!("{other:?}"),
    }
}

pub fn settings(main: &str) -> Result<Arc<Settings>, SettingsError> {
    let master = "smtp inet n - n - - smtpd\n";
    let text = format!("{MAIN}{main}");
    let config = Config::from_texts(&text, master, ("main.cf", "master.cf"), &Host::default()).expect("configuration");
    let service = config.service("smtp", ServiceType::Inet).expect("service");
    let mut settings = Settings::from(&config.service_view(service), &TableSet::default())?;
    settings.open_tls(&TlsSource { files: &made(), sni: &[], before: None });
    Ok(Arc::new(settings))
}

pub struct World {
    pub settings: Arc<Settings>,
    pub engine: Arc<FakeEngine>,
    pub log: Arc<Log>,
    pub resolver: Arc<FakeResolver>,
    pub limits: Arc<Limits>,
    /// What comes of a handshake.
    pub handshake: Result<yamabiko_tls::Session, Failure>,
    /// Nobody can be asked about logins.
    pub deaf: bool,
}

/// A handshake without a client certificate.
pub fn encrypted() -> yamabiko_tls::Session {
    yamabiko_tls::Session {
        protocol: "TLSv1.3",
        cipher: yamabiko_tls::Cipher { name: "TLS_AES_256_GCM_SHA384", bits: 256 },
        key_exchange: "X25519".to_owned(),
        server_signature: Some(yamabiko_tls::Signature { name: "ECDSA (prime256v1)".to_owned(), digest: "SHA256" }),
        client_signature: None,
        peer: None,
        resumed: false,
        server_name: None,
        unmatched_name: None,
    }
}

/// The file `/made/key.pem` that tests can name.
fn made() -> Handed {
    static MADE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let text = MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["mx.lab.test".to_owned()]).expect("certificate");
        format!("{}{}", made.signing_key.serialize_pem(), made.cert.pem())
    });
    Handed([("/made/key.pem".to_owned(), Ok(text.clone().into_bytes()))].into())
}

impl World {
    pub fn new(main: &str) -> Self {
        Self {
            settings: settings(main).expect("settings"),
            engine: Arc::default(),
            log: Arc::default(),
            resolver: Arc::new(FakeResolver::parse(ZONE).expect("zone")),
            limits: Limits::new(Duration::from_secs(60)),
            handshake: Ok(encrypted()),
            deaf: false,
        }
    }

    pub fn native(&self) -> Native {
        let hosts = Hosts::from_text("127.0.0.1 localhost\n::1 localhost\n");
        Native::new(Arc::new(hosts), Arc::clone(&self.resolver) as Arc<dyn Resolver>)
    }

    pub fn connect(&self, address: &str) -> Talk<'_> {
        let address = address.parse().expect("address");
        let (peer, warning) = pollster::block_on(look_up(&self.native(), address, 4711));
        if let Some(text) = warning {
            let kind = Kind::Text { severity: Severity::Warning, queue_id: None, text };
            let origin = yamabiko_envelope::Origin::new(&"postfix".into(), "smtpd");
            self.log.emit(Event { at: NOW, origin, kind });
        }
        let standing = pollster::block_on(self.settings.policy.standing(&peer));
        let around = Surroundings {
            admission: Arc::clone(&self.engine) as Arc<dyn Admission>,
            events: Arc::clone(&self.log) as Arc<dyn EventSink>,
            limits: Arc::clone(&self.limits),
        };
        let session = Session::new(Arc::clone(&self.settings), false, around, peer, standing, None, NOW);
        Talk {
            world: self,
            session,
            input: Vec::new(),
            closed: false,
            pauses: 0,
            exchange: Vec::new(),
            clear: Vec::new(),
        }
    }
}

/// A session in which both sides are played by the test.
pub struct Talk<'w> {
    world: &'w World,
    pub session: Session,
    input: Vec<u8>,
    pub closed: bool,
    pub pauses: u32,
    exchange: Vec<String>,
    /// What was said in the clear before a handshake.
    clear: Vec<u8>,
}

impl Talk<'_> {
    /// Gives the session some bytes and returns what it says.
    pub fn say(&mut self, bytes: &[u8]) -> String {
        self.input.extend_from_slice(bytes);
        while !self.closed {
            let (used, action) = self.session.advance(&self.input, NOW);
            self.input.drain(..used);
            match action {
                Action::Read => break,
                Action::Close => self.closed = true,
                Action::Pause(_) => self.pauses += 1,
                Action::Check(check) => {
                    let mut state = self.session.take_checks();
                    let facts = self.session.facts();
                    let policy = &self.world.settings.policy;
                    let outcome = pollster::block_on(policy.check(
                        check,
                        &facts,
                        &mut state,
                        &*self.world.resolver,
                        Some(&*self.world.engine),
                    ));
                    self.session.checked(state, outcome);
                }
                Action::Classify => {
                    let standing = pollster::block_on(self.world.settings.policy.standing(self.session.facts().peer));
                    self.session.stands(standing);
                }
                // No filter is configured here.
                Action::Filter(step) => panic!("{step:?}"),
                Action::Etrn(domain) => {
                    let result = pollster::block_on(self.world.engine.etrn(&domain));
                    self.session.etrn_done(result);
                }
                Action::Handshake => {
                    // As the driver does: what was sent in the clear is not from the client that shakes hands.
                    self.input.clear();
                    self.clear = std::mem::take(self.session.output());
                    self.session.secured(Some(self.world.handshake.clone()));
                }
                Action::Mechanisms => {
                    let all = ["PLAIN", "LOGIN"].map(|name| Mechanism::new(name, ["plaintext"].into_iter()));
                    let cram = Mechanism::new("CRAM-MD5", ["dictionary", "active"].into_iter());
                    let token = Mechanism::new("EXTERNAL", [].into_iter());
                    let all: Vec<_> = all.into_iter().chain([cram, token]).collect();
                    self.session.mechanisms(if self.world.deaf { Err("nobody there".into()) } else { Ok(all.into()) });
                }
                Action::Authenticate(step) => {
                    let verdict = self.judge(step);
                    self.session.judged(verdict);
                }
                Action::Submit(submission) => {
                    let result = pollster::block_on(self.world.engine.submit(*submission));
                    self.session.submitted(result);
                }
            }
        }
        let mut said = std::mem::take(&mut self.clear);
        said.append(self.session.output());
        String::from_utf8(said).expect("replies are UTF-8")
    }

    /// Somebody who knows alice and her secret.
    fn judge(&mut self, step: AuthStep) -> Verdict {
        let response = match step {
            AuthStep::Begin { mechanism, initial } => {
                self.exchange = vec![mechanism.to_ascii_uppercase()];
                match (initial, self.exchange[0].as_str()) {
                    (Some(initial), _) => initial,
                    (None, "LOGIN") => return Verdict::Challenge("VXNlcm5hbWU6".into()),
                    (None, _) => return Verdict::Challenge(String::new()),
                }
            }
            AuthStep::Respond(text) => text,
        };
        let Some(text) = base64::decode(&response).and_then(|bytes| String::from_utf8(bytes).ok()) else {
            let reason = Some("Invalid base64 data in initial response".into());
            return Verdict::Failed { user: None, reason, temporary: false };
        };
        self.exchange.extend(text.split('\0').map(str::to_owned));
        let (user, password) = match &self.exchange[..] {
            [login, _] if login == "LOGIN" => return Verdict::Challenge("UGFzc3dvcmQ6".into()),
            [login, user, password] if login == "LOGIN" => (user.clone(), password.clone()),
            [_, _, user, password] => (user.clone(), password.clone()),
            _ => (String::new(), String::new()),
        };
        match (user.as_str(), password.as_str()) {
            ("alice" | "bob", "secret") => Verdict::Done(user),
            ("broken", _) => Verdict::Trouble("the table is gone".into()),
            ("", _) => Verdict::Failed { user: None, reason: None, temporary: false },
            ("later", _) => Verdict::Failed { user: Some(user), reason: Some("come again".into()), temporary: true },
            _ => Verdict::Failed { user: Some(user), reason: None, temporary: false },
        }
    }

    /// A line and its reply, without line ends.
    pub fn line(&mut self, line: &str) -> String {
        self.say(format!("{line}\r\n").as_bytes()).trim_end().replace("\r\n", "\n")
    }
}

/// A small generator, so that tests are the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }
}
