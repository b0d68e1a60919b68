//! The client's side against our own server, over a pipe in memory: what is proved, what is said of it, what is resumed.

use std::collections::HashMap;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use yamabiko_tls::{
    Client, ClientOptions, Demand, Digest, Failure, Handed, Level, LogMask, Proof, Secured, Server, ServerOptions, Tlsa,
};

/// An authority, and a chain that it issued for some names.
struct World {
    authority: String,
    chain: String,
    own: Vec<u8>,
    root: Vec<u8>,
}

fn world(names: &[&str]) -> World {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "Our CA");
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names.clone()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, names[0].clone());
    let certificate = params.signed_by(&key, &issuer).unwrap();
    World {
        authority: authority.pem(),
        chain: format!("{}{}{}", key.serialize_pem(), certificate.pem(), authority.pem()),
        own: certificate.der().to_vec(),
        root: authority.der().to_vec(),
    }
}

fn handed(world: &World) -> Handed {
    let files = [("own", &world.chain), ("ca", &world.authority)];
    Handed(
        files
            .map(|(name, text)| (name.to_owned(), Ok(text.clone().into_bytes())))
            .into_iter()
            .collect::<HashMap<_, _>>(),
    )
}

fn server(world: &World) -> Server {
    let options = ServerOptions {
        level: Level::May,
        chain_files: vec!["own".to_owned()],
        digest: "sha256".to_owned(),
        protocols: ("smtpd_tls_protocols".into(), Vec::new()),
        resumption: true,
        ask_certificate: true,
        ..ServerOptions::default()
    };
    Server::new(options, &[], &handed(world)).unwrap()
}

fn options(ca: bool) -> ClientOptions {
    ClientOptions {
        prefix: "smtp_",
        ca_file: if ca { "ca".to_owned() } else { String::new() },
        digest: "sha256".to_owned(),
        resumption: true,
        dane_digests: vec!["sha512".to_owned(), "sha256".to_owned()],
        log: LogMask::parse("1"),
        ..ClientOptions::default()
    }
}

fn demand(proof: Proof) -> Demand {
    let explain = proof.is_demanded();
    Demand {
        protocols_named: "p".to_owned(),
        peer: "mx.test[192.0.2.1]:25".to_owned(),
        proof,
        explain,
        ..Demand::default()
    }
}

