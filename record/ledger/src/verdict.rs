//! What became of a recipient, as far as its entries tell: a pure function of them and of the time.

use std::time::Duration;

use yamabiko_envelope::{SmtpStage, Timestamp};

use crate::{Entry, ReportAction, What};

/// What became of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// In the queue, not tried yet.
    Queued,
    /// Tried, and to be tried again.
    Deferred,
    /// The next hop took it. More is not known.
    Sent,
    /// A next hop took it that was asked to report.
    Relayed,
    /// In a mailbox: here, or a report says so.
    Delivered,
    /// The next hop took it, and nothing bad was heard since, for some days.
    PresumedDelivered,
    /// The next hop took it, and it failed afterwards.
    LateBounced,
    /// It arrived, and the recipient complained.
    Complained,
    /// It failed for good.
    Bounced,
    /// It was given up because of its age.
    Expired,
    /// Not tried: the address is on the suppression list.
    Suppressed,
    /// An operator or a rule keeps it.
    Held,
    /// A rule made it vanish.
    Discarded,
    /// Refused while it was handed in.
    Rejected,
    /// An operator removed it.
    Deleted,
    /// The connection was lost after the whole message was sent: it may have arrived.
    Uncertain,
    /// It goes on under another queue ID or address.
    Moved,
    /// There are entries, but none that says what became of it.
    Unknown,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Queued,
        Self::Deferred,
        Self::Sent,
        Self::Relayed,
        Self::Delivered,
        Self::PresumedDelivered,
        Self::LateBounced,
        Self::Complained,
        Self::Bounced,
        Self::Expired,
        Self::Suppressed,
        Self::Held,
        Self::Discarded,
        Self::Rejected,
        Self::Deleted,
        Self::Uncertain,
        Self::Moved,
        Self::Unknown,
    ];
    /// The word in JSON, in `--state` and in CSV.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Deferred => "deferred",
            Self::Sent => "sent",
            Self::Relayed => "relayed",
            Self::Delivered => "delivered",
            Self::PresumedDelivered => "presumed-delivered",
            Self::LateBounced => "late-bounced",
            Self::Complained => "complained",
            Self::Bounced => "bounced",
            Self::Expired => "expired",
            Self::Suppressed => "suppressed",
            Self::Held => "held",
            Self::Discarded => "discarded",
            Self::Rejected => "rejected",
            Self::Deleted => "deleted",
            Self::Uncertain => "uncertain",
            Self::Moved => "moved",
            Self::Unknown => "unknown",
        }
    }
    /// The state of a word.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word().eq_ignore_ascii_case(word))
    }
    /// It did not arrive, and will not.
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Self::LateBounced
                | Self::Bounced
                | Self::Expired
                | Self::Suppressed
                | Self::Discarded
                | Self::Rejected
                | Self::Deleted
        )
    }
    /// More will happen by itself.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Deferred | Self::Held | Self::Uncertain)
    }
    /// It went well, as far as is known.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Sent | Self::Relayed | Self::Delivered | Self::PresumedDelivered | Self::Complained)
    }
}

/// A state and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What became of it.
    pub state: State,
    /// The entry that decided: its position among those judged. `None` without one.
    pub decided_by: Option<usize>,
    /// How sure it is, in percent: below 100 where a report was joined to it by something weaker than its own name.
    pub confidence: u8,
    /// Attempts that were made.
    pub attempts: u32,
    /// A connection was lost after the final dot at some time: it may have arrived all the same, or twice.
    pub maybe_twice: bool,
    /// The last report or complaint that says otherwise and is too unsure to change anything: its position among those
    /// judged, see [`is_doubtful`]. Nothing that surely happened afterwards contradicts it.
    pub unproven: Option<usize>,
}

/// A report or complaint that anybody could have written, or that was joined by a guess: it is told and changes nothing.
pub fn is_doubtful(entry: &Entry) -> bool {
    matches!(entry.what, What::Report | What::Complaint) && (1..SURE).contains(&entry.confidence)
}

