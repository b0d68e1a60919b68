//! The client's side: settings made ready once per configuration, and handshakes with servers of whom more or less is
//! demanded.
//!
//! A handshake takes any certificate whose key the server has. What the certificate is worth is decided afterwards, from
//! the demands of this connection, also where a session is resumed: so sessions of one demand are no way around another's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Resumption};
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, HandshakeKind, ProtocolVersion, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::certificate::{Parts, PeerCertificate, key_kind, one_line};
use crate::choice::{self, Protocols};
use crate::client_options::ClientOptions;
use crate::digest::Digest;
use crate::judge::{Anchors, Judge, Judgement, Proof};
use crate::keys::{Fault, Files, Keys, certificates, fault};
use crate::options::LogMask;
use crate::server::Failure;
use crate::session::Session;
use crate::stream::Stream;
use crate::watched::watched;
use crate::{authorities, names};

/// Servers whose sessions are remembered.
const REMEMBERED: usize = 2000;

/// What one connection must be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// The parameter or table that names the protocols, for texts.
    pub protocols_named: String,
    /// Protocols, as in `smtp_tls_protocols`.
    pub protocols: Vec<String>,
    /// Ciphers that are not offered.
    pub exclude: Vec<String>,
    /// The name that the server is asked for (SNI); none when empty.
    pub server_name: String,
    /// Whoever this is called in logs: `HOST[ADDRESS]:PORT`. Sessions are remembered by it.
    pub peer: String,
    /// What the certificate must prove.
    pub proof: Proof,
    /// Name and log TLSA records and chains that do not fit (level above `encrypt`).
    pub explain: bool,
    /// Tell of the certificates: [`Secured::chain`].
    pub describe: bool,
    /// What is logged, where that is another than the client's.
    pub log: Option<LogMask>,
}

/// An encrypted connection to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secured {
    /// What was agreed upon.
    pub session: Session,
    /// What was demanded is proved; also when nothing was.
    pub proved: bool,
    /// Why not, in words.
    pub objection: Option<String>,
    /// Lines for the log, as its level wants them.
    pub lines: Vec<String>,
    /// The certificates that the server presented, its own first, where they were asked for.
    pub chain: Vec<Presented>,
}

/// A certificate that a server presented.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presented {
    /// `/O=Org/CN=name`
    pub subject: String,
    /// `/O=Org/CN=name`
    pub issuer: String,
    /// Names of hosts in it.
    pub names: Vec<String>,
    /// Seconds since 1970; `None` when it cannot be read.
    pub until: Option<u64>,
}

/// A client that can do handshakes.
pub struct Client {
    keys: Arc<dyn ResolvesClientCert>,
    verifier: Arc<dyn ServerCertVerifier>,
    judge: Judge,
    options: ClientOptions,
    notices: Vec<String>,
    sessions: Mutex<HashMap<String, Arc<ClientSessionMemoryCache>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("options", &self.options).finish_non_exhaustive()
    }
}

tokio::task_local! {
    /// Signatures that were made and checked in this handshake; rustls does not tell afterwards, and takes up a session
    /// only with the very verifier that it began with.
    static SEEN: Arc<Seen>;
}

#[derive(Debug, Default)]
struct Seen {
    server: OnceLock<names::Signature>,
    client: OnceLock<names::Signature>,
}

fn note(side: impl Fn(&Seen) -> &OnceLock<names::Signature>, signature: names::Signature) {
    let _ = SEEN.try_with(|seen| side(seen).set(signature).is_ok());
}

impl Client {
    /// Makes a client of its settings.
    ///
    /// # Errors
    /// Keys that are named and cannot be used: TLS is then not available.
    pub fn new(options: ClientOptions, files: &dyn Files) -> Result<Self, Fault> {
        let provider = Arc::new(choice::provider(&[], options.curves.as_deref()));
        let digest = Digest::of(&options.digest).ok_or_else(|| {
            Fault(format!("{}tls_fingerprint_digest: unknown digest \"{}\"", options.prefix, options.digest))
        })?;
        let mut notices = Vec::new();
        let (roots, _) = authorities::read(
            &authorities::Named {
                prefix: &format!("{}tls_", options.prefix),
                file: &options.ca_file,
                path: &options.ca_path,
                of_the_system: options.default_ca,
            },
            files,
            &mut notices,
        );
        let keys = own_keys(&options, files, &provider)?;
        let judge = Judge {
            roots: Arc::new(roots),
            provider: Arc::clone(&provider),
            digest,
            many_labels: options.many_labels,
            dane_digests: options.dane_digests.clone(),
        };
        let (keys, verifier) = (Arc::new(Chooser { keys }), Arc::new(Taking { provider }));
        Ok(Self { keys, verifier, judge, options, notices, sessions: Mutex::default() })
    }

    /// The settings it was made of.
    pub fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// For the log, once: files that were passed over.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Authorities of a file, for destinations that trust no others.
    ///
    /// # Errors
    /// The file cannot be read, or has no certificate.
    pub fn anchors(path: &str, files: &dyn Files) -> Result<Anchors, Fault> {
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(certificates(files, path)?);
        if added == 0 {
            return fault(format!("file \"{path}\": it has no certificate of an authority"));
        }
        Ok(Anchors(Arc::new(store)))
    }

    /// The authorities that this client trusts, for demands of another.
    pub fn authorities(&self) -> Anchors {
        Anchors(Arc::clone(&self.judge.roots))
    }

    /// The demand can be obeyed: its protocols and ciphers are there.
    ///
    /// # Errors
    /// They are not.
    pub fn check(&self, demand: &Demand) -> Result<(), Fault> {
        self.config(demand).map(drop)
    }

