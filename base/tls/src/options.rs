//! The settings of a server, as main.cf has them.

use std::borrow::Cow;

use yamabiko_config::View;

/// How much TLS a service wants (`smtpd_tls_security_level`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `none`: not offered.
    #[default]
    None,
    /// `may`: offered.
    May,
    /// `encrypt`: demanded before mail is taken.
    Encrypt,
}

/// What is written to the log about TLS (`smtpd_tls_loglevel`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogMask {
    /// A line per connection.
    pub summary: bool,
    /// Names and fingerprints of certificates.
    pub peer_certificate: bool,
    /// How a certificate fits what was demanded.
    pub matches: bool,
    /// Why a certificate is not trusted.
    pub untrusted: bool,
    /// Sessions that are resumed.
    pub cache: bool,
    /// Where the handshake begins, and what is in certificates.
    pub verbose: bool,
}

impl LogMask {
    /// `0` to `4`, or names separated by commas. What only OpenSSL could write (packets, at 3 and 4) is as level 2.
    pub fn parse(text: &str) -> Self {
        let mut mask = Self::default();
        for word in text.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
            match word.to_ascii_lowercase().as_str() {
                "1" | "routine" | "summary" => mask.summary = true,
                "2" | "3" | "4" | "debug" | "ssl-expert" | "ssl-developer" => {
                    let all = true;
                    mask = Self {
                        summary: all,
                        peer_certificate: all,
                        cache: all,
                        verbose: all,
                        matches: all,
                        untrusted: mask.untrusted,
                    };
                }
                "peercert" => mask.peer_certificate = true,
                "certmatch" => (mask.peer_certificate, mask.matches) = (true, true),
                "untrusted" => mask.untrusted = true,
                "cache" => mask.cache = true,
                "verbose" => mask.verbose = true,
                _ => {}
            }
        }
        mask
    }
}

