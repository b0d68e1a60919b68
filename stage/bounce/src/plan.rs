//! Which notices there are, and to whom they go (Postfix: `bounce_notify_service`, `bounce_one_service`,
//! `bounce_warn_service`, `bounce_trace_service`).

use bytes::Bytes;
use yamabiko_envelope::{
    BodyType, Content, Envelope, Kind as Event, NoticeKind, Notify, QueueId, Recipient, Severity, Source, Submission,
    Timestamp, Trace,
};
use yamabiko_message::date::{Zone, message_id_digits, rfc5322};
use yamabiko_report::{BodyEncoding, Kind, Notice, Original, RecipientReport, Template, TemplateKind};

use crate::expand::{Expanded, expand_template};
use crate::{Bouncer, Reported, Wanted, is_double_bounce};

/// A message to report about, and the circumstances.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// Its content, or its beginning with all headers ([`Bouncer::wanted`]); `None` when it could not be read.
    pub original: Option<&'a [u8]>,
    /// The time.
    pub now: Timestamp,
    /// The zone of dates.
    pub zone: &'a Zone,
}

/// A notice to queue.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Which, as the log names it.
    pub kind: NoticeKind,
    /// The message it is about.
    pub about: QueueId,
    /// What to queue, under the ID in its envelope.
    pub submission: Submission,
}

impl Planned {
    /// What happened, once it is queued: `QID: sender non-delivery notification: NEWQID`.
    pub fn event(&self) -> Event {
        Event::Noticed { queue_id: self.about, kind: self.kind, notice: self.submission.envelope.queue_id }
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Notices to queue, in this order. None at all is an answer too: the recipients are settled without one. If one
    /// cannot be queued, the recipients must stay as they are and be tried again later.
    pub notices: Vec<Planned>,
    /// Lines for the log, of the program `bounce`.
    pub events: Vec<Event>,
}

/// What makes one notice different from the next about the same message.
struct Draft<'d> {
    log: NoticeKind,
    kind: Kind,
    template: TemplateKind,
    /// To whom, internal form; for the postmaster's copy as it is set.
    to: &'d str,
    postmaster_copy: bool,
    returned: Wanted,
}

impl Bouncer {
    /// Recipients failed for good: the sender's notice, the postmaster's copy, or what becomes of a notice that failed
    /// itself. `next_id` gives the ID of each notice.
    pub fn failed(&self, job: &Job<'_>, failed: &[Reported], next_id: &mut dyn FnMut() -> QueueId) -> Plan {
        let mut planner = Planner { bouncer: self, job, next_id, plan: Plan::default() };
        let sender = job.envelope.sender.as_str();
        if failed.is_empty() {
        } else if is_double_bounce(job.envelope, &self.double_bounce) {
            planner.discarded();
        } else if sender.is_empty() {
            // Either class will do: it is the last chance to hear of it.
            if self.classes.bounce || self.classes.double_bounce {
                planner.put_all(failed, &self.postmaster_failure(&self.double_bounce_recipient, Wanted::Full));
            }
        } else if let Some(verp) = job.envelope.verp.filter(|_| self.verp_bounces) {
            for one in failed {
                let to = yamabiko_address::verp_sender(sender, &one.given, (verp.first, verp.second));
                planner.put_failure(std::slice::from_ref(one), &to);
            }
        } else {
            planner.put_failure(failed, sender);
        }
        planner.plan
    }

    /// Recipients have been waiting for longer than `delay_warning_time`: the warning, once per message. Messages with
    /// the null sender get none.
    pub fn delayed(&self, job: &Job<'_>, waiting: &[Reported], next_id: &mut dyn FnMut() -> QueueId) -> Plan {
        let mut planner = Planner { bouncer: self, job, next_id, plan: Plan::default() };
        let sender = job.envelope.sender.as_str();
        if waiting.is_empty() || sender.is_empty() {
        } else if is_double_bounce(job.envelope, &self.double_bounce) {
            planner.discarded();
        } else {
            let mut draft = Draft {
                log: NoticeKind::SenderDelay,
                kind: Kind::Delayed,
                template: TemplateKind::Delay,
                to: sender,
                postmaster_copy: false,
                returned: Wanted::Headers,
            };
            planner.put(waiting, Notify::wants_delay, &draft);
            if self.classes.delay {
                (draft.log, draft.to) = (NoticeKind::PostmasterDelay, &self.delay_recipient);
                draft.postmaster_copy = true;
                planner.put_all(waiting, &draft);
            }
        }
        planner.plan
    }

