//! Envelopes and changes as bytes: round trips, bytes of other versions, hostile bytes.

#[path = "bodies/queue_record.rs"]
mod body;
#[path = "bodies/queue_file.rs"]
mod file_body;

use yamabiko_envelope::{
    BodyType, ClientAttributes, Envelope, Failure, Notify, QueueId, Recipient, RecipientState, Ret, RewriteContext,
    SaslIdentity, Timestamp, Trace, VerpDelimiters,
};
use yamabiko_queue::Flags;
use yamabiko_queue::codec::{self, Malformed, Standing};
use yamabiko_queue::readable;
use yamabiko_queue::sim::Dice;
use yamabiko_status::EnhancedStatus;

fn failure(subject: u16) -> Box<Failure> {
    Box::new(Failure {
        status: EnhancedStatus::permanent(subject, 999),
        reason: "host mx.example.net[192.0.2.1] said: 550 5.1.1 誰もいない".into(),
        diagnostic: "550 5.1.1 x".repeat(20),
        remote_mta: "mx.example.net".into(),
        relay: "mx.example.net[192.0.2.1]:25".into(),
        settled: vec!["file /var/x y".into(), "command nobody a=\"b c\" | d\n".into(), "on 誰@x".repeat(30)],
    })
}

fn recipient(address: &str, state: RecipientState) -> Recipient {
    let notify = Notify { never: false, success: true, failure: false, delay: true };
    let (original, orcpt) = (format!("alias-{address}"), format!("rfc822;{address}"));
    Recipient { address: address.into(), original, orcpt, notify, state }
}

fn full() -> Envelope {
    let mut envelope = Envelope::new(QueueId::new(77, 8), Timestamp(u64::MAX), "..da.me.@docomo.ne.jp");
    envelope.envid = "env id".into();
    envelope.ret = Some(Ret::Headers);
    envelope.body = BodyType::EightBitMime;
    envelope.smtputf8 = true;
    envelope.context = RewriteContext::Remote;
    envelope.client = ClientAttributes {
        name: "client.example.com".into(),
        reverse_name: "unknown".into(),
        address: Some("2001:db8::1".parse().unwrap()),
        port: 65535,
        helo: "[192.0.2.3]".into(),
        protocol: "ESMTPSA".into(),
        ident: "4Xyz".into(),
        server: Some("[2001:db8::2]:25".parse().unwrap()),
    };
    envelope.sasl = Some(SaslIdentity { method: "PLAIN".into(), username: "u".into(), sender: String::new() });
    envelope.filter = "scan:[127.0.0.1]:10025".into();
    envelope.verp = Some(VerpDelimiters { first: '+', second: '=' });
    envelope.trace = Trace::Record;
    envelope.size = 1 << 40;
    envelope.message_id = "<a@b>".into();
    envelope.recipients = vec![
        recipient("a@example.net", RecipientState::Pending),
        recipient("b@example.net", RecipientState::Deferred(failure(0))),
        recipient("c@example.net", RecipientState::Failed(failure(1))),
        recipient("", RecipientState::Done),
        Recipient::default(),
    ];
    envelope
}

fn encoded(envelope: &Envelope) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::put_envelope(&mut bytes, envelope);
    bytes
}

#[test]
fn envelopes_come_back() {
    let mut v4 = full();
    v4.client.address = Some("192.0.2.1".parse().unwrap());
    (v4.ret, v4.body, v4.trace) = (Some(Ret::Full), BodyType::SevenBit, Trace::ProbeReport);
    let mut many = full();
    many.trace = Trace::Probe;
    many.recipients = (0..5000).map(|n| recipient(&format!("r{n}@example.net"), RecipientState::Pending)).collect();
    for envelope in [full(), v4, many, Envelope::new(QueueId::new(1, 0), Timestamp(0), "")] {
        assert_eq!(codec::envelope(envelope.queue_id, &encoded(&envelope)), Ok(envelope));
    }
}

#[test]
fn a_usual_envelope_is_short() {
    let mut envelope = Envelope::new(QueueId::new(1, 0), Timestamp(1_795_280_034_000_000), "sender@example.com");
    envelope.recipients.push(Recipient { address: "recipient@example.net".into(), ..Recipient::default() });
    assert!(encoded(&envelope).len() < 60, "{}", encoded(&envelope).len());
}

