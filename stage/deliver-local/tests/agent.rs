//! local(8) decided on paper: aliases, `.forward` and mailboxes with a worker that only writes down what it is asked.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use yamabiko_config::{Config, Host};
use yamabiko_deliver_local::agent::{
    As, Boxed, Destination, Forward, LocalAgent, Settings, Surroundings, User, VirtualAgent, VirtualSettings,
};
use yamabiko_deliver_local::job::{Done, Exits, Job, Place, QmailFile};
use yamabiko_envelope::{
    Content, DeliveryRecipient, DeliveryRequest, Envelope, Failure, Outcome, QueueId, Recipient, RecipientState,
    Result as Ended, Timestamp,
};
use yamabiko_lookup::TableSet;

const ID: QueueId = QueueId::new(1_795_280_034_000_000, 1);

/// A machine with users `alice`, `bob` and `root`, whose `.forward` files are given.
#[derive(Default)]
struct Machine {
    forwards: HashMap<String, String>,
    includes: HashMap<String, String>,
    /// `.qmail` files by path.
    qmails: HashMap<String, String>,
    jobs: Mutex<Vec<String>>,
    /// How often a worker was asked for a `.forward` alone.
    asked: AtomicU32,
}

impl Machine {
    fn note(&self, text: String) {
        self.jobs.lock().unwrap().push(text);
    }
}

fn name_of(user: &As) -> String {
    match user {
        As::Login { name, .. } => name.clone(),
        As::Ids { uid, gid } => format!("{uid}:{gid}"),
        As::Service { name, user, .. } => format!("{name} as {user}"),
    }
}

impl Surroundings for Machine {
    fn work<'a>(&'a self, user: As, job: Job, _: Option<&'a Content>) -> Boxed<'a, io::Result<Done>> {
        let who = name_of(&user);
        let job = match job {
            Job::DeliverUnless { files, place, prepend } => {
                if files.iter().any(|file| self.forwards.contains_key(file)) {
                    return Box::pin(std::future::ready(Ok(Done::Withheld)));
                }
                Job::Deliver { place, prepend }
            }
            Job::Forward { .. } => {
                self.asked.fetch_add(1, Ordering::Relaxed);
                job
            }
            job => job,
        };
        let done = match &job {
            Job::Forward { paths, .. } => {
                let found =
                    paths.iter().find_map(|path| self.forwards.get(path).map(|text| (text.clone(), path.clone())));
                Done::Text(found)
            }
            Job::DeliverUnless { .. } => unreachable!("made one of the others above"),
            Job::DotQmail { home, candidates, base, .. } => {
                let file = |name: &str| self.qmails.get(&format!("{home}/{name}"));
                let found = candidates.iter().enumerate().find_map(|(at, name)| Some((at, file(name)?.clone())));
                Done::Qmail(found.map(|(index, text)| QmailFile {
                    index,
                    text,
                    executable: false,
                    has_owner: file(&format!("{base}-owner")).is_some(),
                    has_owner_default: file(&format!("{base}-owner-default")).is_some(),
                }))
            }
            Job::Deliver { place: Place::Command { command, environment, exits: Exits::Qmail, .. }, .. } => {
                let value = |name: &str| environment.iter().find(|(n, _)| n == name).map_or("-", |(_, value)| value);
                let told = ["EXT", "EXT2", "DEFAULT", "HOST2", "NEWSENDER"].map(value).join(",");
                self.note(format!("{who} program {command} {told}"));
                match command.as_str() {
                    "enough" => Done::Enough(String::new()),
                    "no" => Done::failed("5.3.0", "no, thanks"),
                    _ => Done::Delivered(String::new()),
                }
            }
            Job::Home { path } if path == "/home/bob" => {
                Done::failed("4.3.0", "cannot access home directory /home/bob: No such file or directory")
            }
            Job::Home { .. } => Done::Text(None),
            Job::Include { path, .. } => Done::Text(self.includes.get(path).map(|text| (text.clone(), path.clone()))),
            Job::Deliver { place: Place::Mailbox { path, .. }, .. } if path.ends_with("full") => {
                Done::failed("4.3.0", "No space left on device")
            }
            Job::Deliver { place: Place::Mailbox { path, .. }, .. } => {
                self.note(format!("{who} mbox {path}"));
                Done::Delivered(String::new())
            }
            Job::Deliver { place: Place::Maildir { path, .. }, .. } => {
                self.note(format!("{who} maildir {path}"));
                Done::Delivered(String::new())
            }
            Job::Deliver { place: Place::Command { command, .. }, .. } => {
                self.note(format!("{who} command {command}"));
                Done::Delivered(String::new())
            }
        };
        Box::pin(std::future::ready(Ok(done)))
    }

