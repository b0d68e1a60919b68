//! A connection's other end, and what stays true of it from message to message.

use std::fmt::Write as _;
use std::sync::Arc;

use yamabiko_smtp::capability::Capabilities;
use yamabiko_tls::Secured;

use crate::policy::Terms;
use crate::quirks::Quirk;
use crate::settings::Pix;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Host name; `myhostname` for a UNIX-domain socket.
    pub host: String,
    /// Address, or path of a UNIX-domain socket.
    pub address: String,
    /// TCP port; 0 for a UNIX-domain socket.
    pub port: u16,
}

impl Peer {
    /// `host[address]`, as in reasons.
    pub fn named(&self) -> String {
        self.named_with(0)
    }

    /// The same with room for so many bytes more.
    fn named_with(&self, more: usize) -> String {
        let mut text = String::with_capacity(self.host.len() + self.address.len() + 2 + more);
        text.push_str(&self.host);
        text.push('[');
        text.push_str(&self.address);
        text.push(']');
        text
    }

    /// `host[address]:port`, as in the relay field of the log.
    pub fn relay(&self) -> String {
        match self.port {
            0 => self.named(),
            port => {
                let mut text = self.named_with(":65535".len());
                // Writing to a string does not fail.
                let _ = write!(text, ":{port}");
                text
            }
        }
    }
}

/// What stays true of a connection from message to message.
#[derive(Clone, Debug)]
pub struct Session {
    /// The other end.
    pub peer: Peer,
    /// What it can do; empty before its EHLO reply.
    pub capabilities: Capabilities,
    /// Our own address; `None` for a UNIX-domain socket.
    pub local: Option<std::net::IpAddr>,
    /// What it has to be like.
    pub terms: Arc<Terms>,
    /// What came of the handshake, where there was one.
    pub tls: Option<Arc<Secured>>,
    /// We have logged in.
    pub authenticated: bool,
    /// It greeted as PIX firewalls make servers greet: what is done about that.
    pub pix: Option<Pix>,
    /// What is set for its address.
    pub quirk: Quirk,
    /// Greeting, EHLO, STARTTLS and AUTH are done.
    pub greeted: bool,
    /// Messages it was used for, the present one included.
    pub uses: u32,
    /// It may be kept for another message. Cleared for good by the first sign that it should not.
    pub reusable: bool,
    /// It is among the best mail exchangers of the destination.
    pub best_mx: bool,
    /// The port is one on which mail could loop: a server with our own name is ourselves.
    pub detect_loops: bool,
}

impl Session {
    /// A connection on which nothing has been said yet.
    pub fn new(peer: Peer, best_mx: bool, detect_loops: bool) -> Self {
        Self {
            peer,
            capabilities: Capabilities::default(),
            local: None,
            terms: Arc::default(),
            tls: None,
            authenticated: false,
            greeted: false,
            pix: None,
            quirk: Quirk::default(),
            uses: 0,
            reusable: true,
            best_mx,
            detect_loops,
        }
    }

    /// The connection is to be like this.
    #[must_use]
    pub fn under(mut self, terms: Arc<Terms>) -> Self {
        self.terms = terms;
        self
    }
}
