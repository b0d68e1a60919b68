//! Restrictions about who the client has proved to be: by login (SASL) or by certificate (TLS).

use yamabiko_lookup::{AddressForms, Hit, Locality, LookupError, Maps};
use yamabiko_route::{Class, Party};

use super::eval::{About, Evaluation, Ruled, SENDER};
use super::rule::Node;
use super::{Policy, Record, Said, TlsFacts};
use crate::settings::ErrorClasses;

const CERTIFICATE: &str = "Client certificate";
const LOGIN: &str = "SASL login name";

/// What a certificate is looked up by (`search_order` of `check_ccert_access`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CertificateKey {
    Fingerprint,
    PublicKey,
}

impl CertificateKey {
    /// The order unless another one is asked for.
    pub(crate) const USUAL: [Self; 2] = [Self::Fingerprint, Self::PublicKey];

    pub(crate) fn of(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "cert_fingerprint" => Some(Self::Fingerprint),
            "pubkey_fingerprint" => Some(Self::PublicKey),
            _ => None,
        }
    }

    fn value(self, tls: &TlsFacts) -> &str {
        match self {
            Self::Fingerprint => &tls.fingerprint,
            Self::PublicKey => &tls.public_key_fingerprint,
        }
    }
}

/// Whose addresses nobody else may use (`reject_sender_login_mismatch` and its kin).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoginMismatch {
    /// Clients with a login may use their own addresses only; `Some(true)`: and those that nobody owns.
    pub(crate) authenticated: Option<bool>,
    /// Clients without a login may not use addresses that somebody owns.
    pub(crate) unauthenticated: bool,
}

impl LoginMismatch {
    pub(crate) fn of(name: &str) -> Option<Self> {
        let (authenticated, unauthenticated) = match name {
            "reject_sender_login_mismatch" => (Some(false), true),
            "reject_known_sender_login_mismatch" => (Some(true), true),
            "reject_authenticated_sender_login_mismatch" => (Some(false), false),
            "reject_unauthenticated_sender_login_mismatch" => (None, true),
            _ => return None,
        };
        Some(Self { authenticated, unauthenticated })
    }
}

impl Policy {
    /// `permit_tls_clientcerts`: the certificate, or its key, is in `relay_clientcerts`.
    pub(crate) async fn knows_certificate(&self, tls: &TlsFacts) -> Result<bool, LookupError> {
        for key in CertificateKey::USUAL {
            let value = key.value(tls);
            if !value.is_empty() && self.relay_clientcerts.find(value).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl<'a> Evaluation<'a> {
    pub(super) async fn permit_certificate(&mut self, node: &Node, about: About<'a>, all: bool) -> Said {
        let Some(tls) = self.facts.tls else { return Said::Dunno };
        if all && tls.trusted {
            return self.permit(node, about).await;
        }
        match self.policy.knows_certificate(tls).await {
            Ok(true) => self.permit(node, about).await,
            Ok(false) => Said::Dunno,
            Err(error) => {
                // Whether this client may be let in cannot be said now: what would refuse it has to wait.
                self.state.records.push(Record::Warning(error.to_string()));
                self.defer_if(false, 450, "4.3.0", about, "Temporary lookup error");
                Said::Dunno
            }
        }
    }

    /// `check_ccert_access`
    pub(super) async fn certificate_access(&mut self, node: &Node, order: &[CertificateKey], maps: &Maps) -> Ruled<'a> {
        let Some(tls) = self.facts.tls else { return Said::Dunno.into() };
        for key in order {
            let value = key.value(tls);
            if value.is_empty() {
                continue;
            }
            let about = About { name: value, class: CERTIFICATE };
            match maps.find_hit(value).await {
                Ok(None) => {}
                Ok(Some(hit)) => return self.obey(node, hit, about),
                Err(error) => return self.access_failed(about, &error).into(),
            }
        }
        Said::Dunno.into()
    }

    /// `check_sasl_access`
    pub(super) async fn login_access(&mut self, node: &Node, maps: &Maps) -> Ruled<'a> {
        let Some(sasl) = self.facts.sasl else { return Said::Dunno.into() };
        let about = About { name: &sasl.username, class: LOGIN };
        match maps.find_hit(&sasl.username).await {
            Ok(None) => Said::Dunno.into(),
            Ok(Some(hit)) => self.obey(node, hit, about),
            Err(error) => self.access_failed(about, &error).into(),
        }
    }

    pub(super) async fn login_mismatch(&mut self, node: &Node, rule: LoginMismatch) -> Said {
        let policy = self.policy;
        if !policy.sasl_enabled {
            let warning = format!("restriction `{}' ignored: no SASL support", node.element);
            self.state.records.push(Record::Warning(warning));
            return Said::Dunno;
        }
        let Some(sender) = self.facts.sender.filter(|sender| !sender.is_empty()) else { return Said::Dunno };
        if policy.sender_login.is_empty() {
            return Said::Dunno;
        }
        let about = About { name: sender, class: SENDER };
        match self.facts.sasl {
            Some(sasl) => {
                let Some(unknown_allowed) = rule.authenticated else { return Said::Dunno };
                let owned = match self.owners().await {
                    Err(error) => return self.lookup_failed(sender, &error),
                    Ok(None) => unknown_allowed,
                    Ok(Some(hit)) => yamabiko_lookup::split_list(&hit.value)
                        .iter()
                        .any(|owner| owner.to_lowercase() == sasl.username.to_lowercase()),
                };
                if owned {
                    return Said::Dunno;
                }
                self.rejected(553, "5.7.1", about, format_args!("not owned by user {}", sasl.username))
            }
            None if rule.unauthenticated => match self.owners().await {
                Err(error) => self.lookup_failed(sender, &error),
                Ok(None) => Said::Dunno,
                Ok(Some(_)) => self.reject(
                    ErrorClasses::POLICY,
                    553,
                    "5.7.1",
                    &format!("<{sender}>: Sender address rejected: not logged in"),
                ),
            },
            None => Said::Dunno,
        }
    }

    /// Who owns the sender address.
    async fn owners(&mut self) -> Result<Option<Hit>, LookupError> {
        let policy = self.policy;
        let resolved = self.resolve(Party::Sender).await?;
        let locality = Locality::Known(resolved.class == Class::Local);
        policy
            .sender_login
            .find_address(&resolved.recipient, &AddressForms::mapping(&policy.delimiters, locality))
            .await
    }
}