    fn route<'a>(&'a self, address: &'a str) -> Boxed<'a, Result<Destination, String>> {
        let address = if address.contains('@') { address.to_owned() } else { format!("{address}@here.test") };
        let transport = if address.ends_with("@here.test") { "local" } else { "smtp" };
        let nexthop = address.rsplit('@').next().unwrap_or_default().to_owned();
        Box::pin(std::future::ready(Ok(Destination { transport: transport.to_owned(), nexthop, address })))
    }

    fn forward<'a>(&'a self, _: &'a DeliveryRequest, forward: Forward) -> Boxed<'a, Result<QueueId, String>> {
        self.note(format!(
            "forward {} from {} ({})",
            forward.recipients.join(" "),
            forward.sender,
            forward.delivered_to
        ));
        Box::pin(std::future::ready(Ok(ID)))
    }

    fn pass<'a>(
        &'a self,
        request: &'a DeliveryRequest,
        recipient: usize,
        address: &'a str,
        transport: &'a str,
        nexthop: &'a str,
    ) -> Boxed<'a, Vec<Outcome>> {
        self.note(format!("pass {address} {transport} {nexthop}"));
        let outcome = Outcome {
            relay: transport.to_owned(),
            logged: true,
            ..Outcome::of_our_own(
                request.recipients[recipient].index,
                Ended::Sent(yamabiko_envelope::Action::Delivered),
                yamabiko_status::EnhancedStatus::success(0, 0),
                "passed",
                self.now(),
            )
        };
        Box::pin(std::future::ready(vec![outcome]))
    }

    fn warn(&self, text: String) {
        self.note(format!("warning {text}"));
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_795_280_034)
    }

    fn user(&self, name: &str) -> Result<Option<Arc<User>>, String> {
        let uid = ["root", "alice", "bob", "nobody", "alias"].iter().position(|known| *known == name);
        Ok(uid.map(|uid| {
            Arc::new(User {
                name: name.to_owned(),
                uid: uid as u32,
                home: format!("/home/{name}"),
                shell: "/bin/sh".to_owned(),
            })
        }))
    }

    fn user_name(&self, _: u32) -> Result<Option<String>, String> {
        Ok(None)
    }
}

fn config(main: &str) -> Arc<Config> {
    let base = "compatibility_level = 3.6\nmyhostname = mx.here.test\nmydomain = here.test\nmydestination = here.test\n\
                alias_database =\nmail_spool_directory = /spool\nlocal_recipient_maps =\n";
    let main = format!("{base}{main}\n");
    Config::from_texts(&main, "local unix - n n - - local\n", ("main.cf", "master.cf"), &Host::default()).unwrap()
}

fn request(recipient: &str, content: &str) -> DeliveryRequest {
    let mut envelope = Envelope::new(ID, Timestamp::from_seconds(1_795_280_000), "s@remote.test");
    envelope.recipients.push(Recipient {
        address: recipient.to_owned(),
        original: recipient.to_owned(),
        ..Recipient::default()
    });
    DeliveryRequest {
        envelope: Arc::new(envelope),
        content: Content::from(content.as_bytes().to_vec()),
        transport: "local".into(),
        nexthop: "here.test".into(),
        recipients: vec![DeliveryRecipient { index: 0, address: recipient.to_owned() }],
        sender: "s@remote.test".into(),
        activated: Timestamp::default(),
        started: Timestamp::default(),
        reuse: Default::default(),
    }
}

