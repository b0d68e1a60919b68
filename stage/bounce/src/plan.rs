//! Which notices there are, and to whom they go (Postfix: `bounce_notify_service`, `bounce_one_service`,
//! `bounce_warn_service`, `bounce_trace_service`).

use std::borrow::Cow;

use bytes::Bytes;
use yamabiko_address::header::AddressList;
use yamabiko_envelope::{
    BodyType, Content, Envelope, Kind as Event, NoticeKind, Notify, QueueId, Recipient, Severity, Source, Submission,
    Timestamp, TlsWish, Trace, Trouble, TroubleClass,
};
use yamabiko_message::date::{Zone, message_id_digits, rfc5322};
use yamabiko_report::{BodyEncoding, Kind, Notice, Original, Qsbmf, RecipientReport, Template, TemplateKind};

use crate::expand::{Expanded, expand_template};
use crate::settings::Ready;
use crate::{Bouncer, Reported, Wanted, is_double_bounce, is_qmail_double_bounce};

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
    /// Languages of notices to this sender (`bounce_language_maps`); empty for those of `bounce_language`.
    pub languages: &'a [String],
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
    /// The class that a copy for the postmaster belongs to.
    class: TroubleClass,
    returned: Wanted,
}

/// The date and time of a second in UTC: `21 Nov 2026 16:53:54`.
fn rfc5322_utc(seconds: u64) -> String {
    let date = rfc5322(seconds, &Zone::UTC);
    // `Sat, 21 Nov 2026 16:53:54 +0000 (UTC)`
    let date = date.split_once(", ").map_or(date.as_str(), |(_, date)| date);
    date.split(" +").next().unwrap_or(date).trim_start().to_owned()
}

impl Bouncer {
    /// The value of a `From:` with the user and the domain that are set for notices.
    fn renamed(&self, from: &str) -> String {
        if self.from_user.is_none() && self.from_domain.is_none() {
            return from.to_owned();
        }
        let mut list = AddressList::parse(from.as_bytes());
        list.replace(|address| {
            let (local, domain) = yamabiko_address::split_domain(address);
            let local = self.from_user.as_deref().unwrap_or(local);
            let domain = self.from_domain.as_deref().or(domain);
            Some(domain.map_or_else(|| local.to_owned(), |domain| format!("{local}@{domain}")))
        });
        let written = list.to_header("From").text;
        let text = String::from_utf8_lossy(&written).into_owned();
        text.strip_prefix("From: ").unwrap_or(&text).to_owned()
    }

    /// Recipients failed for good: the sender's notice, the postmaster's copy, or what becomes of a notice that failed
    /// itself. `next_id` gives the ID of each notice.
    pub fn failed(&self, job: &Job<'_>, failed: &[Reported], next_id: &mut dyn FnMut() -> QueueId) -> Plan {
        let mut planner = Planner { bouncer: self, job, next_id, plan: Plan::default() };
        let sender = job.envelope.sender.as_str();
        let failed = &*planner.without_answers(failed);
        if failed.is_empty() {
        } else if is_double_bounce(job.envelope, &self.double_bounce) {
            planner.discarded();
        } else if sender.is_empty() {
            // Either class will do: it is the last chance to hear of it.
            if self.classes.bounce || self.classes.double_bounce || self.always_double {
                let (to, class) = (&self.double_bounce_recipient, TroubleClass::DoubleBounce);
                planner.put_all(failed, &self.postmaster_failure(to, class, Wanted::Full));
            }
        } else if let Some(verp) = job.envelope.verp.filter(|_| self.verp_bounces) {
            for one in failed {
                let to = yamabiko_address::verp_sender(sender, &one.given, (verp.first, verp.second));
                planner.put_failure(std::slice::from_ref(one), &to);
            }
        } else {
            // qmail's form of VERP: notices about the message as a whole go to the list's own address.
            planner.put_failure(failed, sender.strip_suffix("-@[]").unwrap_or(sender));
        }
        planner.plan
    }

