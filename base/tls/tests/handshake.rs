//! Handshakes between a server and rustls as a client, over a pipe in memory; certificates are made on the spot.

mod fuzz;

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::TlsConnector;
use yamabiko_tls::{Failure, Handed, Level, LogMask, Server, ServerOptions, Session, SniKeys, Stream};

struct Made {
    certificate: String,
    key: String,
}

fn made(name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> Made {
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    Made { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

/// A certification authority and a certificate that it issued.
fn issued(name: &str) -> (String, Made) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "Our CA");
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (authority.pem(), Made { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn options() -> ServerOptions {
    ServerOptions {
        level: Level::May,
        chain_files: vec!["own".to_owned()],
        digest: "sha256".to_owned(),
        protocols: ("smtpd_tls_protocols".into(), vec![">=TLSv1.2".to_owned()]),
        resumption: true,
        log: LogMask::parse("1"),
        ..ServerOptions::default()
    }
}

fn files<const N: usize>(files: [(&str, String); N]) -> Handed {
    Handed(files.into_iter().map(|(name, text)| (name.to_owned(), Ok(text.into_bytes()))).collect::<HashMap<_, _>>())
}

fn chain(made: &Made) -> String {
    format!("{}{}", made.key, made.certificate)
}

/// Takes any server for the right one: the tests are about the server's side.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn client(version: &'static rustls::SupportedProtocolVersion, own: Option<&Made>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
    match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder
            .with_client_auth_cert(
                CertificateDer::pem_slice_iter(own.certificate.as_bytes()).map(Result::unwrap).collect(),
                PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    }
}

/// A handshake, a line each way, and what the server says of it. Also the certificate that the client saw.
async fn talk(server: &Server, client: &Arc<ClientConfig>, name: &str) -> (Session, CertificateDer<'static>) {
    let (ours, theirs) = duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::clone(client));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let (accepted, connected) = tokio::join!(server.accept(ours), connector.connect(name, theirs));
    let (mut stream, session) = accepted.unwrap();
    let mut peer = connected.unwrap();
    assert!(stream.is_encrypted());
    stream.write_all(b"220 hello\r\n").await.unwrap();
    stream.flush().await.unwrap();
    let mut line = [0; 11];
    peer.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"220 hello\r\n");
    peer.write_all(b"QUIT\r\n").await.unwrap();
    peer.flush().await.unwrap();
    stream.read_exact(&mut line[..6]).await.unwrap();
    let seen = peer.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    let (_, _) = tokio::join!(stream.shutdown(), peer.shutdown());
    (session, seen)
}

#[tokio::test]
async fn both_protocols_and_every_kind_of_key() {
    for (algorithm, signature) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, "ECDSA (prime256v1) server-digest SHA256"),
        (&rcgen::PKCS_RSA_SHA256, "RSA-PSS (2048 bits) server-digest SHA"),
        (&rcgen::PKCS_ED25519, "ED25519"),
    ] {
        let own = made("mx.test", algorithm);
        let server = Server::new(options(), &[], &files([("own", chain(&own))])).unwrap();
        let (session, _) = talk(&server, &Arc::new(client(&rustls::version::TLS13, None)), "mx.test").await;
        let text = session.summary("c.test[192.0.2.1]");
        let start = "Anonymous TLS connection established from c.test[192.0.2.1]: TLSv1.3 with cipher TLS_";
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains(&format!(" server-signature {signature}")), "{text}");
        assert!(text.contains(" key-exchange X25519"), "{text}");
        let (session, _) = talk(&server, &Arc::new(client(&rustls::version::TLS12, None)), "mx.test").await;
        let text = session.summary("c.test[192.0.2.1]");
        assert!(text.contains(": TLSv1.2 with cipher ECDHE-") && text.ends_with(" bits)"), "{text}");
    }
}