/// Outcomes as `status address: reason`, then what was asked of the machine.
fn deliver(main: &str, machine: Machine, recipient: &str, content: &str) -> Vec<String> {
    let config = config(main);
    let machine = Arc::new(machine);
    let settings = Settings::from_view(&config.main(), &TableSet::default(), "local");
    let agent = LocalAgent::new(settings, Arc::clone(&machine) as Arc<dyn Surroundings>);
    let request = request(recipient, content);
    let attempt = pollster::block_on(agent.deliver(&request));
    shown(&attempt.outcomes, recipient, &machine)
}

fn shown(outcomes: &[Outcome], recipient: &str, machine: &Machine) -> Vec<String> {
    let mut lines: Vec<String> = machine.jobs.lock().unwrap().clone();
    lines.extend(outcomes.iter().map(|outcome| {
        assert!(outcome.result != Ended::Sent(yamabiko_envelope::Action::Relayed));
        format!("{} {}: {}", outcome.status, outcome.expanded.as_deref().unwrap_or(recipient), outcome.reason)
    }));
    lines
}

fn machine(forwards: &[(&str, &str)]) -> Machine {
    let forwards = forwards.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
    Machine { forwards: forwards.collect(), ..Machine::default() }
}

#[test]
fn where_mail_goes() {
    let forwarded = format!("2.0.0 list@here.test: forwarded as {ID}");
    let alias = |text: &str| format!("alias_maps = inline:{{ {text} }}\nrecipient_delimiter = +");
    let cases: Vec<(String, Machine, &str, Vec<String>)> = vec![
        (
            alias("x=y"),
            machine(&[]),
            "alice@here.test",
            vec!["alice mbox /spool/alice".into(), "2.0.0 alice@here.test: delivered to mailbox".into()],
        ),
        (
            "alias_maps =\nhome_mailbox = Maildir/".into(),
            machine(&[]),
            "alice@here.test",
            vec!["alice maildir /home/alice/Maildir/".into(), "2.0.0 alice@here.test: delivered to maildir".into()],
        ),
        (
            alias("x=y"),
            machine(&[]),
            "nosuch@here.test",
            vec!["5.1.1 nosuch@here.test: unknown user: \"nosuch\"".into()],
        ),
        // Extensions: the alias with it first, then without; then the mailbox.
        (
            alias("list+urgent=bob, list=alice"),
            machine(&[]),
            "list+urgent@here.test",
            vec!["bob mbox /spool/bob".into(), "2.0.0 bob@here.test: delivered to mailbox".into()],
        ),
        (
            alias("list=alice"),
            machine(&[]),
            "list+other@here.test",
            vec!["alice mbox /spool/alice".into(), "2.0.0 alice@here.test: delivered to mailbox".into()],
        ),
        // Lists, the same mailbox once, mail that goes on in one message.
        (
            alias("{list = alice, bob, alice, far@else.test, too@else.test}"),
            machine(&[]),
            "list@here.test",
            vec![
                "alice mbox /spool/alice".into(),
                "bob mbox /spool/bob".into(),
                "forward far@else.test too@else.test from s@remote.test (list@here.test)".into(),
                "2.0.0 alice@here.test: delivered to mailbox".into(),
                "2.0.0 bob@here.test: delivered to mailbox".into(),
                forwarded.clone(),
            ],
        ),
        // With an owner everything goes on, in the owner's name.
        (
            alias("{list = alice}, {owner-list = bob}"),
            machine(&[]),
            "list@here.test",
            vec!["forward alice@here.test from owner-list@here.test (list@here.test)".into(), forwarded],
        ),
        // An alias in a circle ends; one that names itself means the user.
        (
            alias("{a = b}, {b = a}"),
            machine(&[]),
            "a@here.test",
            vec!["warning alias database loop for b".into(), "5.4.6 b@here.test: alias database loop for b".into()],
        ),
        (
            alias("{a = (nobody)}"),
            machine(&[]),
            "a@here.test",
            vec!["5.3.5 a@here.test: alias a expands to nothing".into()],
        ),
        (
            alias("{alice = alice, \\bob}"),
            machine(&[]),
            "alice@here.test",
            vec![
                "alice mbox /spool/alice".into(),
                "bob mbox /spool/bob".into(),
                "2.0.0 alice@here.test: delivered to mailbox".into(),
                "2.0.0 bob@here.test: delivered to mailbox".into(),
            ],
        ),
        // .forward: itself is the mailbox, a command runs as its user, a file with an extension comes first.
        (
            alias("x=y"),
            machine(&[("/home/alice/.forward", "# me\nalice, \"|/bin/prog x\"\n")]),
            "alice@here.test",
            vec![
                "alice mbox /spool/alice".into(),
                "alice command /bin/prog x".into(),
                "2.0.0 alice@here.test: delivered to mailbox".into(),
                "2.0.0 alice@here.test: delivered to command: /bin/prog x".into(),
            ],
        ),
        (
            alias("x=y"),
            machine(&[("/home/alice/.forward+tag", "bob"), ("/home/alice/.forward", "far@else.test")]),
            "alice+tag@here.test",
            vec![
                "forward bob@here.test from s@remote.test (alice+tag@here.test)".into(),
                format!("2.0.0 alice+tag@here.test: forwarded as {ID}"),
            ],
        ),
        // The plain one counts for who names himself in that of an extension.
        (
            alias("x=y"),
            machine(&[("/home/alice/.forward+tag", "alice"), ("/home/alice/.forward", "\\alice, far@else.test")]),
            "alice+tag@here.test",
            vec![
                "alice mbox /spool/alice".into(),
                "forward far@else.test from s@remote.test (alice+tag@here.test)".into(),
                "2.0.0 alice@here.test: delivered to mailbox".into(),
                format!("2.0.0 alice+tag@here.test: forwarded as {ID}"),
            ],
        ),
        // Two users who forward to each other: a new message, in which `Delivered-To:` tells of the circle.
        (
            alias("x=y"),
            machine(&[("/home/alice/.forward", "bob"), ("/home/bob/.forward", "alice")]),
            "alice@here.test",
            vec![
                "forward bob@here.test from s@remote.test (alice@here.test)".into(),
                format!("2.0.0 alice@here.test: forwarded as {ID}"),
            ],
        ),
        // Nobody's name is no command.
        (
            "alias_maps =\nluser_relay = $local".into(),
            machine(&[]),
            "/tmp/x@here.test",
            vec!["5.1.1 /tmp/x@here.test: unknown user: \"/tmp/x\"".into()],
        ),
        (
            "alias_maps =".into(),
            machine(&[]),
            "MAILER-DAEMON@here.test",
            vec![
                "warning required alias not found: mailer-daemon".into(),
                "2.0.0 MAILER-DAEMON@here.test: discarded".into(),
            ],
        ),
        // Commands and files out of an include file are off by default; aliases run as default_privs.
        (
            alias("{p = \"|/bin/prog\"}"),
            machine(&[]),
            "p@here.test",
            vec!["nobody command /bin/prog".into(), "2.0.0 p@here.test: delivered to command: /bin/prog".into()],
        ),
        // Nobody's mail.
        (
            "alias_maps =\nfallback_transport = smtp:[inner]".into(),
            machine(&[]),
            "who@here.test",
            vec!["pass who@here.test smtp [inner]".into(), "2.0.0 who@here.test: passed".into()],
        ),
        (
            "alias_maps =\nluser_relay = $local@else.test".into(),
            machine(&[]),
            "who@here.test",
            vec![
                "forward who@else.test from s@remote.test (who@here.test)".into(),
                format!("2.0.0 who@here.test: forwarded as {ID}"),
            ],
        ),
        (
            "alias_maps =\nmailbox_transport = lmtp:unix:/x".into(),
            machine(&[]),
            "alice@here.test",
            vec!["pass alice@here.test lmtp unix:/x".into(), "2.0.0 alice@here.test: passed".into()],
        ),
    ];
    for (main, machine, recipient, expected) in cases {
        assert_eq!(deliver(&main, machine, recipient, "Subject: x\n\nbody\n"), expected, "{recipient} with {main}");
    }
}

