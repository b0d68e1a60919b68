//! `smtp_requiretls_policy`: where mail with REQUIRETLS (RFC 8689) goes only to servers that promise the same, and where it
//! is enough to ask those that offer it.

use std::net::IpAddr;

use yamabiko_config::View;
use yamabiko_lookup::{LookupError, Maps, TableSet};

/// The policy of a client.
pub(crate) struct RequireTls {
    /// Tables with `enforce`, `opportunistic` or `opportunistic+starttls` for destinations.
    maps: Option<Maps>,
    /// What holds for others.
    strict: bool,
    /// `mydomain`: without a policy of the admin's, what goes there and to addresses need not promise anything.
    own: Option<String>,
}

impl Default for RequireTls {
    fn default() -> Self {
        Self { maps: None, strict: true, own: Some(String::new()) }
    }
}

fn is_strict(word: &str) -> bool {
    !word.trim().to_ascii_lowercase().starts_with("opportunistic")
}

impl RequireTls {
    pub(crate) fn read(view: &View, prefix: &str, tables: &TableSet) -> Self {
        let name = format!("{prefix}requiretls_policy");
        if !view.is_set(&name) {
            let own = view.text("mydomain").to_ascii_lowercase();
            return Self { maps: None, strict: prefix == "smtp_", own: (prefix == "smtp_").then_some(own) };
        }
        let text = view.text(&name);
        // The last word is what holds for all others; before it stand tables.
        let (tables_text, last) = match text.trim_end().rsplit_once([',', ' ', '\t', '\n', '}']) {
            Some((before, last)) => (text.get(..before.len() + 1).unwrap_or_default(), last),
            None => ("", text.trim()),
        };
        let (tables_text, strict) =
            if last.contains(':') || last.is_empty() { (text.as_str(), true) } else { (tables_text, is_strict(last)) };
        let maps = Maps::open(tables, &name, tables_text.trim_end_matches([',', ' ', '\t', '\n']));
        Self { maps: (!maps.is_empty()).then_some(maps), strict, own: None }
    }

    /// The server has to be proved, and to promise the same.
    pub(crate) async fn strict(&self, host: &str) -> Result<bool, LookupError> {
        let host = host.to_ascii_lowercase();
        if let Some(own) = &self.own {
            let below = host.strip_suffix(own.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            let near = (below && !own.is_empty()) || host == "localhost" || host.parse::<IpAddr>().is_ok();
            return Ok(self.strict && !near);
        }
        let Some(maps) = &self.maps else { return Ok(self.strict) };
        let mut key = host.as_str();
        loop {
            if let Some(word) = maps.find(key).await? {
                return Ok(is_strict(&word));
            }
            // Parents are looked up with their dot.
            match key.get(1..).and_then(|rest| rest.find('.')) {
                Some(dot) if host.parse::<IpAddr>().is_err() => key = key.get(dot + 1..).unwrap_or_default(),
                _ => return Ok(self.strict),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_near_need_not_promise() {
        let policy = RequireTls { maps: None, strict: true, own: Some("lab.test".into()) };
        for (host, strict) in [
            ("lab.test", false),
            ("mx.lab.test", false),
            ("xlab.test", true),
            ("192.0.2.1", false),
            ("a.example", true),
        ] {
            assert_eq!(pollster::block_on(policy.strict(host)).unwrap(), strict, "{host}");
        }
        assert!(pollster::block_on(RequireTls::default().strict("a.example")).unwrap());
        assert!(is_strict("enforce") && !is_strict("opportunistic+starttls"));
    }
}