#[tokio::test]
async fn several_keys_and_pairs_of_files() {
    let (rsa, ecdsa) = (made("mx.test", &rcgen::PKCS_RSA_SHA256), made("mx.test", &rcgen::PKCS_ECDSA_P256_SHA256));
    let all = files([
        ("own", chain(&rsa) + &chain(&ecdsa)),
        ("rsa.crt", rsa.certificate.clone()),
        ("rsa.key", rsa.key.clone()),
        ("ecdsa.pem", chain(&ecdsa)),
    ]);
    let pairs = ServerOptions {
        chain_files: Vec::new(),
        pairs: vec![
            ("RSA", "rsa.crt".to_owned(), "rsa.key".to_owned()),
            ("ECDSA", "ecdsa.pem".to_owned(), "ecdsa.pem".to_owned()),
        ],
        ..options()
    };
    for options in [options(), pairs] {
        let server = Server::new(options, &[], &all).unwrap();
        let (session, _) = talk(&server, &Arc::new(client(&rustls::version::TLS13, None)), "mx.test").await;
        assert_eq!(session.server_signature.unwrap().name, "ECDSA (prime256v1)");
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("ECDHE_RSA"));
        let old = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        let (session, _) = talk(&server, &Arc::new(old), "mx.test").await;
        assert!(session.cipher.name.starts_with("ECDHE-RSA-"), "{}", session.cipher.name);
    }
}

#[tokio::test]
async fn names_choose_keys() {
    let names = ["mx.test", "one.test", "two.test"].map(|name| made(name, &rcgen::PKCS_ECDSA_P256_SHA256));
    let sni = [
        ("one.test".to_owned(), SniKeys::Files(vec!["one".to_owned()])),
        (".two.test".to_owned(), SniKeys::Text(chain(&names[2]).into_bytes())),
        ("broken.test".to_owned(), SniKeys::Files(vec!["nothing".to_owned()])),
    ];
    let all = files([("own", chain(&names[0])), ("one", chain(&names[1])), ("nothing", "no PEM".to_owned())]);
    let server = Server::new(options(), &sni, &all).unwrap();
    assert_eq!(server.notices().len(), 1, "{:?}", server.notices());
    let config = Arc::new(client(&rustls::version::TLS13, None));
    for (asked, given, told) in [
        ("mx.test", 0, None),
        ("One.test", 1, Some("one.test")),
        ("a.two.test", 2, Some("a.two.test")),
        ("two.test", 0, None),
        ("broken.test", 0, None),
    ] {
        let (session, seen) = talk(&server, &config, asked).await;
        let expected = CertificateDer::from_pem_slice(names[given].certificate.as_bytes()).unwrap();
        assert_eq!(seen, expected, "{asked}");
        assert_eq!(session.server_name.as_deref(), told, "{asked}");
        assert_eq!(session.unmatched_name.is_some(), told.is_none(), "{asked}");
    }
}

#[tokio::test]
async fn certificates_of_clients() {
    let own = made("mx.test", &rcgen::PKCS_ECDSA_P256_SHA256);
    let (authority, known) = issued("known.test");
    let unknown = made("unknown.test", &rcgen::PKCS_RSA_SHA256);
    let asking = ServerOptions { ask_certificate: true, ca_file: "ca".to_owned(), ..options() };
    let server = Server::new(asking, &[], &files([("own", chain(&own)), ("ca", authority)])).unwrap();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (session, _) = talk(&server, &Arc::new(client(version, None)), "mx.test").await;
        assert!(session.peer.is_none() && !session.is_trusted());
        assert!(session.received(true).ends_with("\t(Client did not present a certificate)\n"));

        let config = Arc::new(client(version, Some(&known)));
        for resumed in [false, true] {
            let (session, _) = talk(&server, &config, "mx.test").await;
            assert_eq!(session.resumed, resumed);
            assert!(session.is_trusted(), "{session:?}");
            let line = "(Client CN \"known.test\", Issuer \"Our CA\" (verified OK))\n";
            assert!(session.received(true).ends_with(line), "{}", session.received(true));
        }
        let (session, _) = talk(&server, &Arc::new(client(version, Some(&unknown))), "mx.test").await;
        let peer = session.peer.clone().unwrap();
        assert_eq!(peer.untrusted.as_deref(), Some("self-signed certificate"));
        assert_eq!((peer.fingerprint.len(), peer.key_fingerprint.len()), (95, 95));
        assert!(session.summary("x").starts_with("Untrusted TLS connection established from x: "));
        if version.version == rustls::ProtocolVersion::TLSv1_3 {
            assert_eq!(session.client_signature.unwrap().name, "RSA-PSS (2048 bits)");
        }
    }
}