/// The whole alias is tried again: nobody gets it with every attempt.
#[test]
fn nothing_is_sent_on_of_what_waits() {
    for (file, sent_on) in [("/var/full", false), ("/var/file", true)] {
        let main = format!("alias_maps = inline:{{ {{ list = far@there.test, {file} }} }}");
        let shown = deliver(&main, machine(&[]), "list@here.test", "\n").join("\n");
        assert_eq!(shown.contains("forward far@there.test"), sent_on, "{shown}");
        assert_eq!(shown.contains("4.3.0"), !sent_on, "{shown}");
    }
}

/// The list of `main` is worked on again after an attempt, with what the queue remembers of that: what was asked of the machine,
/// and the outcomes.
fn again(main: &str, outcomes: &[Outcome]) -> Vec<String> {
    let config = config(main);
    let machine = Arc::new(machine(&[]));
    let settings = Settings::from_view(&config.main(), &TableSet::default(), "local");
    let agent = LocalAgent::new(settings, Arc::clone(&machine) as Arc<dyn Surroundings>);
    let mut request = request("list@here.test", "\n");
    let settled = outcomes.iter().filter(|outcome| outcome.result != Ended::Deferred);
    let failure = Failure {
        status: yamabiko_status::EnhancedStatus::transient(3, 0),
        reason: "later".into(),
        diagnostic: String::new(),
        remote_mta: String::new(),
        relay: "none".into(),
        settled: settled.flat_map(|outcome| outcome.members.clone()).collect(),
    };
    let envelope = Arc::get_mut(&mut request.envelope).unwrap();
    envelope.recipients[0].state = RecipientState::Deferred(Box::new(failure));
    let attempt = pollster::block_on(agent.deliver(&request));
    shown(&attempt.outcomes, "list@here.test", &machine)
}