/// What a doubtful entry says that became of it; `None` where it says nothing of the end, or is not doubtful.
pub fn claim(entry: &Entry) -> Option<State> {
    match (entry.what, entry.action) {
        _ if !is_doubtful(entry) => None,
        (What::Complaint, _) => Some(State::Complained),
        (_, Some(ReportAction::Failed)) => Some(State::LateBounced),
        (_, Some(ReportAction::Delivered)) => Some(State::Delivered),
        _ => None,
    }
}

/// The reason under which doubtful entries are counted, whatever they say: `yamabiko fate --summary`, metrics.
pub const UNPROVEN: &str = "unproven";
/// What [`Entry::by`] of a report ends with that came from a host that has nothing to do with the message.
pub const FAR: &str = "from a host that has nothing to do with it";

/// A report that was joined by nothing better than this proves nothing.
pub const GUESS: u8 = 50;
/// A report that is as sure as this, or surer, is acted on: by it addresses are suppressed and bounces kept from mailboxes.
pub const SURE: u8 = 80;

/// Judges the entries of one recipient, which are in the order of time. After `quiet` without bad news a message that was
/// sent is presumed delivered.
pub fn judge<'a>(entries: impl IntoIterator<Item = &'a Entry>, now: Timestamp, quiet: Duration) -> Verdict {
    let mut verdict = Verdict {
        state: State::Unknown,
        decided_by: None,
        confidence: 100,
        attempts: 0,
        maybe_twice: false,
        unproven: None,
    };
    let mut before_hold = State::Queued;
    let mut settled_at = Timestamp::default();
    for (position, entry) in entries.into_iter().enumerate() {
        if is_attempt(entry.what) {
            verdict.attempts += 1;
        }
        if let Some(claimed) = claim(entry) {
            // What is known to be so needs no doubt.
            if claimed != verdict.state && !is_over(verdict.state) {
                verdict.unproven = Some(position);
            }
            continue;
        }
        let Some(next) = step(&verdict, entry, before_hold) else { continue };
        if next == State::Held {
            before_hold = verdict.state;
        }
        verdict.maybe_twice |= next == State::Uncertain;
        verdict.state = next;
        verdict.decided_by = Some(position);
        verdict.unproven = None;
        verdict.confidence = if entry.confidence == 0 { 100 } else { entry.confidence };
        settled_at = entry.at;
    }
    let nothing_bad = verdict.unproven.is_none();
    if nothing_bad && matches!(verdict.state, State::Sent | State::Relayed) && now.since(settled_at) >= quiet {
        verdict.state = State::PresumedDelivered;
    }
    verdict
}

fn is_attempt(what: What) -> bool {
    matches!(what, What::Sent | What::Relayed | What::Delivered | What::Deferred | What::Bounced)
}

/// The state after an entry; `None` where it changes nothing.
fn step(now: &Verdict, entry: &Entry, before_hold: State) -> Option<State> {
    let unsettled = matches!(
        now.state,
        State::Unknown | State::Queued | State::Deferred | State::Held | State::Uncertain | State::Moved
    );
    // The next hop's clock is another one, and its bounce may be here before its 250 is: who took the message is told last
    // then, and says nothing of what became of it.
    let is_known = matches!(now.state, State::LateBounced | State::Complained | State::Delivered);
    Some(match entry.what {
        What::Queued => return (now.state == State::Unknown).then_some(State::Queued),
        What::Sent => return (!is_known).then_some(State::Sent),
        What::Relayed => return (!is_known).then_some(State::Relayed),
        What::Delivered => State::Delivered,
        What::Deferred if is_uncertain(entry) => return (!is_known).then_some(State::Uncertain),
        // It may have arrived the last time, whatever happens now.
        What::Deferred => return (unsettled && now.state != State::Uncertain).then_some(State::Deferred),
        What::Bounced => State::Bounced,
        What::Suppressed => State::Suppressed,
        What::Discarded => State::Discarded,
        What::Rejected => State::Rejected,
        // Of the whole message: those that were settled before stay as they are.
        What::Expired => return unsettled.then_some(State::Expired),
        What::Deleted => return unsettled.then_some(State::Deleted),
        What::Requeued => return unsettled.then_some(State::Moved),
        What::Held => return unsettled.then_some(State::Held),
        What::Released => return (now.state == State::Held).then_some(before_hold),
        What::Report | What::Complaint if is_doubtful(entry) => return None,
        What::Report => match entry.action {
            // What failed here, or was never sent, needs no news from elsewhere.
            Some(ReportAction::Failed) => return (!is_over(now.state)).then_some(State::LateBounced),
            Some(ReportAction::Delivered) => {
                return (!matches!(now.state, State::LateBounced | State::Complained)).then_some(State::Delivered);
            }
            _ => return None,
        },
        What::Complaint => {
            return (now.state == State::LateBounced || !is_over(now.state)).then_some(State::Complained);
        }
        What::Expanded => return unsettled.then_some(State::Moved),
        What::Noticed | What::AutoReply | What::Note | What::Removed => return None,
    })
}

