//! Drafts completed, decided and made findings.

use crate::analyzer::Stage;
use crate::decide::{Decision, Facts, LIMIT, decide, without_repeated_codes};
use crate::draft::Draft;
use crate::finding::{Action, Date, Diagnostic, Finding};
use crate::mail::Mail;
use crate::needle::Needle;
use crate::plain::is_disclaimer;
use crate::rules::Scan;
use crate::systems::{Signs, System};
use crate::transcript::Refusal;
use crate::{Reason, Rules, civil, text};
use memchr::memmem::Finder;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::LazyLock;
use yamabiko_report::decode;
use yamabiko_report::structure::Header;
use yamabiko_status::{Class, EnhancedStatus, ReplyCode};

/// When a message was written, by its header.
pub(crate) fn written_on(header: &Header<'_>) -> Option<Date> {
    header.get("Date").and_then(|date| civil::parse(&decode::header_text(date)))
}

/// What all findings of one message share.
pub(crate) struct Shared<'s> {
    pub addresser: Cow<'s, str>,
    pub date: Option<Date>,
    header: &'s Header<'s>,
    /// Hosts of the Received fields, once somebody asked for them: most notices name their hosts elsewhere.
    rhost: OnceCell<String>,
    lhost: OnceCell<String>,
}

impl<'s> Shared<'s> {
    pub(crate) fn of(mail: &'s Mail<'_>) -> Self {
        let header = mail.header();
        let addressed = || {
            ["To", "X-Original-To", "Delivered-To"]
                .iter()
                .filter_map(|name| header.get(name).map(decode::header))
                .find_map(|value| text::one_address(&value).map(str::to_owned))
                .unwrap_or_default()
        };
        let original = &mail.original;
        let envelope = || mail.report.get("X-Postfix-Sender").and_then(text::one_address).unwrap_or_default();
        let addresser = match (&*original.from, &*original.return_path) {
            ("", "") => envelope(),
            ("", return_path) => return_path,
            (from, _) => from,
        };
        let addresser = if addresser.is_empty() { Cow::Owned(addressed()) } else { Cow::Borrowed(addresser) };
        let date = original.date.or_else(|| written_on(header));
        Self { addresser, date, header, rhost: OnceCell::new(), lhost: OnceCell::new() }
    }

    /// The host that wrote the notice, by its Received fields or else its sender.
    pub(crate) fn received_rhost(&self) -> &str {
        self.rhost.get_or_init(|| {
            let received = self.received();
            Self::writer(&received, hop).unwrap_or_else(|| {
                // It was never received by mail: who wrote it says so in its sender.
                let from = self.header.get("From").map(decode::header).unwrap_or_default();
                if received.is_empty() {
                    text::domain(text::one_address(&from).unwrap_or_default()).to_owned()
                } else {
                    String::new()
                }
            })
        })
    }

    /// The host from which it came last, by the newest Received field that names one (within some systems mail is handed on
    /// without a name).
    pub(crate) fn received_lhost(&self) -> &str {
        self.lhost.get_or_init(|| {
            let mut hops = self.header.all("Received").take(100).map(|value| hop(&value));
            let Some(newest) = hops.next() else { return String::new() };
            // A filter on the same host handed it on; a name for inside alone is passed over.
            if newest.from == "localhost" || is_public_name(&newest.from) {
                return newest.from;
            }
            let other = hops.take(4).map(|hop| hop.from).find(|from| is_public_name(from));
            other.unwrap_or(if newest.from.is_empty() { newest.by } else { newest.from })
        })
    }