fn first(main: &str) -> Vec<Outcome> {
    let config = config(main);
    let settings = Settings::from_view(&config.main(), &TableSet::default(), "local");
    let agent = LocalAgent::new(settings, Arc::new(machine(&[])) as Arc<dyn Surroundings>);
    pollster::block_on(agent.deliver(&request("list@here.test", "\n"))).outcomes
}

#[test]
fn members_that_are_settled_are_passed_over() {
    let list = |members: &str| format!("alias_maps = inline:{{ {{list = {members}}} }}");
    // What the list was at the first attempt, what it is at the second, and what that does.
    for (before, after, expected) in [
        (
            "/var/file, |command, alice, nobody-here, /var/full, far@there.test",
            "/var/file, |command, alice, nobody-here, /var/good, far@there.test",
            vec![
                "nobody mbox /var/good".to_owned(),
                "forward far@there.test from s@remote.test (list@here.test)".into(),
                "2.0.0 list@here.test: delivered to file: /var/good".into(),
                format!("2.0.0 list@here.test: forwarded as {ID}"),
            ],
        ),
        (
            "alice, /var/full",
            "alice, /var/full, bob",
            vec![
                "bob mbox /spool/bob".into(),
                "4.3.0 list@here.test: cannot append message to file /var/full: No space left on device".into(),
                "2.0.0 bob@here.test: delivered to mailbox".into(),
            ],
        ),
        ("alice, /var/full", "alice", vec!["2.0.0 list@here.test: delivered to all others of the list before".into()]),
        (
            "/var/full, far@there.test",
            "far@there.test",
            vec![
                "forward far@there.test from s@remote.test (list@here.test)".into(),
                format!("2.0.0 list@here.test: forwarded as {ID}"),
            ],
        ),
    ] {
        assert_eq!(again(&list(after), &first(&list(before))), expected, "{before}, then {after}");
    }
}

#[test]
fn include_files_may_not_run_commands() {
    let mut machine = machine(&[]);
    machine.includes.insert("/etc/list".into(), "alice\n# c\n\"|rm -rf /\"\n/tmp/file\n".into());
    let main = "alias_maps = inline:{ {l = :include:/etc/list} }";
    assert_eq!(
        deliver(main, machine, "l@here.test", "\n"),
        [
            "forward alice@here.test from s@remote.test (l@here.test)",
            "5.7.1 l@here.test: mail to command is restricted",
            "5.7.1 l@here.test: mail to file is restricted",
            &format!("2.0.0 l@here.test: forwarded as {ID}"),
        ]
    );
}

