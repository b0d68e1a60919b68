//! The certificate of simulated receivers: made at the start, signed by itself, gone at the end.

use std::collections::HashMap;

use yamabiko_tls::{Handed, Level, LogMask, Server, ServerOptions};

/// The server's side of handshakes, with a certificate for these host names.
///
/// # Errors
/// In words: keys cannot be made.
pub fn server(names: Vec<String>) -> Result<Server, String> {
    let fault = |error: &dyn std::fmt::Display| format!("certificate: {error}");
    let key = rcgen::KeyPair::generate().map_err(|error| fault(&error))?;
    let mut params = rcgen::CertificateParams::new(names).map_err(|error| fault(&error))?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "rehearsal");
    let certificate = params.self_signed(&key).map_err(|error| fault(&error))?;
    let text = format!("{}{}", key.serialize_pem(), certificate.pem());
    let files = Handed(HashMap::from([("made".to_owned(), Ok(text.into_bytes()))]));
    let options = ServerOptions {
        level: Level::May,
        chain_files: vec!["made".to_owned()],
        digest: "sha256".to_owned(),
        protocols: ("smtpd_tls_protocols".into(), vec![">=TLSv1.2".to_owned()]),
        log: LogMask::parse("0"),
        ..ServerOptions::default()
    };
    Server::new(options, &[], &files).map_err(|error| fault(&error))
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_is_made() {
        assert!(super::server(vec!["mx1.google.com".to_owned()]).is_ok());
    }
}
