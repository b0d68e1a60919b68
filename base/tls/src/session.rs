//! What was agreed upon in a handshake, and the words for it in the log and in `Received:` fields.

use std::fmt::Write as _;

use crate::certificate::PeerCertificate;
use crate::names::{Cipher, Signature};

/// An encrypted connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// `TLSv1.3`
    pub protocol: &'static str,
    /// Cipher and its bits.
    pub cipher: Cipher,
    /// `X25519`, `ECDHE (prime256v1)`; empty before TLS 1.3, where the cipher's name says it.
    pub key_exchange: String,
    /// How the server proved its key; `None` before TLS 1.3 and when the session was resumed.
    pub server_signature: Option<Signature>,
    /// How the client proved its key.
    pub client_signature: Option<Signature>,
    /// The client's certificate, if it presented one.
    pub peer: Option<PeerCertificate>,
    /// An earlier session goes on.
    pub resumed: bool,
    /// The name that the client asked for, where a table has keys for it.
    pub server_name: Option<String>,
    /// A name that the client asked for and `tls_server_sni_maps` does not have.
    pub unmatched_name: Option<String>,
}

impl Session {
    /// A certificate that leads to a certification authority which we trust.
    pub fn is_trusted(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.untrusted.is_none())
    }

    /// `Anonymous TLS connection established from HOST[ADDRESS]: TLSv1.3 with cipher ...`
    pub fn summary(&self, client: &str) -> String {
        let who = match &self.peer {
            None => "Anonymous",
            Some(peer) if peer.untrusted.is_none() => "Trusted",
            Some(_) => "Untrusted",
        };
        self.words(who, &format!("established from {client}"))
    }

    /// The line with its first words.
    pub(crate) fn words(&self, who: &str, what: &str) -> String {
        let to = self.server_name.as_ref().map(|name| format!(" to {name}")).unwrap_or_default();
        let Cipher { name, bits } = self.cipher;
        let mut text =
            format!("{who} TLS connection {what}{to}: {} with cipher {name} ({bits}/{bits} bits)", self.protocol);
        let signatures = [("server", &self.server_signature), ("client", &self.client_signature)];
        let signatures = signatures.into_iter().filter_map(|(which, signature)| side(which, signature.as_ref()));
        for words in self.key_exchange_words().into_iter().chain(signatures) {
            text.push(' ');
            text.push_str(&words);
        }
        text
    }

    fn key_exchange_words(&self) -> Option<String> {
        (!self.key_exchange.is_empty()).then(|| format!("key-exchange {}", self.key_exchange))
    }

    /// The lines of a `Received:` field, each with a tab before it and a newline after it. `asked`: the server asked for
    /// a certificate.
    pub fn received(&self, asked: bool) -> String {
        let Cipher { name, bits } = self.cipher;
        let mut text = format!("\t(using {} with cipher {name} ({bits}/{bits} bits)", self.protocol);
        let second: Vec<String> =
            [self.key_exchange_words(), side("server", self.server_signature.as_ref())].into_iter().flatten().collect();
        for line in
            [Some(second.join(" ")).filter(|line| !line.is_empty()), side("client", self.client_signature.as_ref())]
                .into_iter()
                .flatten()
        {
            text.push_str("\n\t ");
            text.push_str(&line);
        }
        text.push_str(")\n");
        // Writing to a String cannot fail.
        let _ = match &self.peer {
            Some(peer) => writeln!(
                text,
                "\t(Client CN \"{}\", Issuer \"{}\" ({}))",
                comment(&peer.subject_cn),
                comment(&peer.issuer_cn),
                if peer.untrusted.is_none() { "verified OK" } else { "not verified" }
            ),
            None if asked => writeln!(text, "\t(Client did not present a certificate)"),
            None => writeln!(text, "\t(No client certificate requested)"),
        };
        text
    }
}

fn side(which: &str, signature: Option<&Signature>) -> Option<String> {
    let signature = signature?;
    let mut words = format!("{which}-signature {}", signature.name);
    if !signature.digest.is_empty() {
        words.push_str(&format!(" {which}-digest {}", signature.digest));
    }
    Some(words)
}

