//! Who wants reports about a domain: the record of `_smtp._tls.DOMAIN` (RFC 8460 section 3).

/// Addresses of one record that are used.
const MOST: usize = 10;

/// A place that reports go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rua {
    /// By mail to this address.
    Mail(String),
    /// By HTTPS.
    Https {
        /// The host.
        host: String,
        /// Its port.
        port: u16,
        /// Path and query, with the first `/`.
        path: String,
    },
}

/// Reads the records; `None` when there is none that counts. There must be just one that begins with `v=TLSRPTv1`.
pub fn read_record<'a>(records: impl IntoIterator<Item = &'a str>) -> Option<Vec<Rua>> {
    let ours = |text: &&str| {
        let rest = text.trim_start().strip_prefix("v=TLSRPTv1");
        rest.is_some_and(|rest| rest.trim_start().is_empty() || rest.trim_start().starts_with(';'))
    };
    let mut records = records.into_iter().filter(ours);
    let record = records.next()?;
    if records.next().is_some() {
        return None;
    }
    let value = record.split(';').skip(1).find_map(|field| {
        let (name, value) = field.split_once('=')?;
        (name.trim() == "rua").then_some(value)
    })?;
    let found: Vec<Rua> = value.split(',').filter_map(|word| place(word.trim())).take(MOST).collect();
    (!found.is_empty()).then_some(found)
}

fn place(text: &str) -> Option<Rua> {
    let (scheme, rest) = text.split_once(':')?;
    if scheme.eq_ignore_ascii_case("mailto") {
        let address = decoded(rest.split('?').next().unwrap_or_default())?;
        let (local, domain) = address.rsplit_once('@')?;
        let good = !local.is_empty() && yamabiko_address::domain::valid_hostname(domain);
        let plain = address.bytes().all(|byte| byte > b' ' && byte < 127 && !b"<>,;:\"\\()".contains(&byte));
        return (good && plain && address.len() <= 320).then_some(Rua::Mail(address));
    }
    if !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let rest = rest.strip_prefix("//")?.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    // Found in this text.
    let (authority, path) = rest.split_at(end);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, 443),
    };
    let plain = path.bytes().all(|byte| byte > b' ' && byte < 127);
    if !yamabiko_address::domain::valid_hostname(host) || !plain || path.len() > 2000 {
        return None;
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Some(Rua::Https { host: host.to_ascii_lowercase(), port, path })
}

/// Without `%2C` and its like.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let mail = |text: &str| Rua::Mail(text.to_owned());
        let web = |host: &str, port, path: &str| Rua::Https { host: host.to_owned(), port, path: path.to_owned() };
        let table: Vec<(&[&str], Option<Vec<Rua>>)> = vec![
            (&["v=TLSRPTv1;rua=mailto:reports@example.com"], Some(vec![mail("reports@example.com")])),
            (
                &["v=TLSRPTv1; rua=https://r.example.com/v1/tlsrpt,mailto:a%21b@example.com"],
                Some(vec![web("r.example.com", 443, "/v1/tlsrpt"), mail("a!b@example.com")]),
            ),
            (&["x", "v=TLSRPTv1; rua=https://R.example:8443?a=b"], Some(vec![web("r.example", 8443, "/?a=b")])),
            (&["v=TLSRPTv1; rua=http://x.example/"], None),
            (&["v=TLSRPTv1; rua=mailto:nobody"], None),
            (&["v=TLSRPTv1; rua=mailto:a@b.example%0d%0aRCPT"], None),
            (&["v=TLSRPTv1; rua=https://user@x.example/"], None),
            (&["v=TLSRPTv1; rua=mailto:a@b.example", "v=TLSRPTv1; rua=mailto:c@b.example"], None),
            (&["v=TLSRPTv2; rua=mailto:a@b.example"], None),
            (&["v=TLSRPTv1"], None),
        ];
        for (records, wanted) in table {
            assert_eq!(read_record(records.iter().copied()), wanted, "{records:?}");
        }
    }
}
