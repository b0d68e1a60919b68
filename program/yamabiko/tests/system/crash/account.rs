//! The reckoning: what was acknowledged is where it must be, nothing else is anywhere, and what came twice has an excuse.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use super::arrivals::{Arrival, of_maildir, of_mbox};
use super::message::To;
use super::world::{Said, Sent, World};

/// A copy that is made again is excused when the kill came so soon after it: it was being recorded.
const UNRECORDED: Duration = Duration::from_millis(500);
/// Or when the copy came so soon after the kill: a worker was writing it, and a worker outlives its engine for as long
/// as a write and a sync take.
const WRITING: Duration = Duration::from_millis(1000);
/// What we make ourselves (notices, mail for the targets of aliases, what `sendmail` handed in) arrives a while after
/// the step that the kill made us do again.
const DERIVED: Duration = Duration::from_secs(10);

/// A violent act, and when it was over.
#[derive(Clone, Debug)]
pub struct Act {
    pub what: String,
    pub began: SystemTime,
    pub ended: SystemTime,
    /// Deliveries may have been cut off.
    pub kills: bool,
}

/// What came of a chapter.
#[derive(Default)]
pub struct Verdict {
    pub acknowledged: usize,
    pub refused: usize,
    pub unanswered: usize,
    pub arrived: usize,
    pub queued: usize,
    /// Mails in an mbox that a killed worker left unfinished.
    pub torn: usize,
    /// Of copies that came again, by act.
    pub again: BTreeMap<usize, usize>,
    /// The longest time from a copy that came again to the kill that excuses it, and from a kill to such a copy.
    pub longest: (Duration, Duration),
    /// What is wrong, with the words of the messages.
    pub faults: Vec<(String, String)>,
}

impl Verdict {
    pub fn twice(&self) -> usize {
        self.again.values().sum()
    }
}

/// Takes what has arrived since the last chapter.
pub fn gather(world: &World) -> Vec<Arrival> {
    let mut found = world.hop.arrivals();
    for (place, path) in world.dirs() {
        of_maildir(&path, place, &mut found);
    }
    for (place, path) in World::files(&world.instance, &world.users) {
        let grown = world.watch.lengths(&path);
        of_mbox(&path, place, &grown, &mut found);
    }
    found
}