    fn received(&self) -> Vec<&'s [u8]> {
        self.header.all("Received").take(100).collect()
    }

    /// The host where the notice was written, as its Received fields (newest first) tell: the oldest was written there, if it
    /// names that host; otherwise the oldest that names both sides.
    fn writer(received: &[&[u8]], hop: impl Fn(&&[u8]) -> Hop) -> Option<String> {
        let oldest = received.last().map(&hop)?;
        if is_host_name(&oldest.by) {
            return Some(oldest.by);
        }
        // Written by a program that has only an address or a short name.
        if oldest.from.is_empty() && !oldest.by.is_empty() && !oldest.by.contains(':') {
            return Some(oldest.by);
        }
        let silent = oldest.by.is_empty() && oldest.from.is_empty();
        let next = received.iter().rev().map(hop).find(|hop| !hop.by.is_empty() && !hop.from.is_empty());
        let named = next.unwrap_or(oldest);
        // Where the oldest says nothing, the notice was written on the host that handed it on.
        let host = if is_name(&named.by) && !(silent && is_host_name(&named.from)) { named.by } else { named.from };
        (!host.is_empty()).then_some(host)
    }
}

fn hop(value: &&[u8]) -> Hop {
    Hop::of(&text::lossy(value))
}

/// The hosts of a Received field.
#[derive(Default)]
struct Hop {
    from: String,
    by: String,
}

impl Hop {
    fn of(received: &str) -> Self {
        let mut hop = Self::default();
        let mut depth = 0_u32;
        let mut words = received.split_ascii_whitespace().take(40).peekable();
        while let Some(word) = words.next() {
            let (first, length) = (word.as_bytes()[0], word.len());
            // Comments say other things; but a client without a name in the DNS said one: `from 192.0.2.1 (EHLO mx.example)`.
            if first == b'(' || depth > 0 {
                if hop.by.is_empty()
                    && hop.from == "localhost"
                    && let Some(seen) = seen_in_comment(word)
                {
                    hop.from = seen;
                }
                if (word == "(EHLO" || word == "(HELO")
                    && hop.by.is_empty()
                    && !is_host_name(&hop.from)
                    && let Some(said) = words.peek().map(|next| text::host(next.trim_end_matches(')')))
                    && is_host_name(said)
                    && text::is_host(said)
                {
                    hop.from = said.to_ascii_lowercase();
                }
                depth = depth.saturating_add(u32::from(first == b'('));
                let last = word.bytes().rev().find(|byte| *byte != b';');
                depth = depth.saturating_sub(u32::from(last == Some(b')')));
                continue;
            }
            let wanted = if length == 4 && word.eq_ignore_ascii_case("from") && hop.from.is_empty() {
                &mut hop.from
            } else if length == 2 && word.eq_ignore_ascii_case("by") && hop.by.is_empty() {
                &mut hop.by
            } else {
                continue;
            };
            let name = words.peek().map_or("", |next| text::host(next.trim_end_matches(';')));
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':'));
            if plain && !matches!(name, "for" | "by" | "with" | "id" | "unknown") {
                *wanted = name.to_ascii_lowercase();
            }
            if !hop.from.is_empty() && !hop.by.is_empty() {
                break;
            }
        }
        hop
    }
}

/// What the receiving host found out about one that called itself `localhost`: its name, or else its address; a word of the comment
/// `(mx.example [192.0.2.1])`.
fn seen_in_comment(word: &str) -> Option<String> {
    let bare = word.trim_matches(['(', ')', ';', '[', ']']);
    match bare.parse::<std::net::IpAddr>() {
        Ok(address) => (!address.is_loopback() && !address.is_unspecified()).then(|| bare.to_owned()),
        Err(_) => {
            (word.starts_with('(') && text::is_host(bare) && is_public_name(bare)).then(|| bare.to_ascii_lowercase())
        }
    }
}

/// A name with a dot that is no address.
fn is_host_name(host: &str) -> bool {
    host.contains('.') && !text::is_ip(host)
}

/// A name under which others know a host.
fn is_public_name(host: &str) -> bool {
    host.contains('.') && !says_little(host)
}

/// No name, or one that tells nobody who it is: `localhost`, an address, a mailbox, a name with a hole in it.
fn says_little(host: &str) -> bool {
    host.is_empty()
        || is_local_name(host)
        || host.contains('@')
        || host.as_bytes().windows(2).any(|two| two == b"..")
        || text::is_ip(host)
}

/// What every host calls itself.
fn is_local_name(host: &str) -> bool {
    host.get(..9).is_some_and(|head| head.eq_ignore_ascii_case("localhost"))
}

