//! Variable envelope return paths: one sender per recipient, so that a bounce says for whom it is.

use crate::split_domain;

/// `prefix@origin` with `user@domain` and delimiters `+=` becomes `prefix+user=domain@origin` (Postfix:
/// `verp_sender`). All addresses in internal form; the recipient is the original one where there is one.
pub fn verp_sender(sender: &str, recipient: &str, delimiters: (char, char)) -> String {
    let (prefix, origin) = split_domain(sender);
    let (user, domain) = split_domain(recipient);
    let mut out = String::with_capacity(sender.len() + recipient.len() + 2);
    out.push_str(prefix);
    out.push(delimiters.0);
    out.push_str(user);
    if let Some(domain) = domain {
        out.push(delimiters.1);
        out.push_str(domain);
    }
    if let Some(origin) = origin {
        out.push('@');
        out.push_str(origin);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        for (sender, recipient, delimiters, expected) in [
            ("list@lab.test", "a@b.test", ('+', '='), "list+a=b.test@lab.test"),
            ("list@lab.test", "a", ('-', '='), "list-a@lab.test"),
            ("list", "a@b@c", ('+', '='), "list+a@b=c"),
        ] {
            assert_eq!(verp_sender(sender, recipient, delimiters), expected);
        }
    }
}
