//! URLs of directories (RFC 4516): what a value or a referral of a server points at.

use ldap3::Scope;

/// What a URL says. What it leaves out is up to its reader.
#[derive(Debug, PartialEq)]
pub(crate) struct Url {
    /// `ldap://host:port` in lower case, without the usual ports; `None` where no host is named.
    pub(crate) server: Option<String>,
    pub(crate) base: Option<String>,
    pub(crate) attributes: Vec<String>,
    pub(crate) scope: Option<Scope>,
    pub(crate) filter: Option<String>,
}

impl Url {
    /// Whether a value is meant as one.
    pub(crate) fn is(text: &str) -> bool {
        ["ldap:", "ldaps:", "ldapi:"]
            .iter()
            .any(|start| text.get(..start.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(start)))
    }

    /// `None` for what is none, or is for other kinds of clients.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("://")?;
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        let mut parts = path.split('?');
        let mut next = || percent(parts.next().unwrap_or_default());
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        let base = filled(next()?);
        let attributes =
            next()?.split(',').filter(|name| !name.is_empty() && *name != "*").map(str::to_owned).collect();
        let scope = match next()?.to_ascii_lowercase().as_str() {
            "" => None,
            "base" => Some(Scope::Base),
            "one" => Some(Scope::OneLevel),
            "sub" => Some(Scope::Subtree),
            _ => return None,
        };
        let filter = filled(next()?);
        Some(Self { server: server(text), base, attributes, scope, filter })
    }
}

/// Scheme, host and port of a URL, in one form for each server.
pub(crate) fn server(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let usual = if scheme == "ldaps" { ":636" } else { ":389" };
    let host = rest.split(['/', '?']).next().unwrap_or_default().to_ascii_lowercase();
    let host = host.strip_suffix(usual).unwrap_or(&host).trim_end_matches('.');
    (!host.is_empty()).then(|| format!("{scheme}://{host}"))
}

fn percent(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let value = |digit: u8| char::from(digit).to_digit(16);
            out.push(u8::try_from(value(digits[0])? * 16 + value(digits[1])?).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let all = |server: Option<&str>, base: Option<&str>, attributes: &[&str], scope, filter: Option<&str>| Url {
            server: server.map(str::to_owned),
            base: base.map(str::to_owned),
            attributes: attributes.iter().map(|name| (*name).to_owned()).collect(),
            scope,
            filter: filter.map(str::to_owned),
        };
        for (text, expected) in [
            ("ldap:///dc=x??sub?(cn=m)", Some(all(None, Some("dc=x"), &[], Some(Scope::Subtree), Some("(cn=m)")))),
            (
                "ldap://H.test:389/o=a%2Cb?mail,*",
                Some(all(Some("ldap://h.test"), Some("o=a,b"), &["mail"], None, None)),
            ),
            ("LDAPS://h.test.:636", Some(all(Some("ldaps://h.test"), None, &[], None, None))),
            ("ldap://h:390/??BASE", Some(all(Some("ldap://h:390"), None, &[], Some(Scope::Base), None))),
            ("ldap://h/x??tree", None),
            ("ldap://h/%ff", None),
            ("ldap://h/%2", None),
            ("ldap:h", None),
        ] {
            assert_eq!(Url::read(text), expected, "{text}");
        }
        assert!(Url::is("LDAPS://h") && !Url::is("cn=ldap://") && !Url::is("é"));
    }
}
