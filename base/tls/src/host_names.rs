//! Names in certificates and names that are asked for (RFC 6125), by the rules that Postfix has OpenSSL follow.

/// `found` in a certificate stands for `wanted`, or for a name below it where `wanted` begins with a dot. A `*` is a first
/// label, or with `many_labels` any number of them.
pub(crate) fn fits(found: &str, wanted: &str, many_labels: bool) -> bool {
    let found = found.trim_end_matches('.').to_ascii_lowercase();
    let wanted = wanted.trim_end_matches('.').to_ascii_lowercase();
    if wanted.starts_with('.') {
        return found.len() > wanted.len() && found.ends_with(&wanted);
    }
    if found == wanted {
        return !wanted.is_empty();
    }
    let Some(parent) = found.strip_prefix('*') else { return false };
    // `*.test` would stand for far too much.
    if !parent.starts_with('.') || parent.matches('.').count() < 2 || parent.contains('*') {
        return false;
    }
    match wanted.strip_suffix(parent) {
        Some(labels) => !labels.is_empty() && !labels.starts_with('.') && (many_labels || !labels.contains('.')),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (found, wanted, many, expected) in [
            ("mx.a.test", "mx.a.test", false, true),
            ("MX.a.test", "mx.A.test.", false, true),
            ("mx.a.test", "a.test", false, false),
            ("mx.a.test", ".a.test", false, true),
            ("x.mx.a.test", ".a.test", false, true),
            ("a.test", ".a.test", false, false),
            ("xa.test", ".a.test", false, false),
            ("*.a.test", ".a.test", false, true),
            ("*.a.test", "mx.a.test", false, true),
            ("*.a.test", "a.b.a.test", false, false),
            ("*.a.test", "a.b.a.test", true, true),
            ("*.a.test", "a.test", true, false),
            ("*.test", "a.test", true, false),
            ("m*.a.test", "mx.a.test", true, false),
            ("*.*.a.test", "x.*.a.test", true, false),
            ("", "", true, false),
        ] {
            assert_eq!(fits(found, wanted, many), expected, "{found} {wanted} {many}");
        }
    }
}
