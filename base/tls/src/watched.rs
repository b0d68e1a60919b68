//! A key of ours that notes what it signs with: the log says so, and rustls does not.

use std::fmt;
use std::sync::Arc;

use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::SubjectPublicKeyInfoDer;

use crate::certificate::{KeyKind, key_kind};
use crate::names::{self, Signature};

struct Watched<N> {
    inner: Arc<dyn SigningKey>,
    kind: KeyKind,
    note: N,
}

/// The same key, which tells `note` each time.
pub(crate) fn watched(chosen: &CertifiedKey, note: impl Fn(Signature) + Send + Sync + 'static) -> Arc<CertifiedKey> {
    let kind = chosen.cert.first().map_or(KeyKind::Other, |own| key_kind(own));
    let key = Arc::new(Watched { inner: Arc::clone(&chosen.key), kind, note });
    Arc::new(CertifiedKey { cert: chosen.cert.clone(), key, ocsp: chosen.ocsp.clone() })
}

impl<N> fmt::Debug for Watched<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<N: Fn(Signature) + Send + Sync> SigningKey for Watched<N> {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.inner.choose_scheme(offered)?;
        (self.note)(names::signature(signer.scheme(), self.kind));
        Some(signer)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.inner.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.inner.algorithm()
    }
}
