//! Command lines: words, and the parameters of MAIL and RCPT (RFC 5321 section 4.1.1, RFC 1870, 3461, 6152, 6531).
//!
//! The words are Postfix's (`smtpd_token`): separated by blanks, but `<...>`, `[...]` and `"..."` belong together, and
//! `FROM:` and `TO:` end a word, so that `MAIL FROM:<a b@c>` and `MAIL FROM: <a b@c>` are three words each. Reading
//! words allocates nothing.

use std::fmt;

use crate::xtext;

/// One word of a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// The word as written, quotes and brackets included.
    pub text: &'a str,
    /// `<`, `[` or `"` was never closed.
    pub unbalanced: bool,
}

impl Token<'_> {
    /// Equal to `word`, whatever the case of ASCII letters.
    pub fn is(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }
}

/// The words of a command line.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    /// Over a command line without its line end.
    pub fn new(line: &'a str) -> Self {
        Self { rest: line }
    }
    /// What has not been read yet.
    pub fn rest(&self) -> &'a str {
        self.rest
    }
    /// How many words are left.
    pub fn left(self) -> usize {
        self.count()
    }
}

/// Reads on to the character that closes `first`, quotes within brackets and brackets within brackets respected.
/// Returns where it ends, and whether it was closed.
fn quoted(bytes: &[u8], mut at: usize, first: u8) -> (usize, bool) {
    // What closes the outermost pair; then how many pairs of `<>` are open within, and whether a quote is open.
    let (mut nested, mut in_quotes) = (0usize, first == b'"');
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'\\' if at < bytes.len() => at += 1,
            b'\\' => return (at, false),
            b'"' if in_quotes && first == b'"' => return (at, true),
            b'"' => in_quotes = !in_quotes,
            _ if in_quotes => {}
            byte if nested == 0 && *byte == first => return (at, true),
            b'>' if nested > 0 => nested -= 1,
            b'<' => nested += 1,
            _ => {}
        }
    }
    (at, false)
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let line = self.rest.trim_start_matches([' ', '\t']);
        let bytes = line.as_bytes();
        let (mut at, mut unbalanced) = (0, false);
        while let Some(byte) = bytes.get(at) {
            at += 1;
            let close = match byte {
                b' ' | b'\t' => {
                    at -= 1;
                    break;
                }
                b'<' => b'>',
                b'[' => b']',
                b'"' => b'"',
                b'\\' => {
                    at = (at + 1).min(bytes.len());
                    continue;
                }
                b':' if matches!(bytes.get(..at), Some(word) if word.eq_ignore_ascii_case(b"from:") || word.eq_ignore_ascii_case(b"to:")) =>
                {
                    break;
                }
                _ => continue,
            };
            let (end, closed) = quoted(bytes, at, close);
            at = end;
            unbalanced |= !closed;
        }
        // A backslash may have skipped the first byte of a longer character.
        while !line.is_char_boundary(at) {
            at += 1;
        }
        self.rest = &line[at..];
        (at > 0).then_some(Token { text: &line[..at], unbalanced })
    }
}

/// `BODY=`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// Not said.
    #[default]
    Unspecified,
    /// `7BIT`
    SevenBit,
    /// `8BITMIME`
    EightBitMime,
}

/// `RET=`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// `FULL`
    Full,
    /// `HDRS`
    Hdrs,
}

/// `NOTIFY=`: `NEVER`, or any of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Notify {
    pub never: bool,
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

