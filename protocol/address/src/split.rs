//! Taking an internal address apart: local part and domain, base and extension (Postfix: `split_at`, `split_addr`).

/// Local part and domain, split at the last `@`. No `@`: everything is local part.
pub fn split_domain(address: &str) -> (&str, Option<&str>) {
    match address.rfind('@') {
        Some(at) => (&address[..at], Some(&address[at + 1..])),
        None => (address, None),
    }
}

/// What [`split_extension_with`] goes by.
#[derive(Clone, Copy, Debug)]
pub struct ExtensionRules<'a> {
    /// `recipient_delimiter`: any of these characters separates; empty switches extensions off.
    pub delimiters: &'a str,
    /// `owner_request_special`: with `-` among the delimiters, `owner-x` and `x-request` are left whole.
    pub owner_request_special: bool,
    /// `double_bounce_sender`: never split.
    pub double_bounce_sender: &'a str,
}

impl<'a> ExtensionRules<'a> {
    /// Postfix's defaults with these delimiters.
    pub fn new(delimiters: &'a str) -> Self {
        Self { delimiters, owner_request_special: true, double_bounce_sender: "double-bounce" }
    }
}

/// [`split_extension_with`] with Postfix's default exceptions.
pub fn split_extension<'l>(local: &'l str, delimiters: &str) -> (&'l str, Option<&'l str>) {
    split_extension_with(local, &ExtensionRules::new(delimiters))
}

/// Splits a local part at the first delimiter into base and extension, the delimiter in neither. Left whole:
/// `postmaster`, `mailer-daemon` and the double-bounce sender in any case of letters, and what begins with a delimiter.
pub fn split_extension_with<'l>(local: &'l str, rules: &ExtensionRules<'_>) -> (&'l str, Option<&'l str>) {
    if rules.delimiters.is_empty()
        || local.eq_ignore_ascii_case("postmaster")
        || local.eq_ignore_ascii_case("mailer-daemon")
        || local.eq_ignore_ascii_case(rules.double_bounce_sender)
    {
        return (local, None);
    }
    if rules.owner_request_special && rules.delimiters.contains('-') {
        let bytes = local.as_bytes();
        let owner = bytes.get(..6).is_some_and(|head| head.eq_ignore_ascii_case(b"owner-"));
        // `-request` alone is no request address of anything.
        let request = bytes.len() > 8 && bytes[bytes.len() - 8..].eq_ignore_ascii_case(b"-request");
        if owner || request {
            return (local, None);
        }
    }
    match local.char_indices().find(|&(_, c)| rules.delimiters.contains(c)) {
        None | Some((0, _)) => (local, None),
        Some((at, delimiter)) => (&local[..at], Some(&local[at + delimiter.len_utf8()..])),
    }
}

/// The internal address without its extension, and the extension with its delimiter (`"+x"`) when there was one.
pub fn strip_extension<'a>(address: &'a str, rules: &ExtensionRules<'_>) -> (String, Option<&'a str>) {
    let (local, domain) = split_domain(address);
    let (base, extension) = split_extension_with(local, rules);
    match extension {
        None => (address.to_owned(), None),
        // Base is a prefix of local, so the rest of local is delimiter and extension.
        Some(_) => {
            let mut stripped = base.to_owned();
            if let Some(domain) = domain {
                stripped.push('@');
                stripped.push_str(domain);
            }
            (stripped, Some(&local[base.len()..]))
        }
    }
}

/// Adds an extension, delimiter included (`"+x"`), to the local part of an internal address (Postfix:
/// `mail_addr_map` with `propagate_unmatched_extensions`).
pub fn join_extension(address: &str, extension: &str) -> String {
    let (local, domain) = split_domain(address);
    match domain {
        Some(domain) => format!("{local}{extension}@{domain}"),
        None => format!("{local}{extension}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_is_after_the_last_at() {
        assert_eq!(split_domain("a@b"), ("a", Some("b")));
        assert_eq!(split_domain("a@b@c"), ("a@b", Some("c")));
        assert_eq!(split_domain("a"), ("a", None));
        assert_eq!(split_domain("@"), ("", Some("")));
        assert_eq!(split_domain(""), ("", None));
    }

    #[test]
    fn extensions() {
        let table: &[(&str, &str, &str, Option<&str>)] = &[
            ("user", "+", "user", None),
            ("user+ext", "+", "user", Some("ext")),
            ("user+", "+", "user", Some("")),
            ("user+a+b", "+", "user", Some("a+b")),
            ("+ext", "+", "+ext", None),
            ("user-a+b", "+-", "user", Some("a+b")),
            ("user+ext", "", "user+ext", None),
            ("owner-list", "-", "owner-list", None),
            ("Owner-List", "-+", "Owner-List", None),
            ("list-request", "-", "list-request", None),
            ("-request", "-", "-request", None),
            ("owner-list+x", "+", "owner-list", Some("x")),
            ("mailer-daemon", "-", "mailer-daemon", None),
            ("MAILER-DAEMON", "-", "MAILER-DAEMON", None),
            ("double-bounce", "-", "double-bounce", None),
            ("postmaster+x", "+", "postmaster", Some("x")),
            ("山彦、こだま", "、", "山彦", Some("こだま")),
        ];
        for (local, delimiters, base, extension) in table {
            assert_eq!(split_extension(local, delimiters), (*base, *extension), "{local} by {delimiters}");
        }
        let plain = ExtensionRules { owner_request_special: false, ..ExtensionRules::new("-") };
        assert_eq!(split_extension_with("owner-list", &plain), ("owner", Some("list")));
        assert_eq!(split_extension_with("list-request", &plain), ("list", Some("request")));
    }

    #[test]
    fn stripped_and_joined_again() {
        let rules = ExtensionRules::new("+");
        assert_eq!(strip_extension("u+x@d", &rules), ("u@d".into(), Some("+x")));
        assert_eq!(strip_extension("u@d+e", &rules), ("u@d+e".into(), None));
        assert_eq!(join_extension("u@d", "+x"), "u+x@d");
        assert_eq!(join_extension("u", "+x"), "u+x");
    }
}
