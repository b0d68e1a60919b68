//! The settings of a client, as main.cf has them for all of its connections.

use yamabiko_config::View;

use crate::options::LogMask;

/// How much TLS a connection must have (`smtp_tls_security_level`), the weakest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientLevel {
    /// `none`: none, even where it is offered.
    #[default]
    None,
    /// `may`: where it is offered.
    May,
    /// `encrypt`: always, with anybody.
    Encrypt,
    /// `fingerprint`: with those who have a certificate that is known.
    Fingerprint,
    /// Not for main.cf: by TLSA records of a host whose name was not found securely.
    HalfDane,
    /// `dane`: by TLSA records, where there are any.
    Dane,
    /// `dane-only`: by TLSA records.
    DaneOnly,
    /// `verify`: an authority vouches for the name of the host.
    Verify,
    /// `secure`: an authority vouches for the name of the destination.
    Secure,
}

impl ClientLevel {
    /// By its word in main.cf and in policy tables.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "none" => Self::None,
            "may" => Self::May,
            "encrypt" => Self::Encrypt,
            "fingerprint" => Self::Fingerprint,
            "dane" => Self::Dane,
            "dane-only" => Self::DaneOnly,
            "verify" => Self::Verify,
            "secure" => Self::Secure,
            _ => return None,
        })
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::May => "may",
            Self::Encrypt => "encrypt",
            Self::Fingerprint => "fingerprint",
            Self::HalfDane => "half-dane",
            Self::Dane => "dane",
            Self::DaneOnly => "dane-only",
            Self::Verify => "verify",
            Self::Secure => "secure",
        }
    }

    /// Nothing is sent without encryption.
    pub fn is_mandatory(self) -> bool {
        self > Self::May
    }

    /// The server has to prove who it is.
    pub fn must_match(self) -> bool {
        self > Self::Encrypt
    }

    /// By TLSA records.
    pub fn is_dane(self) -> bool {
        matches!(self, Self::HalfDane | Self::Dane | Self::DaneOnly)
    }
}

/// Settings of a client; see the parameters of the same names, with `smtp_` or `lmtp_` before them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientOptions {
    /// `smtp_` or `lmtp_`
    pub prefix: &'static str,
    /// `smtp_tls_chain_files`; when there are any, `pairs` count for nothing.
    pub chain_files: Vec<String>,
    /// Files of certificate and key, with the algorithm that the log names.
    pub pairs: Vec<(&'static str, String, String)>,
    /// `smtp_tls_CAfile`
    pub ca_file: String,
    /// `smtp_tls_CApath`
    pub ca_path: String,
    /// `tls_append_default_CA`
    pub default_ca: bool,
    /// `smtp_tls_fingerprint_digest`
    pub digest: String,
    /// `tls_eecdh_auto_curves` where main.cf sets it.
    pub curves: Option<Vec<String>>,
    /// Sessions may be resumed: `smtp_tls_session_cache_timeout` is not 0 and `tls_ssl_options` does not forbid it.
    pub resumption: bool,
    /// `tls_wildcard_matches_multiple_labels`
    pub many_labels: bool,
    /// `tls_dane_digests`
    pub dane_digests: Vec<String>,
    /// `smtp_tls_loglevel`
    pub log: LogMask,
}

impl ClientOptions {
    /// The same for servers of the web: whatever authorities are named and those of the system, and no certificate of ours.
    #[must_use]
    pub fn for_the_web(mut self) -> Self {
        self.chain_files.clear();
        self.pairs.clear();
        self.default_ca = true;
        self
    }

    /// As the service of `view` has them; `prefix` is `smtp_` or `lmtp_`.
    pub fn read(view: &View, prefix: &'static str) -> Self {
        let file = |suffix: &str| view.text(&format!("{prefix}tls_{suffix}")).trim().to_owned();
        let mut pairs = Vec::new();
        for (algorithm, certificate, key) in [("RSA", "cert_file", "key_file"), ("ECDSA", "eccert_file", "eckey_file")]
        {
            let certificate = file(certificate);
            if !matches!(certificate.as_str(), "" | "none") {
                pairs.push((algorithm, certificate, file(key)));
            }
        }
        let no_ticket = view.list("tls_ssl_options").iter().any(|word| word.eq_ignore_ascii_case("NO_TICKET"));
        let timeout = view.duration(&format!("{prefix}tls_session_cache_timeout"));
        Self {
            prefix,
            chain_files: view.list(&format!("{prefix}tls_chain_files")),
            pairs,
            ca_file: file("CAfile"),
            ca_path: file("CApath"),
            default_ca: view.bool("tls_append_default_CA"),
            digest: file("fingerprint_digest"),
            curves: view.is_set("tls_eecdh_auto_curves").then(|| view.list("tls_eecdh_auto_curves")),
            resumption: !timeout.is_zero() && !no_ticket,
            many_labels: view.bool("tls_wildcard_matches_multiple_labels"),
            dane_digests: view.list("tls_dane_digests"),
            log: LogMask::parse(&file("loglevel")),
        }
    }
}
