//! The server's side: settings made ready once per configuration, and handshakes.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    Acceptor, ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
    ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, HandshakeKind, ProtocolVersion, RootCertStore,
    ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;

use crate::certificate::{Parts, PeerCertificate, key_kind};
use crate::choice::{self, Protocols};
use crate::digest::Digest;
use crate::keys::{Fault, Files, Keys, fault};
use crate::options::{Level, ServerOptions};
use crate::session::Session;
use crate::stream::{Guarded, Stream};
use crate::watched::watched;
use crate::{authorities, names};

/// Sessions of TLS 1.2 clients without tickets that are remembered.
const REMEMBERED: usize = 2000;

/// One entry of `tls_server_sni_maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SniKeys {
    /// Files, each with keys and their chains.
    Files(Vec<String>),
    /// Their content.
    Text(Vec<u8>),
}

/// A server that can do handshakes.
pub struct Server {
    versions: Vec<&'static SupportedProtocolVersion>,
    keys: Arc<Keys>,
    by_name: HashMap<String, Arc<Keys>>,
    verifier: Arc<Asking>,
    digest: Digest,
    options: ServerOptions,
    notices: Vec<String>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Tickets are encrypted with keys that change every some hours and outlive a reload.
fn tickets() -> Option<Arc<dyn ProducesTickets>> {
    static TICKETS: OnceLock<Option<Arc<dyn ProducesTickets>>> = OnceLock::new();
    TICKETS.get_or_init(|| Ticketer::new().ok()).clone()
}

fn remembered() -> Arc<dyn StoresServerSessions> {
    static SESSIONS: OnceLock<Arc<ServerSessionMemoryCache>> = OnceLock::new();
    Arc::clone(SESSIONS.get_or_init(|| ServerSessionMemoryCache::new(REMEMBERED))) as _
}

impl Server {
    /// Makes a server of its settings; `sni` is `tls_server_sni_maps`.
    ///
    /// # Errors
    /// Without certificate and key, and for settings with which no connection could be made: TLS is then not available.
    pub fn new(options: ServerOptions, sni: &[(String, SniKeys)], files: &dyn Files) -> Result<Self, Fault> {
        let provider = Arc::new(choice::provider(&options.exclude_ciphers, options.curves.as_deref()));
        let (parameter, list) = &options.protocols;
        let Protocols { versions, missing } = choice::protocols(parameter, list)?;
        let mut notices = Vec::new();
        // What is allowed by default is no wish.
        if let Some(missing) = missing.filter(|_| !list.iter().any(|word| word == ">=TLSv1")) {
            notices.push(format!("{parameter} allows {missing}, which is not there: clients need TLSv1.2 or TLSv1.3"));
        }
        let digest = Digest::of(&options.digest)
            .ok_or_else(|| Fault(format!("smtpd_tls_fingerprint_digest: unknown digest \"{}\"", options.digest)))?;
        let keys = own_keys(&options, files, &provider)?;
        let mut by_name = HashMap::new();
        for (name, source) in sni {
            match named_keys(name, source, files, &provider) {
                Ok(keys) => drop(by_name.insert(name.to_ascii_lowercase(), Arc::new(keys))),
                // The others are served all the same.
                Err(Fault(why)) => notices.push(format!("tls_server_sni_maps: entry {name}: {why}")),
            }
        }
        let (authorities, hints) = authorities::read(
            &authorities::Named {
                prefix: "smtpd_tls_",
                file: &options.ca_file,
                path: &options.ca_path,
                of_the_system: options.default_ca,
            },
            files,
            &mut notices,
        );
        let roots: Vec<Vec<u8>> = authorities.roots.iter().map(|root| root.subject.as_ref().to_vec()).collect();
        let authorities = Arc::new(authorities);
        let verifier = Arc::new(Asking {
            ask: options.ask_certificate,
            depth: options.verify_depth,
            roots,
            hints,
            // Fails without any authority: then nobody is trusted.
            trust: WebPkiClientVerifier::builder_with_provider(Arc::clone(&authorities), Arc::clone(&provider))
                .build()
                .ok(),
            servers: options.trust_server_certificates.then_some(authorities),
            provider: Arc::clone(&provider),
        });
        let server = Self { versions, keys, by_name, verifier, digest, options, notices };
        // What would go wrong for every client goes wrong here.
        match server.config(&server.keys, &Seen::default()) {
            Ok(_) => Ok(server),
            Err(error) => fault(format!("these protocols and ciphers do not go together: {error}")),
        }
    }

