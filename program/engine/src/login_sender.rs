//! `local_login_sender_maps`: which envelope senders a user of this machine may hand mail in with (postdrop(1)).

use yamabiko_config::View;
use yamabiko_lookup::{LookupError, Maps, TableSet};

/// The tables, and how senders are looked at.
pub struct LoginSenders {
    maps: Maps,
    /// The default: everybody may use every sender.
    open: bool,
    /// `empty_address_local_login_sender_maps_lookup_key`
    null_key: String,
    delimiters: String,
}

impl LoginSenders {
    /// As main.cf has it.
    pub fn new(main: &View, tables: &TableSet) -> Self {
        const NAME: &str = "local_login_sender_maps";
        let text = main.text(NAME);
        Self {
            open: text.trim() == "static:*",
            maps: Maps::open(tables, NAME, &text),
            null_key: main.text("empty_address_local_login_sender_maps_lookup_key"),
            delimiters: main.text("recipient_delimiter"),
        }
    }

    /// The user with this ID may use `sender`. Nobody is exempt, root neither, as in Postfix.
    ///
    /// # Errors
    /// A table does not answer.
    pub async fn allow(&self, uid: u32, sender: &str) -> Result<bool, LookupError> {
        if self.open {
            return Ok(true);
        }
        // The user database may be elsewhere.
        let found = tokio::task::spawn_blocking(move || nix::unistd::User::from_uid(uid.into())).await;
        let login = match found {
            Ok(Ok(Some(user))) => user.name,
            _ => format!("uid:{uid}"),
        };
        let found = self.maps.find(&login).await?;
        Ok(found.is_some_and(|patterns| permits(&patterns, sender, &self.null_key, &self.delimiters)))
    }

    /// A table asks with blocking calls.
    pub fn is_remote(&self) -> bool {
        self.maps.is_remote()
    }
}

/// One of the patterns, separated by blanks and commas, is for this sender. Extensions of its local part do not count.
fn permits(patterns: &str, sender: &str, null_key: &str, delimiters: &str) -> bool {
    let (local, domain) = yamabiko_address::split_domain(sender);
    let local = yamabiko_address::split_extension(local, delimiters).0;
    let plain = match domain {
        Some(domain) => format!("{local}@{domain}"),
        None => local.to_owned(),
    };
    let same = |a: &str, b: &str| yamabiko_lookup::fold_case(a) == yamabiko_lookup::fold_case(b);
    patterns.split([' ', '\t', '\r', '\n', ',']).filter(|pattern| !pattern.is_empty()).any(|pattern| {
        if pattern == "*" {
            return true;
        }
        if sender.is_empty() {
            return same(pattern, null_key);
        }
        match pattern.strip_prefix('@') {
            Some(wanted) => domain.is_some_and(|domain| same(wanted, domain)),
            None => same(pattern, &plain),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::permits;

    #[test]
    fn patterns() {
        for (patterns, sender, expected) in [
            ("*", "a@b.test", true),
            ("*", "", true),
            ("root", "root", true),
            ("root", "root+x", true),
            ("root", "root@b.test", false),
            ("root", "", false),
            ("x, @a.test <>", "any@A.test", true),
            ("x, @a.test <>", "", true),
            ("x, @a.test <>", "any@sub.a.test", false),
            ("@a.test", "a.test", false),
            ("User@A.test", "user+tag@a.TEST", true),
            ("user@a.test", "user@a.test.evil.test", false),
            ("user@a.test", "x@y@a.test", false),
            ("a*", "abc", false),
            ("", "", false),
        ] {
            assert_eq!(permits(patterns, sender, "<>", "+"), expected, "{patterns:?} {sender:?}");
        }
    }
}