/// An authority under an authority: two steps to the root.
#[tokio::test]
async fn long_chains_are_not_trusted() {
    let own = made("mx.test", &rcgen::PKCS_ECDSA_P256_SHA256);
    let authority = |name: &str| {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        (params, rcgen::KeyPair::generate().unwrap())
    };
    let ((root, root_key), (between, between_key)) = (authority("Root"), authority("Between"));
    let root_text = root.self_signed(&root_key).unwrap().pem();
    let root = rcgen::Issuer::new(root, root_key);
    let between_text = between.signed_by(&between_key, &root).unwrap().pem();
    let between = rcgen::Issuer::new(between, between_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = |issuer: &rcgen::Issuer<'_, rcgen::KeyPair>| {
        let mut params = rcgen::CertificateParams::new(vec!["c.test".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "c.test");
        params.signed_by(&key, issuer).unwrap().pem()
    };
    let near = Made { certificate: leaf(&root), key: key.serialize_pem() };
    let far = Made { certificate: leaf(&between) + &between_text, key: key.serialize_pem() };
    for (depth, of_near, of_far) in [
        (9, None, None),
        (2, None, None),
        (1, None, Some("certificate chain too long")),
        (0, Some("certificate chain too long"), Some("certificate chain too long")),
    ] {
        let asking =
            ServerOptions { ask_certificate: true, ca_file: "ca".to_owned(), verify_depth: Some(depth), ..options() };
        let server = Server::new(asking, &[], &files([("own", chain(&own)), ("ca", root_text.clone())])).unwrap();
        for (made, expected) in [(&near, of_near), (&far, of_far)] {
            let (session, _) = talk(&server, &Arc::new(client(&rustls::version::TLS13, Some(made))), "mx.test").await;
            assert_eq!(session.peer.unwrap().untrusted.as_deref(), expected, "depth {depth}");
        }
    }
}

/// What certificates are for, `tls_trust_server_ccerts`, and whether a client with one is trusted.
#[tokio::test]
async fn certificates_that_are_for_servers_only() {
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let own = made("mx.test", &rcgen::PKCS_ECDSA_P256_SHA256);
    let mut root = rcgen::CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_key = rcgen::KeyPair::generate().unwrap();
    let root_text = root.self_signed(&root_key).unwrap().pem();
    let root = rcgen::Issuer::new(root, root_key);
    for (purposes, trust_server_certificates, trusted) in [
        (vec![], false, true),
        (vec![ClientAuth], false, true),
        (vec![ServerAuth], false, false),
        (vec![ClientAuth, ServerAuth], false, true),
        (vec![], true, true),
        (vec![ClientAuth], true, true),
        (vec![ServerAuth], true, true),
    ] {
        let mut params = rcgen::CertificateParams::new(vec!["c.test".to_owned()]).unwrap();
        params.extended_key_usages = purposes.clone();
        let key = rcgen::KeyPair::generate().unwrap();
        let made = Made { certificate: params.signed_by(&key, &root).unwrap().pem(), key: key.serialize_pem() };
        let asking =
            ServerOptions { ask_certificate: true, ca_file: "ca".to_owned(), trust_server_certificates, ..options() };
        let server = Server::new(asking, &[], &files([("own", chain(&own)), ("ca", root_text.clone())])).unwrap();
        let (session, _) = talk(&server, &Arc::new(client(&rustls::version::TLS13, Some(&made))), "mx.test").await;
        assert_eq!(session.is_trusted(), trusted, "{purposes:?} {trust_server_certificates}: {session:?}");
    }
}

#[tokio::test]
async fn sessions_are_resumed_where_they_may_be() {
    let own = made("mx.test", &rcgen::PKCS_ECDSA_P256_SHA256);
    let all = files([("own", chain(&own))]);
    for (resumption, expected) in [(true, true), (false, false)] {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let config = Arc::new(client(version, None));
            let server = Server::new(ServerOptions { resumption, ..options() }, &[], &all).unwrap();
            assert!(!talk(&server, &config, "mx.test").await.0.resumed);
            // A reload makes another server of the same settings.
            let server = Server::new(ServerOptions { resumption, ..options() }, &[], &all).unwrap();
            let (session, _) = talk(&server, &config, "mx.test").await;
            assert_eq!(session.resumed, expected, "{version:?}");
        }
    }
}

