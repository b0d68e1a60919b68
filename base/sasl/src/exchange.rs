//! PLAIN (RFC 4616), LOGIN and SCRAM (RFC 5802) at the server, with passwords from a table; without I/O.
//!
//! [`Exchange::begin`] and [`Exchange::respond`] take what the client sends and say what is next ([`Step`]); questions to
//! the table are steps too.

use crate::base64;
use crate::mechanisms::Mechanism;
use crate::scram::{Hash, Verifier};

/// Longest login name, in bytes.
const MAX_USER: usize = 255;
/// Longest message of SCRAM.
const MAX_MESSAGE: usize = 4096;

/// What is next in an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this challenge, in base64.
    Challenge(String),
    /// Look the user up and compare the password: the exchange ends with that.
    Check {
        /// Login name.
        user: String,
        /// As the client sent it.
        password: String,
    },
    /// Look the user up for [`Exchange::found`].
    Find {
        /// Login name.
        user: String,
        /// The kind of verifier that is wanted.
        hash: Hash,
    },
    /// Authenticated.
    Done(String),
    /// Refused.
    Failed {
        /// Login name, if it came so far.
        user: Option<String>,
        /// Why, for log and client.
        reason: &'static str,
    },
}

/// An exchange with one client.
#[derive(Debug)]
pub struct Exchange {
    state: State,
    nonce: String,
}

#[derive(Debug)]
enum State {
    Plain,
    LoginUser,
    LoginPassword(String),
    ScramFirst(Hash),
    ScramFind { user: String, gs2: String, bare: String, nonce: String },
    ScramFinal { user: String, gs2: String, messages: String, nonce: String, verifier: Verifier },
    ScramEnd(String),
    Over,
}

const BAD: &str = "authentication protocol error";

fn failed(user: Option<String>, reason: &'static str) -> Step {
    Step::Failed { user, reason }
}

/// The mechanisms; SCRAM where the table has what it needs.
pub fn mechanisms(scram: bool) -> Vec<Mechanism> {
    let mut all =
        vec![Mechanism::new("PLAIN", ["plaintext"].into_iter()), Mechanism::new("LOGIN", ["plaintext"].into_iter())];
    if scram {
        all.push(Mechanism::new("SCRAM-SHA-256", ["mutual-auth"].into_iter()));
    }
    all
}

