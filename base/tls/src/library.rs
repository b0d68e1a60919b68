//! What TLS is made with, for `postconf -T`.

use std::collections::BTreeSet;

/// The library's name and version. It is part of the program: the version that was compiled in is the one that runs.
pub const LIBRARY: &str = "rustls 0.23.46 (AWS-LC)";

/// How names of signature schemes begin, and of which kind of key they are.
const KINDS: [(&str, &str); 5] =
    [("RSA", "rsa"), ("DSA", "dsa"), ("ECDSA", "ec"), ("ED25519", "ed25519"), ("ED448", "ed448")];

/// Names, in small letters, of the kinds of public keys whose signatures can be verified, sorted.
pub fn public_key_algorithms() -> BTreeSet<&'static str> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    schemes
        .iter()
        .filter_map(|scheme| {
            let scheme = scheme.as_str().unwrap_or_default();
            KINDS.iter().find(|(begins, _)| scheme.starts_with(begins)).map(|(_, name)| *name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_is_built() {
        let lock = include_str!("../../../Cargo.lock");
        let (_, rest) = lock.split_once("name = \"rustls\"\nversion = \"").unwrap();
        let version = rest.split('"').next().unwrap();
        assert_eq!(LIBRARY, format!("rustls {version} (AWS-LC)"));
    }

    #[test]
    fn kinds_of_keys() {
        let names: Vec<_> = public_key_algorithms().into_iter().collect();
        assert_eq!(names, ["ec", "ed25519", "rsa"]);
    }
}
