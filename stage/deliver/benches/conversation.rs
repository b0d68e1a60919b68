//! What a message costs in the client's conversation alone: `cargo bench -p yamabiko-deliver`.

use criterion::{Criterion, criterion_group, criterion_main};
use yamabiko_deliver::Settings;
use yamabiko_deliver::conversation::{Addressee, Conversation, Fate, Job, Peer, Session, Step};
use yamabiko_envelope::{BodyType, ClientAttributes, Notify, QueueId, RewriteContext, Timestamp};
use yamabiko_smtp::reply::ReplyParser;

const NOW: Timestamp = Timestamp(1_000_000);
const SERVER: &[u8] = b"220 mx1.remote.test ESMTP\r\n250-mx1.remote.test\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n\
    250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data\r\n250 2.0.0 Ok: queued\r\n";

fn conversation(c: &mut Criterion) {
    let client = ClientAttributes::default();
    let settings =
        Settings { helo_name: "mx.lab.test".into(), myhostname: "mx.lab.test".into(), ..Settings::default() };
    c.bench_function("client, one message on a new connection", |b| {
        b.iter(|| {
            let peer = Peer { host: "mx1.remote.test".into(), address: "192.0.2.25".into(), port: 25 };
            let mut session = Session::new(peer, true, true);
            let to = Addressee { address: "c@remote.test".into(), original: "", orcpt: "", notify: Notify::default() };
            let job = Job {
                queue_id: QueueId::new(1_795_280_034_000_001, 1),
                nexthop: "remote.test",
                sender: "a@lab.test".into(),
                recipients: vec![to],
                size: 4096,
                body: BodyType::SevenBit,
                smtputf8: false,
                needs_smtputf8: false,
                envid: "",
                ret: None,
                client: &client,
                context: RewriteContext::Local,
                probe: false,
                delayed: false,
                waits_for_pix: false,
            };
            let mut talk = Conversation::new(&settings, &mut session, &job, false, Vec::new(), NOW);
            let (mut parser, mut input) = (ReplyParser::new(), SERVER);
            loop {
                match talk.next() {
                    Step::Read(_) => match parser.parse(&mut input) {
                        Some(Ok(reply)) => talk.take(&reply, NOW),
                        _ => unreachable!("the script is whole"),
                    },
                    Step::Send => talk.sent(NOW),
                    Step::Handshake => break,
                    Step::Done => break,
                }
                talk.output.clear();
            }
            let (report, _) = talk.finish_report();
            assert!(matches!(report.fates[..], [Fate::Sent { .. }]));
        });
    });
}

criterion_group!(benches, conversation);
criterion_main!(benches);
