//! Mechanisms at the client: PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), SCRAM (RFC 5802, RFC 7677), XOAUTH2 and OAUTHBEARER
//! (RFC 7628); without I/O.
//!
//! [`choose`] takes the best of what a server offers and the options allow. [`Client`] is one exchange:
//! [`Client::initial`] is what is said first, [`Client::respond`] answers a challenge. Random numbers are an argument.
//!
//! XOAUTH2 and OAUTHBEARER send what the table has for a password as an access token. That only whoever filled the table
//! can know, so they are chosen only where the administrator's filter names them.

use std::fmt;

use aws_lc_rs::constant_time;

use crate::base64;
use crate::md5;
use crate::mechanisms::SecurityOptions;
use crate::scram::{Hash, prove};

/// Rounds that a server may ask for: more would be an attack on our time.
const MOST_ROUNDS: u32 = 1_000_000;

/// A name and its password.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Login {
    /// Name.
    pub user: String,
    /// Password, or access token.
    pub password: String,
}

impl fmt::Debug for Login {
    /// Without the password: this may end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A mechanism that we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `SCRAM-SHA-256`
    ScramSha256,
    /// `SCRAM-SHA-1`
    ScramSha1,
    /// `CRAM-MD5`
    CramMd5,
    /// `PLAIN`
    Plain,
    /// `LOGIN`
    Login,
    /// `XOAUTH2`
    Xoauth2,
    /// `OAUTHBEARER`
    OauthBearer,
}

/// What we have, best first.
const KINDS: [(Kind, &str); 7] = [
    (Kind::OauthBearer, "OAUTHBEARER"),
    (Kind::Xoauth2, "XOAUTH2"),
    (Kind::ScramSha256, "SCRAM-SHA-256"),
    (Kind::ScramSha1, "SCRAM-SHA-1"),
    (Kind::CramMd5, "CRAM-MD5"),
    (Kind::Plain, "PLAIN"),
    (Kind::Login, "LOGIN"),
];

impl Kind {
    /// As it is called in AUTH.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    fn is_allowed(self, options: SecurityOptions) -> bool {
        let scram = matches!(self, Self::ScramSha1 | Self::ScramSha256);
        let plaintext = !scram && self != Self::CramMd5;
        // What Cyrus' plugins say of themselves, which is what Postfix goes by. None withstands dictionaries.
        let bad = (options.no_plaintext && plaintext) || (options.no_active && !scram) || options.no_dictionary;
        let lacking = (options.mutual_auth && !scram) || options.forward_secrecy;
        !bad && !lacking
    }
}

/// The best mechanism of those that a server offers. `named` says whether the administrator's filter names a mechanism.
pub fn choose(offered: &[String], options: SecurityOptions, named: impl Fn(&str) -> bool) -> Option<Kind> {
    let fits = |(kind, name): &&(Kind, &str)| {
        let token = matches!(kind, Kind::Xoauth2 | Kind::OauthBearer);
        offered.iter().any(|word| word.eq_ignore_ascii_case(name))
            && kind.is_allowed(options)
            && (!token || named(name))
    };
    KINDS.iter().find(fits).map(|(kind, _)| *kind)
}

#[derive(Debug)]
enum State {
    /// Nothing was said.
    Begin,
    /// LOGIN: the name was sent.
    NameSent,
    /// SCRAM: our first message without its header.
    FirstSent(String),
    /// SCRAM: what the server has to say at the end.
    ProofSent(Vec<u8>),
    /// All is said. Whoever asks further is told what he said last.
    Done,
}

/// One exchange.
#[derive(Debug)]
pub struct Client {
    kind: Kind,
    login: Login,
    nonce: String,
    state: State,
    /// Host and port, for OAUTHBEARER.
    server: (String, u16),
    /// Who logs in is also named as the one to act for.
    authzid: bool,
}