    /// An attempt has ended: the report that `NOTIFY=SUCCESS` asks for, or `sendmail -v` and `-bv`. `outcomes` are
    /// those of [`Bouncer::report_outcome`], good and bad; who did not ask is left out here.
    pub fn settled(&self, job: &Job<'_>, outcomes: &[Reported], next_id: &mut dyn FnMut() -> QueueId) -> Plan {
        let mut planner = Planner { bouncer: self, job, next_id, plan: Plan::default() };
        let sender = job.envelope.sender.as_str();
        let report = match job.envelope.trace {
            Trace::No => Some(TemplateKind::Success),
            Trace::Record | Trace::ProbeReport => Some(TemplateKind::Verify),
            // The verifier hears of it otherwise.
            Trace::Probe => None,
        };
        if let Some(template) = report
            && !sender.is_empty()
            && !is_double_bounce(job.envelope, &self.double_bounce)
        {
            let draft = Draft {
                log: NoticeKind::SenderSuccess,
                kind: Kind::Settled,
                template,
                to: sender,
                postmaster_copy: false,
                returned: Wanted::Headers,
            };
            if template == TemplateKind::Verify {
                planner.put_all(outcomes, &draft);
            } else {
                let sent: Vec<_> = outcomes
                    .iter()
                    .filter(|o| matches!(o.report.action, "delivered" | "relayed" | "expanded"))
                    .cloned()
                    .collect();
                planner.put(&sent, Notify::wants_success, &draft);
            }
        }
        planner.plan
    }

    fn postmaster_failure<'d>(&'d self, to: &'d str, returned: Wanted) -> Draft<'d> {
        Draft {
            log: NoticeKind::PostmasterNonDelivery,
            kind: Kind::Failed,
            template: TemplateKind::Failure,
            to,
            postmaster_copy: true,
            returned,
        }
    }
}

struct Planner<'p> {
    bouncer: &'p Bouncer,
    job: &'p Job<'p>,
    next_id: &'p mut dyn FnMut() -> QueueId,
    plan: Plan,
}

