use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use yamabiko_dns::FakeResolver;
use yamabiko_tls::{ClientOptions, Files, Server, ServerOptions};

use super::*;

/// Files that are in memory.
struct Memory(HashMap<String, Vec<u8>>);

impl Files for Memory {
    fn read(&self, path: &str) -> std::io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

/// A web server whose answer can be changed.
struct Web {
    port: u16,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    how: Fetching,
}

fn answer(policy: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{policy}", policy.len())
}

const ENFORCE: &str = "version: STSv1\nmode: enforce\nmx: mx1.a.test\nmax_age: 604800\n";

/// With a certificate for this name, from an authority that the client trusts.
async fn web(name: &str) -> Web {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let files = Memory(HashMap::from([
        ("ca".to_owned(), authority.pem().into_bytes()),
        ("web".to_owned(), (key.serialize_pem() + &own.pem()).into_bytes()),
    ]));
    let options =
        ServerOptions { chain_files: vec!["web".into()], digest: "sha256".into(), ..ServerOptions::default() };
    let server = Arc::new(Server::new(options, &[], &files).unwrap());
    let options =
        ClientOptions { ca_file: "ca".into(), prefix: "smtp_", digest: "sha256".into(), ..ClientOptions::default() };
    let client = Arc::new(Client::new(options, &files).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (text, asked) = (Arc::new(Mutex::new(answer(ENFORCE))), Arc::new(AtomicUsize::new(0)));
    let (said, count) = (Arc::clone(&text), Arc::clone(&asked));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (server, said, count) = (Arc::clone(&server), Arc::clone(&said), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok((mut stream, _)) = server.accept(stream).await else { return };
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap_or(0);
                assert!(request[..length].starts_with(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: mta-sts."));
                count.fetch_add(1, Ordering::SeqCst);
                let text = said.lock().unwrap().clone();
                let _ = stream.write_all(text.as_bytes()).await;
                let _ = stream.flush().await;
                let _ = stream.shutdown().await;
            });
        }
    });
    Web { port, answer: text, asked, how: Fetching { client, port, limit: Duration::from_secs(20) } }
}

fn zone(id: &str) -> FakeResolver {
    let text = format!("_mta-sts.a.test TXT \"v=STSv1; id={id}\"\nmta-sts.a.test A 127.0.0.1\n");
    FakeResolver::parse(&text).unwrap()
}

const NOW: u64 = 1_800_000_000;