/// Something that can be reached under its name.
fn is_name(host: &str) -> bool {
    host.contains('.') || host == "localhost"
}

/// The status that is to be believed: the refusing host's own where the notice's says little.
fn prefer(noted: Option<EnhancedStatus>, said: &str) -> Option<EnhancedStatus> {
    let mut own: Option<EnhancedStatus> = None;
    for status in text::statuses(said).filter(|s| s.class != Class::Success).take(8) {
        own = match own {
            None => Some(status),
            // Given up waiting, and the reason for it; a code that says nothing, and one that does.
            Some(first) if is_expiry(first) || says_nothing(first) && !says_nothing(status) => Some(status),
            kept => kept,
        };
    }
    match (noted, own) {
        (None, own) => own,
        (noted, None) => noted,
        (Some(noted), Some(own)) => {
            let vaguer = own.detail == 0 && own.subject == noted.subject && noted.detail != 0;
            Some(if (!says_nothing(own) && !vaguer) || is_expiry(noted) { own } else { noted })
        }
    }
}

fn says_nothing(status: EnhancedStatus) -> bool {
    status.subject == 0 || (status.subject == 5 && status.detail <= 1)
}

fn is_expiry(status: EnhancedStatus) -> bool {
    status.subject == 4 && status.detail == 7
}

/// What all recipients of one notice are read with.
#[derive(Clone, Copy)]
pub(crate) struct Notice<'n, 'm> {
    pub rules: &'n Rules,
    pub mail: &'n Mail<'m>,
    /// The text for people, scanned.
    pub signs: &'n Signs,
    pub system: System,
    pub shared: &'n Shared<'n>,
    /// There is more than one recipient.
    pub several: bool,
    pub refusals: &'n [Refusal],
}

impl Notice<'_, '_> {
    /// Scans words that mostly stand in the text for people.
    fn scan(&self, words: &str) -> Scan {
        self.rules.scan_piece(words, LIMIT, &self.signs.scan)
    }
}

/// Completes and decides one draft; beside it whether there was more to go by than single words.
pub(crate) fn finding(notice: Notice<'_, '_>, draft: Draft) -> (Finding, bool) {
    let mut case = Case::of(notice, draft);
    case.choose_diagnostic();
    case.choose_human();
    case.choose_status();
    case.choose_host();
    let verdict = case.decide();
    let more_than_words = verdict.decision.more_than_words;
    (case.complete(verdict), more_than_words)
}

/// One recipient on the way from what was read to what it means.
struct Case<'n, 'm> {
    notice: Notice<'n, 'm>,
    draft: Draft,
    /// What was said of this recipient in a dialogue that the notice quotes.
    refusal: Option<&'n Refusal>,
    /// What the notice says to people, as far as it may speak for this recipient.
    human: Option<&'n Scan>,
    stage: Option<Stage>,
    status: Option<EnhancedStatus>,
    code: Option<u16>,
    /// The words of the draft, scanned once somebody asked what is in them: its diagnostic (once that is chosen), and what is
    /// said beside the recipient.
    diagnostic: OnceCell<Scan>,
    said: OnceCell<Scan>,
}

/// What a case was decided to be.
struct Verdict {
    decision: Decision,
    date: Option<Date>,
    delayed: bool,
}

impl<'n, 'm> Case<'n, 'm> {
    fn of(notice: Notice<'n, 'm>, draft: Draft) -> Self {
        let refusals = notice.refusals;
        let refusal = refusals
            .iter()
            .find(|r| !r.recipient.is_empty() && r.recipient.eq_ignore_ascii_case(&draft.recipient))
            .or_else(|| {
                refusals.iter().find(|r| !draft.diagnostic.is_empty() && r.reply.contains(draft.diagnostic.as_str()))
            })
            .or_else(|| refusals.iter().find(|r| r.recipient.is_empty()));
        Self {
            notice,
            draft,
            refusal,
            human: Some(&notice.signs.scan),
            stage: None,
            status: None,
            code: None,
            diagnostic: OnceCell::new(),
            said: OnceCell::new(),
        }
    }