/// Settings of a server; see the parameters of the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerOptions {
    /// `smtpd_tls_security_level`, or what `smtpd_use_tls`, `smtpd_enforce_tls` and `smtpd_tls_wrappermode` say.
    pub level: Level,
    /// `smtpd_tls_wrappermode`: the handshake comes before the greeting.
    pub wrapper: bool,
    /// `smtpd_tls_chain_files`; when there are any, `pairs` count for nothing.
    pub chain_files: Vec<String>,
    /// Files of certificate and key, with the algorithm that the log names.
    pub pairs: Vec<(&'static str, String, String)>,
    /// `smtpd_tls_CAfile`
    pub ca_file: String,
    /// `smtpd_tls_CApath`
    pub ca_path: String,
    /// `smtpd_tls_ccert_verifydepth`: authorities between a client's certificate and its root, the root included;
    /// `None`: any number.
    pub verify_depth: Option<usize>,
    /// `tls_append_default_CA`
    pub default_ca: bool,
    /// `tls_trust_server_ccerts`: a client may present a certificate that is for servers only.
    pub trust_server_certificates: bool,
    /// `smtpd_tls_ask_ccert`, and what implies it.
    pub ask_certificate: bool,
    /// `smtpd_tls_req_ccert`, where encryption is demanded.
    pub require_certificate: bool,
    /// `smtpd_tls_fingerprint_digest`
    pub digest: String,
    /// `smtpd_tls_protocols`, or with level encrypt `smtpd_tls_mandatory_protocols`, with the name of the parameter.
    pub protocols: (Cow<'static, str>, Vec<String>),
    /// `smtpd_tls_exclude_ciphers`, with level encrypt also the mandatory ones.
    pub exclude_ciphers: Vec<String>,
    /// `tls_eecdh_auto_curves` where main.cf sets it.
    pub curves: Option<Vec<String>>,
    /// `tls_preempt_cipherlist`
    pub preempt: bool,
    /// Sessions may be resumed: `smtpd_tls_session_cache_timeout` is not 0 and `tls_ssl_options` does not forbid it.
    pub resumption: bool,
    /// `smtpd_tls_loglevel`
    pub log: LogMask,
    /// For the log, once: what is set and cannot be obeyed.
    pub notices: Vec<String>,
}

impl ServerOptions {
    /// As the service of `view` has them.
    pub fn read(view: &View) -> Self {
        Self::read_named(view, &|name| format!("smtpd_tls_{name}"))
    }

    /// As [`ServerOptions::read`], of parameters with other names: `named` makes the whole name of `cert_file`.
    pub fn read_named(view: &View, named: &dyn Fn(&str) -> String) -> Self {
        let mut notices = Vec::new();
        let wrapper = view.bool("smtpd_tls_wrappermode");
        let level = level(view, wrapper, &mut notices);
        let (list, bool) = (|name: &str| view.list(&named(name)), |name: &str| view.bool(&named(name)));
        let file = |name: &str| view.text(&named(name)).trim().to_owned();
        let mut pairs = Vec::new();
        for (algorithm, certificate, key) in [("RSA", "cert_file", "key_file"), ("ECDSA", "eccert_file", "eckey_file")]
        {
            let certificate = file(certificate);
            if !matches!(certificate.as_str(), "" | "none") {
                pairs.push((algorithm, certificate, file(key)));
            }
        }
        let require = bool("req_ccert");
        if require && level == Level::May {
            notices.push("Can't require client certs unless TLS is required".to_owned());
        }
        let no_ticket = view.list("tls_ssl_options").iter().any(|word| word.eq_ignore_ascii_case("NO_TICKET"));
        let mut options = Self {
            level,
            wrapper,
            chain_files: list("chain_files"),
            pairs,
            ca_file: file("CAfile"),
            ca_path: file("CApath"),
            verify_depth: usize::try_from(view.int(&named("ccert_verifydepth"))).ok(),
            default_ca: view.bool("tls_append_default_CA"),
            trust_server_certificates: view.bool("tls_trust_server_ccerts"),
            ask_certificate: bool("ask_ccert") || (require && level == Level::Encrypt),
            require_certificate: require && level == Level::Encrypt,
            digest: view.text(&named("fingerprint_digest")),
            protocols: Default::default(),
            exclude_ciphers: Vec::new(),
            curves: view.is_set("tls_eecdh_auto_curves").then(|| view.list("tls_eecdh_auto_curves")),
            preempt: view.bool("tls_preempt_cipherlist"),
            resumption: !view.duration("smtpd_tls_session_cache_timeout").is_zero() && !no_ticket,
            log: LogMask::parse(&view.text(&named("loglevel"))),
            notices,
        };
        options.demand(view, named);
        options
    }

    /// Protocols and ciphers as they are for the level, which postscreen has of its own.
    pub fn demand(&mut self, view: &View, named: &dyn Fn(&str) -> String) {
        let mandatory = self.level == Level::Encrypt;
        let parameter = named(if mandatory { "mandatory_protocols" } else { "protocols" });
        self.exclude_ciphers = view.list(&named("exclude_ciphers"));
        if mandatory {
            self.exclude_ciphers.extend(view.list(&named("mandatory_exclude_ciphers")));
        }
        self.protocols = (parameter.clone().into(), view.list(&parameter));
    }

    /// All files that are named, keys among them: whoever may read them hands them over.
    pub fn files(&self) -> Vec<String> {
        let mut files = self.chain_files.clone();
        if files.is_empty() {
            files.extend(self.pairs.iter().flat_map(|(_, certificate, key)| [certificate.clone(), key.clone()]));
        }
        files
    }
}

fn level(view: &View, wrapper: bool, notices: &mut Vec<String>) -> Level {
    let text = view.text("smtpd_tls_security_level");
    let level = match text.trim().to_ascii_lowercase().as_str() {
        "" if view.bool("smtpd_enforce_tls") => Level::Encrypt,
        "" if view.bool("smtpd_use_tls") => Level::May,
        "" | "none" => Level::None,
        "may" => Level::May,
        "encrypt" => Level::Encrypt,
        other => {
            // Postfix refuses to start for a word that it does not know; demanding encryption is as safe.
            notices.push(format!("smtpd_tls_security_level: unsupported TLS level \"{other}\", using \"encrypt\""));
            Level::Encrypt
        }
    };
    if wrapper { Level::Encrypt } else { level }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_config::{Config, Host};

    /// A certificate can be demanded only where encryption is; elsewhere the demand does not even ask for one.
    #[test]
    fn whether_clients_are_asked_for_certificates() {
        for (level, ask, require, asked, demanded) in [
            ("may", "no", "no", false, false),
            ("may", "yes", "no", true, false),
            ("may", "no", "yes", false, false),
            ("may", "yes", "yes", true, false),
            ("encrypt", "no", "no", false, false),
            ("encrypt", "no", "yes", true, true),
            ("encrypt", "yes", "yes", true, true),
        ] {
            let main = format!(
                "smtpd_tls_security_level = {level}\nsmtpd_tls_ask_ccert = {ask}\nsmtpd_tls_req_ccert = {require}\n"
            );
            let config = Config::from_texts(&main, "", ("main.cf", "master.cf"), &Host::default()).unwrap();
            let options = ServerOptions::read(&config.main());
            assert_eq!((options.ask_certificate, options.require_certificate), (asked, demanded), "{main}");
            let said = options.notices.iter().any(|text| text == "Can't require client certs unless TLS is required");
            assert_eq!(said, level == "may" && require == "yes", "{main}");
        }
    }
}