impl Client {
    /// Begins. `random` makes SCRAM's nonce; `server` is host and port, which OAUTHBEARER names.
    pub fn new(kind: Kind, login: Login, random: [u8; 18], server: (&str, u16)) -> Self {
        let server = (server.0.to_owned(), server.1);
        // Neither a comma nor anything else that SCRAM's messages could not have.
        Self { kind, login, nonce: base64::encode(&random), state: State::Begin, server, authzid: false }
    }

    /// `send_cyrus_sasl_authzid`: mechanisms that can name somebody to act for name whoever logs in.
    #[must_use]
    pub fn with_authzid(self, authzid: bool) -> Self {
        Self { authzid, ..self }
    }

    /// SCRAM's first words: no channel binding, and who is to be acted for.
    fn header(&self) -> String {
        if self.authzid { format!("n,a={},", saslname(&self.login.user)) } else { "n,,".to_owned() }
    }

    /// The mechanism.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What is said first, together with AUTH; `None` where the server speaks first.
    ///
    /// # Errors
    /// The login cannot be said in this mechanism.
    pub fn initial(&mut self) -> Result<Option<Vec<u8>>, String> {
        let Login { user, password } = &self.login;
        let forbidden = |c: char| match self.kind {
            Kind::Plain => c == '\0',
            Kind::Xoauth2 | Kind::OauthBearer => c == '\u{1}',
            _ => false,
        };
        if user.contains(forbidden) || password.contains(forbidden) {
            return Err("invalid parameter supplied".to_owned());
        }
        let (text, next) = match self.kind {
            Kind::Plain => {
                let authzid = if self.authzid { user.as_str() } else { "" };
                (format!("{authzid}\0{user}\0{password}"), State::Done)
            }
            Kind::Xoauth2 => (format!("user={user}\u{1}auth=Bearer {password}\u{1}\u{1}"), State::Done),
            Kind::OauthBearer => {
                let (host, port) = &self.server;
                let user = saslname(user);
                let text = format!("n,a={user},\u{1}host={host}\u{1}port={port}\u{1}auth=Bearer {password}\u{1}\u{1}");
                (text, State::Done)
            }
            Kind::ScramSha1 | Kind::ScramSha256 => {
                let bare = format!("n={},r={}", saslname(user), self.nonce);
                (format!("{}{bare}", self.header()), State::FirstSent(bare))
            }
            Kind::CramMd5 | Kind::Login => return Ok(None),
        };
        self.state = next;
        Ok(Some(text.into_bytes()))
    }

    /// The answer to a challenge.
    ///
    /// # Errors
    /// The challenge makes no sense, or the server cannot prove that it knows the password. In Cyrus SASL's words, as
    /// Postfix reports them.
    pub fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, String> {
        let state = std::mem::replace(&mut self.state, State::Done);
        let Login { user, password } = &self.login;
        match (self.kind, state) {
            (Kind::CramMd5, State::Begin) => {
                if challenge.is_empty() {
                    return Err("need 1st challenge from server".to_owned());
                }
                let digest = md5::hmac(password.as_bytes(), challenge);
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                Ok(format!("{user} {hex}").into_bytes())
            }
            (Kind::Login, State::Begin) => {
                self.state = State::NameSent;
                Ok(user.clone().into_bytes())
            }
            (Kind::Login, State::NameSent) => Ok(password.clone().into_bytes()),
            (Kind::ScramSha1, State::FirstSent(bare)) => self.prove(Hash::Sha1, &bare, challenge),
            (Kind::ScramSha256, State::FirstSent(bare)) => self.prove(Hash::Sha256, &bare, challenge),
            (_, State::ProofSent(signature)) => {
                let text = std::str::from_utf8(challenge).unwrap_or_default();
                let found = text.split(',').find_map(|part| part.strip_prefix("v=")).and_then(base64::decode);
                let right =
                    found.is_some_and(|found| constant_time::verify_slices_are_equal(&found, &signature).is_ok());
                if right { Ok(Vec::new()) } else { Err("server failed mutual authentication step".to_owned()) }
            }
            // RFC 7628 section 3.2.3: a failure is told in a challenge, which is answered so.
            (Kind::OauthBearer, _) => Ok(vec![1]),
            (Kind::Xoauth2, _) => Ok(Vec::new()),
            (Kind::Plain, State::Begin) => Err("generic failure".to_owned()),
            _ => Err("authentication failure".to_owned()),
        }
    }