/// Compares. `queued` are the recipients that are still in the queue.
pub fn judge(sent: &[Sent], found: Vec<Arrival>, queued: &HashSet<String>, acts: &[Act]) -> Verdict {
    let mut verdict = Verdict { arrived: found.len(), queued: queued.len(), ..Verdict::default() };
    let known: HashMap<&str, &Sent> = sent.iter().map(|sent| (sent.message.word.as_str(), sent)).collect();
    let mut copies: HashMap<(String, &'static str), Vec<SystemTime>> = HashMap::new();
    let kills = acts.iter().any(|act| act.kills);
    for arrival in found {
        let mbox = matches!(arrival.place, "file" | "user" | "aliased");
        match known.get(arrival.word.as_str()) {
            // Half a mail in an mbox is what a worker leaves that was killed while it wrote.
            _ if !arrival.whole && mbox && kills => verdict.torn += 1,
            _ if !arrival.whole => {
                verdict.faults.push((arrival.word.clone(), format!("not whole at {}", arrival.place)));
            }
            Some(sent) if sent.message.due().contains(&arrival.place) => {
                copies.entry((arrival.word, arrival.place)).or_default().push(arrival.at);
            }
            _ => verdict.faults.push((arrival.word.clone(), format!("astray at {}", arrival.place))),
        }
    }
    for sent in sent {
        let word = &sent.message.word;
        match sent.said {
            Said::Acknowledged => verdict.acknowledged += 1,
            Said::Refused => verdict.refused += 1,
            Said::Nothing => verdict.unanswered += 1,
        }
        let due = sent.message.due();
        let came: Vec<&str> =
            due.iter().copied().filter(|place| copies.contains_key(&(word.clone(), *place))).collect();
        let waits = sent.message.to.contains(&To::Never);
        let waiting = queued.contains(&format!("never-{word}@far.example"));
        let fault = match sent.said {
            Said::Refused if !came.is_empty() || waiting => Some(format!("refused, and arrived at {came:?}")),
            Said::Refused => None,
            Said::Nothing if came.is_empty() && !waiting => None,
            // All of it is there, or nothing of it.
            Said::Acknowledged | Said::Nothing => {
                let missing: Vec<&str> = due.iter().copied().filter(|place| !came.contains(place)).collect();
                match (missing.is_empty(), waits == waiting) {
                    (true, true) => None,
                    (false, _) => Some(format!("{:?}, and LOST for {missing:?}; arrived at {came:?}", sent.said)),
                    (true, false) => Some(format!("{:?}, and LOST: it should still be in the queue", sent.said)),
                }
            }
        };
        verdict.faults.extend(fault.map(|fault| (word.clone(), fault)));
    }
    for ((word, place), mut times) in copies {
        times.sort_unstable();
        let derived =
            known.get(word.as_str()).is_some_and(|sent| sent.by_command) || matches!(place, "notice" | "twice");
        for at in &times[..times.len() - 1] {
            match excuse(*at, times[times.len() - 1], derived, known[word.as_str()], acts) {
                Some((act, after)) => {
                    *verdict.again.entry(act).or_default() += 1;
                    if !derived {
                        verdict.longest = (verdict.longest.0.max(after.0), verdict.longest.1.max(after.1));
                    }
                }
                None => verdict.faults.push((word.clone(), format!("{} times at {place} without a kill", times.len()))),
            }
        }
    }
    verdict
}

/// The kill that cut off the record of a copy made at that time.
fn excuse(
    at: SystemTime,
    last: SystemTime,
    derived: bool,
    sent: &Sent,
    acts: &[Act],
) -> Option<(usize, (Duration, Duration))> {
    let after = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default();
    let close = acts.iter().enumerate().filter(|(_, act)| act.kills).filter_map(|(number, act)| {
        let direct = after(at, act.began) <= UNRECORDED && after(act.ended, at) <= WRITING;
        let earlier = at.checked_sub(DERIVED)?.max(sent.between.0);
        let made_again = derived && act.ended >= earlier && act.began <= last;
        (direct || made_again).then(|| (number, (after(at, act.began), after(act.ended, at))))
    });
    close.min_by_key(|(_, (before, after))| *before.max(after))
}

/// What the log knows of a message.
pub fn history(log: &str, word: &str) -> String {
    let needle = format!("<{word}@load.example>");
    let id_of = |line: &str| {
        let rest = line.split_once("]: ")?.1;
        rest.split_once(": ").map(|(id, _)| id.to_owned())
    };
    let mut ids: Vec<String> = log.lines().filter(|line| line.contains(&needle)).filter_map(id_of).collect();
    // Notices and forwarded mail are named in lines of the message that they come from.
    let made: Vec<String> = log
        .lines()
        .filter(|line| ids.iter().any(|id| line.contains(id.as_str())))
        .filter_map(|line| line.split_once("notification: ").map(|(_, id)| id.trim().to_owned()))
        .collect();
    ids.extend(made);
    ids.sort();
    ids.dedup();
    let acts = |line: &str| line.contains(" crash[");
    let lines: Vec<&str> = log.lines().collect();
    let mine: Vec<usize> =
        (0..lines.len()).filter(|at| ids.iter().any(|id| lines[*at].contains(id.as_str()))).collect();
    let (Some(first), Some(last)) = (mine.first(), mine.last()) else {
        return format!("message-id {needle}: the log says nothing of it\n");
    };
    let told =
        (*first..=*last).filter(|at| mine.contains(at) || acts(lines[*at])).map(|at| format!("    {}\n", lines[at]));
    format!("message-id {needle}, queue IDs {}\n{}", ids.join(" "), told.collect::<String>())
}