impl Exchange {
    /// A client begins. `nonce`: random letters, for SCRAM.
    pub fn begin(mechanism: &str, initial: Option<&str>, nonce: String) -> (Self, Step) {
        let state = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => State::Plain,
            "LOGIN" => State::LoginUser,
            "SCRAM-SHA-1" => State::ScramFirst(Hash::Sha1),
            "SCRAM-SHA-256" => State::ScramFirst(Hash::Sha256),
            _ => return (Self { state: State::Over, nonce }, failed(None, "Invalid authentication mechanism")),
        };
        let mut exchange = Self { state, nonce };
        let step = match (initial, &exchange.state) {
            (Some(initial), _) => exchange.respond(initial),
            (None, State::LoginUser) => Step::Challenge(base64::encode(b"Username:")),
            (None, _) => Step::Challenge(String::new()),
        };
        (exchange, step)
    }

    /// What the client answered, in base64; `=` is an empty answer (RFC 4954 section 4).
    pub fn respond(&mut self, response: &str) -> Step {
        let response = if response == "=" { "" } else { response };
        let text = base64::decode(response).and_then(|bytes| String::from_utf8(bytes).ok());
        let Some(text) = text else {
            self.state = State::Over;
            return failed(None, "Invalid base64 data in response");
        };
        match std::mem::replace(&mut self.state, State::Over) {
            State::Plain => plain(&text),
            State::LoginUser if !fine(&text) => failed(None, BAD),
            State::LoginUser => {
                self.state = State::LoginPassword(text);
                Step::Challenge(base64::encode(b"Password:"))
            }
            State::LoginPassword(user) => Step::Check { user, password: text },
            State::ScramFirst(hash) => self.scram_first(&text, hash).unwrap_or(failed(None, BAD)),
            State::ScramFinal { user, gs2, messages, nonce, verifier } => {
                match scram_final(&text, &gs2, &messages, &nonce, &verifier) {
                    Some(signature) => {
                        self.state = State::ScramEnd(user);
                        Step::Challenge(base64::encode(format!("v={}", base64::encode(&signature)).as_bytes()))
                    }
                    None => failed(Some(user), "(reason unavailable)"),
                }
            }
            State::ScramEnd(user) if text.is_empty() => Step::Done(user),
            State::ScramEnd(user) => failed(Some(user), BAD),
            State::ScramFind { .. } | State::Over => failed(None, BAD),
        }
    }

    /// `n,[a=authzid],n=user,r=nonce`
    fn scram_first(&mut self, text: &str, hash: Hash) -> Option<Step> {
        if text.len() > MAX_MESSAGE {
            return None;
        }
        let mut parts = text.splitn(3, ',');
        let (binding, authzid, bare) = (parts.next()?, parts.next()?, parts.next()?);
        // A client that binds to the channel has nothing to bind to here.
        if !matches!(binding, "n" | "y") {
            return None;
        }
        let mut fields = bare.split(',');
        let user = fields.next()?.strip_prefix("n=")?.replace("=2C", ",").replace("=3D", "=");
        let nonce = fields.next()?.strip_prefix("r=")?;
        let same = authzid.strip_prefix("a=").is_none_or(|authzid| authzid == user);
        let authzid_fine = authzid.is_empty() || authzid.starts_with("a=");
        if !fine(&user) || !same || !authzid_fine || nonce.is_empty() {
            return None;
        }
        self.state = State::ScramFind {
            user: user.clone(),
            gs2: format!("{binding},{authzid},"),
            bare: bare.to_owned(),
            nonce: format!("{nonce}{}", self.nonce),
        };
        Some(Step::Find { user, hash })
    }

    /// The answer to [`Step::Find`].
    pub fn found(&mut self, verifier: Verifier) -> Step {
        let State::ScramFind { user, gs2, bare, nonce } = std::mem::replace(&mut self.state, State::Over) else {
            return failed(None, BAD);
        };
        let first = format!("r={nonce},s={},i={}", base64::encode(&verifier.salt), verifier.iterations);
        let challenge = Step::Challenge(base64::encode(first.as_bytes()));
        self.state = State::ScramFinal { user, gs2, messages: format!("{bare},{first}"), nonce, verifier };
        challenge
    }
}

/// `c=gs2,r=nonce,p=proof`; the server's signature when the proof is right.
fn scram_final(text: &str, gs2: &str, messages: &str, nonce: &str, verifier: &Verifier) -> Option<Vec<u8>> {
    if text.len() > MAX_MESSAGE {
        return None;
    }
    let (without_proof, proof) = text.rsplit_once(",p=")?;
    let mut fields = without_proof.split(',');
    let channel = fields.next()?.strip_prefix("c=")?;
    if base64::decode(channel)? != gs2.as_bytes() || fields.next()?.strip_prefix("r=")? != nonce {
        return None;
    }
    verifier.check(&format!("{messages},{without_proof}"), &base64::decode(proof)?)
}

fn fine(user: &str) -> bool {
    !user.is_empty() && user.len() <= MAX_USER && !user.chars().any(char::is_control)
}

/// `authzid NUL user NUL password`. Nobody may act for somebody else.
fn plain(text: &str) -> Step {
    let parts: Vec<&str> = text.split('\0').collect();
    let [authzid, user, password] = parts[..] else { return failed(None, BAD) };
    if !fine(user) || !(authzid.is_empty() || authzid == user) {
        return failed(None, BAD);
    }
    Step::Check { user: user.to_owned(), password: password.to_owned() }
}

