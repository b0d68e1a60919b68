//! TLS to databases and directories: whom to trust, what to show.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// Where the system's authorities are when nobody names others.
const SYSTEM: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// How far the server's certificate is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Not at all.
    Any,
    /// Somebody trusted has signed it.
    Signed,
    /// And it is for this host.
    Named,
}

/// Files of a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// Authorities; the system's without one.
    pub(crate) authorities: Option<String>,
    /// A directory of files with authorities, in addition.
    pub(crate) directory: Option<String>,
    /// Our certificate.
    pub(crate) certificate: Option<String>,
    /// Its key.
    pub(crate) key: Option<String>,
}

/// The settings of a client.
pub(crate) fn client(trust: Trust, files: &Files) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let inner = if trust == Trust::Any {
        None
    } else {
        let roots = Arc::new(authorities(files)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        Some(verifier.map_err(|error| error.to_string())?)
    };
    let verifier = Arc::new(Verifier { inner, named: trust == Trust::Named, provider });
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{key}: {error}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(file: impl AsRef<Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let file = file.as_ref();
    let bad = |error| format!("{}: {error}", file.display());
    CertificateDer::pem_file_iter(file).map_err(bad)?.collect::<Result<_, _>>().map_err(bad)
}

/// The files of a directory with certificates in them. There are other things in such directories, and names that lead
/// nowhere.
pub(crate) fn authorities_in(directory: &str) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(directory).map_err(|error| format!("{directory}: {error}"))?;
    let files = entries.flatten().map(|entry| entry.path());
    Ok(files.filter(|file| certificates(file).is_ok_and(|found| !found.is_empty())).collect())
}

fn authorities(files: &Files) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(directory) = &files.directory {
        for file in authorities_in(directory)? {
            roots.add_parsable_certificates(certificates(&file)?);
        }
    }
    let system = || SYSTEM.iter().find(|file| Path::new(file).exists()).copied();
    let file = match (&files.authorities, &files.directory) {
        (Some(file), _) => Some(file.as_str()),
        (None, Some(_)) => None,
        (None, None) => Some(system().ok_or("the system has no list of authorities")?),
    };
    if let Some(file) = file {
        roots.add_parsable_certificates(certificates(file)?);
    }
    if roots.is_empty() {
        let place = file.or(files.directory.as_deref()).unwrap_or_default();
        return Err(format!("{place}: no certificate in it can be used"));
    }
    Ok(roots)
}

#[derive(Debug)]
struct Verifier {
    /// `None`: everybody is believed.
    inner: Option<Arc<WebPkiServerVerifier>>,
    named: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.named => Ok(ServerCertVerified::assertion()),
            result => result,
        }
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
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