#[test]
fn a_message_that_was_here_before_is_a_loop() {
    let content = "Received: x\nDelivered-To: ALICE@here.test\n\nDelivered-To: bob@here.test\n";
    let main = "alias_maps =";
    assert_eq!(
        deliver(main, machine(&[]), "alice@here.test", content),
        ["5.4.6 alice@here.test: mail forwarding loop for alice@here.test"]
    );
    assert_eq!(deliver(main, machine(&[]), "bob@here.test", content).len(), 2);
}

#[test]
fn virtual_mailboxes() {
    let main = "virtual_mailbox_domains = v.test\nvirtual_mailbox_base = /vmail\nrecipient_delimiter = +\n\
                virtual_mailbox_maps = inline:{ a@v.test=a/Maildir/, b@v.test=b, low@v.test=low }\n\
                virtual_uid_maps = inline:{ low@v.test=5, @v.test=5000 }\nvirtual_gid_maps = static:5000";
    for (recipient, expected) in [
        ("a@v.test", vec!["5000:5000 maildir /vmail/a/Maildir/", "2.0.0 a@v.test: delivered to maildir"]),
        ("a+x@v.test", vec!["5000:5000 maildir /vmail/a/Maildir/", "2.0.0 a+x@v.test: delivered to maildir"]),
        ("b@v.test", vec!["5000:5000 mbox /vmail/b", "2.0.0 b@v.test: delivered to mailbox"]),
        ("c@v.test", vec!["5.1.1 c@v.test: unknown user: \"c@v.test\""]),
        (
            "low@v.test",
            vec![
                "warning recipient low@v.test: bad uid 5 in virtual_uid_maps",
                "4.3.5 low@v.test: mail system configuration error",
            ],
        ),
    ] {
        let config = config(main);
        let machine = Arc::new(machine(&[]));
        let settings = VirtualSettings::from_view(&config.main(), &TableSet::default(), "virtual");
        let agent = VirtualAgent::new(settings, Arc::clone(&machine) as Arc<dyn Surroundings>);
        let attempt = pollster::block_on(agent.deliver(&request(recipient, "\n")));
        assert_eq!(shown(&attempt.outcomes, recipient, &machine), expected, "{recipient}");
    }
}

#[test]
fn a_list_without_end_is_told_of_once() {
    let endless = machine(&[("/home/alice/.forward", &"alice,".repeat(400_000))]);
    let lines = deliver("alias_maps =", endless, "alice@here.test", "\n");
    let loops = lines.iter().filter(|line| line.contains("possible alias database loop")).count();
    assert_eq!((loops, lines.len() < 10), (1, true), "{} {:?}", lines.len(), &lines[..lines.len().min(10)]);
}