impl Notify {
    /// Reads the value. `None` when it is empty, has an unknown word, or `NEVER` beside others (RFC 3461 section 4.1).
    pub fn parse(value: &str) -> Option<Self> {
        let mut notify = Self::default();
        for word in value.split(',') {
            let flag = if word.eq_ignore_ascii_case("NEVER") {
                &mut notify.never
            } else if word.eq_ignore_ascii_case("SUCCESS") {
                &mut notify.success
            } else if word.eq_ignore_ascii_case("FAILURE") {
                &mut notify.failure
            } else if word.eq_ignore_ascii_case("DELAY") {
                &mut notify.delay
            } else {
                return None;
            };
            *flag = true;
        }
        (!notify.never || !(notify.success || notify.failure || notify.delay)).then_some(notify)
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words =
            [(self.never, "NEVER"), (self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let mut comma = "";
        for (_, word) in words.into_iter().filter(|(set, _)| *set) {
            write!(f, "{comma}{word}")?;
            comma = ",";
        }
        Ok(())
    }
}

/// What a server allows in MAIL and RCPT beyond the address.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed<'a> {
    /// `RET`, `ENVID`, `NOTIFY`, `ORCPT`
    pub dsn: bool,
    /// `SMTPUTF8`
    pub smtputf8: bool,
    /// `REQUIRETLS`
    pub requiretls: bool,
    /// `AUTH=`
    pub auth: bool,
    /// `XVERP` for this client: the two default delimiters, and the characters that delimiters may be
    /// (Postfix: `default_verp_delimiters`, `verp_delimiter_filter`).
    pub xverp: Option<(&'a str, &'a str)>,
}

/// Why the parameters of MAIL or RCPT were refused; each has one reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParameterError<'a> {
    /// `SIZE=` is no number
    BadSize,
    /// `SIZE=` is larger than any file
    HugeSize,
    /// `RET=` twice, or something else than FULL and HDRS
    BadRet,
    /// `ENVID=` twice, empty, or not xtext
    BadEnvid,
    /// `NOTIFY=` twice or with unknown words
    BadNotify,
    /// `ORCPT=` twice, without type or not xtext
    BadOrcpt,
    /// `AUTH=` twice
    SeveralLogins,
    /// A parameter of RFC 3461 where DSN is not offered
    DsnDisabled,
    /// `XVERP=` is not two allowed characters; these are
    BadVerp(&'a str),
    /// Anything else
    Unsupported(&'a str),
}

impl fmt::Display for ParameterError<'_> {
    /// The reply, as Postfix words it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParameterError::BadSize => f.write_str("501 5.5.4 Bad message size syntax"),
            ParameterError::HugeSize => f.write_str("552 5.3.4 Message size exceeds file system imposed limit"),
            ParameterError::BadRet => f.write_str("501 5.5.4 Bad RET parameter syntax"),
            ParameterError::BadEnvid => f.write_str("501 5.5.4 Bad ENVID parameter syntax"),
            ParameterError::BadNotify => f.write_str("501 5.5.4 Error: Bad NOTIFY parameter syntax"),
            ParameterError::BadOrcpt => f.write_str("501 5.5.4 Error: Bad ORCPT parameter syntax"),
            ParameterError::SeveralLogins => f.write_str("503 5.5.4 Error: multiple AUTH= options"),
            ParameterError::DsnDisabled => f.write_str("501 5.7.1 DSN support is disabled"),
            ParameterError::BadVerp(allowed) => {
                write!(f, "501 5.5.4 Error: XVERP needs two characters from {allowed}")
            }
            ParameterError::Unsupported(word) => write!(f, "555 5.5.4 Unsupported option: {word}"),
        }
    }
}

/// Parameters of MAIL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// `SIZE=` in bytes, 0 when not given.
    pub size: u64,
    /// `BODY=`
    pub body: Body,
    /// `SMTPUTF8`
    pub smtputf8: bool,
    /// `REQUIRETLS` (RFC 8689)
    pub requiretls: bool,
    /// `RET=`
    pub ret: Option<Ret>,
    /// `ENVID=`, decoded; empty when not given.
    pub envid: String,
    /// `AUTH=`, decoded.
    pub auth: Option<String>,
    /// `XVERP` delimiters.
    pub verp: Option<(char, char)>,
}

fn after<'a>(word: &'a str, name: &str) -> Option<&'a str> {
    let (head, tail) = word.split_at_checked(name.len())?;
    head.eq_ignore_ascii_case(name).then_some(tail)
}

fn verp_delimiters(value: &str, filter: &str) -> Option<(char, char)> {
    let mut chars = value.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some(first), Some(second), None) if filter.contains(first) && filter.contains(second) => Some((first, second)),
        _ => None,
    }
}