#[test]
fn fields_of_a_newer_version_are_passed_over() {
    let mut bytes = encoded(&full());
    bytes.extend([100, 3, b'n', b'e', b'w', 0xff, 0x01, 0]);
    assert_eq!(codec::envelope(QueueId::new(77, 8), &bytes), Ok(full()));
}

#[test]
fn what_is_malformed_is_refused() {
    let overlong = [0xff; 12];
    let cases: &[(&[u8], Malformed)] = &[
        (&[2], Malformed::Truncated),
        (&[2, 5, b'a'], Malformed::Truncated),
        (&[2, 0xff, 0xff, 0xff, 0xff, 0x0f], Malformed::Truncated),
        (&overlong, Malformed::Number),
        (&[2, 1, 0xff], Malformed::Text),
        (&[4, 1, 9], Malformed::Choice),
        (&[1, 0], Malformed::Truncated),
        (&[1, 2, 0, 0], Malformed::Number),
        (&[8, 3, 3, 1, 1], Malformed::Choice),
        (&[11, 4, 0x80, 0xb0, 0x03, 0], Malformed::Choice),
        (&[15, 4, 5, 2, 9, 0], Malformed::Choice),
    ];
    for (bytes, error) in cases {
        assert_eq!(codec::envelope(QueueId::new(1, 1), bytes), Err(*error), "{bytes:?}");
    }
    assert_eq!(codec::message(QueueId::new(1, 1), &[]), Err(Malformed::Missing));
}

#[test]
fn messages_and_changes_come_back() {
    let flags = Flags::default().with_hold(true).with_warned(true);
    let standing = Standing { next_attempt: Timestamp(12345), attempts: 65535, flags };
    let mut bytes = Vec::new();
    codec::put_message(&mut bytes, &standing, Some(QueueId::new(9, 9)), &full());
    let part = codec::message(QueueId::new(77, 8), &bytes).unwrap();
    assert_eq!((part.standing, part.replaces, part.envelope), (standing, Some(QueueId::new(9, 9)), full()));
    let states = [(0, RecipientState::Done), (u32::MAX, RecipientState::Failed(failure(2)))];
    bytes.clear();
    codec::put_change(&mut bytes, &standing, states.iter().map(|(n, state)| (*n, state)));
    let part = codec::change(&bytes).unwrap();
    assert_eq!((part.standing, &part.recipients[..]), (standing, &states[..]));
    assert_eq!(codec::change_standing(&bytes), Ok(standing));
}

/// The fuzzer's body on inputs that are at hand: good ones, and good ones with changes.
#[test]
fn any_bytes_are_read_without_harm() {
    let mut seeds = vec![Vec::new(), encoded(&full()), vec![0xf0; 300], (0..=255).collect()];
    let mut message = Vec::new();
    codec::put_message(&mut message, &Standing::default(), None, &full());
    seeds.push(message);
    let mut change = Vec::new();
    codec::put_change(&mut change, &Standing::default(), [(3, &RecipientState::Deferred(failure(3)))].into_iter());
    seeds.push(change);
    seeds.push(readable::head(&full(), &Standing::default(), 3, 4).into_bytes());
    // Found by the fuzzer, and its like in a file: a member of a list without a name.
    seeds.push(vec![4, 6, 0xff, 0xff, 1, 1, 6, 0]);
    seeds.push(
        readable::head(&full(), &Standing::default(), 3, 4)
            .replacen("state=deferred", "state=deferred settled=\"\"", 1)
            .into_bytes(),
    );
    let mut dice = Dice::new(1);
    for seed in &seeds {
        body::queue_record(seed);
        file_body::queue_file(seed);
        for _ in 0..400 {
            let mut bytes = seed.clone();
            for _ in 0..1 + dice.below(4) {
                let at = dice.below(bytes.len() as u64) as usize;
                match dice.below(4) {
                    0 if at < bytes.len() => bytes[at] = dice.below(256) as u8,
                    1 => bytes.insert(at, dice.below(256) as u8),
                    2 if at < bytes.len() => drop(bytes.remove(at)),
                    _ => bytes.truncate(at),
                }
            }
            body::queue_record(&bytes);
            file_body::queue_file(&bytes);
        }
    }
}