#[test]
fn qmail_users() {
    let all = [
        ("alice/.qmail", "# mine\n./Maildir/\n&far@else.test\n"),
        ("alice/.qmail-list", "&one@else.test\ntwo@else.test\n./archive\n"),
        ("alice/.qmail-list-owner", "./owner\n"),
        ("alice/.qmail-each", "&one@else.test\nu\n"),
        ("alice/.qmail-each-owner", ""),
        ("alice/.qmail-each-owner-default", ""),
        ("alice/.qmail-sort-default", "|first\n&kept@else.test\n|enough\n./never\n"),
        ("alice/.qmail-no", "&never@else.test\n|no\n./never\n"),
        ("alice/.qmail-blank", "\n./Mailbox\n"),
        ("alice/.qmail-empty", ""),
        ("alias/.qmail-info", "&alice@here.test\n"),
    ];
    let machine = || Machine {
        qmails: all.iter().map(|(path, text)| (format!("/home/{path}"), (*text).to_owned())).collect(),
        forwards: [("/home/alice/.forward".to_owned(), "x@y.test".to_owned())].into(),
        ..Machine::default()
    };
    let sorted = "sort-urgent-now,urgent-now,urgent-now,here,s@remote.test";
    let cases: Vec<(&str, &str, Vec<String>)> = vec![
        (
            "qmail",
            "alice",
            vec![
                "alice maildir /home/alice/./Maildir/".into(),
                "forward far@else.test from s@remote.test (alice@here.test)".into(),
                "2.0.0: did 1+1+0".into(),
            ],
        ),
        (
            "qmail",
            "ALICE-List",
            vec![
                "alice mbox /home/alice/./archive".into(),
                "forward one@else.test two@else.test from ALICE-List-owner@here.test (ALICE-List@here.test)".into(),
                "2.0.0: did 1+2+0".into(),
            ],
        ),
        (
            "qmail",
            "alice-each",
            vec![
                "forward one@else.test from alice-each-owner-one=else.test@here.test (alice-each@here.test)".into(),
                "forward u from alice-each-owner-u=here.test@here.test (alice-each@here.test)".into(),
                "2.0.0: did 0+2+0".into(),
            ],
        ),
        (
            "qmail",
            "alice-sort-urgent-now",
            vec![
                format!("alice program first {sorted}"),
                format!("alice program enough {sorted}"),
                "forward kept@else.test from s@remote.test (alice-sort-urgent-now@here.test)".into(),
                "2.0.0: did 0+1+2".into(),
            ],
        ),
        ("qmail", "alice-no", vec!["alice program no no,,-,here,s@remote.test".into(), "5.3.0: no, thanks".into()]),
        ("qmail", "alice-blank", vec!["4.3.0: Uh-oh: first line of .qmail file is blank. (#4.2.1)".into()]),
        ("qmail", "alice-empty", vec!["alice mbox /spool/alice".into(), "2.0.0: delivered to mailbox".into()]),
        ("qmail", "alice-other", vec!["5.1.1: Sorry, no mailbox here by that name. (#5.1.1)".into()]),
        ("qmail", "bob", vec!["bob mbox /spool/bob".into(), "2.0.0: delivered to mailbox".into()]),
        (
            "qmail",
            "info",
            vec!["forward alice@here.test from s@remote.test (info@here.test)".into(), "2.0.0: did 0+1+0".into()],
        ),
        ("both", "bob", vec!["bob mbox /spool/bob".into(), "2.0.0: delivered to mailbox".into()]),
        ("both", "nobody-there", vec!["5.1.1: unknown user: \"nobody-there\"".into()]),
        (
            "postfix",
            "alice",
            vec!["forward x@y.test from s@remote.test (alice@here.test)".into(), format!("2.0.0: forwarded as {ID}")],
        ),
    ];
    for (style, local, expected) in cases {
        let address = format!("{local}@here.test");
        let found = deliver(&format!("local_delivery_style = {style}"), machine(), &address, "\n");
        let found: Vec<String> = found.iter().map(|line| line.replace(&format!(" {address}:"), ":")).collect();
        assert_eq!(found, expected, "{style} {local}");
    }
    let main = "local_delivery_style = qmail\nqmail_default_delivery = ./Mailbox\nallow_mail_to_commands = alias";
    let found = |local: &str| deliver(main, machine(), &format!("{local}@here.test"), "\n").pop().unwrap();
    assert_eq!(found("alice-empty"), "2.0.0 alice-empty@here.test: did 1+0+0");
    assert_eq!(found("alice-no"), "5.7.1 alice-no@here.test: mail to command is restricted");
}

