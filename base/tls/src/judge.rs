//! What a server's certificate is worth to a client that makes demands: chains to authorities, fingerprints, TLSA records.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, Der, TrustAnchor, UnixTime};

use crate::certificate::{Parts, Validity, content_of, one_line};
use crate::digest::Digest;
use crate::host_names;

/// A TLSA record (RFC 6698 section 2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tlsa {
    /// 2: an authority in the server's chain; 3: the server's own certificate. Others are of no use to mail (RFC 7672
    /// section 3.1.3).
    pub usage: u8,
    /// 0: the certificate, 1: its public key.
    pub selector: u8,
    /// 0: all of it, 1: SHA-256, 2: SHA-512.
    pub matching: u8,
    /// What has to be found there.
    pub data: Vec<u8>,
}

impl Tlsa {
    /// Records of kinds that can be used for mail. `digests` is `tls_dane_digests`: the digests that count, best first.
    pub fn is_usable(&self, digests: &[String]) -> bool {
        let length = match self.matching {
            0 => !self.data.is_empty(),
            1 => self.data.len() == 32 && digests.iter().any(|name| name.eq_ignore_ascii_case("sha256")),
            2 => self.data.len() == 64 && digests.iter().any(|name| name.eq_ignore_ascii_case("sha512")),
            _ => false,
        };
        matches!(self.usage, 2 | 3) && self.selector <= 1 && length
    }

    fn digest_name(&self) -> Option<&'static str> {
        match self.matching {
            1 => Some("sha256"),
            2 => Some("sha512"),
            _ => None,
        }
    }

    fn fits(&self, certificate: &[u8]) -> bool {
        let Some(parts) = Parts::of(certificate) else { return false };
        let selected = if self.selector == 0 { certificate } else { parts.public_key };
        match self.matching {
            0 => selected == self.data,
            1 => digest::digest(&digest::SHA256, selected).as_ref() == self.data,
            2 => digest::digest(&digest::SHA512, selected).as_ref() == self.data,
            _ => false,
        }
    }

    /// Where it was found, in Postfix's words.
    fn words(&self, depth: usize) -> String {
        let what = match (self.usage, depth) {
            (3, _) => "EE certificate",
            _ => "TA certificate",
        };
        let hex: String = self.data.iter().map(|byte| format!("{byte:02X}")).collect();
        let shown = match hex.len() {
            0..=64 => hex,
            // Digits are ASCII.
            _ => format!("{}...{}", &hex[..32], &hex[hex.len() - 32..]),
        };
        let (usage, selector, matching) = (self.usage, self.selector, self.matching);
        format!("Matched DANE {what} at depth {depth}: {usage} {selector} {matching} {shown}")
    }
}

/// Authorities of one destination's own (`tafile`, `smtp_tls_trust_anchor_file`).
#[derive(Clone, Debug)]
pub struct Anchors(pub(crate) Arc<RootCertStore>);

impl PartialEq for Anchors {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.roots == other.0.roots
    }
}

impl Eq for Anchors {}

/// What a certificate must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Proof {
    /// Nothing.
    #[default]
    None,
    /// One of these fingerprints, of the certificate or its key.
    Fingerprint(Vec<String>),
    /// Issued by an authority that is trusted, for one of these names; those that begin with a dot stand for all below.
    Names {
        /// Names of hosts.
        names: Vec<String>,
        /// Authorities of its own; without, those of the client.
        anchors: Option<Anchors>,
    },
    /// What TLSA records say; names count where an authority does.
    Dane {
        /// Usable records.
        records: Vec<Tlsa>,
        /// Names of hosts.
        names: Vec<String>,
    },
}

impl Proof {
    /// There is something to prove.
    pub fn is_demanded(&self) -> bool {
        !matches!(self, Self::None)
    }
}

/// What a certificate was found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// It is issued by an authority that is trusted, or proved.
    pub(crate) trusted: bool,
    /// All that was demanded is proved.
    pub(crate) proved: bool,
    /// The name in it that was asked for.
    pub(crate) name: Option<String>,
    /// How it was proved, after `PEER: `.
    pub(crate) how: Option<String>,
    /// Why it is not trusted: what precedes `for PEER: `, and what follows.
    pub(crate) objection: Option<(&'static str, String)>,
}

/// What judges.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) digest: Digest,
    /// `tls_wildcard_matches_multiple_labels`
    pub(crate) many_labels: bool,
    /// `tls_dane_digests`
    pub(crate) dane_digests: Vec<String>,
}

const FAILED: &str = "certificate verification failed";
const SERVER_FAILED: &str = "server certificate verification failed";