    /// The settings of one connection: what it signs and checks is noted in `seen`.
    fn config(&self, keys: &Arc<Keys>, seen: &Seen) -> Result<ServerConfig, Error> {
        let verifier = Watching { asking: Arc::clone(&self.verifier), seen: Arc::clone(seen) };
        let chooser = Chooser { keys: Arc::clone(keys), seen: Arc::clone(seen) };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.verifier.provider))
            .with_protocol_versions(&self.versions)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(chooser));
        config.ignore_client_order = self.options.preempt;
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if self.options.resumption {
            config.session_storage = remembered();
            if let Some(tickets) = tickets() {
                config.ticketer = tickets;
            }
        }
        Ok(config)
    }

    /// The settings it was made of.
    pub fn options(&self) -> &ServerOptions {
        &self.options
    }

    /// For the log, once: entries and files that were passed over.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Keys for a name, or for a domain above it (`.example.com`).
    fn named(&self, name: &str) -> Option<&Arc<Keys>> {
        let name = name.to_ascii_lowercase();
        if let Some(keys) = self.by_name.get(&name) {
            return Some(keys);
        }
        name.match_indices('.').find_map(|(at, _)| self.by_name.get(name.get(at..)?))
    }

    /// A handshake on `stream`, of which nothing was read yet. Takes as long as the client lets it: the caller has to
    /// have a time limit.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub async fn accept<S>(&self, stream: S) -> Result<(Stream<S>, Session), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(Acceptor::default(), Guarded::new(stream)).await.map_err(Failure::of)?;
        let wanted = start.client_hello().server_name().map(str::to_owned);
        let special = wanted.as_deref().and_then(|name| self.named(name));
        let seen = Seen::default();
        let config = self.config(special.unwrap_or(&self.keys), &seen).map_err(|e| Failure::Protocol(e.to_string()))?;
        let accepted = start.into_stream(Arc::new(config)).await.map_err(Failure::of)?;
        let mut session = self.describe(accepted.get_ref().1, &seen);
        match special {
            Some(_) => session.server_name = wanted,
            None if !self.by_name.is_empty() => session.unmatched_name = wanted,
            None => {}
        }
        Ok((Stream::Server(Box::new(accepted)), session))
    }

    fn describe(&self, connection: &rustls::ServerConnection, seen: &Seen) -> Session {
        let modern = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let certificates = connection.peer_certificates().unwrap_or_default();
        let peer = certificates.split_first().map(|(own, chain)| {
            PeerCertificate::read(own, self.digest, self.verifier.objection(own, chain, UnixTime::now()))
        });
        let group = connection.negotiated_key_exchange_group().filter(|_| modern);
        let signed = |side: &OnceLock<names::Signature>| side.get().filter(|_| modern).cloned();
        Session {
            protocol: names::protocol(connection.protocol_version()),
            cipher: connection
                .negotiated_cipher_suite()
                .map_or(names::Cipher { name: "unknown", bits: 0 }, |suite| names::cipher(suite.suite())),
            key_exchange: group.map(|group| names::group(group.name())).unwrap_or_default(),
            server_signature: signed(&seen.server),
            client_signature: signed(&seen.client),
            peer,
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            server_name: None,
            unmatched_name: None,
        }
    }
}

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The client went away.
    Lost,
    /// The connection broke, with the system's reason.
    Broken(String),
    /// The client does not speak TLS, or not so that we could agree.
    Protocol(String),
}

impl Failure {
    #[allow(clippy::needless_pass_by_value)]
    pub(crate) fn of(error: io::Error) -> Self {
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            return Self::Protocol(error.to_string());
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Lost,
            io::ErrorKind::InvalidData => Self::Protocol(error.to_string()),
            _ => Self::Broken(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code).to_string(),
                None => error.to_string(),
            }),
        }
    }
}

fn own_keys(options: &ServerOptions, files: &dyn Files, provider: &CryptoProvider) -> Result<Arc<Keys>, Fault> {
    let mut keys = Keys::default();
    if options.chain_files.is_empty() {
        for (algorithm, certificate, key) in &options.pairs {
            keys.add_pair(files, provider, certificate, key).map_err(|Fault(why)| {
                Fault(format!(
                    "cannot get {algorithm} certificate from file \"{certificate}\": disabling TLS support: {why}"
                ))
            })?;
        }
    } else {
        keys.add_chains(files, provider, &options.chain_files)
            .map_err(|Fault(why)| Fault(format!("error loading chain files: disabling TLS support: {why}")))?;
    }
    if keys.is_empty() && options.level > Level::None {
        return fault("No server certs available. TLS won't be enabled");
    }
    Ok(Arc::new(keys))
}

fn named_keys(name: &str, source: &SniKeys, files: &dyn Files, provider: &CryptoProvider) -> Result<Keys, Fault> {
    let mut keys = Keys::default();
    match source {
        SniKeys::Files(paths) => keys.add_chains(files, provider, paths)?,
        SniKeys::Text(text) => keys.add_text(name, text, provider)?,
    }
    if keys.is_empty() { fault("it has no key") } else { Ok(keys) }
}