#[test]
fn settings_of_local() {
    let list = "alias_maps = inline:{ {list = inner, far@else.test}, {owner-list = bob}, {inner = other@else.test} }";
    let forwarded = format!("2.0.0 list@here.test: forwarded as {ID}");
    let cases: Vec<(String, &str, Vec<String>)> = vec![
        (
            "require_home_directory = yes".into(),
            "alice@here.test",
            vec!["alice mbox /spool/alice".into(), "2.0.0 alice@here.test: delivered to mailbox".into()],
        ),
        (
            "require_home_directory = yes".into(),
            "bob@here.test",
            vec!["4.3.0 bob@here.test: cannot access home directory /home/bob: No such file or directory".into()],
        ),
        (
            list.into(),
            "list@here.test",
            vec![
                "forward other@else.test far@else.test from owner-list@here.test (list@here.test)".into(),
                forwarded.clone(),
            ],
        ),
        (
            "alias_maps = inline:{ {list = inner}, {inner = other@else.test} }\nfrozen_delivered_to = no".into(),
            "list@here.test",
            vec!["forward other@else.test from s@remote.test (inner@here.test)".into(), forwarded.clone()],
        ),
        (
            "mailbox_command_maps = inline:{ {alice = /bin/a} }\nmailbox_command = /bin/b".into(),
            "bob@here.test",
            vec!["bob command /bin/b".into(), "2.0.0 bob@here.test: delivered to command: /bin/b".into()],
        ),
        (
            "mailbox_command_maps = inline:{ {alice = /bin/a} }".into(),
            "alice@here.test",
            vec!["alice command /bin/a".into(), "2.0.0 alice@here.test: delivered to command: /bin/a".into()],
        ),
        (
            "mailbox_transport_maps = inline:{ {alice = lmtp:unix:x} }".into(),
            "alice@here.test",
            vec!["pass alice@here.test lmtp unix:x".into(), "2.0.0 alice@here.test: passed".into()],
        ),
        (
            "fallback_transport_maps = inline:{ {gone = smtp:[old.test]} }".into(),
            "gone@here.test",
            vec!["pass gone@here.test smtp [old.test]".into(), "2.0.0 gone@here.test: passed".into()],
        ),
        (
            "luser_relay = $user+$extension-$local-$domain@x.test\nrecipient_delimiter = +".into(),
            "gone+e@here.test",
            vec![
                "forward gone+e-gone+e-here.test@x.test from s@remote.test (gone+e@here.test)".into(),
                format!("2.0.0 gone+e@here.test: forwarded as {ID}"),
            ],
        ),
        (
            "luser_relay = alice\nhome_mailbox = mail".into(),
            "gone@here.test",
            vec!["alice mbox /home/alice/mail".into(), "2.0.0 alice@here.test: delivered to mailbox".into()],
        ),
    ];
    for (main, address, expected) in cases {
        assert_eq!(deliver(&main, machine(&[]), address, "\n"), expected, "{main}");
    }
}

#[test]
fn a_user_without_a_forward_file_is_one_turn_of_a_worker() {
    let asked_for = |main: &str, forward: &str, content: &str| {
        let forwards = [("/home/alice/.forward", forward)];
        let machine = Arc::new(machine(if forward.is_empty() { &[] } else { &forwards }));
        let settings = Settings::from_view(&config(main).main(), &TableSet::default(), "local");
        let agent = LocalAgent::new(settings, Arc::clone(&machine) as Arc<dyn Surroundings>);
        pollster::block_on(agent.deliver(&request("alice@here.test", content)));
        let jobs = machine.jobs.lock().unwrap();
        let boxed = jobs.iter().filter(|job| job.contains(" mbox ") || job.contains(" maildir ")).count();
        (machine.asked.load(Ordering::Relaxed), boxed)
    };
    // Configuration, `.forward` of alice, how often a worker is asked for that file by itself, and mails in her mailbox.
    let cases: &[(&str, &str, u32, usize)] = &[
        ("", "", 0, 1),
        ("home_mailbox = Maildir/", "", 0, 1),
        ("forward_path =", "bob", 0, 1),
        ("", "far@else.test", 1, 0),
        // Once for alice, and once more when her own file names her.
        ("", "alice, far@else.test", 2, 1),
        // Where another answer than the mailbox is possible, the file is looked at first.
        ("mailbox_command = /bin/prog", "", 1, 0),
        ("mailbox_command_maps = inline:{bob=/bin/prog}", "", 1, 1),
        ("mailbox_transport = lmtp:here", "", 1, 0),
        ("mailbox_transport_maps = inline:{bob=lmtp:here}", "", 1, 1),
        ("require_home_directory = yes", "", 1, 1),
    ];
    for (main, forward, asked, boxes) in cases {
        assert_eq!(asked_for(main, forward, "\n"), (*asked, *boxes), "{main} {forward}");
    }
    // What is large is not sent to a worker before it is known whether it is wanted.
    assert_eq!(asked_for("", "", &"x".repeat(64 << 10)), (0, 1));
    assert_eq!(asked_for("", "", &"x".repeat(65 << 10)), (1, 1));
}