impl MailParameters {
    /// Reads the words after the address, in Postfix's order of checks: the first that is wrong is the answer.
    pub fn parse<'a>(words: Tokens<'a>, allowed: Allowed<'a>) -> Result<Self, ParameterError<'a>> {
        let mut found = Self::default();
        let mut envid_given = false;
        for word in words {
            let text = word.text;
            if text.eq_ignore_ascii_case("BODY=8BITMIME") {
                found.body = Body::EightBitMime;
            } else if text.eq_ignore_ascii_case("BODY=7BIT") {
                found.body = Body::SevenBit;
            } else if let Some(size) = after(text, "SIZE=") {
                if size.is_empty() || !size.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(ParameterError::BadSize);
                }
                found.size = size.parse().ok().filter(|n| *n <= i64::MAX as u64).ok_or(ParameterError::HugeSize)?;
            } else if allowed.smtputf8 && text.eq_ignore_ascii_case("SMTPUTF8") {
                found.smtputf8 = true;
            } else if allowed.requiretls && text.eq_ignore_ascii_case("REQUIRETLS") {
                found.requiretls = true;
            } else if let Some(login) = after(text, "AUTH=").filter(|_| allowed.auth) {
                // What is no xtext stands for itself, as in Postfix.
                let login = xtext::decode(login).unwrap_or_else(|_| login.to_owned());
                if found.auth.replace(login).is_some() {
                    return Err(ParameterError::SeveralLogins);
                }
            } else if let (Some(tail), Some((default, filter))) = (after(text, "XVERP"), allowed.xverp) {
                let value = match tail.strip_prefix('=') {
                    Some(value) => value,
                    None if tail.is_empty() => default,
                    None => return Err(ParameterError::Unsupported(text)),
                };
                found.verp = Some(verp_delimiters(value, filter).ok_or(ParameterError::BadVerp(filter))?);
            } else if let Some(ret) = after(text, "RET=") {
                if !allowed.dsn {
                    return Err(ParameterError::DsnDisabled);
                }
                if found.ret.is_some() {
                    return Err(ParameterError::BadRet);
                }
                found.ret = Some(match () {
                    () if ret.eq_ignore_ascii_case("FULL") => Ret::Full,
                    () if ret.eq_ignore_ascii_case("HDRS") => Ret::Hdrs,
                    () => return Err(ParameterError::BadRet),
                });
            } else if let Some(envid) = after(text, "ENVID=") {
                if !allowed.dsn {
                    return Err(ParameterError::DsnDisabled);
                }
                let decoded = xtext::decode(envid).map_err(|_| ParameterError::BadEnvid)?;
                // Printable, or it would break the field of the report that it ends in.
                if envid_given || decoded.is_empty() || decoded.chars().any(char::is_control) {
                    return Err(ParameterError::BadEnvid);
                }
                envid_given = true;
                found.envid = decoded;
            } else {
                return Err(ParameterError::Unsupported(text));
            }
        }
        Ok(found)
    }

    /// Appends the parameters as a client writes them, each after a blank.
    pub fn put(&self, out: &mut Vec<u8>) {
        if self.size > 0 {
            out.extend_from_slice(format!(" SIZE={}", self.size).as_bytes());
        }
        match self.body {
            Body::Unspecified => {}
            Body::SevenBit => out.extend_from_slice(b" BODY=7BIT"),
            Body::EightBitMime => out.extend_from_slice(b" BODY=8BITMIME"),
        }
        if self.smtputf8 {
            out.extend_from_slice(b" SMTPUTF8");
        }
        if self.requiretls {
            out.extend_from_slice(b" REQUIRETLS");
        }
        if let Some(login) = &self.auth {
            out.extend_from_slice(b" AUTH=");
            xtext::encode(login, out);
        }
        if !self.envid.is_empty() {
            out.extend_from_slice(b" ENVID=");
            xtext::encode(&self.envid, out);
        }
        match self.ret {
            None => {}
            Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
            Some(Ret::Hdrs) => out.extend_from_slice(b" RET=HDRS"),
        }
        if let Some((first, second)) = self.verp {
            out.extend_from_slice(format!(" XVERP={first}{second}").as_bytes());
        }
    }
}

/// Parameters of RCPT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcptParameters {
    /// `NOTIFY=`
    pub notify: Option<Notify>,
    /// `ORCPT=`: type and decoded address as `type;address`; empty when not given.
    pub orcpt: String,
}

impl RcptParameters {
    /// Reads the words after the address.
    pub fn parse<'a>(words: Tokens<'a>, allowed: Allowed<'a>) -> Result<Self, ParameterError<'a>> {
        let mut found = Self::default();
        for word in words {
            if let Some(value) = after(word.text, "NOTIFY=") {
                if !allowed.dsn {
                    return Err(ParameterError::DsnDisabled);
                }
                if found.notify.is_some() {
                    return Err(ParameterError::BadNotify);
                }
                found.notify = Some(Notify::parse(value).ok_or(ParameterError::BadNotify)?);
            } else if let Some(value) = after(word.text, "ORCPT=") {
                if !allowed.dsn {
                    return Err(ParameterError::DsnDisabled);
                }
                let (kind, coded) = value.split_once(';').ok_or(ParameterError::BadOrcpt)?;
                if !found.orcpt.is_empty() || kind.is_empty() {
                    return Err(ParameterError::BadOrcpt);
                }
                let address = if kind.eq_ignore_ascii_case("utf-8") {
                    xtext::decode_unitext(coded)
                } else {
                    xtext::decode(coded)
                };
                let address = address.map_err(|_| ParameterError::BadOrcpt)?;
                if address.chars().any(char::is_control) {
                    return Err(ParameterError::BadOrcpt);
                }
                found.orcpt = format!("{kind};{address}");
            } else {
                return Err(ParameterError::Unsupported(word.text));
            }
        }
        Ok(found)
    }