    fn prove(&mut self, hash: Hash, bare: &str, challenge: &[u8]) -> Result<Vec<u8>, String> {
        let nonsense = || "bad protocol / cancel".to_owned();
        let server_first = std::str::from_utf8(challenge).map_err(|_| nonsense())?;
        let part = |key: &str| server_first.split(',').find_map(|part| part.strip_prefix(key));
        let nonce = part("r=").filter(|nonce| nonce.starts_with(&self.nonce) && nonce.len() > self.nonce.len());
        let salt = part("s=").and_then(base64::decode);
        let rounds = part("i=").and_then(|rounds| rounds.parse().ok()).filter(|n| (1..=MOST_ROUNDS).contains(n));
        let (Some(nonce), Some(salt), Some(rounds)) = (nonce, salt, rounds) else { return Err(nonsense()) };
        // An extension that we would have to understand. RFC 5802 section 5.1
        if part("m=").is_some() {
            return Err(nonsense());
        }
        let without_proof = format!("c={},r={nonce}", base64::encode(self.header().as_bytes()));
        let message = format!("{bare},{server_first},{without_proof}");
        let (proof, signature) = prove(hash, &self.login.password, &salt, rounds, &message);
        self.state = State::ProofSent(signature);
        Ok(format!("{without_proof},p={}", base64::encode(&proof)).into_bytes())
    }
}

