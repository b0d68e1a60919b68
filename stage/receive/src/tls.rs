//! TLS of a service: its settings, and what is logged of a handshake.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use yamabiko_config::View;
use yamabiko_lookup::{Maps, TableSet};
use yamabiko_tls::{Fault, Files, Level, LogMask, Server, ServerOptions, SniKeys};

use crate::restrict::TlsFacts;
use crate::settings::under_stress;

/// What a service does about TLS.
pub struct TlsSettings {
    /// As main.cf has it.
    pub options: ServerOptions,
    /// Ready for handshakes; `None`: not wanted, or not available.
    pub server: Option<Arc<Server>>,
    /// `smtpd_tls_auth_only`: no AUTH in the clear.
    pub auth_only: bool,
    /// `smtpd_tls_received_header`
    pub received_header: bool,
    /// `smtpd_starttls_timeout`, and what it is under stress.
    pub timeout: (Duration, Duration),
    /// `smtpd_client_new_tls_session_rate_limit`
    pub new_session_rate: u32,
    /// `smtpd_tls_loglevel_maps`: other log levels for a client, by its name or address.
    pub log_maps: Maps,
}

/// Where keys come from, and what was in force before.
pub struct TlsSource<'a> {
    /// Key and certificate files.
    pub files: &'a dyn Files,
    /// `tls_server_sni_maps`
    pub sni: &'a [(String, SniKeys)],
    /// What stays in force if the new keys cannot be used.
    pub before: Option<Arc<Server>>,
}

impl TlsSettings {
    pub(crate) fn read(view: &View, tables: &TableSet) -> Self {
        Self::read_named(view, tables, &|name| format!("smtpd_tls_{name}"))
    }

    /// As postscreen has it: `postscreen_tls_...`, else `tlsproxy_tls_...` (where Postfix before 3.12 had it), else
    /// `smtpd_tls_...`.
    pub(crate) fn read_for_postscreen(view: &View, tables: &TableSet) -> Self {
        Self::read_named(view, tables, &|name| screened(view, name))
    }

    fn read_named(view: &View, tables: &TableSet, named: &dyn Fn(&str) -> String) -> Self {
        let options = ServerOptions::read_named(view, named);
        let seconds = |text: &str| {
            let written = yamabiko_config::value::parse_time("smtpd_starttls_timeout", text).ok()?;
            u64::try_from(written.seconds('s')?).ok().map(Duration::from_secs)
        };
        let normal = seconds(&view.text("smtpd_starttls_timeout")).unwrap_or(Duration::from_secs(300));
        let stressed = seconds(&under_stress(view, "smtpd_starttls_timeout")).unwrap_or(normal);
        Self {
            server: None,
            auth_only: view.bool("smtpd_tls_auth_only") || options.level == Level::Encrypt,
            received_header: view.bool("smtpd_tls_received_header"),
            timeout: (normal, stressed),
            new_session_rate: u32::try_from(view.int("smtpd_client_new_tls_session_rate_limit")).unwrap_or(0),
            log_maps: {
                // tlsproxy has none of these.
                let name = Some(named("loglevel_maps")).filter(|name| !name.starts_with("tlsproxy_"));
                let name = name.unwrap_or_else(|| "smtpd_tls_loglevel_maps".to_owned());
                Maps::open(tables, &name, &view.text(&name))
            },
            options,
        }
    }

    /// What is logged of a client's handshakes. A table that does not answer at once changes nothing.
    pub(crate) fn log_mask(&self, name: &str, address: Option<std::net::IpAddr>) -> LogMask {
        if self.log_maps.is_empty() {
            return self.options.log;
        }
        let ask = |key: &str| self.log_maps.find(key).now_or_never()?.ok()?;
        let by_name = || (name != "unknown").then(|| ask(name)).flatten();
        by_name().or_else(|| ask(&address?.to_string())).map_or(self.options.log, |level| LogMask::parse(&level))
    }

    /// STARTTLS is offered, and refused with `454` when it is not available.
    pub(crate) fn is_wanted(&self) -> bool {
        self.options.level > Level::None
    }

    /// Makes it ready for handshakes. What there is to say is for the log.
    pub fn open(&mut self, source: &TlsSource<'_>) -> Vec<String> {
        if self.options.level == Level::None {
            return Vec::new();
        }
        match Server::new(self.options.clone(), source.sni, source.files) {
            Ok(server) => {
                let notices = server.notices().to_vec();
                self.server = Some(Arc::new(server));
                notices
            }
            Err(Fault(why)) => {
                let mut notices = vec![why];
                if let Some(before) = &source.before {
                    notices.push("the TLS keys and settings that were in force stay in force".to_owned());
                    self.server = Some(Arc::clone(before));
                }
                notices
            }
        }
    }
}

/// The parameter that postscreen has for `smtpd_tls_NAME`.
pub(crate) fn screened(view: &View, name: &str) -> String {
    let own = ["postscreen_tls_", "tlsproxy_tls_"].into_iter().map(|prefix| format!("{prefix}{name}"));
    own.into_iter().find(|whole| view.is_set(whole)).unwrap_or_else(|| format!("smtpd_tls_{name}"))
}

impl TlsFacts {
    pub(crate) fn of(session: &yamabiko_tls::Session) -> Self {
        let peer = session.peer.as_ref();
        let trusted = peer.filter(|_| session.is_trusted());
        Self {
            protocol: session.protocol.to_owned(),
            cipher: session.cipher.name.to_owned(),
            key_size: u32::from(session.cipher.bits),
            subject: trusted.map(|peer| peer.subject_cn.clone()).unwrap_or_default(),
            issuer: trusted.map(|peer| peer.issuer_cn.clone()).unwrap_or_default(),
            fingerprint: peer.map(|peer| peer.fingerprint.clone()).unwrap_or_default(),
            public_key_fingerprint: peer.map(|peer| peer.key_fingerprint.clone()).unwrap_or_default(),
            trusted: trusted.is_some(),
            server_name: session.server_name.clone().unwrap_or_default(),
        }
    }
}