/// It did not leave, or somebody complained: no report of a failure changes that.
fn is_over(state: State) -> bool {
    state == State::Complained || (state.is_failure() && state != State::LateBounced)
}

/// The connection was lost, or nothing was heard, after the final dot.
fn is_uncertain(entry: &Entry) -> bool {
    // What another message met there says nothing of this one: it was not tried.
    if entry.reply.is_some() || entry.text.starts_with("delivery temporarily suspended") {
        return false;
    }
    let lost = |text: &str| {
        text.starts_with("lost connection") || text.starts_with("timed out") || text.contains("conversation with")
    };
    match entry.stage {
        Some(SmtpStage::EndOfData) => lost(&entry.text),
        Some(_) => false,
        // Logs say it in words: "lost connection with h[a] while sending end of data -- message may be sent more than once".
        None => entry.text.contains("while sending end of data"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_status::ReplyCode;

    const DAY: u64 = 86_400;

    fn at(seconds: u64, what: What) -> Entry {
        Entry::new(Timestamp::from_seconds(seconds), what, "Q", "a@b.test")
    }

    fn report(seconds: u64, action: ReportAction) -> Entry {
        Entry { action: Some(action), confidence: 90, ..at(seconds, What::Report) }
    }

    fn sure(entry: Entry) -> Entry {
        Entry { confidence: SURE, ..entry }
    }

    fn unsure(entry: Entry) -> Entry {
        Entry { confidence: 60, ..entry }
    }

    fn lost(seconds: u64) -> Entry {
        Entry {
            text: "lost connection with mx.b.test[192.0.2.1] while sending end of data -- message may be sent more than once".into(),
            stage: Some(SmtpStage::EndOfData),
            ..at(seconds, What::Deferred)
        }
    }

    #[test]
    fn verdicts() {
        use What::{
            AutoReply, Bounced, Complaint, Deferred, Deleted, Delivered, Discarded, Expired, Held, Noticed, Queued,
            Rejected, Relayed, Released, Removed, Requeued, Sent, Suppressed,
        };
        let refused_at_dot = Entry {
            reply: Some(ReplyCode(451)),
            text: "host h said: 451 later (in reply to end of DATA command)".into(),
            stage: Some(SmtpStage::EndOfData),
            ..at(1, Deferred)
        };
        let suspended = Entry {
            text: "delivery temporarily suspended: lost connection with h[192.0.2.1] while sending end of data -- message may be sent more than once".into(),
            ..at(1, Deferred)
        };
        let table: Vec<(&str, Vec<Entry>, State)> = vec![
            ("nothing", vec![], State::Unknown),
            ("new", vec![at(0, Queued)], State::Queued),
            ("waits", vec![at(0, Queued), at(1, Deferred), at(2, Deferred)], State::Deferred),
            ("taken", vec![at(0, Queued), at(1, Deferred), at(2, Sent)], State::Sent),
            ("taken by one that reports", vec![at(0, Queued), at(2, Relayed)], State::Relayed),
            ("mailbox", vec![at(0, Queued), at(2, Delivered)], State::Delivered),
            ("refused", vec![at(0, Queued), at(2, Bounced), at(2, Noticed), at(2, Removed)], State::Bounced),
            ("too old", vec![at(0, Queued), at(1, Deferred), at(9, Expired)], State::Expired),
            ("old, but settled before", vec![at(0, Queued), at(1, Sent), at(9, Expired)], State::Sent),
            ("deleted", vec![at(0, Queued), at(1, Deferred), at(9, Deleted)], State::Deleted),
            ("held", vec![at(0, Queued), at(1, Held)], State::Held),
            ("released", vec![at(0, Queued), at(1, Deferred), at(2, Held), at(3, Released)], State::Deferred),
            ("requeued", vec![at(0, Queued), at(1, Requeued)], State::Moved),
            ("suppressed", vec![at(0, Queued), at(1, Suppressed)], State::Suppressed),
            ("discarded", vec![at(0, Discarded)], State::Discarded),
            ("door", vec![at(0, Rejected)], State::Rejected),
            ("came back", vec![at(0, Queued), at(1, Sent), report(9, ReportAction::Failed)], State::LateBounced),
            ("delayed is no failure", vec![at(1, Sent), report(9, ReportAction::Delayed)], State::Sent),
            ("relayed is no failure", vec![at(1, Sent), report(9, ReportAction::Relayed)], State::Sent),
            ("expanded is no failure", vec![at(1, Sent), report(9, ReportAction::Expanded)], State::Sent),
            ("confirmed", vec![at(1, Sent), report(9, ReportAction::Delivered)], State::Delivered),
            (
                "confirmed, then back",
                vec![at(1, Sent), report(2, ReportAction::Delivered), report(9, ReportAction::Failed)],
                State::LateBounced,
            ),
            ("complained", vec![at(1, Sent), sure(at(9, Complaint))], State::Complained),
            ("complained of what bounced", vec![at(1, Bounced), sure(at(9, Complaint))], State::Bounced),
            (
                "complained of what waits",
                vec![at(0, Queued), at(1, Deferred), unsure(at(9, Complaint))],
                State::Deferred,
            ),
            (
                "came back before it went, perhaps",
                vec![at(0, Queued), unsure(report(1, ReportAction::Failed))],
                State::Queued,
            ),
            ("came back, perhaps", vec![at(1, Sent), unsure(report(9, ReportAction::Failed))], State::Sent),
            ("arrived, perhaps", vec![at(1, Sent), unsure(report(9, ReportAction::Delivered))], State::Sent),
            ("complained, perhaps", vec![at(1, Sent), unsure(at(9, Complaint))], State::Sent),
            (
                "came back, perhaps, and then surely",
                vec![at(1, Sent), unsure(report(8, ReportAction::Failed)), report(9, ReportAction::Failed)],
                State::LateBounced,
            ),
            ("is in a mailbox", vec![at(1, Delivered), unsure(report(9, ReportAction::Failed))], State::Delivered),
            ("was in a mailbox", vec![at(1, Delivered), report(9, ReportAction::Failed)], State::LateBounced),
            ("suppressed, and a report", vec![at(1, Suppressed), report(9, ReportAction::Failed)], State::Suppressed),
            ("automatic reply", vec![at(1, Sent), at(9, AutoReply)], State::Sent),
            (
                "came back before its 250",
                vec![at(0, Queued), report(1, ReportAction::Failed), at(2, Sent)],
                State::LateBounced,
            ),
            ("came back, and its 250 never came", vec![report(1, ReportAction::Failed), lost(2)], State::LateBounced),
            ("complained before its 250", vec![at(0, Queued), sure(at(1, Complaint)), at(2, Sent)], State::Complained),
            ("confirmed before its 250", vec![report(1, ReportAction::Delivered), at(2, Relayed)], State::Delivered),
            ("came back, and was refused", vec![report(1, ReportAction::Failed), at(2, Bounced)], State::Bounced),
            ("lost after the dot", vec![at(0, Queued), lost(1)], State::Uncertain),
            ("another message was lost there", vec![at(0, Queued), suspended], State::Deferred),
            ("lost, then refused for now", vec![lost(1), at(2, Deferred)], State::Uncertain),
            ("lost, then taken", vec![lost(1), at(2, Sent)], State::Sent),
            ("lost, then refused", vec![lost(1), at(2, Bounced)], State::Bounced),
            ("refused for now after the dot", vec![at(0, Queued), refused_at_dot], State::Deferred),
        ];
        for (name, entries, expected) in table {
            let verdict = judge(&entries, Timestamp::from_seconds(10), Duration::from_secs(5 * DAY));
            assert_eq!(verdict.state, expected, "{name}");
        }
    }

    #[test]
    fn what_nobody_can_prove() {
        let failed = |seconds| unsure(report(seconds, ReportAction::Failed));
        let table: Vec<(&str, Vec<Entry>, Option<State>)> = vec![
            ("nothing was heard", vec![at(1, What::Sent)], None),
            ("perhaps", vec![at(1, What::Sent), failed(2)], Some(State::LateBounced)),
            ("of no end", vec![at(1, What::Sent), unsure(report(2, ReportAction::Delayed))], None),
            ("before it went", vec![at(0, What::Queued), failed(1)], Some(State::LateBounced)),
            ("before it went, and it went", vec![at(0, What::Queued), failed(1), at(2, What::Sent)], None),
            ("is in a mailbox", vec![at(1, What::Delivered), failed(2)], Some(State::LateBounced)),
            ("says what is known", vec![at(1, What::Sent), report(2, ReportAction::Failed), failed(3)], None),
            ("of what failed here", vec![at(1, What::Bounced), failed(2)], None),
            (
                "the last of two",
                vec![at(1, What::Sent), failed(2), unsure(at(3, What::Complaint))],
                Some(State::Complained),
            ),
            ("proved later", vec![at(1, What::Sent), failed(2), report(3, ReportAction::Failed)], None),
            ("disproved later", vec![at(1, What::Sent), failed(2), report(3, ReportAction::Delivered)], None),
        ];
        for (name, entries, expected) in table {
            let verdict = judge(&entries, Timestamp::from_seconds(10), Duration::from_secs(5 * DAY));
            let claimed = verdict.unproven.and_then(|position| claim(&entries[position]));
            assert_eq!(claimed, expected, "{name}");
            assert!(verdict.confidence >= SURE, "{name}");
        }
        // Days without bad news are no days with unproven bad news.
        let heard = [at(1, What::Sent), failed(2)];
        let verdict = judge(&heard, Timestamp::from_seconds(99 * DAY), Duration::from_secs(5 * DAY));
        assert_eq!(verdict.state, State::Sent);
    }

    #[test]
    fn quiet_days() {
        let quiet = Duration::from_secs(5 * DAY);
        let sent = [at(0, What::Queued), at(1, What::Sent)];
        for (seconds, expected) in [(5 * DAY, State::Sent), (5 * DAY + 1, State::PresumedDelivered)] {
            assert_eq!(judge(&sent, Timestamp::from_seconds(seconds), quiet).state, expected);
        }
        let back = [at(1, What::Sent), report(DAY, ReportAction::Failed)];
        assert_eq!(judge(&back, Timestamp::from_seconds(99 * DAY), quiet).state, State::LateBounced);
        let verdict = judge(&[lost(1), at(2, What::Sent)], Timestamp::from_seconds(3), quiet);
        assert!(verdict.maybe_twice);
        assert_eq!((verdict.attempts, verdict.decided_by), (2, Some(1)));
    }

    #[test]
    fn words_come_back() {
        for state in State::ALL {
            assert_eq!(State::named(state.word()), Some(state));
        }
        assert_eq!(State::named("gone"), None);
    }
}