/// Text that may stand in a comment of a header: printable ASCII, parentheses that pair up (RFC 5322 section 3.2.2).
pub fn comment(text: &str) -> String {
    let mut out: Vec<char> = Vec::with_capacity(text.len());
    let mut open = Vec::new();
    for c in text.chars() {
        match c {
            '(' => {
                open.push(out.len());
                out.push(c);
            }
            ')' if open.pop().is_none() => out.push('?'),
            '\\' => out.push('?'),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    for at in open {
        // Positions of parentheses in it.
        out[at] = '?';
    }
    out.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            protocol: "TLSv1.3",
            cipher: Cipher { name: "TLS_AES_256_GCM_SHA384", bits: 256 },
            key_exchange: "X25519".to_owned(),
            server_signature: Some(Signature { name: "RSA-PSS (2048 bits)".to_owned(), digest: "SHA256" }),
            client_signature: None,
            peer: None,
            resumed: false,
            server_name: None,
            unmatched_name: None,
        }
    }

    fn peer(untrusted: Option<&str>) -> PeerCertificate {
        PeerCertificate {
            subject_cn: "client (one".to_owned(),
            issuer_cn: "Our CA".to_owned(),
            subject: String::new(),
            issuer: String::new(),
            fingerprint: String::new(),
            key_fingerprint: String::new(),
            untrusted: untrusted.map(str::to_owned),
        }
    }

    #[test]
    fn the_line_in_the_log() {
        let ecdsa = Signature { name: "ECDSA (prime256v1)".to_owned(), digest: "SHA256" };
        for (change, expected) in [
            (
                session(),
                "Anonymous TLS connection established from c.test[192.0.2.1]: TLSv1.3 with cipher \
              TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519 server-signature RSA-PSS (2048 bits) server-digest \
              SHA256",
            ),
            (
                Session { peer: Some(peer(None)), client_signature: Some(ecdsa.clone()), ..session() },
                "Trusted TLS connection established from c.test[192.0.2.1]: TLSv1.3 with cipher \
              TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519 server-signature RSA-PSS (2048 bits) server-digest \
              SHA256 client-signature ECDSA (prime256v1) client-digest SHA256",
            ),
            (
                Session {
                    peer: Some(peer(Some("x"))),
                    server_signature: None,
                    key_exchange: String::new(),
                    protocol: "TLSv1.2",
                    server_name: Some("a.test".to_owned()),
                    ..session()
                },
                "Untrusted TLS connection established from c.test[192.0.2.1] to a.test: TLSv1.2 with cipher \
              TLS_AES_256_GCM_SHA384 (256/256 bits)",
            ),
        ] {
            assert_eq!(change.summary("c.test[192.0.2.1]"), expected);
        }
    }

    #[test]
    fn the_lines_in_received() {
        let ed25519 = Signature { name: "ED25519".to_owned(), digest: "" };
        for (change, asked, expected) in [
            (
                session(),
                false,
                "\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)\n\t key-exchange X25519 \
              server-signature RSA-PSS (2048 bits) server-digest SHA256)\n\t(No client certificate requested)\n",
            ),
            (
                Session { client_signature: Some(ed25519), peer: Some(peer(None)), ..session() },
                true,
                "\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)\n\t key-exchange X25519 \
              server-signature RSA-PSS (2048 bits) server-digest SHA256\n\t client-signature ED25519)\n\
              \t(Client CN \"client ?one\", Issuer \"Our CA\" (verified OK))\n",
            ),
            (
                Session { server_signature: None, key_exchange: String::new(), ..session() },
                true,
                "\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits))\n\
              \t(Client did not present a certificate)\n",
            ),
        ] {
            assert_eq!(change.received(asked), expected);
        }
    }

    #[test]
    fn comments_stay_comments() {
        for (text, expected) in [
            ("a (b) c", "a (b) c"),
            ("a) b", "a? b"),
            ("((x)", "?(x)"),
            ("a\\", "a?"),
            ("山\r\n", "???"),
            ("\"q\"", "\"q\""),
        ] {
            assert_eq!(comment(text), expected);
        }
    }
}
