//! Mail filters in the dialogue: after our own checks have let a command pass, they are asked, and then it takes effect.

use yamabiko_milter::Verdict;

use super::verb::Verb;
use super::{Phase, Session, Step, Waiting};
use crate::filter::FilterStep;
use crate::settings::ErrorClasses;

impl Step {
    /// What filters are told. `words`: address and parameters as the client wrote them.
    pub(super) fn told(&self, words: &mut Vec<String>) -> FilterStep {
        match self {
            Step::Connect => FilterStep::Connect,
            Step::Helo { name, .. } => FilterStep::Helo(name.clone()),
            Step::Mail => FilterStep::Mail(std::mem::take(words)),
            Step::Rcpt(_) => FilterStep::Rcpt(std::mem::take(words), None),
            Step::RefusedRcpt(_, reply) => FilterStep::Rcpt(std::mem::take(words), Some(reply.clone())),
            Step::Data | Step::Bdat(_) => FilterStep::Data,
            Step::Unknown(line) => FilterStep::Unknown(line.clone()),
        }
    }
}

impl Session {
    /// Mail filters take part: steps are asked for with [`super::Action::Filter`].
    pub fn with_filters(&mut self) {
        self.filters = true;
    }

    /// A transaction that filters know of is over: they are to be told before anything else. Asked once.
    pub fn filters_left(&mut self) -> bool {
        std::mem::take(&mut self.filters_left)
    }

    /// Some filter wants to hear of recipients that are refused already.
    pub fn filters_hear_refused(&mut self, refused: bool) {
        self.filters_hear_refused = refused;
    }

    /// The answer to [`super::Action::Filter`].
    pub fn filtered(&mut self, verdict: Verdict) {
        let Phase::Waiting(Waiting::Filter(_), _) = &self.phase else { return };
        let heard_only =
            matches!(&self.phase, Phase::Waiting(Waiting::Filter(step), _) if matches!(**step, Step::RefusedRcpt(..)));
        match &verdict {
            _ if heard_only => {}
            Verdict::Continue => {}
            Verdict::Hold => {
                if !std::mem::replace(&mut self.checks.effects.hold, true) {
                    self.decided("milter-hold", "milter triggers HOLD action".to_owned());
                }
            }
            Verdict::Discard => {
                self.decided("milter-discard", "milter triggers DISCARD action".to_owned());
                self.checks.effects.discard = true;
            }
            Verdict::Reply(reply) => self.decided("milter-reject", reply.replace("\r\n", " ")),
        }
        let Phase::Waiting(Waiting::Filter(step), _) = std::mem::replace(&mut self.phase, Phase::Command) else {
            return;
        };
        match (*step, verdict) {
            (Step::RefusedRcpt(_, reply), _) => self.reply_error(&reply),
            (step, Verdict::Reply(reply)) => self.filters_refuse(step, &reply),
            (Step::Connect, _) => self.welcome(),
            (Step::Helo { name, extended }, _) => self.helo_accepted(name, extended),
            (Step::Mail, _) => self.reply_ok("250 2.1.0 Ok"),
            (Step::Rcpt(recipient), _) => self.recipient_accepted(recipient),
            (Step::Data, _) => self.data_accepted(),
            (Step::Bdat(bdat), _) => self.bdat_accepted(bdat),
            (Step::Unknown(_), _) => self.protocol_error("500 5.5.2 Error: command not recognized"),
        }
    }

    fn filters_refuse(&mut self, step: Step, reply: &str) {
        self.seen.add(ErrorClasses::POLICY);
        match step {
            // The greeting has words of its own; what the filter said is said later.
            Step::Connect if reply.starts_with("421") => {
                self.reply_own("421", "Service unavailable - try again later");
            }
            Step::Connect => {
                let final_refusal = reply.starts_with('5');
                self.filters_refused = Some(reply.to_owned());
                if final_refusal {
                    self.reply_own("554", "ESMTP not accepting connections");
                    self.errors += 1;
                } else {
                    self.welcome();
                }
            }
            Step::Helo { name, extended } if !reply.starts_with("421") => {
                self.filters_refused = Some(reply.to_owned());
                self.helo_accepted(name, extended);
            }
            Step::Mail => {
                self.end_transaction();
                self.reply_lines(reply);
            }
            Step::Bdat(bdat) => self.skip_chunk(bdat, &reply.replace("\r\n", " ")),
            _ => self.reply_lines(reply),
        }
    }

    /// Answers a command with what a filter said to the connection or to HELO. False when none has objected.
    pub(super) fn filters_object(&mut self) -> bool {
        let Some(reply) = self.filters_refused.clone() else { return false };
        self.seen.add(ErrorClasses::POLICY);
        // As Postfix: other commands are not mail, and the refusal is in the log already.
        if matches!(self.verb, Verb::Mail | Verb::Unknown) {
            self.decided("milter-reject", reply.replace("\r\n", " "));
        }
        self.reply_lines(&reply);
        true
    }

    /// A refusal of one line or several.
    fn reply_lines(&mut self, reply: &str) {
        let mut lines: Vec<&str> = reply.split("\r\n").collect();
        let last = lines.pop().unwrap_or_default();
        for line in lines {
            self.say(line);
        }
        self.reply_error(last);
    }
}
