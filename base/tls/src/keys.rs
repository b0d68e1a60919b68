//! Keys with their certificate chains, from PEM files in the ways that Postfix has for them.
//!
//! Files come through [`Files`]: keys are readable by root alone, and the process that uses them is not root.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificate::Parts;

/// Where the text of key and certificate files comes from.
pub trait Files {
    /// The content of the file `path`.
    ///
    /// # Errors
    /// As reading it failed.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;
}

/// The files of this machine, with the rights of this process.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }
}

/// Files that were read by somebody with more rights; any other is read from disk.
#[derive(Clone, Debug, Default)]
pub struct Handed(pub HashMap<String, Result<Vec<u8>, String>>);

impl Files for Handed {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        match self.0.get(path) {
            Some(Ok(content)) => Ok(content.clone()),
            Some(Err(why)) => Err(io::Error::other(why.clone())),
            None => Disk.read(path),
        }
    }
}

/// What is wrong with keys or settings, as a sentence that names file and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

pub(crate) fn fault<T>(text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault(text.into()))
}

/// Keys that one name is served with, each with its chain, in the order of preference.
#[derive(Debug, Default)]
pub(crate) struct Keys(Vec<Arc<CertifiedKey>>);

/// A PEM file may hold so much.
const MAX_FILE: usize = 4 << 20;

/// What a PEM file holds, in order.
enum Piece {
    Key(PrivateKeyDer<'static>),
    Certificate(CertificateDer<'static>),
}

fn pieces(path: &str, text: &[u8]) -> Result<Vec<Piece>, Fault> {
    if text.len() > MAX_FILE {
        return fault(format!("file \"{path}\" is too long for keys or certificates"));
    }
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = section.map_err(|error| Fault(format!("file \"{path}\": {error}")))?;
        match kind {
            SectionKind::Certificate => found.push(Piece::Certificate(der.into())),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                found.extend(PrivateKeyDer::from_pem(kind, der).map(Piece::Key));
            }
            _ => {}
        }
    }
    Ok(found)
}

fn is_encrypted(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}

fn no_key(path: &str, text: &[u8]) -> Fault {
    let why = if is_encrypted(text) { "its private key has a passphrase: remove it" } else { "it has no private key" };
    Fault(format!("file \"{path}\": {why}"))
}

/// All certificates in a file, for certification authorities.
pub(crate) fn certificates(files: &dyn Files, path: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let text = files.read(path).map_err(|error| Fault(format!("open \"{path}\": {error}")))?;
    let certificate = |piece| match piece {
        Piece::Certificate(certificate) => Some(certificate),
        Piece::Key(_) => None,
    };
    Ok(pieces(path, &text)?.into_iter().filter_map(certificate).collect())
}

impl Keys {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `smtpd_tls_chain_files`: each key is followed by its chain, in any number of files.
    pub(crate) fn add_chains(
        &mut self,
        files: &dyn Files,
        provider: &CryptoProvider,
        paths: &[String],
    ) -> Result<(), Fault> {
        let mut current: Option<(String, PrivateKeyDer<'static>, Vec<CertificateDer<'static>>)> = None;
        for path in paths {
            let text = files.read(path).map_err(|error| Fault(format!("open \"{path}\": {error}")))?;
            let pieces = pieces(path, &text)?;
            if pieces.is_empty() {
                return Err(no_key(path, &text));
            }
            for piece in pieces {
                match (piece, &mut current) {
                    (Piece::Key(key), current) => {
                        let done = current.replace((path.clone(), key, Vec::new()));
                        self.finish(provider, done)?;
                    }
                    (Piece::Certificate(certificate), Some((_, _, chain))) => chain.push(certificate),
                    (Piece::Certificate(_), None) => {
                        return fault(format!("file \"{path}\": the first key must come before its certificate"));
                    }
                }
            }
        }
        self.finish(provider, current)
    }

    /// Chains in one text, as `postmap -F` makes it of an entry of `tls_server_sni_maps`.
    pub(crate) fn add_text(&mut self, name: &str, text: &[u8], provider: &CryptoProvider) -> Result<(), Fault> {
        let handed = Handed(HashMap::from([(name.to_owned(), Ok(text.to_vec()))]));
        self.add_chains(&handed, provider, &[name.to_owned()])
    }

    fn finish(
        &mut self,
        provider: &CryptoProvider,
        pair: Option<(String, PrivateKeyDer<'static>, Vec<CertificateDer<'static>>)>,
    ) -> Result<(), Fault> {
        match pair {
            None => Ok(()),
            Some((path, _, chain)) if chain.is_empty() => {
                fault(format!("file \"{path}\": a key has no certificate after it"))
            }
            Some((path, key, chain)) => self.add(provider, &path, key, chain),
        }
    }

    /// A file of certificates and a file with the key; they may be the same.
    pub(crate) fn add_pair(
        &mut self,
        files: &dyn Files,
        provider: &CryptoProvider,
        certificate: &str,
        key: &str,
    ) -> Result<(), Fault> {
        let chain = certificates(files, certificate)?;
        if chain.is_empty() {
            return fault(format!("file \"{certificate}\": it has no certificate"));
        }
        let text = files.read(key).map_err(|error| Fault(format!("open \"{key}\": {error}")))?;
        let found = pieces(key, &text)?.into_iter().find_map(|piece| match piece {
            Piece::Key(key) => Some(key),
            Piece::Certificate(_) => None,
        });
        match found {
            Some(found) => self.add(provider, key, found, chain),
            None => Err(no_key(key, &text)),
        }
    }

    fn add(
        &mut self,
        provider: &CryptoProvider,
        path: &str,
        key: PrivateKeyDer<'static>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<(), Fault> {
        let key = provider.key_provider.load_private_key(key);
        let key = key.map_err(|error| Fault(format!("file \"{path}\": the private key cannot be used: {error}")))?;
        let certified = CertifiedKey::new(chain, key);
        let own = certified.cert.first().and_then(|own| Parts::of(own));
        let Some(own) = own else {
            return fault(format!("file \"{path}\": the certificate cannot be read"));
        };
        // Keys that cannot say what their public half is are taken at their word.
        if certified.key.public_key().is_some_and(|public| public.as_ref() != own.public_key) {
            return fault(format!("file \"{path}\": the private key does not belong to the certificate"));
        }
        self.0.push(Arc::new(certified));
        Ok(())
    }

    /// The key for a client that understands these signatures: elliptic curves before RSA, as they cost less.
    pub(crate) fn choose(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        let is_rsa = |key: &Arc<CertifiedKey>| key.key.algorithm() == rustls::SignatureAlgorithm::RSA;
        let best = self.0.iter().filter(|key| !is_rsa(key)).find(fits);
        best.or_else(|| self.0.iter().filter(|key| is_rsa(key)).find(fits)).cloned()
    }
}
