//! Who passed which test, and until when it holds.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

/// Clients that are remembered at most: some 80 bytes each. Who is not is tested again.
pub const MOST_CLIENTS: usize = 500_000;

/// A test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// The client waits for the greeting.
    Pregreet,
    /// Lists in DNS.
    Dnsbl,
    /// The client waits for answers.
    Pipelining,
    /// The client speaks SMTP.
    NonSmtp,
    /// Lines end in CR LF.
    BareNewline,
}

impl Test {
    /// All, in the order of [`Stamps`].
    pub const ALL: [Test; 5] = [Test::Pregreet, Test::Dnsbl, Test::Pipelining, Test::NonSmtp, Test::BareNewline];
    /// It is made in a conversation, not before one.
    pub fn is_deep(self) -> bool {
        !matches!(self, Test::Pregreet | Test::Dnsbl)
    }
}

/// Until when the results of the tests hold, in seconds since the epoch; 0: never passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps(pub [u64; 5]);

impl Stamps {
    /// The result of a test.
    pub fn of(&self, test: Test) -> u64 {
        // An entry per test.
        self.0[test as usize]
    }

    /// A new result.
    pub fn set(&mut self, test: Test, until: u64) {
        self.0[test as usize] = until;
    }

    fn parse(text: &str) -> Option<Self> {
        let mut stamps = Self::default();
        let mut words = text.split(';');
        for stamp in &mut stamps.0 {
            *stamp = words.next()?.parse().ok()?;
        }
        words.next().is_none().then_some(stamps)
    }
}

impl fmt::Display for Stamps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e] = self.0;
        write!(f, "{a};{b};{c};{d};{e}")
    }
}

/// Results by client.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<IpAddr, Stamps>,
}

impl Cache {
    /// What is known of a client.
    pub fn get(&self, client: IpAddr) -> Option<Stamps> {
        self.entries.get(&client).copied()
    }

    /// Clients in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Remembers; the line for the file. `None`: there is no room.
    pub fn put(&mut self, client: IpAddr, stamps: Stamps) -> Option<String> {
        if self.entries.len() >= MOST_CLIENTS && !self.entries.contains_key(&client) {
            return None;
        }
        self.entries.insert(client, stamps);
        Some(format!("{client} {stamps}\n"))
    }

    /// Takes a line of the file. `false`: it is none.
    pub fn read(&mut self, line: &str) -> bool {
        let parsed =
            line.split_once(' ').and_then(|(client, stamps)| Some((client.parse().ok()?, Stamps::parse(stamps)?)));
        match parsed {
            Some((client, stamps)) => {
                self.put(client, stamps);
                true
            }
            None => false,
        }
    }

    /// Forgets clients whose results have all been out of date for `retention` seconds. Who stays, and who went.
    pub fn clean(&mut self, now: u64, retention: u64) -> (usize, usize) {
        let before = self.entries.len();
        let limit = now.saturating_sub(retention);
        self.entries.retain(|_, stamps| stamps.0.iter().any(|until| *until > limit));
        (self.entries.len(), before - self.entries.len())
    }

    /// All lines of the file.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.entries.iter().map(|(client, stamps)| format!("{client} {stamps}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back() {
        let mut cache = Cache::default();
        let client: IpAddr = "2001:db8::1".parse().unwrap();
        let line = cache.put(client, Stamps([100, 0, 7, 8, u64::MAX])).unwrap();
        let mut other = Cache::default();
        assert!(other.read(line.trim_end()));
        assert_eq!(other.get(client), cache.get(client));
        for bad in
            ["", "x", "1.2.3.4", "1.2.3.4 1;2;3;4", "1.2.3.4 1;2;3;4;5;6", "1.2.3 1;2;3;4;5", "1.2.3.4 a;2;3;4;5"]
        {
            assert!(!other.read(bad), "{bad}");
        }
        assert_eq!(other.len(), 1);
    }

    #[test]
    fn old_results_are_forgotten() {
        let mut cache = Cache::default();
        for (client, until) in [("192.0.2.1", 100), ("192.0.2.2", 200), ("192.0.2.3", 300)] {
            cache.put(client.parse().unwrap(), Stamps([until, 0, 0, 0, 0]));
        }
        assert_eq!(cache.clean(250, 50), (1, 2));
    }
}