#[tokio::test]
async fn a_policy_is_fetched_once_and_survives() {
    let dir = tempfile::tempdir().unwrap();
    let web = web("mta-sts.a.test").await;
    assert_ne!(web.port, 0);
    let sts = Sts::open(dir.path(), NOW);
    let found = sts.find("a.test", &zone("1"), &web.how, NOW).await;
    assert!(found.fresh, "{found:?}");
    assert_eq!(found.known.unwrap().policy.mode, Mode::Enforce);
    let (zone_1, zone_2) = (zone("1"), zone("1"));
    let again = tokio::join!(sts.find("a.test", &zone_1, &web.how, NOW), sts.find("a.test", &zone_2, &web.how, NOW));
    assert!(!again.0.fresh && again.1.known.is_some());
    assert_eq!(web.asked.load(Ordering::SeqCst), 1);
    // A restart, without a record, and with a web server that says something else: what is known holds.
    *web.answer.lock().unwrap() = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned();
    let sts = Sts::open(dir.path(), NOW + 10);
    let gone = FakeResolver::parse("").unwrap();
    assert!(sts.find("a.test", &gone, &web.how, NOW + 10).await.known.is_some());
    let found = sts.find("a.test", &zone("2"), &web.how, NOW + 10).await;
    assert_eq!(found.failure.unwrap().kind, "sts-policy-fetch-error");
    assert_eq!(found.known.unwrap().id, "1");
    // Until it is over.
    let over = NOW + 604_800;
    assert!(sts.find("a.test", &gone, &web.how, over).await.known.is_none());
    assert!(Sts::open(dir.path(), over).find("a.test", &gone, &web.how, over).await.known.is_none());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_refresh_takes_what_is_new() {
    let web = web("mta-sts.a.test").await;
    let sts = Sts::in_memory();
    sts.find("a.test", &zone("1"), &web.how, NOW).await;
    assert!(sts.refresh(&zone("1"), &web.how, NOW + 3600).await.is_empty());
    assert_eq!(web.asked.load(Ordering::SeqCst), 1);
    *web.answer.lock().unwrap() = answer(&ENFORCE.replace("enforce", "testing"));
    assert!(
        sts.refresh(&FakeResolver::parse("mta-sts.a.test A 127.0.0.1\n").unwrap(), &web.how, NOW + DAY)
            .await
            .is_empty()
    );
    let found = sts.find("a.test", &zone("1"), &web.how, NOW + DAY).await;
    assert_eq!(found.known.unwrap().policy.mode, Mode::Testing);
    assert_eq!(web.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_refresh_that_failed_is_tried_again_soon() {
    let web = web("mta-sts.a.test").await;
    let sts = Sts::in_memory();
    let (zone, there) = (zone("1"), ENFORCE.to_owned());
    sts.find("a.test", &zone, &web.how, NOW).await;
    // Seconds later, what the web server has, failures, times that it was asked.
    for (later, text, failures, asked) in [
        (DAY - 1, "", 0, 1),
        (DAY, "", 1, 2),
        (DAY + AGAIN - 1, "", 0, 2),
        (DAY + AGAIN, "", 1, 3),
        (DAY + 2 * AGAIN, &there, 0, 4),
        (2 * DAY, &there, 0, 4),
        (2 * DAY + 2 * AGAIN, &there, 0, 5),
    ] {
        *web.answer.lock().unwrap() = answer(text);
        assert_eq!(sts.refresh(&zone, &web.how, NOW + later).await.len(), failures, "{later}");
        assert_eq!(web.asked.load(Ordering::SeqCst), asked, "{later}");
        // What is known goes on to hold.
        assert!(sts.find("a.test", &zone, &web.how, NOW + later).await.known.is_some(), "{later}");
    }
}

#[tokio::test]
async fn what_cannot_be_fetched_is_no_policy() {
    let good = web("mta-sts.a.test").await;
    let redirect = "HTTP/1.1 301 Moved\r\nLocation: https://b.test/\r\nContent-Length: 0\r\n\r\n".to_owned();
    let html = answer(ENFORCE).replace("text/plain", "text/html");
    let long = answer(&"x".repeat(LONGEST + 1));
    let table = [
        (redirect, "sts-policy-fetch-error", "the server answers 301"),
        (html, "sts-policy-invalid", "not text/plain"),
        (long, "sts-policy-fetch-error", "longer than"),
        (answer("version: STSv1\n"), "sts-policy-invalid", "no mode"),
        ("220 smtp.test ESMTP\r\n\r\n".to_owned(), "sts-policy-fetch-error", "not HTTP"),
    ];
    for (text, kind, words) in table {
        *good.answer.lock().unwrap() = text;
        let failure = Sts::in_memory().find("a.test", &zone("1"), &good.how, NOW).await.failure.unwrap();
        assert_eq!(failure.kind, kind, "{failure:?}");
        assert!(failure.why.contains(words), "{failure:?}");
    }
    let other = web("mta-sts.b.test").await;
    let sts = Sts::in_memory();
    let found = sts.find("a.test", &zone("1"), &other.how, NOW).await;
    assert_eq!(found.failure.as_ref().unwrap().kind, "sts-webpki-invalid", "{found:?}");
    assert!(found.known.is_none());
    // Not asked again at once.
    sts.find("a.test", &zone("1"), &other.how, NOW + 10).await;
    assert_eq!(other.asked.load(Ordering::SeqCst), 0);
}
