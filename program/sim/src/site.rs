//! A profile at work: what its hosts share. Limits count a client's address over all hosts of the site, as large
//! receivers do.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::profile::Profile;

/// A receiving site.
#[derive(Debug)]
pub struct Site {
    /// What it does.
    pub profile: Profile,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    clients: HashMap<IpAddr, Client>,
    greylist: HashMap<(IpAddr, String, String), Instant>,
    seen: Seen,
    made: u64,
}

#[derive(Debug, Default)]
struct Client {
    sessions: u32,
    /// When it sent the messages of the last period.
    messages: VecDeque<Instant>,
}

/// What a site has seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seen {
    /// Sessions that were let in.
    pub sessions: u64,
    /// Sessions that were refused because the client had too many.
    pub sessions_refused: u64,
    /// The most sessions that one client had at once, those refused included, by client.
    pub sessions_at_once: BTreeMap<IpAddr, u32>,
    /// Messages that were taken.
    pub messages: u64,
    /// Of these, over TLS.
    pub messages_over_tls: u64,
    /// Handshakes that succeeded.
    pub handshakes: u64,
    /// Handshakes that failed.
    pub handshakes_failed: u64,
    /// The most messages in one session.
    pub messages_in_session: u64,
    /// Refusals because of too many messages in one session.
    pub messages_refused: u64,
    /// Refusals because of too many messages in a time.
    pub rate_refused: u64,
    /// Refusals because of too many recipients.
    pub recipients_refused: u64,
}

impl Site {
    /// A site where nobody has been.
    pub fn new(profile: Profile) -> Self {
        Self { profile, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counters are whole whatever happened to another thread.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.state().seen.clone()
    }

    /// A client connects: whether it may. Either way [`Site::leave`] must follow.
    pub fn enter(&self, client: IpAddr) -> bool {
        let mut state = self.state();
        let of = state.clients.entry(client).or_default();
        of.sessions += 1;
        let now = of.sessions;
        let most = state.seen.sessions_at_once.entry(client).or_default();
        *most = now.max(*most);
        let may = self.profile.sessions == 0 || now <= self.profile.sessions;
        *(if may { &mut state.seen.sessions } else { &mut state.seen.sessions_refused }) += 1;
        may
    }

    /// A handshake was tried.
    pub fn shook_hands(&self, well: bool) {
        let mut state = self.state();
        *(if well { &mut state.seen.handshakes } else { &mut state.seen.handshakes_failed }) += 1;
    }

    /// A client has gone.
    pub fn leave(&self, client: IpAddr) {
        if let Some(of) = self.state().clients.get_mut(&client) {
            of.sessions = of.sessions.saturating_sub(1);
        }
    }

    /// A message begins, the `number`th of its session (counted from 1): whether it may.
    pub fn begins(&self, number: u32) -> bool {
        let may = self.profile.messages == 0 || number <= self.profile.messages;
        if !may {
            self.state().seen.messages_refused += 1;
        }
        may
    }

    /// Whether the client has sent no more than the rate allows.
    pub fn within_rate(&self, client: IpAddr, now: Instant) -> bool {
        let Some((number, period)) = self.profile.rate else { return true };
        let mut state = self.state();
        let sent = &mut state.clients.entry(client).or_default().messages;
        while sent.front().is_some_and(|at| now.duration_since(*at) >= period) {
            sent.pop_front();
        }
        let may = sent.len() < number as usize;
        if !may {
            state.seen.rate_refused += 1;
        }
        may
    }

    /// One recipient too many was refused.
    pub fn refused_recipient(&self) {
        self.state().seen.recipients_refused += 1;
    }

    /// A message was taken, the `number`th of its session: what it is called here.
    pub fn took(&self, client: IpAddr, number: u32, secured: bool, now: Instant) -> String {
        let mut state = self.state();
        state.made += 1;
        state.seen.messages += 1;
        state.seen.messages_over_tls += u64::from(secured);
        state.seen.messages_in_session = state.seen.messages_in_session.max(number.into());
        if self.profile.rate.is_some() {
            state.clients.entry(client).or_default().messages.push_back(now);
        }
        format!("{:X}{:06X}", self.profile.name.bytes().map(u32::from).sum::<u32>(), state.made)
    }

    /// Whether a recipient that greylists takes mail from this sender now.
    pub fn known(&self, client: IpAddr, sender: &str, recipient: &str, wait: Duration, now: Instant) -> bool {
        let mut state = self.state();
        let first = state.greylist.entry((client, sender.to_owned(), recipient.to_owned())).or_insert(now);
        now.duration_since(*first) >= wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::parse;

    fn site(text: &str) -> Site {
        let mut profiles = Vec::new();
        parse(text, &mut profiles).expect("a profile");
        Site::new(profiles.remove(0))
    }

    #[test]
    fn sessions_are_counted_by_client() {
        let site = site("[a]\nsessions = 2");
        let [one, two]: [IpAddr; 2] = [[127, 0, 0, 1].into(), [127, 0, 0, 2].into()];
        assert_eq!([site.enter(one), site.enter(one), site.enter(one), site.enter(two)], [true, true, false, true]);
        site.leave(one);
        // The refused one still counts until it goes.
        assert!(!site.enter(one));
        let seen = site.seen();
        assert_eq!((seen.sessions, seen.sessions_refused, seen.sessions_at_once[&one]), (3, 2, 3));
    }

    #[test]
    fn a_rate_is_over_a_sliding_time() {
        let site = site("[a]\nrate = 2/10s");
        let client: IpAddr = [127, 0, 0, 1].into();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in [0, 5] {
            assert!(site.within_rate(client, at(seconds)));
            site.took(client, 1, false, at(seconds));
        }
        assert!(!site.within_rate(client, at(9)));
        assert!(site.within_rate(client, at(10)));
        assert_eq!(site.seen().rate_refused, 1);
    }
}