/// Signatures that were made and checked in a handshake; rustls does not tell afterwards.
type Seen = Arc<Signed>;

#[derive(Debug, Default)]
struct Signed {
    server: OnceLock<names::Signature>,
    client: OnceLock<names::Signature>,
}

/// Gives the key for a connection.
#[derive(Debug)]
struct Chooser {
    keys: Arc<Keys>,
    seen: Seen,
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (chosen, seen) = (self.keys.choose(hello.signature_schemes())?, Arc::clone(&self.seen));
        Some(watched(&chosen, move |signature| _ = seen.server.set(signature)))
    }
}

/// Asks for a client's certificate and takes any: what it is worth is decided afterwards, as Postfix does. That the
/// client has the key to it is always checked.
#[derive(Debug)]
struct Asking {
    ask: bool,
    /// `smtpd_tls_ccert_verifydepth`
    depth: Option<usize>,
    /// Names of the authorities that are trusted, as they stand in certificates.
    roots: Vec<Vec<u8>>,
    hints: Vec<DistinguishedName>,
    trust: Option<Arc<dyn ClientCertVerifier>>,
    /// Authorities that may vouch for a client as for a server: `tls_trust_server_ccerts`.
    servers: Option<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
}

impl Asking {
    /// Why a certificate is not trusted; in OpenSSL's words where it has any.
    fn objection(&self, own: &CertificateDer<'_>, chain: &[CertificateDer<'_>], now: UnixTime) -> Option<String> {
        let untrusted = |error: &Error| {
            let alone = Parts::of(own).is_some_and(|parts| parts.issuer == parts.subject);
            match error {
                Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                    "certificate has expired".to_owned()
                }
                Error::InvalidCertificate(
                    CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
                ) => "certificate is not yet valid".to_owned(),
                Error::InvalidCertificate(_) if alone => "self-signed certificate".to_owned(),
                Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                    "unable to get local issuer certificate".to_owned()
                }
                other => other.to_string(),
            }
        };
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        match &self.trust {
            None => Some(untrusted(&unknown)),
            Some(trust) => match trust
                .verify_client_cert(own, chain, now)
                .map(drop)
                .or_else(|error| if self.good_for_a_server(own, chain, now) { Ok(()) } else { Err(error) })
            {
                Err(error) => Some(untrusted(&error)),
                Ok(_) if self.depth.is_some_and(|depth| self.steps(own, chain) > depth) => {
                    Some("certificate chain too long".to_owned())
                }
                Ok(_) => None,
            },
        }
    }

    /// It could be a server's, and such are trusted.
    fn good_for_a_server(&self, own: &CertificateDer<'_>, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let algorithms = self.provider.signature_verification_algorithms.all;
        self.servers.as_ref().is_some_and(|roots| {
            ParsedCertificate::try_from(own)
                .and_then(|own| verify_server_cert_signed_by_trust_anchor(&own, roots, chain, now, algorithms))
                .is_ok()
        })
    }

    /// How many certificates above its own lead from a client to an authority that is trusted, that one included.
    fn steps(&self, own: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> usize {
        let (mut steps, mut current) = (1, own);
        while let Some(parts) = Parts::of(current) {
            if parts.subject == parts.issuer || self.roots.iter().any(|root| root == parts.issuer) {
                break;
            }
            let above = chain.iter().find(|other| Parts::of(other).is_some_and(|it| it.subject == parts.issuer));
            match above.filter(|_| steps <= chain.len()) {
                Some(above) => (steps, current) = (steps + 1, above),
                None => break,
            }
        }
        steps
    }
}

/// [`Asking`] for one connection.
#[derive(Debug)]
struct Watching {
    asking: Arc<Asking>,
    seen: Seen,
}

impl Watching {
    fn note(&self, cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) {
        let _ = self.seen.client.set(names::signature(dss.scheme, key_kind(cert)));
    }
}

impl ClientCertVerifier for Watching {
    fn offer_client_auth(&self) -> bool {
        self.asking.ask
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.asking.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.asking.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.note(cert, dss);
        let algorithms = &self.asking.provider.signature_verification_algorithms;
        let checked = verify_tls13_signature(message, cert, dss, algorithms);
        // webpki reads certificates of version 3 only, and many a small authority still issues version 1. Such a one is
        // never trusted, but it may be known by its fingerprint, and that the client has the key can be seen all the same.
        let unread = matches!(checked, Err(Error::InvalidCertificate(CertificateError::Other(_))));
        if let Some(parts) = Parts::of(cert).filter(|_| unread) {
            let key = SubjectPublicKeyInfoDer::from(parts.public_key);
            return verify_tls13_signature_with_raw_key(message, &key, dss, algorithms);
        }
        checked
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.asking.provider.signature_verification_algorithms.supported_schemes()
    }
}