    fn diagnostic(&self) -> &Scan {
        self.diagnostic.get_or_init(|| self.notice.scan(&self.draft.diagnostic))
    }

    fn said(&self) -> &Scan {
        self.said.get_or_init(|| self.notice.scan(&self.draft.said))
    }

    /// All lines of the reply that a dialogue shows.
    fn refused(&self) -> String {
        self.refusal.map(|r| text::squeeze(&r.reply, 4096)).unwrap_or_default()
    }

    /// The words of the failure: noted in a delivery status, quoted from a dialogue, written beside the recipient, or else
    /// what in the text for people says most.
    fn choose_diagnostic(&mut self) {
        let Notice { rules, mail, system, .. } = self.notice;
        if self.draft.noted && self.draft.diagnostic.as_bytes().get(3) == Some(&b'-') {
            // sendmail notes the first line of a reply only; its transcript has them all.
            let whole = self.refused();
            if whole.len() > self.draft.diagnostic.len() && whole.starts_with(&self.draft.diagnostic) {
                self.draft.diagnostic = without_repeated_codes(&whole).into_owned();
            }
        }
        let draft = &self.draft;
        if draft.diagnostic.is_empty() && !draft.noted && !draft.said.is_empty() && !speaks(rules, self.said()) {
            // What an old sendmail writes beside the address is its own gloss; the dialogue above it has the reason.
            self.draft.diagnostic = self.refused();
        }
        if self.draft.diagnostic.is_empty() {
            let uncoded = self.draft.said.is_empty() || text::reply_codes(&self.draft.said).next().is_none();
            if self.refusal.is_some() && uncoded {
                self.draft.diagnostic = self.refused();
            } else {
                self.draft.diagnostic.clone_from(&self.draft.said);
                self.diagnostic = std::mem::take(&mut self.said);
            }
        }
        let draft = &self.draft;
        if !draft.noted
            && self.refusal.is_none()
            && text::reply_codes(&draft.diagnostic).next().is_none()
            && text::statuses(&draft.diagnostic).next().is_none()
            && !speaks(rules, self.diagnostic())
        {
            // What stands after the recipient says nothing; something else in the notice may.
            let telling = self.telling_lines();
            if !telling.is_empty() {
                self.draft.diagnostic = telling;
                self.diagnostic = OnceCell::new();
            }
        }
        if self.draft.diagnostic.is_empty() {
            self.draft.diagnostic = self.telling_lines();
            self.diagnostic = OnceCell::new();
        }
        if self.draft.diagnostic.is_empty()
            && !mail.has_status
            && mail.recipients.is_empty()
            && system.name != "Postfix"
        {
            // Nothing that is known; people get to read it all the same. (What stands around a delivery status is boilerplate.)
            self.draft.diagnostic = text::squeeze(&paragraph_without(&mail.human, &self.draft.recipient), 2048);
            self.diagnostic = OnceCell::new();
        }
    }

    /// The paragraph of the text for people that says most: with a reply or status code, or with the heaviest phrase.
    fn telling_lines(&self) -> String {
        let Notice { rules, mail, signs, .. } = self.notice;
        let mut best: (u32, &str) = (0, "");
        let telling = |paragraph: &&str| !paragraph.trim().is_empty() && !is_disclaimer(paragraph);
        for paragraph in mail.human.split("\n\n").filter(telling).take(60) {
            let mut score = 0;
            rules.matches(&rules.scan_piece(paragraph, 4096, &signs.scan), |rule, _, _| {
                if !rule.asks.reply_only {
                    score = score.max(u32::from(rule.weight));
                }
            });
            if text::statuses(paragraph).next().is_some() {
                score += 20;
            }
            if text::reply_codes(paragraph).next().is_some() {
                score += 10;
            }
            if score > best.0 {
                best = (score, paragraph);
            }
        }
        if best.0 < 20 {
            return String::new();
        }
        text::squeeze(best.1, 2048)
    }

