//! Certification authorities that are trusted to vouch for peers.

use rustls::{DistinguishedName, RootCertStore};

use crate::keys::{Fault, Files, certificates};
use crate::options::ServerOptions;

/// Where systems keep the authorities that they trust (`tls_append_default_CA`).
const OF_THE_SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Files of a directory that are looked at.
const MAX_FILES: usize = 2000;

/// The authorities, and the names of those in the CAfile, which clients are told.
pub(crate) fn read(
    options: &ServerOptions,
    files: &dyn Files,
    notices: &mut Vec<String>,
) -> (RootCertStore, Vec<DistinguishedName>) {
    let mut store = RootCertStore::empty();
    let mut hints = Vec::new();
    if !options.ca_file.is_empty() {
        match certificates(files, &options.ca_file) {
            Ok(found) => {
                store.add_parsable_certificates(found);
                hints = store.subjects();
            }
            Err(Fault(why)) => notices.push(format!("smtpd_tls_CAfile: {why}")),
        }
    }
    if !options.ca_path.is_empty() {
        match std::fs::read_dir(&options.ca_path) {
            Ok(entries) => {
                for entry in entries.filter_map(Result::ok).take(MAX_FILES) {
                    // A directory may hold anything; what has no certificates is passed over.
                    let path = entry.path().to_string_lossy().into_owned();
                    store.add_parsable_certificates(certificates(files, &path).unwrap_or_default());
                }
            }
            Err(error) => notices.push(format!("smtpd_tls_CApath: open {}: {error}", options.ca_path)),
        }
    }
    if options.default_ca {
        for path in OF_THE_SYSTEM {
            store.add_parsable_certificates(certificates(files, path).unwrap_or_default());
        }
    }
    (store, hints)
}