#[test]
fn readable_files_come_back() {
    let mut plain = Envelope::new(QueueId::new(77, 8), Timestamp(1_795_280_034_000_001), "");
    plain.recipients.push(Recipient { address: "a b\n>\u{85}\u{2028}<\\x@example.net".into(), ..Recipient::default() });
    let standing = Standing {
        next_attempt: Timestamp(5),
        attempts: 65535,
        flags: Flags::default().with_hold(true).with_warned(true),
    };
    for envelope in [full(), plain] {
        for standing in [standing, Standing::default()] {
            let text = readable::head(&envelope, &standing, 3, 0xab);
            assert_eq!(text.len(), readable::head(&envelope, &standing, 3, u32::MAX).len());
            for content in ["abc", " a\n", "\n\n\t"] {
                let file = format!("{text}{content}");
                let head = readable::parse(file.as_bytes()).unwrap();
                assert_eq!((&head.envelope, head.standing), (&envelope, standing));
                assert_eq!((head.content_len, head.content_crc, head.len), (3, 0xab, text.len()), "{text}");
            }
            for end in 0..text.len() - 1 {
                assert!(readable::parse(&text.as_bytes()[..end]).is_err(), "{end}");
            }
        }
    }
}

#[test]
fn a_readable_file_looks_like_this() {
    let id = QueueId::new(1_795_280_034_000_000, 1);
    let mut envelope = Envelope::new(id, Timestamp(id.micros()), "someone@example.com");
    envelope.size = 312;
    let failure = Failure {
        status: EnhancedStatus::transient(4, 1),
        reason: "connection timed out".into(),
        diagnostic: String::new(),
        remote_mta: String::new(),
        relay: "none".into(),
        settled: Vec::new(),
    };
    let state = RecipientState::Deferred(Box::new(failure));
    envelope.recipients.push(Recipient { address: "other@example.net".into(), state, ..Recipient::default() });
    let standing = Standing { next_attempt: Timestamp(1_795_280_334_000_000), attempts: 2, flags: Flags::default() };
    let text = readable::head(&envelope, &standing, 312, 0x9ae0_daaf);
    assert_eq!(
        text,
        format!(
            "X-Yamabiko-Message: {id} version=1\n\
             X-Yamabiko-State: arrival=1795280034.000000 next=1795280334.000000 attempts=2 \
             (2026-11-21 16:53:54 UTC, to be tried 2026-11-21 16:58:54 UTC)\n\
             X-Yamabiko-Sender: <someone@example.com> size=312\n\
             X-Yamabiko-Recipient: <other@example.net> state=deferred status=4.4.1 \
             reason=\"connection timed out\" relay=none\n\
             X-Yamabiko-Content: length=312 crc32c=9ae0daaf\n"
        )
    );
}

#[test]
fn files_that_are_none_are_refused_with_a_line() {
    let good = "X-Yamabiko-Message: 4Z0abcd1z1 version=1\nX-Yamabiko-Sender: <>\n";
    for (text, line, what) in [
        ("", 1, "the field X-Yamabiko-Content is missing"),
        ("Subject: x\n", 1, "the field X-Yamabiko-Message is due"),
        ("X-Yamabiko-Message: x version=1\n", 1, "a queue ID is due"),
        ("\n", 1, "a field X-Yamabiko-... is due"),
        ("X-Yamabiko-Message: 000000000Bz1 version=2\n", 1, "a version of this format that is not known here"),
        (
            "X-Yamabiko-Message: 000000000Bz1\nX-Yamabiko-Content: length=1 crc32c=1\n",
            2,
            "the field X-Yamabiko-Sender is missing",
        ),
        ("X-Yamabiko-Message: 000000000Bz1\n\tx=y\nX-Yamabiko-Sender: a\n", 3, "an address in <> is due"),
        ("X-Yamabiko-Message: 000000000Bz1\nX-Yamabiko-Sender: <a\n", 2, "a quote or bracket has no end"),
        ("X-Yamabiko-Message: 000000000Bz1\nX-Yamabiko-Sender: <a> ret=x\n", 2, "a value that is none of its key's"),
        ("X-Yamabiko-Message: 000000000Bz1\nSubject: x\n", 2, "a field X-Yamabiko-... is due"),
        ("X-Yamabiko-Message: 000000000Bz1\nX-Yamabiko-Recipient: <a> state=odd\n", 2, "a state that is not known"),
        (good, 1, "a queue ID is due"),
    ] {
        assert_eq!(readable::parse(text.as_bytes()), Err(readable::Unreadable { line, what }), "{text:?}");
    }
}