    /// What is said of one recipient must not decide about another, and nothing is to be counted twice.
    fn choose_human(&mut self) {
        let diagnostic = &self.draft.diagnostic;
        let several = self.notice.several && !diagnostic.is_empty();
        if diagnostic.len() + 200 > self.notice.mail.human.len() || several {
            self.human = None;
        }
    }

    /// The command that was answered, the status that is to be believed, and the reply code that belongs to it.
    fn choose_status(&mut self) {
        let Notice { rules, mail, signs, system, .. } = self.notice;
        let draft = &self.draft;
        self.stage = draft.stage.or_else(|| rules.stage(self.diagnostic()));
        if self.stage.is_none() && !draft.said.is_empty() && draft.said != draft.diagnostic {
            self.stage = rules.stage(self.said());
        }
        if self.stage.is_none() {
            // A dialogue with somebody else says nothing of this recipient.
            let own = |r: &&Refusal| {
                draft.noted || r.recipient.eq_ignore_ascii_case(&draft.recipient) || r.reply.contains(&draft.diagnostic)
            };
            self.stage = self.refusal.filter(own).and_then(|r| r.stage);
        }
        if self.stage.is_none() && draft.alone && signs.told {
            self.stage = text::stage_of_dialogue(rules, &mail.human);
        }
        let draft = &mut self.draft;
        if system.name == "OpenSMTPD" && text::contains(&draft.diagnostic, "envelope expired") {
            // What it gave up it calls 4.4.7.
            draft.status = Some(EnhancedStatus::permanent(4, 7));
        }
        let reply = self.refusal.map_or("", |r| r.reply.as_str());
        let mut status = prefer(draft.status, &draft.diagnostic);
        if status.is_none_or(says_nothing) {
            status = prefer(status, if draft.said.is_empty() { reply } else { &draft.said });
            // A text without a delivery status speaks of its only recipient wherever it has a code.
            if draft.alone && (status.is_none() || draft.noted && status.is_some_and(|s| s.subject == 0)) {
                status = prefer(status, &mail.human[..text::floor(&mail.human, 8192)]);
            }
        }
        self.status = status;
        let class = status.map(|s| s.class.digit());
        let said = text::passed_on(&draft.diagnostic).unwrap_or(&draft.diagnostic);
        self.code = text::reply_code(said, class)
            .or_else(|| text::reply_code(&draft.said, class))
            .or_else(|| text::reply_code(reply, class))
            .filter(|code| *code >= 400 || draft.action == Some(Action::Delivered));
    }

    /// The host that refused and the host that reports.
    fn choose_host(&mut self) {
        let Notice { mail, system, shared, .. } = self.notice;
        let draft = &mut self.draft;
        let besides = (draft.said != draft.diagnostic).then_some(&draft.said);
        let named = text::remote_host(&draft.diagnostic)
            .or_else(|| besides.and_then(|said| text::remote_host(said)))
            .or_else(|| if draft.rhost.is_empty() { text::generating_server(&mail.human) } else { None })
            .or_else(|| self.refusal.map(|r| r.host.as_str()).filter(|h| !h.is_empty() && draft.rhost.is_empty()))
            .unwrap_or_default();
        if draft.rhost.is_empty() {
            let host = if named.is_empty() { shared.received_rhost() } else { named };
            draft.rhost = host.to_owned();
        } else if !named.is_empty() && mail.report.get("Reporting-MTA").is_some_and(|r| text::host(r) == draft.rhost) {
            // The reporting host only stood in for one that was not noted.
            draft.rhost = named.to_owned();
        }
        // Exchange notes whence it had the message; an address, a name for inside alone or what is no name at all says less than
        // the name under which the notice came.
        let elsewhere = matches!(system.name, "Office365" | "Exchange2007");
        if elsewhere || says_little(&draft.lhost) {
            let received = shared.received_lhost();
            if draft.lhost.is_empty() || is_public_name(received) {
                draft.lhost = received.to_owned();
            }
            if system.name == "MailMarshalSMTP"
                && let Some(sender) = text::after_heading(&mail.human, "\nSender-MTA:")
            {
                // It comes from a name that is none, and says among its fields whence it had the message.
                draft.lhost = sender.to_owned();
            }
            if draft.lhost.is_empty() {
                draft.lhost = text::generating_server(&mail.human).unwrap_or_default().to_owned();
            }
        }
    }

