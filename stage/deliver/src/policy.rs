//! What a destination demands that is not built yet: TLS by `smtp_tls_policy_maps`, authentication by
//! `smtp_sasl_password_maps`. Mail for such a destination is deferred and says why, never sent without.

use yamabiko_lookup::{LookupError, Maps};
use yamabiko_status::EnhancedStatus;

use crate::nexthop::{Destination, split_list};
use crate::settings::{Settings, is_optional_tls_level};

/// Tables that demand something for a destination.
#[derive(Default)]
pub struct Policy {
    /// `smtp_tls_policy_maps`
    pub tls: Option<Maps>,
    /// `smtp_sasl_password_maps`, when `smtp_sasl_auth_enable` is on.
    pub passwords: Option<Maps>,
    /// `smtp_sender_dependent_authentication`
    pub sender_dependent: bool,
}

type Refusal = (EnhancedStatus, String);

impl Policy {
    /// Whether this destination may be used as it is; otherwise the status and reason for its mail.
    pub async fn check(&self, settings: &Settings, nexthop: &str, sender: &str) -> Result<(), Refusal> {
        if self.tls.is_none() && self.passwords.is_none() {
            return Ok(());
        }
        for site in split_list(nexthop).chain(settings.fallback_relay.iter().map(String::as_str)) {
            // What cannot be read is reported where it is used.
            let Ok(destination) = Destination::parse(site, &settings.tcp_port) else { continue };
            if let Some(maps) = &self.tls {
                self.check_tls(maps, &destination).await?;
            }
            if let Some(maps) = &self.passwords {
                self.check_password(maps, &destination, sender).await?;
            }
        }
        Ok(())
    }

    async fn check_tls(&self, maps: &Maps, destination: &Destination) -> Result<(), Refusal> {
        let mut keys = vec![destination.text.as_str()];
        if !destination.bracketed {
            let mut name = destination.host.as_str();
            if name != destination.text {
                keys.push(name);
            }
            while let Some(dot) = name.get(1..).and_then(|tail| tail.find('.')) {
                // One past the first byte, so within the name.
                name = &name[dot + 1..];
                keys.push(name);
            }
        }
        for key in keys {
            let Some(value) = maps.find(key).await.map_err(trouble)? else { continue };
            let level = value.split([',', ' ', '\t']).find(|word| !word.is_empty()).unwrap_or_default();
            if is_optional_tls_level(level) {
                return Ok(());
            }
            let reason =
                format!("TLS is required, but our TLS engine is unavailable ({}: {key} {level})", maps.title());
            return Err((EnhancedStatus::transient(7, 5), reason));
        }
        Ok(())
    }

    async fn check_password(&self, maps: &Maps, destination: &Destination, sender: &str) -> Result<(), Refusal> {
        let mut keys = Vec::new();
        if self.sender_dependent && !sender.is_empty() {
            keys.push(sender);
        }
        keys.push(&destination.text);
        keys.push(&destination.host);
        for key in keys {
            if maps.find(key).await.map_err(trouble)?.is_some() {
                let reason = format!(
                    "SASL authentication is required, but our SASL client is unavailable ({}: {key})",
                    maps.title()
                );
                return Err((EnhancedStatus::transient(7, 0), reason));
            }
        }
        Ok(())
    }
}

fn trouble(error: LookupError) -> Refusal {
    (EnhancedStatus::transient(3, 0), format!("Temporary lookup error: {error}"))
}
