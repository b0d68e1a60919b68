//! What the log, `Received:` fields and restrictions want to know of a certificate: names and fingerprints.
//!
//! A reader of DER (X.690) that goes only where these are; whether a certificate can be trusted is decided elsewhere.
//! Bounded by the length of its input, and never fails loudly: what cannot be read is empty.

use crate::digest::Digest;

/// A public key's kind, as signatures are described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA with so many bits.
    Rsa(usize),
    /// On a curve, by OpenSSL's name.
    Curve(&'static str),
    /// Anything else: its name says all.
    Other,
}

/// A certificate that a peer presented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Common name of the subject; empty when there is none.
    pub subject_cn: String,
    /// Common name of the issuer, or its organization.
    pub issuer_cn: String,
    /// `/O=Org/CN=name`
    pub subject: String,
    /// `/O=Org/CN=name`
    pub issuer: String,
    /// `AA:BB:..` of the whole certificate.
    pub fingerprint: String,
    /// `AA:BB:..` of the public key.
    pub key_fingerprint: String,
    /// `None` when it leads to a certification authority that we trust, else why not.
    pub untrusted: Option<String>,
}

/// The parts of a certificate that are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub(crate) issuer: &'a [u8],
    pub(crate) subject: &'a [u8],
    pub(crate) public_key: &'a [u8],
    /// From when until when it is valid.
    validity: &'a [u8],
    /// The extensions, one after the other.
    extensions: &'a [u8],
}

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const BIT_STRING: u8 = 0x03;
const INTEGER: u8 = 0x02;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;

/// One element: its tag, its content, the whole of it, and what follows.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
    rest: &'a [u8],
}

fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let (&tag, after) = bytes.split_first()?;
    let (&first, after) = after.split_first()?;
    let (length, after) = match first {
        0..=0x7f => (usize::from(first), after),
        // DER needs no more than the length takes; four bytes are more than any certificate.
        0x81..=0x84 => {
            let (digits, after) = after.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0usize, |sum, digit| (sum << 8) | usize::from(*digit)), after)
        }
        _ => return None,
    };
    let (content, rest) = after.split_at_checked(length)?;
    let whole = bytes.get(..bytes.len() - rest.len())?;
    Some(Element { tag, content, whole, rest })
}

fn sequence(bytes: &[u8]) -> Option<Element<'_>> {
    element(bytes).filter(|e| e.tag == SEQUENCE)
}

/// What is inside a sequence.
pub(crate) fn content_of(bytes: &[u8]) -> Option<&[u8]> {
    sequence(bytes).map(|e| e.content)
}

impl<'a> Parts<'a> {
    /// RFC 5280 section 4.1.
    pub(crate) fn of(der: &'a [u8]) -> Option<Self> {
        let to_be_signed = sequence(sequence(der)?.content)?.content;
        let mut next = element(to_be_signed)?;
        if next.tag == 0xa0 {
            // The version.
            next = element(next.rest)?;
        }
        // The serial number was read; then come algorithm, issuer, validity, subject, key.
        let algorithm = sequence(next.rest)?;
        let issuer = sequence(algorithm.rest)?;
        let validity = sequence(issuer.rest)?;
        let subject = sequence(validity.rest)?;
        let key = sequence(subject.rest)?;
        let mut extensions: &[u8] = &[];
        let mut rest = key.rest;
        while let Some(next) = element(rest) {
            rest = next.rest;
            if next.tag == 0xa3 {
                extensions = sequence(next.content).map_or(&[], |list| list.content);
            }
        }
        let (issuer, subject, validity) = (issuer.content, subject.content, validity.content);
        Some(Self { issuer, subject, public_key: key.whole, validity, extensions })
    }

    /// Names of hosts that the certificate is for (RFC 5280 section 4.2.1.6); without any, its common name, as OpenSSL
    /// takes it.
    pub(crate) fn host_names(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut rest = self.extensions;
        while let Some(extension) = element(rest) {
            rest = extension.rest;
            let Some(kind) = element(extension.content).filter(|e| e.tag == OBJECT_IDENTIFIER) else { continue };
            if kind.content != [0x55, 29, 17] {
                continue;
            }
            let mut next = element(kind.rest);
            if next.as_ref().is_some_and(|e| e.tag == BOOLEAN) {
                next = next.and_then(|e| element(e.rest));
            }
            let list = next.filter(|e| e.tag == OCTET_STRING).and_then(|e| sequence(e.content));
            let mut names = list.map_or(&[][..], |list| list.content);
            while let Some(name) = element(names) {
                names = name.rest;
                // [2] is dNSName. A name with anything but letters of host names in it is a trick.
                if name.tag == 0x82 && name.content.iter().all(|byte| byte.is_ascii_graphic()) {
                    found.push(String::from_utf8_lossy(name.content).into_owned());
                }
            }
        }
        if found.is_empty() {
            found.extend(first(self.subject, "CN"));
        }
        found
    }