    fn decide(&self) -> Verdict {
        let Notice { rules, mail, system, shared, .. } = self.notice;
        let draft = &self.draft;
        // What these systems call the arrival is when the notice was written.
        let arrival_is_own = matches!(system.name, "MessagingServer" | "Office365" | "Exchange2007");
        let date = mail.original.date.filter(|_| arrival_is_own).or(draft.date);
        // Its report has no date, and the notice is written when it has failed.
        let date = date.or_else(|| written_on(mail.header()).filter(|_| system.name == "OpenSMTPD")).or(shared.date);
        let delayed = draft.action == Some(Action::Delayed) || (draft.action.is_none() && system.delay);
        if matches!(draft.action, Some(Action::Delivered | Action::Relayed | Action::Expanded)) {
            let decision =
                Decision { reason: Reason::Delivered, evidence: Vec::new(), confidence: 95, more_than_words: false };
            return Verdict { decision, date, delayed };
        }
        let smtp = matches!(draft.kind.as_str(), "" | "SMTP" | "LMTP" | "UNKNOWN");
        let spoken;
        let said = match without_giving_up(&draft.diagnostic) {
            Cow::Borrowed(_) => self.diagnostic(),
            Cow::Owned(words) => {
                spoken = rules.scan(&words, LIMIT);
                &spoken
            }
        };
        let decision = decide(
            rules,
            said,
            &Facts {
                human: self.human,
                status: self.status,
                code: self.code,
                stage: self.stage,
                rhost: &draft.rhost,
                lhost: &draft.lhost,
                destination: text::domain(&draft.recipient),
                date,
                delayed,
                trusting: false,
                hint: draft.hint,
                // These write notices of their own users, and of the reply of another host nothing.
                local: !smtp && !draft.diagnostic.is_empty() || matches!(system.name, "IMailServer" | "Verizon"),
                program: draft.kind == "X-UNIX",
                system: system.name,
            },
        );
        Verdict { decision, date, delayed }
    }

    /// The status that is reported, and whether it was made from the reason.
    fn final_status(&self, reason: Reason, delayed: bool) -> (Option<EnhancedStatus>, bool) {
        let transient_unknown = EnhancedStatus { class: Class::Transient, subject: 0, detail: 0 };
        // A system that goes on trying a domain which wants no mail.
        let permanent = reason == Reason::NotAccept
            && self.draft.action == Some(Action::Delayed)
            && self.code.is_none()
            && self.status == Some(transient_unknown);
        match self.status {
            Some(status) if !permanent => return (Some(status), false),
            None if reason == Reason::Delivered => return (None, false),
            _ => {}
        }
        let retried = reason == Reason::Expired && matches!(self.notice.system.name, "Exim" | "MailRu");
        let temporary = retried
            || self.code.is_some_and(|c| c < 500)
            || (self.code.is_none() && (delayed || is_temporary(&self.draft.diagnostic)));
        let class = if !permanent && temporary { Class::Transient } else { Class::Permanent };
        (Some(reason.made_up_status(class)), true)
    }

