//! TLS of a service: its settings, and what is logged of a handshake.

use std::sync::Arc;
use std::time::Duration;

use yamabiko_config::View;
use yamabiko_tls::{Fault, Files, Level, Server, ServerOptions, SniKeys};

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
    pub(crate) fn read(view: &View) -> Self {
        let options = ServerOptions::read(view);
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
            options,
        }
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
        }
    }
}