/// For fuzzing: an exchange of lines of anything.
pub fn run_any(text: &str) {
    let mut lines = text.lines();
    let mechanism = lines.next().unwrap_or_default();
    let (mut exchange, mut step) = Exchange::begin(mechanism, lines.next(), "nonce".to_owned());
    for line in lines {
        step = match step {
            Step::Challenge(_) => exchange.respond(line),
            Step::Find { user, hash } => exchange.found(Verifier::of_nobody(hash, &user, b"secret")),
            Step::Check { .. } | Step::Done(_) | Step::Failed { .. } => return,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b64(text: &str) -> String {
        base64::encode(text.as_bytes())
    }

    fn begin(mechanism: &str, initial: Option<&str>) -> (Exchange, Step) {
        Exchange::begin(mechanism, initial, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned())
    }

    #[test]
    fn plain_and_login() {
        let check = |user: &str, password: &str| Step::Check { user: user.into(), password: password.into() };
        for (message, expected) in [
            ("\0alice\0secret", check("alice", "secret")),
            ("alice\0alice\0secret", check("alice", "secret")),
            ("\0alice\0", check("alice", "")),
            ("bob\0alice\0secret", failed(None, BAD)),
            ("\0\0secret", failed(None, BAD)),
            ("alice\0secret", failed(None, BAD)),
            ("\0a\0b\0c", failed(None, BAD)),
            ("\0a\nb\0c", failed(None, BAD)),
            ("", failed(None, BAD)),
        ] {
            assert_eq!(begin("plain", Some(&b64(message))).1, expected, "{message:?}");
            let (mut exchange, step) = begin("PLAIN", None);
            assert_eq!(step, Step::Challenge(String::new()));
            assert_eq!(exchange.respond(&b64(message)), expected, "{message:?}");
        }
        for initial in [None, Some(b64("alice"))] {
            let (mut exchange, mut step) = begin("LOGIN", initial.as_deref());
            if initial.is_none() {
                assert_eq!(step, Step::Challenge("VXNlcm5hbWU6".into()));
                step = exchange.respond(&b64("alice"));
            }
            assert_eq!(step, Step::Challenge("UGFzc3dvcmQ6".into()));
            assert_eq!(exchange.respond(&b64("secret")), check("alice", "secret"));
            assert_eq!(exchange.respond(&b64("secret")), failed(None, BAD));
        }
        assert_eq!(begin("LOGIN", Some("=")).1, failed(None, BAD));
        assert_eq!(begin("LOGIN", Some("!")).1, failed(None, "Invalid base64 data in response"));
        assert_eq!(begin("NTLM", None).1, failed(None, "Invalid authentication mechanism"));
    }

    #[test]
    fn scram_of_rfc_7677() {
        let verifier =
            Verifier::new(Hash::Sha256, "pencil", &base64::decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096);
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        for (answer, right) in [
            (last.to_owned(), true),
            (last.replace("p=dH", "p=eH"), false),
            (last.replace("c=biws", "c=eSws"), false),
            (last.replace("%hv", "%hw"), false),
            ("p=AA==".to_owned(), false),
            (String::new(), false),
        ] {
            let (mut exchange, step) = begin("SCRAM-SHA-256", Some(&b64("n,,n=user,r=rOprNGfwEbeRWgbNEkqO")));
            assert_eq!(step, Step::Find { user: "user".into(), hash: Hash::Sha256 });
            let first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
            assert_eq!(exchange.found(verifier.clone()), Step::Challenge(b64(first)));
            let step = exchange.respond(&b64(&answer));
            if right {
                assert_eq!(step, Step::Challenge(b64("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")));
                assert_eq!(exchange.respond(""), Step::Done("user".into()));
            } else {
                assert!(matches!(step, Step::Failed { .. }), "{step:?}");
            }
        }
        for first in [
            "",
            "n,,",
            "p=tls-unique,,n=u,r=x",
            "n,a=bob,n=user,r=x",
            "n,,n=,r=x",
            "n,,n=user,r=",
            "n,,n=u",
            "n,x,n=u,r=y",
        ] {
            assert_eq!(begin("SCRAM-SHA-256", Some(&b64(first))).1, failed(None, BAD), "{first}");
        }
    }
}
