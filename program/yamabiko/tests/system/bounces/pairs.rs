//! Everybody who makes loops, against everybody: each sends to each, and all of it ends after a bounded number of messages.
//!
//! Two mail systems: "here", where loop-makers live, and "far", which bounces, forwards back and asks back. Nothing is tried
//! twice (`maximal_queue_lifetime = 0`), so that a loop that waits is one that runs.

use std::time::{Duration, Instant};

use crate::disk::in_own_mounts;
use crate::harness::Instance;

use super::{at_home, script, taken, users};

/// Somebody who makes loops: mail is sent in his name, and to him.
struct Maker {
    name: &'static str,
    sender: &'static str,
    recipient: &'static str,
    /// The fields of a message of his.
    header: &'static str,
    /// Sent with `sendmail -XV`.
    verp: bool,
}

const fn maker(name: &'static str, sender: &'static str, recipient: &'static str) -> Maker {
    Maker { name, sender, recipient, header: "", verp: false }
}

const MAKERS: [Maker; 25] = [
    maker("an ordinary user", "me@box.example", "me@box.example"),
    maker("vacation", "away@vacation.example", "away@vacation.example"),
    maker("a robot that answers notices", "robot@robot.example", "robot@robot.example"),
    maker("a robot elsewhere", "robot@robot.far.example", "robot@robot.far.example"),
    maker("a server that bounces everything", "x@bounce.far.example", "x@bounce.far.example"),
    maker("a domain of ours that bounces everything", "x@gone.example", "x@gone.example"),
    maker("an alias that is sent back", "alias-loop@here.example", "alias-loop@here.example"),
    maker("aliases in a circle", "one-a@here.example", "one-a@here.example"),
    maker("a virtual alias that is sent back", "virtual-loop@virtual.example", "virtual-loop@virtual.example"),
    maker(".forward that is sent back", "forward@here.example", "forward@here.example"),
    maker(".forward that names himself", "himself@here.example", "himself@here.example"),
    maker(".qmail that is sent back", "dotqmail@here.example", "dotqmail@here.example"),
    maker(".qmail that bounces", "saying@here.example", "saying@here.example"),
    maker("a postmaster who is not there", "postmaster@here.example", "postmaster@here.example"),
    maker("no sender", "", "MAILER-DAEMON@test.example"),
    // Given to sendmail on this machine; the notice about it would go to the owner of a list.
    maker("sendmail -f <>", "<>", "owner-list@here.example"),
    maker("a list that is a member of itself", "circle@here.example", "circle@here.example"),
    maker("a list elsewhere", "list@far.example", "exploder@far.example"),
    maker("notices to the postmaster", "double-bounce@mx.test.example", "double-bounce@mx.test.example"),
    maker("qmail's double bounces", "#@[]", "unknown-here@here.example"),
    Maker { verp: true, ..maker("VERP", "list@here.example", "list@here.example") },
    maker("a list with an owner who is gone", "owner-list@here.example", "list@here.example"),
    maker("an address that is suppressed", "dead@bounce.far.example", "dead@bounce.far.example"),
    Maker {
        header: "Delivered-To: me@box.example\nDelivered-To: himself@here.example\n",
        ..maker("a message that was here", "me@box.example", "unknown@here.example")
    },
    Maker { header: HOPS, ..maker("a message that has come far", "robot@robot.example", "x@bounce.far.example") },
];

/// Nearly as many as `hopcount_limit`.
const HOPS: &str = "Received: from a by b\nReceived: from a by b\nReceived: from a by b\nReceived: from a by b\n\
                    Received: from a by b\nReceived: from a by b\nReceived: from a by b\nReceived: from a by b\n";

/// Answers all mail but what carries its own mark, keeps the marks of others (as `formail -rA X-Loop:` does).
const ROBOT: &str = r#"
me=$1 to=$2
head=$(sed '/^$/q'; cat >/dev/null)
case $head in *"X-Loop: $me"*) exit 0;; esac
case $to in ''|MAILER-DAEMON) to=$(printf '%s\n' "$head" | sed -n 's/^From: *//p' | sed 's/.*<//; s/[ >].*//' | head -1);; esac
{ printf 'From: %s\nTo: %s\nSubject: answer\nAuto-Submitted: auto-replied\n' "$me" "$to"
  printf '%s\n' "$head" | grep '^X-Loop:'
  printf 'X-Loop: %s\n\nthis is an answer\n' "$me"
} | sendmail -f "$me" -i -- "$to"
"#;