    /// Appends the parameters as a client writes them, each after a blank.
    pub fn put(&self, out: &mut Vec<u8>) {
        if let Some(notify) = self.notify {
            out.extend_from_slice(format!(" NOTIFY={notify}").as_bytes());
        }
        if let Some((kind, address)) = self.orcpt.split_once(';') {
            out.extend_from_slice(format!(" ORCPT={kind};").as_bytes());
            if kind.eq_ignore_ascii_case("utf-8") {
                out.extend_from_slice(address.as_bytes());
            } else {
                xtext::encode(address, out);
            }
        }
    }
}

/// What BDAT says (RFC 3030 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bdat {
    /// Bytes that follow.
    pub count: u64,
    /// `LAST`
    pub last: bool,
}

/// Why a BDAT command cannot be understood: then nobody knows where the next command begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BdatError<'a> {
    /// Not `BDAT count [LAST]`
    Syntax,
    /// The count is no number, or too large for any file
    BadCount(&'a str),
}

impl Bdat {
    /// Reads the words after BDAT.
    pub fn parse(mut words: Tokens<'_>) -> Result<Self, BdatError<'_>> {
        let count = words.next().ok_or(BdatError::Syntax)?;
        let last = match (words.next(), words.next()) {
            (None, _) => false,
            (Some(word), None) if word.is("LAST") => true,
            _ => return Err(BdatError::Syntax),
        };
        let digits = count.text.bytes().all(|b| b.is_ascii_digit());
        match count.text.parse() {
            Ok(count) if digits && count <= i64::MAX as u64 => Ok(Self { count, last }),
            _ => Err(BdatError::BadCount(count.text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("   ", &[]),
            ("QUIT", &["QUIT"]),
            ("  HELO   a b ", &["HELO", "a", "b"]),
            ("MAIL FROM:<a@b> SIZE=1", &["MAIL", "FROM:", "<a@b>", "SIZE=1"]),
            ("MAIL FROM: <a b@c>", &["MAIL", "FROM:", "<a b@c>"]),
            ("mail from:a@b", &["mail", "from:", "a@b"]),
            ("MAIL FROM:<\"a > b\"@c> X", &["MAIL", "FROM:", "<\"a > b\"@c>", "X"]),
            ("MAIL FROM:<S N <s@r>> Y", &["MAIL", "FROM:", "<S N <s@r>>", "Y"]),
            (r"RCPT TO:<a\>b@c> X", &["RCPT", "TO:", r"<a\>b@c>", "X"]),
            (r"a\ b c", &[r"a\ b", "c"]),
            ("EHLO [1.2.3.4 x] y", &["EHLO", "[1.2.3.4 x]", "y"]),
            ("x:y", &["x:y"]),
            ("a\tb", &["a", "b"]),
            ("RCPT TO:<山@彦>", &["RCPT", "TO:", "<山@彦>"]),
            ("a\\山b", &["a\\山b"]),
        ];
        for (line, words) in cases {
            let found: Vec<_> = Tokens::new(line).collect();
            assert_eq!(found.iter().map(|t| t.text).collect::<Vec<_>>(), *words, "{line:?}");
            assert!(found.iter().all(|t| !t.unbalanced), "{line:?}");
        }
        for line in ["MAIL FROM:<a@b", "MAIL FROM:<\"a>", "x [1", "\"", "<\\", "<a <b>"] {
            assert!(Tokens::new(line).any(|t| t.unbalanced), "{line:?}");
        }
    }

    const ALL: Allowed =
        Allowed { dsn: true, smtputf8: true, requiretls: true, auth: true, xverp: Some(("+=", "-=+")) };

    fn mail(line: &str, allowed: Allowed<'_>) -> String {
        match MailParameters::parse(Tokens::new(line), allowed) {
            Err(error) => error.to_string(),
            Ok(parameters) => {
                let mut out = Vec::new();
                parameters.put(&mut out);
                String::from_utf8(out).unwrap()
            }
        }
    }

    #[test]
    fn mail_parameters() {
        let none = Allowed::default();
        for (line, allowed, answer) in [
            ("", ALL, ""),
            ("size=5 body=8bitmime", none, " SIZE=5 BODY=8BITMIME"),
            ("SIZE=abc", ALL, "501 5.5.4 Bad message size syntax"),
            ("SIZE=", ALL, "501 5.5.4 Bad message size syntax"),
            ("SIZE=+5", ALL, "501 5.5.4 Bad message size syntax"),
            ("SIZE=9999999999999999999999", ALL, "552 5.3.4 Message size exceeds file system imposed limit"),
            ("RET=FULL ENVID=a+20b", ALL, " ENVID=a+20b RET=FULL"),
            ("RET=BOTH", ALL, "501 5.5.4 Bad RET parameter syntax"),
            ("RET=FULL RET=HDRS", ALL, "501 5.5.4 Bad RET parameter syntax"),
            ("ENVID=", ALL, "501 5.5.4 Bad ENVID parameter syntax"),
            ("ENVID=a ENVID=b", ALL, "501 5.5.4 Bad ENVID parameter syntax"),
            ("ENVID=a+0Ab", ALL, "501 5.5.4 Bad ENVID parameter syntax"),
            ("RET=HDRS", none, "501 5.7.1 DSN support is disabled"),
            ("SMTPUTF8", ALL, " SMTPUTF8"),
            ("SMTPUTF8", none, "555 5.5.4 Unsupported option: SMTPUTF8"),
            ("FOO=bar", ALL, "555 5.5.4 Unsupported option: FOO=bar"),
            ("BODY=FOO", ALL, "555 5.5.4 Unsupported option: BODY=FOO"),
            ("AUTH=<>", ALL, " AUTH=<>"),
            ("AUTH=<>", none, "555 5.5.4 Unsupported option: AUTH=<>"),
            ("XVERP", ALL, " XVERP=+="),
            ("XVERP=-=", ALL, " XVERP=-="),
            ("XVERP=a", ALL, "501 5.5.4 Error: XVERP needs two characters from -=+"),
            ("XVERPx", ALL, "555 5.5.4 Unsupported option: XVERPx"),
            ("XVERP", none, "555 5.5.4 Unsupported option: XVERP"),
        ] {
            assert_eq!(mail(line, allowed), answer, "{line}");
        }
    }

    #[test]
    fn rcpt_parameters() {
        for (line, answer) in [
            ("NOTIFY=NEVER", " NOTIFY=NEVER"),
            ("NOTIFY=NEVER,FAILURE", "501 5.5.4 Error: Bad NOTIFY parameter syntax"),
            ("NOTIFY=success,FAILURE,DELAY", " NOTIFY=SUCCESS,FAILURE,DELAY"),
            ("NOTIFY=", "501 5.5.4 Error: Bad NOTIFY parameter syntax"),
            ("NOTIFY=FOO", "501 5.5.4 Error: Bad NOTIFY parameter syntax"),
            ("ORCPT=rfc822;a+2Bb@c", " ORCPT=rfc822;a+2Bb@c"),
            ("ORCPT=utf-8;山@c", " ORCPT=utf-8;山@c"),
            ("ORCPT=foo@remote.test", "501 5.5.4 Error: Bad ORCPT parameter syntax"),
            ("ORCPT=;foo", "501 5.5.4 Error: Bad ORCPT parameter syntax"),
            ("ORCPT=rfc822;bad+zz", "501 5.5.4 Error: Bad ORCPT parameter syntax"),
            ("SIZE=1", "555 5.5.4 Unsupported option: SIZE=1"),
        ] {
            let got = match RcptParameters::parse(Tokens::new(line), ALL) {
                Err(error) => error.to_string(),
                Ok(parameters) => {
                    let mut out = Vec::new();
                    parameters.put(&mut out);
                    String::from_utf8(out).unwrap()
                }
            };
            assert_eq!(got, answer, "{line}");
        }
    }

    #[test]
    fn bdat() {
        let parse = |line| Bdat::parse(Tokens::new(line));
        assert_eq!(parse("5"), Ok(Bdat { count: 5, last: false }));
        assert_eq!(parse("0 last"), Ok(Bdat { count: 0, last: true }));
        assert_eq!(parse(""), Err(BdatError::Syntax));
        assert_eq!(parse("5 FOO"), Err(BdatError::Syntax));
        assert_eq!(parse("5 LAST x"), Err(BdatError::Syntax));
        assert_eq!(parse("x"), Err(BdatError::BadCount("x")));
        assert_eq!(parse("+5"), Err(BdatError::BadCount("+5")));
        assert_eq!(parse("99999999999999999999"), Err(BdatError::BadCount("99999999999999999999")));
    }
}