    /// The last second at which it is valid, since 1970.
    pub(crate) fn valid_until(&self) -> Option<u64> {
        let end = element(self.validity).and_then(|begin| element(begin.rest))?;
        time(end.tag, end.content)
    }

    /// `now`, in seconds since 1970, is within the time for which the certificate is.
    pub(crate) fn validity_at(&self, now: u64) -> Validity {
        let begin = element(self.validity);
        let end = begin.as_ref().and_then(|begin| element(begin.rest));
        let time = |element: Option<Element<'_>>| element.and_then(|e| time(e.tag, e.content));
        match (time(begin), time(end)) {
            (Some(begin), _) if now < begin => Validity::NotYet,
            (Some(_), Some(end)) if now <= end => Validity::Valid,
            _ => Validity::Expired,
        }
    }
}

/// Whether a certificate's time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validity {
    Valid,
    NotYet,
    /// Or it cannot be read.
    Expired,
}

/// UTCTime (`YYMMDDHHMMSSZ`) or GeneralizedTime (`YYYYMMDDHHMMSSZ`) in seconds since 1970 (RFC 5280 section 4.1.2.5).
fn time(tag: u8, text: &[u8]) -> Option<u64> {
    let (year, rest) = match tag {
        0x17 => {
            let year = number(text.get(..2)?)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        0x18 => (number(text.get(..4)?)?, text.get(4..)?),
        _ => return None,
    };
    let mut parts = rest.strip_suffix(b"Z")?.chunks(2).map(number);
    let mut part = || parts.next()?;
    let (month, day, hour, minute, second) = (part()?, part()?, part()?, part()?, part()?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return (year < 1970).then_some(0);
    }
    // Days since 1970, with years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

fn number(digits: &[u8]) -> Option<u64> {
    let digit = |sum: u64, byte: &u8| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0'));
    digits.iter().try_fold(0, digit)
}

/// Attributes of a name in order: short name and text.
fn attributes(name: &[u8]) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut rest = name;
    while let Some(set) = element(rest) {
        rest = set.rest;
        let mut inside = set.content;
        while let Some(pair) = element(inside) {
            inside = pair.rest;
            let Some(key) = element(pair.content).filter(|e| e.tag == OBJECT_IDENTIFIER) else { continue };
            let Some(value) = element(key.rest) else { continue };
            found.push((short_name(key.content), text(value.tag, value.content)));
        }
    }
    found
}

/// The short names that OpenSSL prints.
fn short_name(oid: &[u8]) -> &'static str {
    match oid {
        [0x55, 4, 3] => "CN",
        [0x55, 4, 4] => "SN",
        [0x55, 4, 5] => "serialNumber",
        [0x55, 4, 6] => "C",
        [0x55, 4, 7] => "L",
        [0x55, 4, 8] => "ST",
        [0x55, 4, 9] => "street",
        [0x55, 4, 10] => "O",
        [0x55, 4, 11] => "OU",
        [0x55, 4, 12] => "title",
        [0x55, 4, 42] => "GN",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1] => "emailAddress",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => "DC",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => "UID",
        _ => "UNDEF",
    }
}