    fn complete(self, verdict: Verdict) -> Finding {
        let Decision { reason, evidence, confidence, .. } = verdict.decision;
        let (status, made_up) = self.final_status(reason, verdict.delayed);
        let Notice { mail, system, shared, several, .. } = self.notice;
        let (draft, original) = (self.draft, &mail.original);
        let action = match (reason, draft.action) {
            (Reason::Expired, _) => Some(Action::Delayed),
            (_, Some(action)) => Some(action),
            (Reason::Feedback | Reason::Vacation, None) => None,
            (_, None) => Some(Action::Failed),
        };
        let command = text::command_name(self.stage, [&draft.diagnostic, &draft.said]);
        let named = !original.subject.is_empty();
        // Forwarded on the way: the oldest hop knows whom it was for at first.
        let first = if several { "" } else { &*original.first_for };
        let alias = if draft.alias.is_empty() { first.to_owned() } else { draft.alias };
        let alias = if alias.eq_ignore_ascii_case(&draft.recipient) { String::new() } else { alias };
        Finding {
            alias,
            reason,
            status,
            status_is_made_up: made_up,
            reply_code: self.code.map(ReplyCode),
            action,
            hard_bounce: reason.is_hard(status.map_or(5, |s| s.class.digit())),
            sender_domain: text::domain(&shared.addresser).to_owned(),
            addresser: shared.addresser.clone().into_owned(),
            destination: text::domain(&draft.recipient).to_owned(),
            rhost: draft.rhost,
            lhost: draft.lhost,
            diagnostic: Diagnostic {
                kind: if draft.kind.is_empty() { "SMTP".to_owned() } else { draft.kind },
                text: draft.diagnostic,
            },
            command,
            decoded_by: match system.name {
                "" => "RFC3464",
                // The same words without a report have another name.
                "GSuite" if mail.recipients.is_empty() => "GoogleWorkspace",
                name => name,
            },
            message_id: original.message_id.clone().into_owned(),
            subject: if named { original.subject.clone().into_owned() } else { subject_in_text(&mail.human) },
            list_id: original.list_id.clone().into_owned(),
            date: verdict.date,
            feedback_type: String::new(),
            feedback_id: original.feedback_id.clone().into_owned(),
            envelope_id: mail.report.get("Original-Envelope-Id").unwrap_or_default().to_owned(),
            evidence,
            confidence,
            recipient: draft.recipient,
        }
    }
}

/// Without qmail's `Giving up on 192.0.2.1.`, which stands below every reply and is no reason.
fn without_giving_up(diagnostic: &str) -> Cow<'_, str> {
    static WORDS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b" Giving up on "));
    let split =
        WORDS.find(diagnostic.as_bytes()).map(|at| (&diagnostic[..at], &diagnostic[at + WORDS.needle().len()..]));
    let Some((before, rest)) = split.filter(|(before, _)| before.contains("emote host said: ")) else {
        return Cow::Borrowed(diagnostic);
    };
    let after = rest.split_once(' ').map_or("", |(_, after)| after);
    Cow::Owned(format!("{before} {after}").trim_end().to_owned())
}

/// The subject of the message as some notices quote it in their text.
fn subject_in_text(human: &str) -> String {
    let said = ["Subject:", "The subject of the message is:"];
    let found = human.lines().take(60).find_map(|line| said.iter().find_map(|words| line.trim().strip_prefix(words)));
    found.map(|subject| decode::header(subject.trim().as_bytes())).unwrap_or_default()
}

/// True when a rule knows something of these words.
fn speaks(rules: &Rules, words: &Scan) -> bool {
    let mut found = false;
    rules.matches(words, |rule, _, _| found |= rule.weight >= 40 && !rule.asks.reply_only);
    found
}

/// True for words that speak of a failure that may pass.
fn is_temporary(diagnostic: &str) -> bool {
    const WORDS: [Needle<'_>; 4] = [
        Needle::of("temporar"),
        Needle::of("retry timeout exceeded"),
        Needle::of("try again later"),
        Needle::of("persistent transient"),
    ];
    WORDS.iter().any(|words| words.is_in(diagnostic))
}

/// The text without lines that only name the recipient.
fn paragraph_without(human: &str, recipient: &str) -> String {
    let mut end = 0;
    for paragraph in human.split_inclusive("\n\n") {
        if is_disclaimer(paragraph) {
            break;
        }
        end += paragraph.len();
    }
    let lines = human[..end].lines().filter(|line| {
        let bare = line.trim().trim_matches(['<', '>', ':', ' ']);
        !bare.is_empty() && !bare.eq_ignore_ascii_case(recipient)
    });
    lines.take(40).collect::<Vec<_>>().join(" ")
}
