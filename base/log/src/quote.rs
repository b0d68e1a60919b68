//! Quoting of local parts that are not dot-strings (RFC 5321 section 4.1.2), as Postfix's `quote_822_local` does.

use std::borrow::Cow;

/// The external form of an internal address.
pub(crate) fn quote(address: &str) -> Cow<'_, str> {
    if address.is_empty() {
        return Cow::Borrowed(address);
    }
    let (local, domain) = address.split_at(address.rfind('@').unwrap_or(address.len()));
    let special = |c: char| c.is_ascii_control() || " ()<>[]:;@\\,\"".contains(c);
    let dots = local.starts_with('.') || local.ends_with('.') || local.contains("..");
    if !local.is_empty() && !dots && !local.contains(special) {
        return Cow::Borrowed(address);
    }
    let mut out = String::with_capacity(address.len() + 2);
    out.push('"');
    for c in local.chars() {
        if matches!(c, '"' | '\\' | '\r') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out.push_str(domain);
    Cow::Owned(out)
}