    fn config(&self, demand: &Demand) -> Result<ClientConfig, Fault> {
        let Protocols { versions, .. } = choice::protocols(&demand.protocols_named, &demand.protocols)?;
        let provider = choice::provider(&demand.exclude, self.options.curves.as_deref());
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&versions)
            .map_err(|error| Fault(format!("these protocols and ciphers do not go together: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier))
            .with_client_cert_resolver(Arc::clone(&self.keys));
        config.enable_sni = !demand.server_name.is_empty();
        config.resumption = if self.options.resumption {
            Resumption::store(self.store(&demand.peer, &demand.server_name))
        } else {
            Resumption::disabled()
        };
        Ok(config)
    }

    fn store(&self, peer: &str, name: &str) -> Arc<dyn ClientSessionStore> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{peer} {name}");
        if sessions.len() >= REMEMBERED && !sessions.contains_key(&key) {
            // Half of them at once: this is rare, and none is worth more than another.
            let mut keep = false;
            sessions.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        let store = sessions.entry(key).or_insert_with(|| Arc::new(ClientSessionMemoryCache::new(8)));
        Arc::clone(store) as _
    }

    /// A handshake on `stream`, of which nothing was read yet. Takes as long as the server lets it: the caller has to have a
    /// time limit.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub async fn connect<S>(&self, stream: S, demand: &Demand) -> Result<(Stream<S>, Secured), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config(demand).map_err(|Fault(why)| Failure::Protocol(why))?;
        // Without SNI nobody sees the name.
        let name = ServerName::try_from(demand.server_name.clone())
            .or_else(|_| ServerName::try_from("server.invalid"))
            .map_err(|error| Failure::Protocol(error.to_string()))?
            .to_owned();
        let seen = Arc::new(Seen::default());
        let work = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let connected = SEEN.scope(Arc::clone(&seen), work).await.map_err(Failure::of)?;
        let secured = self.describe(connected.get_ref().1, &seen, demand);
        Ok((Stream::Client(Box::new(connected)), secured))
    }

    fn describe(&self, connection: &rustls::ClientConnection, seen: &Seen, demand: &Demand) -> Secured {
        let modern = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let certificates = connection.peer_certificates().unwrap_or_default();
        let judged = self.judge.judge(certificates, &demand.proof, UnixTime::now());
        let objection = judged.objection.as_ref().map(|(_, why)| why.clone());
        let peer = certificates.first().map(|own| PeerCertificate::read(own, self.judge.digest, objection.clone()));
        let group = connection.negotiated_key_exchange_group().filter(|_| modern);
        let signed = |side: &OnceLock<names::Signature>| side.get().filter(|_| modern).cloned();
        let session = Session {
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
        };
        let lines = self.lines(&session, &judged, demand);
        let proved = judged.proved || !demand.proof.is_demanded();
        let presented = |certificate: &CertificateDer<'_>| {
            let Some(parts) = Parts::of(certificate) else { return Presented::default() };
            let (subject, issuer) = (one_line(parts.subject), one_line(parts.issuer));
            Presented { subject, issuer, names: parts.host_names(), until: parts.valid_until() }
        };
        let chain = if demand.describe { certificates.iter().map(presented).collect() } else { Vec::new() };
        Secured { session, proved, objection, lines, chain }
    }

    /// What the log says of the connection.
    fn lines(&self, session: &Session, judged: &Judgement, demand: &Demand) -> Vec<String> {
        let (log, peer) = (demand.log.unwrap_or(self.options.log), &demand.peer);
        let mut lines = Vec::new();
        if log.verbose || log.matches {
            lines.extend(judged.name.iter().map(|name| format!("{peer}: matched peername: {name}")));
            lines.extend(judged.how.iter().map(|how| format!("{peer}: {how}")));
        }
        if let Some((what, why)) = judged.objection.as_ref().filter(|_| log.untrusted || demand.explain) {
            lines.push(format!("{what} for {peer}: {why}"));
        }
        if let Some(certificate) = session.peer.as_ref().filter(|_| log.peer_certificate) {
            lines.push(format!(
                "{peer}: subject_CN={}, issuer_CN={}, fingerprint={}, pkey_fingerprint={}",
                certificate.subject_cn, certificate.issuer_cn, certificate.fingerprint, certificate.key_fingerprint
            ));
        }
        if log.summary {
            let who = match &session.peer {
                None => "Anonymous",
                Some(_) if judged.proved => "Verified",
                Some(_) if judged.trusted => "Trusted",
                Some(_) => "Untrusted",
            };
            lines.push(session.words(who, &format!("established to {peer}")));
        }
        lines
    }
}

fn own_keys(options: &ClientOptions, files: &dyn Files, provider: &CryptoProvider) -> Result<Keys, Fault> {
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
    Ok(keys)
}

/// Gives our own certificate where a server asks for one.
#[derive(Debug)]
struct Chooser {
    keys: Keys,
}

impl ResolvesClientCert for Chooser {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(watched(&*self.keys.choose(schemes)?, |signature| note(|seen| &seen.client, signature)))
    }

    fn has_certs(&self) -> bool {
        !self.keys.is_empty()
    }
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
pub(crate) struct Taking {
    pub(crate) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Taking {
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
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        note(|seen| &seen.server, names::signature(dss.scheme, key_kind(cert)));
        let algorithms = &self.provider.signature_verification_algorithms;
        let checked = verify_tls13_signature(message, cert, dss, algorithms);
        // Certificates of version 1 cannot be read by webpki; that the server has the key can be seen all the same.
        let unread = matches!(checked, Err(Error::InvalidCertificate(CertificateError::Other(_))));
        if let Some(parts) = Parts::of(cert).filter(|_| unread) {
            let key = SubjectPublicKeyInfoDer::from(parts.public_key);
            return verify_tls13_signature_with_raw_key(message, &key, dss, algorithms);
        }
        checked
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