#[test]
fn faults_name_the_file() {
    let one = made("mx.test", &rcgen::PKCS_ECDSA_P256_SHA256);
    let other = made("mx.test", &rcgen::PKCS_ECDSA_P256_SHA256);
    let pair = |certificate: &str, key: &str| ServerOptions {
        chain_files: Vec::new(),
        pairs: vec![("RSA", certificate.to_owned(), key.to_owned())],
        ..options()
    };
    let all = files([
        ("own", chain(&one)),
        ("cert", one.certificate.clone()),
        ("key", one.key.clone()),
        ("wrong", other.key.clone()),
        ("turned", format!("{}{}", one.certificate, one.key)),
        ("secret", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n".to_owned()),
        ("cut", one.key[..one.key.len() / 2].to_owned()),
        ("empty", String::new()),
    ]);
    let chains = |files: &[&str]| ServerOptions {
        chain_files: files.iter().map(|file| (*file).to_owned()).collect(),
        ..options()
    };
    for (options, expected) in [
        (
            pair("/nonexistent", "/nonexistent"),
            "cannot get RSA certificate from file \"/nonexistent\": disabling TLS support",
        ),
        (pair("cert", "wrong"), "file \"wrong\": the private key does not belong to the certificate"),
        (pair("cert", "secret"), "file \"secret\": its private key has a passphrase"),
        (pair("cert", "empty"), "file \"empty\": it has no private key"),
        (pair("key", "key"), "file \"key\": it has no certificate"),
        (chains(&["turned"]), "file \"turned\": the first key must come before its certificate"),
        (chains(&["key"]), "file \"key\": a key has no certificate after it"),
        (chains(&["empty"]), "file \"empty\""),
        (chains(&["cut"]), "file \"cut\""),
        (ServerOptions { chain_files: Vec::new(), ..options() }, "No server certs available. TLS won't be enabled"),
        (ServerOptions { digest: "crc".to_owned(), ..options() }, "unknown digest \"crc\""),
    ] {
        let fault = Server::new(options, &[], &all).unwrap_err().0;
        assert!(fault.contains(expected), "{fault}\n{expected}");
    }
    // A key in one file and its chain in the next is as good.
    Server::new(chains(&["key", "cert"]), &[], &all).unwrap();
    Server::new(pair("turned", "turned"), &[], &all).unwrap();
}

#[tokio::test]
async fn what_is_no_handshake() {
    let own = made("mx.test", &rcgen::PKCS_ECDSA_P256_SHA256);
    let server = Server::new(options(), &[], &files([("own", chain(&own))])).unwrap();
    let rubbish: [(&[u8], bool); 6] = [
        (b"", true),
        (b"EHLO client.test\r\n", false),
        (b"\x16\x03\x01", true),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", false),
        (b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", false),
        (&[0x16; 20_000], false),
    ];
    for (bytes, lost) in rubbish {
        let (ours, mut theirs) = duplex(64 * 1024);
        theirs.write_all(bytes).await.unwrap();
        theirs.shutdown().await.unwrap();
        let failure = server.accept(ours).await.map(|_: (Stream<_>, _)| ()).unwrap_err();
        assert_eq!(failure == Failure::Lost, lost, "{failure:?} for {bytes:?}");
    }
}

#[test]
fn certificates_of_any_kind() {
    let own = made("mx.test", &rcgen::PKCS_ECDSA_P256_SHA256);
    let der = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
    for at in 0..der.len() {
        for byte in [0x00, 0x0c, 0x1e, 0x30, 0x84, 0xff] {
            let mut broken = der.to_vec();
            broken[at] = byte;
            fuzz::certificate(&broken);
        }
    }
}
