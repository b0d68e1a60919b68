//! qmail's control files, as far as they are about bounces: `bouncefrom`, `bouncehost`, `doublebounceto`,
//! `doublebouncehost`, `queuelifetime`, and `me`, which stands in for missing hosts (qmail-control(5), qmail-send(8)).

use std::time::Duration;

/// What the control files say. What is `None` is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    /// `bouncefrom`: user in `From:` of bounces.
    pub from: Option<String>,
    /// `bouncehost`: its domain, and the host of the first sentence; `me` where it is missing.
    pub host: Option<String>,
    /// `doublebounceto`: user who gets double bounces.
    pub double_to: Option<String>,
    /// `doublebouncehost`: its domain; `me` where it is missing.
    pub double_host: Option<String>,
    /// `queuelifetime`
    pub lifetime: Option<Duration>,
}

/// Those that are read here.
const READ: [&str; 6] = ["me", "bouncefrom", "bouncehost", "doublebounceto", "doublebouncehost", "queuelifetime"];

/// Those of qmail's that are not read, with what stands for them in main.cf; nothing stands for some.
const OTHERS: [(&str, &str); 36] = [
    ("badmailfrom", "smtpd_sender_restrictions = check_sender_access"),
    ("bigtodo", ""),
    ("concurrencylocal", "local_destination_concurrency_limit"),
    ("concurrencyremote", "default_process_limit"),
    ("databytes", "message_size_limit"),
    ("defaultdelivery", "qmail_default_delivery"),
    ("defaultdomain", "mydomain"),
    ("defaulthost", "myorigin"),
    ("doublebouncemessage", ""),
    ("envnoathost", "myorigin"),
    ("helohost", "smtp_helo_name"),
    ("idhost", "myhostname"),
    ("localiphost", "myhostname"),
    ("locals", "mydestination"),
    ("morercpthosts", "relay_domains"),
    ("morercpthosts.cdb", "relay_domains"),
    ("outgoingip", "smtp_bind_address"),
    ("percenthack", "allow_percent_hack"),
    ("plusdomain", ""),
    ("qmqpservers", ""),
    ("rcpthosts", "relay_domains"),
    ("smtpgreeting", "smtpd_banner"),
    ("smtproutes", "transport_maps"),
    ("spfbehavior", "smtpd_sender_authentication"),
    ("timeoutconnect", "smtp_connect_timeout"),
    ("timeoutremote", "smtp_data_done_timeout"),
    ("timeoutsmtpd", "smtpd_timeout"),
    ("virtualdomains", "virtual_alias_maps"),
    ("badmailto", "smtpd_recipient_restrictions = check_recipient_access"),
    ("badhelo", "smtpd_helo_restrictions = check_helo_access"),
    ("servercert.pem", "smtpd_tls_chain_files"),
    ("clientcert.pem", "smtp_tls_chain_files"),
    ("rsa512.pem", ""),
    ("dh1024.pem", ""),
    ("tlsserverciphers", ""),
    ("tlsclientciphers", ""),
];

impl Controls {
    /// Whether a file of this name is read.
    pub fn is_control(name: &str) -> bool {
        READ.contains(&name)
    }

    /// From the files of a directory, by name, and warnings about what cannot be meant.
    pub fn read(files: &[(String, Vec<u8>)]) -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        let mut found = Self::default();
        let mut me = None;
        let mut others = Vec::new();
        for (name, content) in files {
            if let Some((name, parameter)) = OTHERS.iter().find(|(known, _)| known == name) {
                others.push(if parameter.is_empty() { (*name).to_owned() } else { format!("{name} ({parameter})") });
                continue;
            }
            if !READ.contains(&name.as_str()) {
                warnings.extend(odd_name(name));
                continue;
            }
            let value = first_line(content);
            let Some(value) = value.filter(|value| !value.is_empty()) else {
                warnings.push(format!("{name}: it is empty and has no effect"));
                continue;
            };
            let fit = !value.contains(|c: char| c.is_control() || c.is_whitespace() || "<>()\"@,;:".contains(c));
            match name.as_str() {
                "queuelifetime" => {
                    let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
                    match digits.parse() {
                        Ok(seconds) => found.lifetime = Some(Duration::from_secs(seconds)),
                        Err(_) => warnings.push(format!("{name}: a number of seconds is expected; it has no effect")),
                    }
                }
                _ if !fit => warnings.push(format!(
                    "{name}: \"{}\" is no user or host name (the domain has a file of its own); it has no effect",
                    quoted(&value)
                )),
                "me" => me = Some(value),
                "bouncefrom" => found.from = Some(value),
                "bouncehost" => found.host = Some(value),
                "doublebounceto" => found.double_to = Some(value),
                // READ holds no other name.
                _ => found.double_host = Some(value),
            }
        }
        if !others.is_empty() {
            let list = others.join(", ");
            warnings
                .push(format!("these files are not read, what stands for them in main.cf is in parentheses: {list}"));
        }
        found.host = found.host.or_else(|| me.clone());
        if found.double_to.is_some() {
            found.double_host = found.double_host.or(me);
        }
        (found, warnings)
    }
}