    /// Recipients have been waiting for longer than `delay_warning_time`: the warning, once per message. Messages with
    /// the null sender get none.
    pub fn delayed(&self, job: &Job<'_>, waiting: &[Reported], next_id: &mut dyn FnMut() -> QueueId) -> Plan {
        let mut planner = Planner { bouncer: self, job, next_id, plan: Plan::default() };
        let sender = job.envelope.sender.as_str();
        let waiting = &*planner.without_answers(waiting);
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
                class: TroubleClass::Delay,
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
                class: TroubleClass::Bounce,
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

    /// An attempt has ended, and some of those whom the sender knows to be late have got the message
    /// (`confirm_delay_cleared`). `outcomes` are theirs.
    pub fn cleared(&self, job: &Job<'_>, outcomes: &[Reported], next_id: &mut dyn FnMut() -> QueueId) -> Plan {
        let mut planner = Planner { bouncer: self, job, next_id, plan: Plan::default() };
        let sender = job.envelope.sender.as_str();
        if !sender.is_empty() && !is_double_bounce(job.envelope, &self.double_bounce) {
            let draft = Draft {
                log: NoticeKind::SenderSuccess,
                kind: Kind::Settled,
                template: TemplateKind::Success,
                to: sender,
                postmaster_copy: false,
                class: TroubleClass::Delay,
                returned: Wanted::Headers,
            };
            let sent: Vec<_> = outcomes
                .iter()
                .filter(|o| matches!(o.report.action, "delivered" | "relayed" | "expanded") && !o.notify.never)
                .cloned()
                .collect();
            planner.put_all(&sent, &draft);
        }
        planner.plan
    }

    fn postmaster_failure<'d>(&'d self, to: &'d str, class: TroubleClass, returned: Wanted) -> Draft<'d> {
        Draft {
            log: NoticeKind::PostmasterNonDelivery,
            kind: Kind::Failed,
            template: TemplateKind::Failure,
            to,
            postmaster_copy: true,
            class,
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

impl<'p> Planner<'p> {
    fn warn(&mut self, queue_id: Option<QueueId>, text: impl Into<String>) {
        self.plan.events.push(Event::Text { severity: Severity::Warning, queue_id, text: text.into() });
    }

    /// Nobody is told that an automatic answer to a notice failed: the next notice would be answered too.
    fn without_answers<'r>(&mut self, reported: &'r [Reported]) -> Cow<'r, [Reported]> {
        let kept = self.bouncer.without_answers(reported, self.job.original);
        if kept.len() < reported.len() {
            let text = "no notification about an automatic answer to a notification".to_owned();
            let queue_id = Some(self.job.envelope.queue_id);
            self.plan.events.push(Event::Text { severity: Severity::Info, queue_id, text });
        }
        kept
    }

    /// A notice to the postmaster failed: no more notices.
    fn discarded(&mut self) {
        let id = self.job.envelope.queue_id;
        if is_qmail_double_bounce(&self.job.envelope.sender) {
            self.warn(Some(id), format!("triple bounce: discarding bounce/{id}"));
        } else {
            self.warn(Some(id), "undeliverable postmaster notification discarded");
        }
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
            class: TroubleClass::Bounce,
            returned: bouncer.wanted(self.job.envelope),
        };
        self.put(failed, Notify::wants_failure, &draft);
        if bouncer.classes.bounce {
            let (to, class) = (&bouncer.bounce_recipient, TroubleClass::Bounce);
            self.put_all(failed, &bouncer.postmaster_failure(to, class, Wanted::Headers));
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
        let template = self.template(draft, &reports);
        let thread = self.thread();
        let encoding = match bouncer.encoding(envelope) {
            BodyEncoding::Unknown | BodyEncoding::SevenBit if !template.text.is_ascii() => BodyEncoding::EightBit,
            encoding => encoding,
        };
        let too_large = bouncer.size_limit > 0 && envelope.size > bouncer.size_limit;
        let original = match job.original {
            None => Original::Unavailable,
            Some(message) if draft.returned == Wanted::Full && !too_large => Original::Full(message),
            Some(message) => Original::HeadersOf(message),
        };
        let trouble = draft.postmaster_copy.then(|| Box::new(self.trouble(draft.class, &reports)));
        let as_qmail = bouncer.qmail
            && draft.kind == Kind::Failed
            && (!draft.postmaster_copy || draft.class == TroubleClass::DoubleBounce);
        let content = if as_qmail {
            let user = bouncer.from_user.as_deref().unwrap_or("MAILER-DAEMON");
            let domain = bouncer.from_domain.as_deref().unwrap_or(host);
            Qsbmf {
                date: &format!("{} -0000", rfc5322_utc(job.now.seconds())),
                from: &format!("{user}@{domain}"),
                to: &bouncer.qualified(draft.to),
                host: domain,
                message_id: &message_id,
                double: draft.postmaster_copy,
                sender: &envelope.sender,
                recipients: &reports,
                original,
            }
            .compose()
        } else {
            Notice {
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
                retry_until: &match draft.kind {
                    Kind::Delayed => rfc5322((envelope.arrival + bouncer.queue_lifetime).seconds(), job.zone),
                    _ => String::new(),
                },
                encoding,
                smtputf8: envelope.smtputf8,
                recipients: &reports,
                original,
            }
            .compose()
        };

        let from = match draft.postmaster_copy {
            // What qmail knows its double bounces by.
            true if as_qmail => "#@[]",
            true => bouncer.double_bounce.as_str(),
            false => "",
        };
        let mut notice = Envelope::new(id, job.now, from);
        notice.smtputf8 = envelope.smtputf8;
        // RFC 8689 section 5: what demanded TLS comes back without its text, or with the same demand.
        notice.tls = match envelope.tls {
            TlsWish::Required if bouncer.redact => TlsWish::Policy,
            wish => wish,
        };
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
        submission.trace_fields.extend(crate::loops::marks(job.original));
        submission.trouble = trouble;
        self.plan.notices.push(Planned { kind: draft.log, about: envelope.queue_id, submission });
    }

    /// What a copy for the postmaster is about.
    fn trouble(&self, class: TroubleClass, reports: &[RecipientReport]) -> Trouble {
        let envelope = self.job.envelope;
        let first = reports.first();
        let destination =
            first.and_then(|report| yamabiko_address::split_domain(&report.address).1).unwrap_or_default();
        Trouble {
            classes: vec![class],
            reason: first.map_or_else(String::new, |report| report.reason.clone()),
            destination: destination.to_owned(),
            sender: envelope.sender.clone(),
            client: match envelope.client.address {
                Some(address) => format!("{}[{address}]", envelope.client.name),
                None => String::new(),
            },
        }
    }

    /// The template with its text filled in; copies for the postmaster have no text.
    fn template(&mut self, draft: &Draft<'_>, reports: &[RecipientReport]) -> Cow<'p, Template> {
        let bouncer = self.bouncer;
        let template = bouncer.templates.get(draft.template);
        let from = || bouncer.renamed(&template.from);
        // Nothing in it is of this notice alone, but for the texts in languages: it is made once.
        // Four kinds, four places.
        let place = draft.template as usize;
        if draft.postmaster_copy {
            let make = || Template { text: Vec::new(), from: from(), ..template.clone() };
            return Cow::Borrowed(bouncer.copies[place].get_or_init(make));
        }
        let languages = bouncer.languages_of(self.job.languages, self.job.original);
        if !languages.is_empty() {
            let (template, warnings) = bouncer.in_languages(&languages, draft.template, reports);
            for warning in warnings {
                self.warn(None, warning);
            }
            return Cow::Owned(Template { from: from(), ..template });
        }
        let ready = bouncer.expanded[place].get_or_init(|| {
            let built_in = bouncer.built_in.get(draft.template);
            let Expanded { text, warnings, .. } = expand_template(&bouncer.view, draft.template, template, built_in);
            Ready { template: Template { text, from: from(), ..template.clone() }, warnings }
        });
        for warning in &ready.warnings {
            self.warn(None, warning.as_str());
        }
        Cow::Borrowed(&ready.template)
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
