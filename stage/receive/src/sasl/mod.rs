//! Authentication of clients: what a service is configured to do, and who answers.
//!
//! * [`SaslSettings`] is `smtpd_sasl_...` of a service.
//! * [`Backend`] decides: Dovecot over its socket ([`dovecot`]), or a table of password hashes ([`store`]).
//! * [`Exchange`] is one client's attempt. The session passes what the client says, and gets [`Verdict`]s.

mod dovecot;
mod store;

use std::sync::Arc;

use yamabiko_config::View;
use yamabiko_lookup::TableSet;
use yamabiko_lookup::matchlist::StringList;
use yamabiko_sasl::mechanisms::{Mechanism, SecurityOptions};

pub(crate) use yamabiko_sasl::dovecot::Client;

/// What is said to a client next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `334` with this, in base64.
    Challenge(String),
    /// Authenticated as this user.
    Done(String),
    /// Not authenticated.
    Failed {
        /// Login name, if it came so far.
        user: Option<String>,
        /// Why.
        reason: Option<String>,
        /// Trouble of the server's: try again later.
        temporary: bool,
    },
    /// Our own trouble, for the log: try again later.
    Trouble(String),
}

impl Verdict {
    fn failed(reason: impl Into<String>) -> Self {
        Self::Failed { user: None, reason: Some(reason.into()), temporary: false }
    }
    fn trouble(reason: impl Into<String>) -> Self {
        Self::Failed { user: None, reason: Some(reason.into()), temporary: true }
    }
}

/// Who decides.
#[derive(Clone)]
pub enum Backend {
    /// `smtpd_sasl_type = dovecot`
    Dovecot(Arc<dovecot::Server>),
    /// `smtpd_sasl_type = yamabiko`
    Store(Arc<store::Store>),
    /// A type that is not there; the text says what to write.
    Missing(Arc<str>),
}

/// One client's attempt.
pub(crate) enum Exchange {
    Dovecot(dovecot::Request),
    Store(Box<store::Attempt>),
}

impl Backend {
    /// The mechanisms, in the order in which they are offered.
    ///
    /// # Errors
    /// Nobody can be authenticated now; the text is for the log.
    pub async fn mechanisms(&self) -> Result<Arc<[Mechanism]>, String> {
        match self {
            Self::Dovecot(server) => server.mechanisms().await,
            Self::Store(store) => Ok(store.mechanisms()),
            Self::Missing(why) => Err(why.to_string()),
        }
    }

    /// A client begins.
    pub(crate) async fn begin(
        &self,
        mechanism: &str,
        client: &Client,
        initial: Option<&str>,
    ) -> (Option<Exchange>, Verdict) {
        match self {
            Self::Dovecot(server) => {
                let (request, verdict) = server.begin(mechanism, client, initial).await;
                (request.map(Exchange::Dovecot), verdict)
            }
            Self::Store(store) => {
                let (attempt, verdict) = store.begin(mechanism, initial).await;
                (attempt.map(|attempt| Exchange::Store(Box::new(attempt))), verdict)
            }
            Self::Missing(why) => (None, Verdict::Trouble(why.to_string())),
        }
    }

    /// A table of it answers from a socket, waited for with blocking calls.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self, Self::Store(store) if store.is_remote())
    }
}

impl Exchange {
    /// The client answers a challenge.
    pub(crate) async fn respond(&mut self, response: &str) -> Verdict {
        match self {
            Self::Dovecot(request) => request.respond(response).await,
            Self::Store(attempt) => attempt.respond(response).await,
        }
    }
}

/// What a service does about authentication.
pub struct SaslSettings {
    /// `smtpd_sasl_auth_enable`
    pub enabled: bool,
    /// Who decides.
    pub backend: Backend,
    /// `smtpd_sasl_security_options`
    pub security: SecurityOptions,
    /// `smtpd_sasl_tls_security_options`
    pub tls_security: SecurityOptions,
    /// `smtpd_sasl_mechanism_filter`
    pub filter: StringList,
    /// `broken_sasl_auth_clients`
    pub broken_clients: bool,
    /// `smtpd_sasl_authenticated_header`
    pub header: bool,
    /// `smtpd_sasl_response_limit`, in bytes.
    pub response_limit: usize,
    /// `smtpd_sasl_service`
    pub service: String,
    /// `smtpd_client_auth_rate_limit`
    pub rate: u32,
}

impl SaslSettings {
    pub(crate) fn read(view: &View, tables: &TableSet, notices: &mut Vec<String>) -> Self {
        let enabled = view.bool("smtpd_sasl_auth_enable");
        let mut options = |name: &str| {
            let (options, unknown) = SecurityOptions::parse(&view.list(name));
            if enabled {
                notices
                    .extend(unknown.into_iter().map(|word| format!("{name}: unknown SASL security option \"{word}\"")));
            }
            options
        };
        let (security, tls_security) =
            (options("smtpd_sasl_security_options"), options("smtpd_sasl_tls_security_options"));
        let path = view.text("smtpd_sasl_path");
        let backend = match view.text("smtpd_sasl_type").to_ascii_lowercase().as_str() {
            "dovecot" => Backend::Dovecot(dovecot::Server::at(&path, &view.text("queue_directory"))),
            "yamabiko" => {
                let (store, said) = store::Store::open(tables, &path);
                notices.extend(said.into_iter().filter(|_| enabled));
                Backend::Store(Arc::new(store))
            }
            other => Backend::Missing(
                format!(
                    "unsupported SASL server implementation: {other}; write smtpd_sasl_type = dovecot (smtpd_sasl_path = \
                     private/auth) or smtpd_sasl_type = yamabiko (smtpd_sasl_path = a table made with \"yamabiko passwd\")"
                )
                .into(),
            ),
        };
        if let Backend::Missing(why) = &backend
            && enabled
        {
            notices.push(format!("smtpd_sasl_auth_enable: {why}"));
        }
        Self {
            enabled,
            backend,
            security,
            tls_security,
            filter: StringList::new(
                tables,
                "smtpd_sasl_mechanism_filter",
                &view.text("smtpd_sasl_mechanism_filter"),
                false,
            ),
            broken_clients: view.bool("broken_sasl_auth_clients"),
            header: view.bool("smtpd_sasl_authenticated_header"),
            response_limit: usize::try_from(view.int("smtpd_sasl_response_limit"))
                .unwrap_or(12288)
                .clamp(12288, 1 << 16),
            service: view.text("smtpd_sasl_service"),
            rate: u32::try_from(view.int("smtpd_client_auth_rate_limit")).unwrap_or(0),
        }
    }
}