/// RFC 3834.
const VACATION: &str = r#"
me=$1 to=$2
head=$(sed '/^$/q'; cat >/dev/null)
case $to in ''|MAILER-DAEMON|owner-*|*-request@*) exit 0;; esac
printf '%s\n' "$head" | grep -qi '^Auto-Submitted: *auto' && exit 0
printf 'From: %s\nTo: %s\nSubject: away\nAuto-Submitted: auto-replied\n\nnot here\n' "$me" "$to" | sendmail -f '' -i -- "$to"
"#;

/// Messages that one message becomes on an average at most, on both sides together: most end at once, a forwarding loop
/// ends at `hopcount_limit`, and there are notices.
const BOUND: usize = 20;

struct World {
    here: Instance,
    far: Instance,
}

impl World {
    fn new(set: &[(&str, &str)]) -> Self {
        let (mut here, mut far) = (Instance::new(), Instance::new());
        let etc = here.etc().display().to_string();
        let bin = here.path().join("bin").display().to_string();
        users(&here, &["forward", "himself", "dotqmail", "saying"]);
        at_home(&here, "forward", ".forward", "forward@far.example\n");
        at_home(&here, "himself", ".forward", "himself@here.example, \\himself\n");
        at_home(&here, "dotqmail", ".qmail", "&dotqmail@far.example\n");
        at_home(&here, "saying", ".qmail", "|bouncesaying 'not wanted'\n");
        for (name, text) in [("robot.sh", ROBOT), ("vacation.sh", VACATION)] {
            let path = format!("export MAIL_CONFIG={etc} PATH={bin}:$PATH\n{text}");
            let command = script(&here, name, &path);
            let service = name.trim_end_matches(".sh");
            here.services.push(format!(
                "{service} unix - n n - 10 pipe\n  flags=R user=daemon null_sender=\n  argv={} ${{recipient}} ${{sender}}",
                command.display()
            ));
        }
        let far_robot = script(
            &far,
            "robot.sh",
            &format!(
                "export MAIL_CONFIG={} PATH={}:$PATH\n{ROBOT}",
                far.etc().display(),
                far.path().join("bin").display()
            ),
        );
        far.services.push(format!(
            "robot unix - n n - 10 pipe\n  flags=R user=daemon null_sender=\n  argv={} ${{recipient}} ${{sender}}",
            far_robot.display()
        ));
        let to = |other: &Instance| format!("[{}]:{}", other.smtp.ip(), other.smtp.port());
        for (name, value) in [
            ("maximal_queue_lifetime", "0"),
            ("bounce_queue_lifetime", "0"),
            ("hopcount_limit", "12"),
            // Mail that nobody wants is taken and returned.
            ("smtpd_reject_unlisted_recipient", "no"),
            ("notify_classes", "bounce, 2bounce, delay, policy, protocol, resource, software"),
            ("always_add_missing_headers", "yes"),
        ]
        .iter()
        .chain(set)
        {
            here.set(name, value);
            far.set(name, value);
        }
        here.set("mydestination", "$myhostname, test.example, here.example");
        here.set("local_recipient_maps", "");
        here.set("local_delivery_style", "both");
        here.set(
            "alias_maps",
            "inline:{ {alias-loop=alias-loop@far.example} {one-a=one-b} {one-b=one-a} \
             {list=me@box.example, x@gone.example, robot@robot.example} {owner-list=gone@bounce.far.example} \
             {circle=circle, list, robot@robot.far.example} \
             {postmaster=nobody@gone.example} }",
        );
        here.set("virtual_alias_domains", "virtual.example");
        here.set("virtual_alias_maps", "inline:{ {virtual-loop@virtual.example=virtual-loop@far.example} }");
        here.set(
            "transport_maps",
            "inline:{ {robot.example=robot:} {vacation.example=vacation:} {gone.example=error:5.1.1 all are gone} }",
        );
        here.set("bounce_notice_recipient", "copies@bounce.far.example");
        here.set("2bounce_notice_recipient", "postmaster@here.example");
        here.set("error_notice_recipient", "robot@robot.example");
        here.set("suppression_enable", "yes");
        here.set("suppression_act_at", "delivery");
        let back = to(&far);
        here.set("relayhost", &back);
        far.set("myhostname", "mx.far.example");
        far.set("myorigin", "far.example");
        far.set("virtual_mailbox_domains", "");
        far.set("virtual_alias_domains", "far.example");
        far.set("virtual_alias_maps", &format!("regexp:{}/back", far.etc().display()));
        let exploder =
            "/^exploder@/ list@here.example, robot@robot.example, robot@robot.far.example, list@far.example\n";
        far.file("back", &format!("{exploder}/^(.*)@far\\.example$/ ${{1}}@here.example\n"));
        far.set(
            "transport_maps",
            "inline:{ {robot.far.example=robot:} {bounce.far.example=error:5.1.1 we bounce everything} }",
        );
        let back = to(&here);
        far.set("relayhost", &back);
        here.start();
        far.start();
        here.ok("yamabiko", &["suppress", "add", "dead@bounce.far.example"]);
        Self { here, far }
    }