impl Judge {
    /// Judges the certificates that a server presented, its own first.
    pub(crate) fn judge(&self, certificates: &[CertificateDer<'_>], proof: &Proof, now: UnixTime) -> Judgement {
        let Some((own, chain)) = certificates.split_first() else { return Judgement::default() };
        match proof {
            Proof::None => match self.chain(own, chain, &self.roots, now) {
                Ok(()) => Judgement { trusted: true, ..Judgement::default() },
                Err(objection) => Judgement { objection: Some(objection), ..Judgement::default() },
            },
            Proof::Fingerprint(wanted) => self.fingerprint(own, wanted),
            Proof::Names { names, anchors } => {
                let roots = anchors.as_ref().map_or(&self.roots, |anchors| &anchors.0);
                match self.chain(own, chain, roots, now) {
                    Ok(()) => self.named(own, names, None),
                    Err(objection) => Judgement { objection: Some(objection), ..Judgement::default() },
                }
            }
            Proof::Dane { records, names } => self.dane(own, chain, records, names, now),
        }
    }

    fn named(&self, own: &[u8], names: &[String], how: Option<String>) -> Judgement {
        let found = Parts::of(own).map(|parts| parts.host_names()).unwrap_or_default();
        let name = found.into_iter().find(|found| {
            let mut wanted = names.iter();
            wanted.any(|wanted| host_names::fits(found, wanted, self.many_labels))
        });
        if name.is_some() {
            return Judgement { trusted: true, proved: true, name, how, objection: None };
        }
        // Postfix has OpenSSL look at the name, for which a certificate with another one is not valid at all.
        let objection = Some((SERVER_FAILED, "num=62:hostname mismatch".to_owned()));
        Judgement { objection, ..Judgement::default() }
    }

    fn fingerprint(&self, own: &[u8], wanted: &[String]) -> Judgement {
        let key = Parts::of(own).map_or(&[][..], |parts| parts.public_key);
        let found = [("", self.digest.fingerprint(own)), ("", self.digest.fingerprint(key))];
        for (_, print) in found {
            if wanted.iter().any(|one| one.trim().eq_ignore_ascii_case(&print)) {
                let how = Some(format!("Matched fingerprint: {print}"));
                return Judgement { trusted: true, proved: true, name: None, how, objection: None };
            }
        }
        let objection = Some((SERVER_FAILED, "num=65:no matching DANE TLSA records".to_owned()));
        Judgement { objection, ..Judgement::default() }
    }

    fn dane(
        &self,
        own: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        records: &[Tlsa],
        names: &[String],
        now: UnixTime,
    ) -> Judgement {
        let counts = |record: &&Tlsa| record.is_usable(&self.dane_digests) && self.is_best(record, records);
        // RFC 7672 section 3.1.1: neither names nor times count.
        if let Some(record) = records.iter().filter(counts).find(|record| record.usage == 3 && record.fits(own)) {
            let how = Some(record.words(0));
            return Judgement { trusted: true, proved: true, name: None, how, objection: None };
        }
        for record in records.iter().filter(counts).filter(|record| record.usage == 2) {
            let at = chain.iter().position(|certificate| record.fits(certificate));
            let Some(roots) = anchor_of(record, at.and_then(|at| chain.get(at)), chain, own) else { continue };
            if self.chain(own, chain, &roots, now).is_ok() {
                let judged = self.named(own, names, Some(record.words(at.map_or(chain.len(), |at| at + 1))));
                if judged.proved {
                    return judged;
                }
            }
        }
        let objection = Some((SERVER_FAILED, "num=65:no matching DANE TLSA records".to_owned()));
        Judgement { objection, ..Judgement::default() }
    }

    /// RFC 7671 section 9: of records that differ in their digest only, those with the best one count.
    fn is_best(&self, record: &Tlsa, records: &[Tlsa]) -> bool {
        let Some(own) = record.digest_name() else { return true };
        let rank = |name: &str| self.dane_digests.iter().position(|known| known.eq_ignore_ascii_case(name));
        let own = rank(own);
        !records.iter().any(|other| {
            other.usage == record.usage
                && other.selector == record.selector
                && other.is_usable(&self.dane_digests)
                && other.digest_name().is_some_and(|name| rank(name) < own)
        })
    }

    /// The chain leads to one of these authorities.
    fn chain(
        &self,
        own: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        roots: &RootCertStore,
        now: UnixTime,
    ) -> Result<(), (&'static str, String)> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let checked = ParsedCertificate::try_from(own)
            .and_then(|parsed| verify_server_cert_signed_by_trust_anchor(&parsed, roots, chain, now, algorithms));
        let Err(error) = checked else { return Ok(()) };
        let Some(parts) = Parts::of(own) else { return Err((FAILED, error.to_string())) };
        let valid = parts.validity_at(now.as_secs());
        // A certificate that is an authority of ours itself, as many a host's own one is.
        let same = |root: &&TrustAnchor<'_>| {
            root.subject.as_ref() == parts.subject
                && Some(root.subject_public_key_info.as_ref()) == content_of(parts.public_key)
        };
        if valid == Validity::Valid && roots.roots.iter().any(|root| same(&root)) {
            return Ok(());
        }
        Err(match (error, valid) {
            (_, Validity::NotYet) => (SERVER_FAILED, "certificate not yet valid".to_owned()),
            (Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }), _)
            | (_, Validity::Expired) => (SERVER_FAILED, "certificate has expired".to_owned()),
            (Error::InvalidCertificate(_), _) if parts.issuer == parts.subject => {
                (FAILED, "self-signed certificate".to_owned())
            }
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), _) => {
                let last = chain.last().and_then(|last| Parts::of(last)).unwrap_or(parts);
                let what = if last.issuer == last.subject {
                    "self-signed certificate".to_owned()
                } else {
                    format!("untrusted issuer {}", one_line(last.issuer))
                };
                (FAILED, what)
            }
            (other, _) => (FAILED, other.to_string()),
        })
    }
}

/// The authority that a record of usage 2 names: a certificate of the chain, or one that the record has in full.
fn anchor_of(
    record: &Tlsa,
    found: Option<&CertificateDer<'_>>,
    chain: &[CertificateDer<'_>],
    own: &CertificateDer<'_>,
) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(found) = found {
        roots.add(found.clone()).ok()?;
    } else if record.matching == 0 && record.selector == 0 {
        roots.add(CertificateDer::from(record.data.as_slice())).ok()?;
    } else if record.matching == 0 {
        // A bare key: whoever the chain ends with names as its issuer.
        let last = Parts::of(chain.last().unwrap_or(own))?;
        roots.roots.push(TrustAnchor {
            subject: Der::from(last.issuer.to_vec()),
            subject_public_key_info: Der::from(content_of(&record.data)?.to_vec()),
            name_constraints: None,
        });
    } else {
        return None;
    }
    Some(roots)
}
