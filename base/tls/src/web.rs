//! A client of web servers, without a runtime: for commands that hand something to one.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::client::Taking;

/// Where systems keep the authorities that they trust.
pub const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A connection to a web server that has proved its name.
pub type Web = StreamOwned<ClientConnection, TcpStream>;

/// Prepares an encrypted connection to somebody who proves nothing: for questions that anybody may hear the answers of. The handshake
/// is made as that of [`web`]. Errors: `host` is neither a name nor an address.
pub fn unproved(stream: TcpStream, host: &str) -> io::Result<Web> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Taking { provider }))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| io::Error::other(format!("{host}: {error}")))?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, stream))
}

/// Prepares a connection to the server `host`: its certificate must be for that name, by an authority in a PEM file. The handshake is
/// made with the first byte that is written or read, and its failure is an error there.
pub fn web(stream: TcpStream, host: &str, authorities: &Path) -> io::Result<Web> {
    let wrong = |what: &str| io::Error::other(format!("{}: {what}", authorities.display()));
    let text = std::fs::read(authorities).map_err(|error| wrong(&error.to_string()))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).filter_map(Result::ok));
    if added == 0 {
        return Err(wrong("no certificate in it that can be used"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| io::Error::other(format!("{host}: {error}")))?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, stream))
}