    fn taken(&self) -> usize {
        taken(&self.here) + taken(&self.far)
    }

    /// Waits until nothing moves any more, and nothing is left. More than is bounded is a loop, and so is no end.
    fn until_quiet(&self) {
        let (mut still, mut known) = (0, 0);
        let end = Instant::now() + Duration::from_secs(600);
        while still < 5 {
            let waiting = |instance: &Instance| instance.queue().iter().any(|entry| entry.queue != "hold");
            let now = self.taken();
            still = if now == known && !waiting(&self.here) && !waiting(&self.far) { still + 1 } else { 0 };
            known = now;
            assert!(now <= BOUND * MAKERS.len().pow(2), "{now} messages\n{}", self.here.log());
            assert!(Instant::now() < end, "no end\n{}", self.here.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Everybody writes to everybody.
    fn run(&self) {
        for from in &MAKERS {
            let author = from.sender.trim_matches(['<', '>']);
            let body = format!("{}From: <{author}>\nSubject: to a loop\n\ntext\n", from.header);
            for to in &MAKERS {
                if from.verp || from.sender.contains(['#', '<']) {
                    let mut args = vec!["-i", "-f", from.sender];
                    args.extend(from.verp.then_some("-XV"));
                    args.extend(["--", to.recipient]);
                    let said = self.here.run_with("sendmail", &args, &body);
                    assert_eq!(said.code, 0, "{} to {}: {said:?}", from.name, to.name);
                } else {
                    // A refusal is a good end too.
                    let mut client = self.here.client();
                    client.expect("EHLO client.example", 250);
                    let said = client.mail(from.sender, &[to.recipient], &body);
                    said.unwrap_or_else(|error| panic!("{} to {}: {error}", from.name, to.name));
                }
            }
        }
        self.until_quiet();
        println!("{} pairs, {} messages", MAKERS.len().pow(2), self.taken());
        for instance in [&self.here, &self.far] {
            let log = instance.log();
            assert!(!log.contains("panic"), "{log}");
        }
    }
}

#[test]
fn every_pair_of_loop_makers_comes_to_an_end() {
    if in_own_mounts("bounces::pairs::every_pair_of_loop_makers_comes_to_an_end") {
        World::new(&[]).run();
    }
}

#[test]
fn every_pair_comes_to_an_end_when_both_ask_back_for_senders() {
    if in_own_mounts("bounces::pairs::every_pair_comes_to_an_end_when_both_ask_back_for_senders") {
        World::new(&[
            ("smtpd_sender_restrictions", "reject_unverified_sender"),
            ("address_verify_poll_count", "1"),
            ("address_verify_poll_delay", "1s"),
        ])
        .run();
    }
}

#[test]
fn every_pair_comes_to_an_end_with_summaries_and_signed_senders() {
    if in_own_mounts("bounces::pairs::every_pair_comes_to_an_end_with_summaries_and_signed_senders") {
        World::new(&[
            ("notify_digest_classes", "bounce, 2bounce, delay, policy, protocol"),
            ("notify_digest_interval", "1s"),
            ("notify_digest_maximal_interval", "2s"),
            ("recipient_delimiter", "+"),
            ("signed_sender_domains", "here.example, robot.example, vacation.example, box.example"),
            ("bounce_language", "ja en"),
            ("bounce_style", "qmail"),
        ])
        .run();
    }
}
