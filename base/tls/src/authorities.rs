//! Certification authorities that are trusted to vouch for peers.

use rustls::{DistinguishedName, RootCertStore};

use crate::keys::{Fault, Files, certificates};

/// Where systems keep the authorities that they trust (`tls_append_default_CA`).
const OF_THE_SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Files of a directory that are looked at.
const MAX_FILES: usize = 2000;

/// Where authorities are named.
pub(crate) struct Named<'a> {
    /// Parameters begin so: `smtpd_tls_`.
    pub(crate) prefix: &'a str,
    /// `CAfile`
    pub(crate) file: &'a str,
    /// `CApath`
    pub(crate) path: &'a str,
    /// `tls_append_default_CA`
    pub(crate) of_the_system: bool,
}

/// The authorities, and the names of those in the CAfile, which clients are told.
pub(crate) fn read(
    named: &Named<'_>,
    files: &dyn Files,
    notices: &mut Vec<String>,
) -> (RootCertStore, Vec<DistinguishedName>) {
    let mut store = RootCertStore::empty();
    let mut hints = Vec::new();
    if !named.file.is_empty() {
        match certificates(files, named.file) {
            Ok(found) => {
                store.add_parsable_certificates(found);
                hints = store.subjects();
            }
            Err(Fault(why)) => notices.push(format!("{}CAfile: {why}", named.prefix)),
        }
    }
    if !named.path.is_empty() {
        match std::fs::read_dir(named.path) {
            Ok(entries) => {
                for entry in entries.filter_map(Result::ok).take(MAX_FILES) {
                    // A directory may hold anything; what has no certificates is passed over.
                    let path = entry.path().to_string_lossy().into_owned();
                    store.add_parsable_certificates(certificates(files, &path).unwrap_or_default());
                }
            }
            Err(error) => notices.push(format!("{}CApath: open {}: {error}", named.prefix, named.path)),
        }
    }
    if named.of_the_system {
        for path in OF_THE_SYSTEM {
            store.add_parsable_certificates(certificates(files, path).unwrap_or_default());
        }
    }
    (store, hints)
}