/// Without blanks at its end.
fn first_line(content: &[u8]) -> Option<String> {
    let line = content.split(|b| *b == b'\n').next().unwrap_or_default();
    String::from_utf8(line.to_vec()).ok().map(|line| line.trim_end().to_owned())
}

/// Text of anybody's for a line of the log.
fn quoted(text: &str) -> String {
    const CHARACTERS: usize = 100;
    let shown: String = text.chars().take(CHARACTERS).flat_map(char::escape_default).collect();
    if text.chars().nth(CHARACTERS).is_some() { shown + "..." } else { shown }
}

/// A name that nobody reads: told, because the admin believes that it counts.
fn odd_name(name: &str) -> Option<String> {
    if name.starts_with('.') {
        return None;
    }
    let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric()).collect::<String>().to_ascii_lowercase();
    let meant = READ.iter().find(|known| **known == plain);
    let name = quoted(name);
    Some(match meant {
        Some(meant) => format!("\"{name}\": odd file name, it is not read: rename it to {meant} if that is meant"),
        None => format!("\"{name}\": not a control file of qmail's, it is not read"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> (Controls, Vec<String>) {
        let files: Vec<_> = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
        Controls::read(&files)
    }

    #[test]
    fn what_is_said_is_short() {
        let rubbish = "\u{15}\u{fffd}".repeat(500);
        let (_, warnings) = read(&[("me", &rubbish), (&rubbish, "x")]);
        assert_eq!(warnings.len(), 2);
        assert!(warnings.iter().all(|warning| warning.len() < 1200 && warning.contains("...\"")), "{warnings:?}");
    }

    #[test]
    fn what_is_said() {
        let (controls, warnings) = read(&[
            ("me", "mail.example.com\n"),
            ("bouncefrom", "postmaster  \nignored\n"),
            ("bouncehost", "example.com"),
            ("doublebounceto", "root\n"),
            ("queuelifetime", "86400 seconds\n"),
            ("rcpthosts", "a b c\n"),
        ]);
        let said =
            "these files are not read, what stands for them in main.cf is in parentheses: rcpthosts (relay_domains)";
        assert_eq!(warnings, [said]);
        assert_eq!(controls.from.as_deref(), Some("postmaster"));
        assert_eq!(controls.host.as_deref(), Some("example.com"));
        assert_eq!(controls.double_to.as_deref(), Some("root"));
        assert_eq!(controls.double_host.as_deref(), Some("mail.example.com"));
        assert_eq!(controls.lifetime, Some(Duration::from_secs(86_400)));
        assert_eq!(read(&[]).0, Controls::default());
    }

    #[test]
    fn odd_files() {
        for (name, text, begins) in [
            (
                "\"doublebounceto",
                "x",
                "\"\\\"doublebounceto\": odd file name, it is not read: rename it to doublebounceto",
            ),
            ("BounceFrom", "x", "\"BounceFrom\": odd file name"),
            ("bouncefrom~", "x", "\"bouncefrom~\": odd file name"),
            ("whatever", "x", "\"whatever\": not a control file"),
            ("bouncehost", "a@b.test", "bouncehost: \"a@b.test\" is no user or host name"),
            ("bouncefrom", "a\u{7}", "bouncefrom: "),
            ("bouncefrom", "\n", "bouncefrom: it is empty"),
            ("queuelifetime", "week", "queuelifetime: a number of seconds"),
        ] {
            let (controls, warnings) = read(&[(name, text)]);
            assert_eq!(controls, Controls::default(), "{name}");
            assert!(warnings.len() == 1 && warnings[0].starts_with(begins), "{name}: {warnings:?}");
        }
    }
}
