//! `smtp_delivery_status_filter` and its kin: status and reason of a delivery as a table wants them (Postfix's `dsn_filter`).

use yamabiko_config::View;
use yamabiko_envelope::{Attempt, Outcome, Result as Ended};
use yamabiko_lookup::{Maps, TableSet};
use yamabiko_status::{Class, EnhancedStatus};

/// The filter of one service.
pub struct StatusFilter(Maps);

impl StatusFilter {
    /// Of a service whose program is `program`; `None` without.
    pub fn read(view: &View, program: &str, tables: &TableSet) -> Option<Self> {
        let name = format!("{program}_delivery_status_filter");
        let maps = Maps::open(tables, &name, &view.text(&name));
        (!maps.is_empty()).then_some(Self(maps))
    }

    /// Changes what the table names. What it says that makes no sense, or would make a success of a failure or the reverse,
    /// comes back as lines for the log.
    pub async fn apply(&self, attempt: &mut Attempt) -> Vec<String> {
        let mut notes = Vec::new();
        for outcome in &mut attempt.outcomes {
            match self.0.find(&format!("{} {}", outcome.status, outcome.reason)).await {
                Ok(None) => {}
                Ok(Some(value)) => notes.extend(change(outcome, &value, self.0.title())),
                Err(error) => notes.push(error.to_string()),
            }
        }
        notes
    }
}

fn change(outcome: &mut Outcome, value: &str, title: &str) -> Option<String> {
    let (word, reason) = value.trim().split_once([' ', '\t']).unwrap_or((value.trim(), ""));
    let Ok(status) = word.parse::<EnhancedStatus>() else {
        return Some(format!("{title}: bad delivery status \"{value}\": a status such as 4.7.1 is due first"));
    };
    if (status.class == Class::Success) != (outcome.status.class == Class::Success) {
        return Some(format!("{title}: bad delivery status \"{value}\": it cannot replace {}", outcome.status));
    }
    outcome.status = status;
    outcome.result = match (status.class, outcome.result) {
        (Class::Success, before) => before,
        (Class::Transient, _) => Ended::Deferred,
        (Class::Permanent, _) => Ended::Failed,
    };
    let reason = reason.trim();
    if !reason.is_empty() {
        reason.clone_into(&mut outcome.reason);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_envelope::{Action, Timestamp};

    #[test]
    fn a_table_decides_between_later_and_never() {
        let outcome = |result, status| Outcome::of_our_own(0, result, status, "old", Timestamp(0));
        let table = [
            (EnhancedStatus::permanent(7, 1), "4.7.1 try again", "4.7.1", "try again", true),
            (EnhancedStatus::transient(7, 1), "5.7.1 no", "5.7.1", "no", true),
            (EnhancedStatus::transient(7, 1), "5.7.1", "5.7.1", "old", true),
            (EnhancedStatus::transient(7, 1), "2.0.0 fine", "4.7.1", "old", false),
            (EnhancedStatus::transient(7, 1), "rubbish", "4.7.1", "old", false),
        ];
        for (before, value, status, reason, good) in table {
            let mut one = outcome(Ended::Failed, before);
            assert_eq!(change(&mut one, value, "t").is_none(), good, "{value}");
            assert_eq!((one.status.to_string().as_str(), one.reason.as_str()), (status, reason));
        }
        let mut sent = outcome(Ended::Sent(Action::Delivered), EnhancedStatus::success(0, 0));
        assert!(change(&mut sent, "5.0.0 no", "t").is_some());
        assert!(change(&mut sent, "2.1.5 yes", "t").is_none() && matches!(sent.result, Ended::Sent(_)));
    }
}
