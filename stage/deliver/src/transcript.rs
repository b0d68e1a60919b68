//! What was said with a server that did not understand us, for the notice that `notify_classes = protocol` asks for.
//!
//! Postfix's rule for what is worth it (`smtp_check_code`): replies of the form x0z are about syntax and sequence, so one of the two
//! programs has a fault. Logins are left out.

use yamabiko_smtp::reply::Reply;
use yamabiko_status::ReplyCode;

use crate::expect::Expect;

/// Bytes kept at most.
const MAX_BYTES: usize = 64 * 1024;

/// A conversation that made trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTrouble {
    /// `SMTP` or `LMTP`
    pub protocol: &'static str,
    /// `host[address]:port`
    pub peer: String,
    /// Lines that begin with `In:  ` or `Out: `.
    pub transcript: String,
    /// The reply that made it worth telling.
    pub reply: String,
    /// Next-hop destination.
    pub destination: String,
    /// Envelope sender of the message.
    pub sender: String,
}

/// Takes note of trouble. Must not block.
pub type TellTrouble = std::sync::Arc<dyn Fn(ClientTrouble) + Send + Sync>;

/// The lines of both sides.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    text: String,
    /// The server waits for a secret.
    secret: bool,
    trouble: Option<String>,
}

impl Transcript {
    /// Commands as they go out.
    pub(crate) fn said(&mut self, bytes: &[u8]) {
        for line in String::from_utf8_lossy(bytes).lines() {
            let mut words = line.split_ascii_whitespace();
            let (verb, mechanism) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if self.secret {
                self.add("Out: ", "(response to AUTH)");
            } else if verb.eq_ignore_ascii_case("AUTH") && words.next().is_some() {
                self.add("Out: ", &format!("AUTH {mechanism} (response)"));
            } else {
                self.add("Out: ", line);
            }
        }
    }

    /// A reply, to what was expected.
    pub(crate) fn heard(&mut self, reply: &Reply, expect: Option<Expect>) {
        self.secret = reply.code == ReplyCode(334);
        let ReplyCode(code) = reply.code;
        for line in reply.lines() {
            self.add("In:  ", line);
        }
        let decides = !matches!(
            expect,
            None | Some(
                Expect::Ehlo
                    | Expect::Lhlo
                    | Expect::Probe
                    | Expect::XforwardName
                    | Expect::XforwardProtocol
                    | Expect::Reset
                    | Expect::Quit
            )
        );
        if decides && self.trouble.is_none() && (code == 555 || (500..510).contains(&code)) {
            self.trouble = Some(reply.one_line());
        }
    }

    fn add(&mut self, who: &str, line: &str) {
        if self.text.len() < MAX_BYTES {
            self.text.push_str(who);
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    /// Transcript and the reply that made it worth telling, if any did.
    pub(crate) fn worth_telling(self) -> Option<(String, String)> {
        let reply = self.trouble?;
        Some((self.text, reply))
    }
}
