//! Which protocols, ciphers and groups are offered: Postfix's settings, as far as rustls has what they name.

use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

use crate::keys::{Fault, fault};
use crate::names;

/// Protocols from the oldest on, by the names of OpenSSL.
const PROTOCOLS: [&str; 6] = ["SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];
/// Their numbers on the wire.
const NUMBERS: [u32; 6] = [0x0002, 0x0300, 0x0301, 0x0302, 0x0303, 0x0304];
/// The first that rustls has.
const FIRST: usize = 4;

fn position(name: &str) -> Option<usize> {
    if let Some(digits) = name.strip_prefix("0x").or_else(|| name.strip_prefix("0X")) {
        let number = u32::from_str_radix(digits, 16).ok()?;
        return NUMBERS.iter().position(|known| *known == number);
    }
    let name = if name.eq_ignore_ascii_case("TLSv1.0") { "TLSv1" } else { name };
    PROTOCOLS.iter().position(|known| known.eq_ignore_ascii_case(name))
}

/// What a list of protocols allows.
#[derive(Debug)]
pub(crate) struct Protocols {
    pub(crate) versions: Vec<&'static SupportedProtocolVersion>,
    /// The oldest that the list allows, if rustls does not have it.
    pub(crate) missing: Option<&'static str>,
}

/// `smtpd_tls_protocols`: `!SSLv3, !TLSv1`, `>=TLSv1.2`, `TLSv1.2 TLSv1.3`.
pub(crate) fn protocols(parameter: &str, list: &[String]) -> Result<Protocols, Fault> {
    let (mut low, mut high) = (0, PROTOCOLS.len() - 1);
    let (mut included, mut excluded) = (Vec::new(), Vec::new());
    for word in list {
        let bound = [">=", "<="].into_iter().find_map(|sign| word.strip_prefix(sign).map(|name| (sign, name.trim())));
        let (kind, name) = match (bound, word.strip_prefix('!')) {
            (Some((sign, name)), _) => (sign, name),
            (None, Some(name)) => ("!", name.trim()),
            (None, None) => ("", word.as_str()),
        };
        let Some(at) = position(name) else {
            return fault(format!("{parameter}: invalid TLS protocol \"{name}\""));
        };
        match kind {
            ">=" => low = at,
            "<=" => high = at,
            "!" => excluded.push(at),
            _ => included.push(at),
        }
    }
    let allowed = |at: usize| {
        (low..=high).contains(&at) && !excluded.contains(&at) && (included.is_empty() || included.contains(&at))
    };
    let versions: Vec<_> =
        [(FIRST, &version::TLS12), (FIRST + 1, &version::TLS13)].into_iter().filter(|(at, _)| allowed(*at)).collect();
    if versions.is_empty() {
        return fault(format!("{parameter}: neither TLSv1.2 nor TLSv1.3 is allowed, and no other protocol is there"));
    }
    // Nothing speaks SSL any more, and no list that lets it through means it.
    let missing = (2..FIRST).find(|at| allowed(*at)).and_then(|at| PROTOCOLS.get(at).copied());
    Ok(Protocols { versions: versions.into_iter().map(|(_, version)| version).collect(), missing })
}

/// Words of OpenSSL's cipher lists that a suite answers to.
fn answers(suite: &SupportedCipherSuite, word: &str) -> bool {
    let name = names::cipher(suite.suite()).name;
    let has = |part: &str| name.contains(part);
    match word.to_ascii_uppercase().as_str() {
        "ALL" | "COMPLEMENTOFDEFAULT" | "HIGH" | "TLSV1.2" | "KECDHE" | "KEECDH" | "ECDHE" | "EECDH" => true,
        "ARSA" => has("-RSA-"),
        "AECDSA" | "ECDSA" => has("-ECDSA-"),
        "AES" => has("AES"),
        "AESGCM" => has("GCM"),
        "AES128" => has("AES128"),
        "AES256" => has("AES256"),
        "CHACHA20" => has("CHACHA20"),
        "SHA384" => has("SHA384") && !has("GCM"),
        other => name.eq_ignore_ascii_case(other),
    }
}

/// Cipher suites without those that `exclude` names. Those of TLS 1.3 always stay, as with OpenSSL.
fn suites(exclude: &[String]) -> Vec<SupportedCipherSuite> {
    let words: Vec<&str> = exclude.iter().flat_map(|word| word.split(':')).filter(|word| !word.is_empty()).collect();
    let excluded = |suite: &SupportedCipherSuite| {
        suite.tls13().is_none() && words.iter().any(|word| word.split('+').all(|part| answers(suite, part)))
    };
    aws_lc_rs::ALL_CIPHER_SUITES.iter().filter(|suite| !excluded(suite)).copied().collect()
}

/// `tls_eecdh_auto_curves`; names of groups that rustls has not are passed over, as OpenSSL does.
fn groups(curves: Option<&[String]>) -> Vec<&'static dyn SupportedKxGroup> {
    let usual: [&'static dyn SupportedKxGroup; 4] =
        [kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    let Some(curves) = curves else { return usual.to_vec() };
    let known = |name: &String| -> Option<&'static dyn SupportedKxGroup> {
        Some(match name.to_ascii_lowercase().as_str() {
            "x25519" => kx_group::X25519,
            "prime256v1" | "p-256" | "secp256r1" => kx_group::SECP256R1,
            "secp384r1" | "p-384" => kx_group::SECP384R1,
            "x25519mlkem768" => kx_group::X25519MLKEM768,
            "secp256r1mlkem768" => kx_group::SECP256R1MLKEM768,
            "mlkem768" => kx_group::MLKEM768,
            "mlkem1024" => kx_group::MLKEM1024,
            _ => return None,
        })
    };
    let found: Vec<_> = curves.iter().filter_map(known).collect();
    if found.is_empty() { usual.to_vec() } else { found }
}

/// The algorithms that are offered.
pub(crate) fn provider(exclude: &[String], curves: Option<&[String]>) -> CryptoProvider {
    CryptoProvider { cipher_suites: suites(exclude), kx_groups: groups(curves), ..aws_lc_rs::default_provider() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split([' ', ',']).filter(|w| !w.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn lists_of_protocols() {
        for (list, count, missing) in [
            ("", 2, Some("TLSv1")),
            (">=TLSv1", 2, Some("TLSv1")),
            (">=TLSv1.2", 2, None),
            ("!SSLv2, !SSLv3, !TLSv1, !TLSv1.1", 2, None),
            ("!SSLv2, !SSLv3", 2, Some("TLSv1")),
            ("TLSv1.3", 1, None),
            (">=TLSv1.2 <=TLSv1.2", 1, None),
            (">=0x0303", 2, None),
            ("TLSv1 TLSv1.2", 1, Some("TLSv1")),
        ] {
            let found = protocols("p", &words(list)).unwrap();
            assert_eq!((found.versions.len(), found.missing), (count, missing), "{list}");
        }
        for list in ["TLSv1", "<=TLSv1.1", "TLSv9", "!TLSv1.2 !TLSv1.3", ">=0x0305"] {
            assert!(protocols("p", &words(list)).is_err(), "{list}");
        }
    }

    #[test]
    fn excluded_ciphers() {
        for (list, left) in [
            ("", 9),
            ("aNULL, RC4, 3DES, MD5", 9),
            ("aECDSA", 6),
            ("ECDHE-RSA-AES128-GCM-SHA256", 8),
            ("AES128, CHACHA20", 5),
            ("aRSA+AES256", 8),
            ("HIGH", 3),
            ("TLS_AES_128_GCM_SHA256", 9),
        ] {
            assert_eq!(suites(&words(list)).len(), left, "{list}");
        }
    }

    #[test]
    fn curves() {
        for (list, count) in [("X25519 X448 prime256v1", 2), ("X448", 4), ("P-384", 1), ("X25519MLKEM768 x25519", 2)] {
            assert_eq!(groups(Some(&words(list))).len(), count, "{list}");
        }
        assert_eq!(groups(None).len(), 4);
    }
}