impl Planner<'_> {
    fn warn(&mut self, queue_id: Option<QueueId>, text: impl Into<String>) {
        self.plan.events.push(Event::Text { severity: Severity::Warning, queue_id, text: text.into() });
    }

    /// A notice to the postmaster failed: no more notices.
    fn discarded(&mut self) {
        self.warn(Some(self.job.envelope.queue_id), "undeliverable postmaster notification discarded");
    }

    /// The sender's notice, and the postmaster's copy of it if that is wanted.
    fn put_failure(&mut self, failed: &[Reported], to: &str) {
        let bouncer = self.bouncer;
        let draft = Draft {
            log: NoticeKind::SenderNonDelivery,
            kind: Kind::Failed,
            template: TemplateKind::Failure,
            to,
            postmaster_copy: false,
            returned: bouncer.wanted(self.job.envelope),
        };
        self.put(failed, Notify::wants_failure, &draft);
        if bouncer.classes.bounce {
            self.put_all(failed, &bouncer.postmaster_failure(&bouncer.bounce_recipient, Wanted::Headers));
        }
    }

    /// A notice about those who asked for it; none if nobody did.
    fn put(&mut self, reported: &[Reported], asked: fn(Notify) -> bool, draft: &Draft<'_>) {
        let reports = reported.iter().filter(|one| asked(one.notify)).map(|one| one.report.clone()).collect();
        self.compose(reports, draft);
    }

    /// A notice about all of them, whatever they asked for.
    fn put_all(&mut self, reported: &[Reported], draft: &Draft<'_>) {
        self.compose(reported.iter().map(|one| one.report.clone()).collect(), draft);
    }

    fn compose(&mut self, reports: Vec<RecipientReport>, draft: &Draft<'_>) {
        if reports.is_empty() {
            return;
        }
        let (bouncer, job) = (self.bouncer, self.job);
        let envelope = job.envelope;
        let id = (self.next_id)();
        let host = &bouncer.myhostname;
        let date = rfc5322(job.now.seconds(), job.zone);
        let message_id = format!("<{}.{id}@{host}>", message_id_digits(job.now.seconds()));
        let sender = if envelope.sender.is_empty() { format!("MAILER-DAEMON@{host}") } else { envelope.sender.clone() };
        let template = self.template(draft);
        let thread = self.thread();
        let encoding = bouncer.encoding(envelope);
        let too_large = bouncer.size_limit > 0 && envelope.size > bouncer.size_limit;
        let content = Notice {
            kind: draft.kind,
            template: &template,
            postmaster_copy: draft.postmaster_copy,
            date: &date,
            to: draft.to,
            append_domain: bouncer.append_domain.as_deref(),
            thread: thread.as_deref(),
            message_id: &message_id,
            boundary: &format!("{}.{}/{host}", envelope.queue_id, job.now.seconds()),
            reporting_mta: host,
            mail_name: &bouncer.mail_name,
            queue_id: &envelope.queue_id.to_string(),
            sender: &sender,
            envid: &envelope.envid,
            arrival_date: &rfc5322(envelope.arrival.seconds(), job.zone),
            retry_until: &rfc5322((envelope.arrival + bouncer.queue_lifetime).seconds(), job.zone),
            encoding,
            smtputf8: envelope.smtputf8,
            recipients: &reports,
            original: match job.original {
                None => Original::Unavailable,
                Some(message) if draft.returned == Wanted::Full && !too_large => Original::Full(message),
                Some(message) => Original::HeadersOf(message),
            },
        }
        .compose();

        let from = if draft.postmaster_copy { bouncer.double_bounce.as_str() } else { "" };
        let mut notice = Envelope::new(id, job.now, from);
        notice.smtputf8 = envelope.smtputf8;
        notice.body = match encoding {
            BodyEncoding::EightBit => BodyType::EightBitMime,
            BodyEncoding::SevenBit => BodyType::SevenBit,
            BodyEncoding::Unknown => BodyType::Unspecified,
        };
        notice.message_id = message_id;
        notice.size = content.len() as u64;
        notice.recipients.push(Recipient { address: draft.to.to_owned(), ..Recipient::default() });
        let mut submission = Submission::new(notice, Content::from(Bytes::from(content)), Source::Notice);
        submission.trace_fields =
            format!("Received: by {host} ({})\n\tid {id}; {date}\n", bouncer.mail_name).into_bytes();
        self.plan.notices.push(Planned { kind: draft.log, about: envelope.queue_id, submission });
    }

    /// The template with its text filled in; copies for the postmaster have no text.
    fn template(&mut self, draft: &Draft<'_>) -> Template {
        let bouncer = self.bouncer;
        let template = bouncer.templates.get(draft.template);
        if draft.postmaster_copy {
            return Template { text: Vec::new(), ..template.clone() };
        }
        let built_in = bouncer.built_in.get(draft.template);
        let Expanded { text, warnings } = expand_template(&bouncer.view, draft.template, template, built_in);
        for warning in warnings {
            self.warn(None, warning);
        }
        Template { text, ..template.clone() }
    }

    /// The Message-ID to answer to, if notices are to stand in the thread of their message.
    fn thread(&mut self) -> Option<String> {
        if !self.bouncer.threaded || self.job.envelope.message_id.is_empty() {
            return None;
        }
        let id: String = self.job.envelope.message_id.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        if id.starts_with('<') && id.ends_with('>') && !id.contains(char::is_control) {
            return Some(id);
        }
        self.warn(Some(self.job.envelope.queue_id), "ignoring malformed Message-ID");
        None
    }
}