async fn talk(server: &Server, client: &Client, demand: &Demand) -> Result<Secured, Failure> {
    let (ours, theirs) = duplex(64 * 1024);
    let serve = async {
        let (mut stream, _) = server.accept(ours).await?;
        let mut line = [0; 5];
        stream.read_exact(&mut line).await.map_err(|_| Failure::Lost)?;
        stream.write_all(&line).await.map_err(|_| Failure::Lost)?;
        stream.flush().await.map_err(|_| Failure::Lost)
    };
    let connect = async {
        let (mut stream, secured) = client.connect(theirs, demand).await?;
        stream.write_all(b"EHLO\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut line = [0; 5];
        stream.read_exact(&mut line).await.unwrap();
        Ok(secured)
    };
    let (_, secured) = tokio::join!(serve, connect);
    secured
}

fn names(names: &[&str]) -> Proof {
    Proof::Names { names: names.iter().map(|name| (*name).to_owned()).collect(), anchors: None }
}

#[tokio::test]
async fn what_is_proved() {
    let world = world(&["mx.test", "*.wild.test"]);
    let print = |bytes: &[u8]| Digest::Sha256.fingerprint(bytes);
    let own = print(&world.own);
    let tlsa = |usage, selector, matching, data: &[u8]| Tlsa { usage, selector, matching, data: data.to_vec() };
    let dane = |records: Vec<Tlsa>, name: &str| Proof::Dane { records, names: vec![name.to_owned()] };
    let untrusted = "certificate verification failed for mx.test[192.0.2.1]:25: ";
    let mismatch = "server certificate verification failed for mx.test[192.0.2.1]:25: num=62:hostname mismatch";
    let policy =
        "server certificate verification failed for mx.test[192.0.2.1]:25: num=65:no matching DANE TLSA records";
    for (ca, proof, proved, who, line) in [
        (false, Proof::None, true, "Untrusted", ""),
        (true, Proof::None, true, "Trusted", ""),
        (true, names(&["mx.test"]), true, "Verified", ""),
        (true, names(&["other.test", "a.wild.test"]), true, "Verified", ""),
        (true, names(&[".test"]), true, "Verified", ""),
        (true, names(&["test"]), false, "Untrusted", mismatch),
        (false, names(&["mx.test"]), false, "Untrusted", &format!("{untrusted}self-signed certificate")),
        (false, Proof::Fingerprint(vec!["00:11".to_owned(), own.to_ascii_lowercase()]), true, "Verified", ""),
        (true, Proof::Fingerprint(vec!["00:11".to_owned()]), false, "Untrusted", policy),
        (false, dane(vec![tlsa(3, 0, 0, &world.own)], "elsewhere.test"), true, "Verified", ""),
        (false, dane(vec![tlsa(3, 0, 0, &world.root)], "mx.test"), false, "Untrusted", policy),
        (false, dane(vec![tlsa(2, 0, 0, &world.root)], "mx.test"), true, "Verified", ""),
        (false, dane(vec![tlsa(2, 0, 0, &world.root)], "elsewhere.test"), false, "Untrusted", policy),
        (true, dane(vec![tlsa(1, 0, 0, &world.own)], "mx.test"), false, "Untrusted", policy),
    ] {
        let client = Client::new(options(ca), &handed(&world)).unwrap();
        let secured = talk(&server(&world), &client, &demand(proof.clone())).await.unwrap();
        assert_eq!(secured.proved, proved, "{proof:?}: {:?}", secured.lines);
        let summary = secured.lines.last().unwrap();
        let begin = format!("{who} TLS connection established to mx.test[192.0.2.1]:25: TLSv1.3 with cipher ");
        assert!(summary.starts_with(&begin) && summary.contains("server-signature ECDSA"), "{proof:?}: {summary}");
        assert_eq!(if secured.lines.len() > 1 { secured.lines[0].as_str() } else { "" }, line, "{proof:?}");
    }
}

#[tokio::test]
async fn a_session_goes_on_but_proves_anew() {
    let world = world(&["mx.test"]);
    let (server, client) = (server(&world), Client::new(options(true), &handed(&world)).unwrap());
    let first = talk(&server, &client, &demand(Proof::None)).await.unwrap();
    assert!(!first.session.resumed);
    let second = talk(&server, &client, &demand(names(&["mx.test"]))).await.unwrap();
    assert!(second.session.resumed && second.proved, "{second:?}");
    assert_eq!(second.session.server_signature, None);
    let third = talk(&server, &client, &demand(names(&["other.test"]))).await.unwrap();
    assert!(third.session.resumed && !third.proved, "{third:?}");
    let alone = Client::new(ClientOptions { resumption: false, ..options(true) }, &handed(&world)).unwrap();
    for _ in 0..2 {
        assert!(!talk(&server, &alone, &demand(Proof::None)).await.unwrap().session.resumed);
    }
}

#[tokio::test]
async fn what_fails() {
    let world = world(&["mx.test"]);
    let client = Client::new(options(false), &handed(&world)).unwrap();
    for (said, expected) in [(&b"454 not now\r\n"[..], "Protocol"), (b"", "Lost")] {
        let (mut ours, theirs) = duplex(64 * 1024);
        ours.write_all(said).await.unwrap();
        ours.shutdown().await.unwrap();
        let failed = client.connect(theirs, &demand(Proof::None)).await.map(|(_, secured)| secured).unwrap_err();
        assert!(format!("{failed:?}").starts_with(expected), "{failed:?}");
    }
    let old = Demand { protocols: vec!["TLSv1".to_owned()], ..demand(Proof::None) };
    assert!(client.check(&old).is_err() && client.check(&demand(Proof::None)).is_ok());
    let files = Handed(HashMap::from([("own".to_owned(), Err("Permission denied".to_owned()))]));
    let with_key = ClientOptions { chain_files: vec!["own".to_owned()], ..options(false) };
    let fault = Client::new(with_key, &files).unwrap_err();
    assert!(fault.0.contains("disabling TLS support: open \"own\": Permission denied"), "{fault}");
    let fault = Client::anchors("own", &handed(&World { chain: String::new(), ..world })).unwrap_err();
    assert!(fault.0.contains("no certificate of an authority"), "{fault}");
    assert!(CertificateDer::pem_slice_iter(b"").next().is_none());
}

#[tokio::test]
async fn our_own_certificate_is_shown_where_it_is_asked_for() {
    let world = world(&["mx.test"]);
    let with_key = ClientOptions { chain_files: vec!["own".to_owned()], log: LogMask::parse("2"), ..options(true) };
    let client = Client::new(with_key, &handed(&world)).unwrap();
    let secured = talk(&server(&world), &client, &demand(names(&["mx.test"]))).await.unwrap();
    let lines = secured.lines.join("\n");
    assert!(lines.contains("client-signature ECDSA (prime256v1) client-digest SHA256"), "{lines}");
    assert!(lines.contains("mx.test[192.0.2.1]:25: matched peername: mx.test"), "{lines}");
    assert!(lines.contains("subject_CN=mx.test, issuer_CN=Our CA, fingerprint="), "{lines}");
}