/// A string in one of the encodings of X.509; what must not come into a log line becomes `?`.
fn text(tag: u8, bytes: &[u8]) -> String {
    let wide = |size: usize| -> String {
        let units = bytes.chunks_exact(size).map(|unit| unit.iter().fold(0u32, |sum, b| (sum << 8) | u32::from(*b)));
        units.map(|unit| char::from_u32(unit).unwrap_or('?')).collect()
    };
    let text = match tag {
        // BMPString, UniversalString.
        30 => wide(2),
        28 => wide(4),
        // T61String, taken for Latin-1 as everybody does.
        20 => bytes.iter().map(|byte| char::from(*byte)).collect(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    };
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `/O=Org/CN=name`
pub(crate) fn one_line(name: &[u8]) -> String {
    attributes(name).into_iter().map(|(key, value)| format!("/{key}={value}")).collect()
}

fn first(name: &[u8], wanted: &str) -> Option<String> {
    attributes(name).into_iter().find(|(key, value)| *key == wanted && !value.is_empty()).map(|(_, value)| value)
}

impl PeerCertificate {
    /// Reads a certificate. `untrusted` is why it is not trusted.
    pub(crate) fn read(der: &[u8], digest: Digest, untrusted: Option<String>) -> Self {
        let parts = Parts::of(der).unwrap_or_default();
        Self {
            subject_cn: first(parts.subject, "CN").unwrap_or_default(),
            issuer_cn: first(parts.issuer, "CN").or_else(|| first(parts.issuer, "O")).unwrap_or_default(),
            subject: one_line(parts.subject),
            issuer: one_line(parts.issuer),
            fingerprint: digest.fingerprint(der),
            key_fingerprint: digest.fingerprint(parts.public_key),
            untrusted,
        }
    }
}

/// The kind of the key in a certificate.
pub(crate) fn key_kind(der: &[u8]) -> KeyKind {
    fn read(der: &[u8]) -> Option<KeyKind> {
        let key = sequence(Parts::of(der)?.public_key)?.content;
        let algorithm = sequence(key)?;
        let oid = element(algorithm.content)?;
        match oid.content {
            // rsaEncryption, RSASSA-PSS
            [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1 | 10] => {
                let bits = element(algorithm.rest).filter(|e| e.tag == BIT_STRING)?.content.split_first()?.1;
                let modulus = element(sequence(bits)?.content).filter(|e| e.tag == INTEGER)?.content;
                let digits = &modulus[modulus.iter().take_while(|byte| **byte == 0).count()..];
                let leading = digits.first()?.leading_zeros() as usize;
                Some(KeyKind::Rsa(digits.len() * 8 - leading))
            }
            // id-ecPublicKey
            [0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1] => match element(oid.rest)?.content {
                [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7] => Some(KeyKind::Curve("prime256v1")),
                [0x2b, 0x81, 4, 0, 34] => Some(KeyKind::Curve("secp384r1")),
                [0x2b, 0x81, 4, 0, 35] => Some(KeyKind::Curve("secp521r1")),
                _ => None,
            },
            _ => None,
        }
    }
    read(der).unwrap_or(KeyKind::Other)
}

/// For fuzzing: reads anything.
pub fn read_any(der: &[u8]) -> PeerCertificate {
    let _ = key_kind(der);
    if let Some(parts) = Parts::of(der) {
        let _ = (parts.host_names(), parts.validity_at(0));
    }
    PeerCertificate::read(der, Digest::Sha256, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_certificate() {
        let mut params = rcgen::CertificateParams::new(vec!["client.test".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Org \"x\"");
        params.distinguished_name.push(rcgen::DnType::CommonName, "山彦\u{7}client");
        for (algorithm, kind) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::Curve("prime256v1")),
            (&rcgen::PKCS_ECDSA_P384_SHA384, KeyKind::Curve("secp384r1")),
            (&rcgen::PKCS_ED25519, KeyKind::Other),
            (&rcgen::PKCS_RSA_SHA256, KeyKind::Rsa(2048)),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let certificate = params.self_signed(&key).unwrap();
            let read = PeerCertificate::read(certificate.der(), Digest::Sha256, None);
            assert_eq!(read.subject_cn, "山彦?client");
            assert_eq!(read.issuer_cn, read.subject_cn);
            assert_eq!(read.subject, "/O=Org \"x\"/CN=山彦?client");
            assert_eq!(read.fingerprint, Digest::Sha256.fingerprint(certificate.der()));
            assert_eq!(
                read.key_fingerprint,
                Digest::Sha256.fingerprint(&rcgen::PublicKeyData::subject_public_key_info(&key))
            );
            assert_eq!(key_kind(certificate.der()), kind);
        }
    }

    #[test]
    fn host_names_and_times() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned(), "*.b.test".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "cn.test");
        params.not_before = rcgen::date_time_ymd(2001, 9, 9);
        params.not_after = rcgen::date_time_ymd(2100, 3, 1);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let parts = Parts::of(&der).unwrap();
        assert_eq!(parts.host_names(), ["a.test", "*.b.test"]);
        // date -u -d 2001-09-09 +%s; date -u -d 2100-03-01 +%s
        for (now, expected) in [
            (999_993_599, Validity::NotYet),
            (999_993_600, Validity::Valid),
            (4_107_542_400, Validity::Valid),
            (4_107_542_401, Validity::Expired),
        ] {
            assert_eq!(parts.validity_at(now), expected, "{now}");
        }
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "cn.test");
        let der = params.self_signed(&key).unwrap().der().to_vec();
        assert_eq!(Parts::of(&der).unwrap().host_names(), ["cn.test"]);
    }

    #[test]
    fn rubbish_is_nothing() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let whole = rcgen::CertificateParams::new(vec!["x.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let der = whole.der().to_vec();
        for end in 0..der.len() {
            read_any(&der[..end]);
            let mut broken = der.clone();
            broken[end] ^= 0xff;
            read_any(&broken);
        }
        for rubbish in [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80\x00\x00"] {
            assert_eq!(read_any(rubbish).subject, "");
        }
    }
}
