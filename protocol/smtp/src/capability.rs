//! What an EHLO reply says the server can do (RFC 5321 section 4.1.1.1), as a client reads it.

use crate::reply::Reply;

/// The attributes of XFORWARD that a server takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Xforward {
    pub name: bool,
    pub addr: bool,
    pub port: bool,
    pub proto: bool,
    pub helo: bool,
    pub ident: bool,
    pub source: bool,
}

impl Xforward {
    /// Any at all.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// Capabilities by their keyword. Everything false or empty is also what a HELO session has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The greeting's first word: the name by which the server introduces itself.
    pub name: String,
    /// `PIPELINING` (RFC 2920)
    pub pipelining: bool,
    /// `SIZE` (RFC 1870)
    pub size: bool,
    /// The limit given with SIZE, in bytes; 0 when none was given.
    pub size_limit: u64,
    /// `8BITMIME` (RFC 6152)
    pub eight_bit_mime: bool,
    /// `DSN` (RFC 3461)
    pub dsn: bool,
    /// `SMTPUTF8` (RFC 6531)
    pub smtputf8: bool,
    /// `REQUIRETLS` (RFC 8689)
    pub requiretls: bool,
    /// `STARTTLS` (RFC 3207)
    pub starttls: bool,
    /// `CHUNKING` (RFC 3030)
    pub chunking: bool,
    /// `ENHANCEDSTATUSCODES` (RFC 2034)
    pub enhanced_status_codes: bool,
    /// `ETRN` (RFC 1985)
    pub etrn: bool,
    /// `VRFY`
    pub vrfy: bool,
    /// `XVERP`
    pub xverp: bool,
    /// `XCLIENT`
    pub xclient: bool,
    /// `XFORWARD` with its attributes
    pub xforward: Xforward,
    /// Mechanisms of `AUTH`, upper case; `AUTH=...` of old servers too (RFC 4954).
    pub auth: Vec<String>,
}

impl Capabilities {
    /// Reads the lines of an EHLO reply. Keywords in `discard` (upper or lower case) are taken as not said
    /// (Postfix: `smtp_discard_ehlo_keywords`). Unknown keywords are passed over.
    pub fn parse(reply: &Reply, discard: &[String]) -> Self {
        let mut found = Self::default();
        let mut lines = reply.texts();
        found.name = lines.next().and_then(|line| line.split_whitespace().next()).unwrap_or_default().to_owned();
        for line in lines {
            let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
            let Some(keyword) = words.next() else { continue };
            if !discard.iter().any(|word| word.eq_ignore_ascii_case(keyword)) {
                found.take(keyword, words);
            }
        }
        found
    }

    fn take<'a>(&mut self, keyword: &str, mut words: impl Iterator<Item = &'a str>) {
        match upper_case(keyword, &mut [0; LONGEST]) {
            "PIPELINING" => self.pipelining = true,
            "SIZE" => {
                self.size = true;
                self.size_limit = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            }
            "8BITMIME" => self.eight_bit_mime = true,
            "DSN" => self.dsn = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "REQUIRETLS" => self.requiretls = true,
            "STARTTLS" => self.starttls = true,
            "CHUNKING" => self.chunking = true,
            "ENHANCEDSTATUSCODES" => self.enhanced_status_codes = true,
            "ETRN" => self.etrn = true,
            "VRFY" => self.vrfy = true,
            "XVERP" => self.xverp = true,
            "XCLIENT" => self.xclient = true,
            "XFORWARD" => {
                for word in words {
                    let x = &mut self.xforward;
                    match upper_case(word, &mut [0; LONGEST]) {
                        "NAME" => x.name = true,
                        "ADDR" => x.addr = true,
                        "PORT" => x.port = true,
                        "PROTO" => x.proto = true,
                        "HELO" => x.helo = true,
                        "IDENT" => x.ident = true,
                        "SOURCE" => x.source = true,
                        _ => {}
                    }
                }
            }
            "AUTH" => {
                for word in words.map(str::to_ascii_uppercase) {
                    if !self.auth.contains(&word) {
                        self.auth.push(word);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Bytes of the longest word that means something here, and a little room.
const LONGEST: usize = 24;

/// A word in upper case, in `room`; empty where it is longer than any that is known.
fn upper_case<'r>(word: &str, room: &'r mut [u8; LONGEST]) -> &'r str {
    let Some(upper) = room.get_mut(..word.len()) else { return "" };
    upper.copy_from_slice(word.as_bytes());
    upper.make_ascii_uppercase();
    // It was text, and only ASCII letters have changed.
    std::str::from_utf8(upper).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::ReplyParser;

    fn parse(text: &str, discard: &[&str]) -> Capabilities {
        let wire = text.replace('\n', "\r\n") + "\r\n";
        let reply = ReplyParser::new().parse(&mut wire.as_bytes()).unwrap().unwrap();
        Capabilities::parse(&reply, &discard.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn keywords_and_arguments() {
        let c = parse(
            "250-mx.test greets you\n250-pipelining\n250-SIZE 1000\n250-AUTH PLAIN login\n250-AUTH=PLAIN CRAM-MD5\n\
             250-XFORWARD NAME ADDR\n250-FOO bar\n250-\n250 8BITMIME",
            &[],
        );
        assert_eq!(c.name, "mx.test");
        assert!(c.pipelining && c.size && c.eight_bit_mime && !c.dsn);
        assert_eq!((c.size_limit, c.auth.join(" ").as_str()), (1000, "PLAIN LOGIN CRAM-MD5"));
        assert!(c.xforward.name && c.xforward.addr && !c.xforward.port && c.xforward.any());
    }

    #[test]
    fn discarded_keywords_were_never_said() {
        let c = parse("250-mx.test\n250-PIPELINING\n250-SIZE\n250 DSN", &["pipelining", "DSN"]);
        assert!(!c.pipelining && !c.dsn && c.size);
        assert_eq!(c.size_limit, 0);
    }
}