/// RFC 5802 section 5.1: `,` and `=` in names.
fn saslname(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

/// For fuzzing: answers any challenge with every mechanism.
pub fn respond_to_any(challenge: &[u8]) {
    for (kind, _) in KINDS {
        let login = Login { user: "u".to_owned(), password: "p".to_owned() };
        let mut client = Client::new(kind, login, [0; 18], ("h", 25));
        let _ = client.initial();
        let _ = client.respond(challenge);
        let _ = client.respond(challenge);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn the_best_that_is_allowed() {
        let all = "ANONYMOUS LOGIN PLAIN CRAM-MD5 SCRAM-SHA-1 scram-sha-256 XOAUTH2 GSSAPI";
        for (offered, options, named, expected) in [
            (all, "", "", Some(Kind::ScramSha256)),
            (all, "", "XOAUTH2", Some(Kind::Xoauth2)),
            ("XOAUTH2", "", "", None),
            ("LOGIN PLAIN", "noanonymous", "", Some(Kind::Plain)),
            ("LOGIN", "", "", Some(Kind::Login)),
            ("LOGIN PLAIN", "noplaintext", "", None),
            ("LOGIN PLAIN CRAM-MD5", "noplaintext noanonymous", "", Some(Kind::CramMd5)),
            ("CRAM-MD5 PLAIN", "noactive", "", None),
            ("CRAM-MD5 SCRAM-SHA-1", "mutual_auth", "", Some(Kind::ScramSha1)),
            ("GSSAPI", "", "", None),
            ("", "", "", None),
        ] {
            let (options, _) = SecurityOptions::parse(&words(options));
            let named = words(named);
            let chosen = choose(&words(offered), options, |name| named.iter().any(|word| word == name));
            assert_eq!(chosen, expected, "{offered}");
        }
    }

    fn client(kind: Kind, user: &str, password: &str) -> Client {
        let login = Login { user: user.to_owned(), password: password.to_owned() };
        Client::new(kind, login, [7; 18], ("mx.test", 587))
    }

    #[test]
    fn what_is_said() {
        let mut plain = client(Kind::Plain, "tim", "tanstaaftanstaaf");
        assert_eq!(plain.initial().unwrap().unwrap(), b"\0tim\0tanstaaftanstaaf");
        assert!(plain.respond(b"").is_err());
        assert!(client(Kind::Plain, "a\0b", "x").initial().is_err());
        let mut login = client(Kind::Login, "tim", "secret");
        assert_eq!(login.initial().unwrap(), None);
        assert_eq!(login.respond(b"Username:").unwrap(), b"tim");
        assert_eq!(login.respond(b"Password:").unwrap(), b"secret");
        assert!(login.respond(b"More:").is_err());
        // RFC 2195 section 2.
        let mut cram = client(Kind::CramMd5, "tim", "tanstaaftanstaaf");
        assert_eq!(cram.initial().unwrap(), None);
        let answer = cram.respond(b"<1896.697170952@postoffice.reston.mci.net>").unwrap();
        assert_eq!(answer, b"tim b913a602c7eda7a495b4e6e7334d3890");
        let mut token = client(Kind::Xoauth2, "a@b.test", "tok");
        assert_eq!(token.initial().unwrap().unwrap(), b"user=a@b.test\x01auth=Bearer tok\x01\x01");
        assert_eq!(token.respond(b"{}").unwrap(), b"");
        let mut token = client(Kind::OauthBearer, "a@b.test", "tok");
        let expected = b"n,a=a@b.test,\x01host=mx.test\x01port=587\x01auth=Bearer tok\x01\x01";
        assert_eq!(token.initial().unwrap().unwrap(), expected);
        assert_eq!(token.respond(b"{}").unwrap(), [1]);
    }

    #[test]
    fn scram_as_in_the_rfcs() {
        for (kind, nonce, first, challenge, last, end) in [
            (
                Kind::ScramSha1,
                "fyko+d2lbbFgONRv9qkxdawL",
                "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
                "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
                "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
                "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
            ),
            (
                Kind::ScramSha256,
                "rOprNGfwEbeRWgbNEkqO",
                "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
                "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
                "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            ),
        ] {
            let begin = || {
                let mut client = client(kind, "user", "pencil");
                client.nonce = nonce.to_owned();
                assert_eq!(client.initial().unwrap().unwrap(), first.as_bytes());
                client
            };
            let mut good = begin();
            assert_eq!(good.respond(challenge.as_bytes()).unwrap(), last.as_bytes());
            assert_eq!(good.respond(end.as_bytes()).unwrap(), b"");
            let mut liar = begin();
            liar.respond(challenge.as_bytes()).unwrap();
            assert!(liar.respond(b"v=AAAA").is_err());
            for bad in ["", "r=x,s=QQ==,i=1", &challenge.replace("i=4096", "i=99999999"), &format!("m=x,{challenge}")] {
                assert!(begin().respond(bad.as_bytes()).is_err(), "{bad}");
            }
        }
        assert_eq!(saslname("a=b,c"), "a=3Db=2Cc");
    }

    #[test]
    fn whoever_logs_in_may_be_named_twice() {
        let named = |kind| client(kind, "a=b", "pw").with_authzid(true);
        assert_eq!(named(Kind::Plain).initial().unwrap().unwrap(), b"a=b\0a=b\0pw");
        // These have no place for it.
        for kind in [Kind::Login, Kind::CramMd5] {
            assert_eq!(named(kind).initial().unwrap(), None);
        }
        for kind in [Kind::ScramSha1, Kind::ScramSha256] {
            let mut scram = named(kind);
            let first = String::from_utf8(scram.initial().unwrap().unwrap()).unwrap();
            let nonce = first.strip_prefix("n,a=a=3Db,n=a=3Db,r=").unwrap();
            let last = scram.respond(format!("r={nonce}more,s=QQ==,i=1").as_bytes()).unwrap();
            // The header, said again.
            let again = base64::encode(b"n,a=a=3Db,");
            assert!(last.starts_with(format!("c={again},r={nonce}more,p=").as_bytes()));
        }
    }

    #[test]
    fn passwords_do_not_show() {
        assert!(!format!("{:?}", client(Kind::Plain, "u", "hidden")).contains("hidden"));
        for challenge in [&b""[..], b"\xff\xfe", b"r=,s=,i=", b"v="] {
            respond_to_any(challenge);
        }
    }
}
