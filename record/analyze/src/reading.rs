//! One message read: what it is, and who reads it further.

use crate::assemble::{Notice, Shared, finding};
use crate::draft::Draft;
use crate::finding::{Analysis, Finding, Kind};
use crate::mail::Mail;
use crate::systems::{self, Signs, System};
use crate::transcript::refusals;
use crate::{Rules, autoreply, dsn, event, feedback, plain, text};
use memchr::memmem::Finder;
use std::sync::LazyLock;
use yamabiko_report::structure::{Media, Structure, with_lf};

/// Messages within messages beyond are not looked into.
const MAX_FORWARDS: usize = 3;

pub(crate) fn message(rules: &Rules, message: &[u8]) -> Analysis {
    nested(rules, message, 0)
}

fn nested(rules: &Rules, message: &[u8], depth: usize) -> Analysis {
    let message = with_lf(message);
    if message.trim_ascii().is_empty() {
        return nothing("empty");
    }
    if message.trim_ascii_start().starts_with(b"{")
        && let Some(found) = event::analyze(rules, &message)
    {
        return together(found);
    }
    let structure = Structure::of(&message);
    let mail = Mail::of(&structure);
    let found = read(rules, &mail, depth);
    if let Kind::NotABounce(_) = found.kind
        && depth < MAX_FORWARDS
        && let Some(inner) = &mail.inner
        && structure.parts.iter().any(|p| p.media == Media::Message)
    {
        // A bounce that somebody forwarded as an attachment.
        let within = nested(rules, inner, depth + 1);
        if matches!(within.kind, Kind::Bounce | Kind::Feedback) && !within.findings.is_empty() {
            return within;
        }
    }
    found
}

fn nothing(why: &'static str) -> Analysis {
    Analysis { kind: Kind::NotABounce(why), findings: Vec::new(), undecoded: None }
}

/// Several events in one message are one analysis.
fn together(all: Vec<Analysis>) -> Analysis {
    let mut whole = Analysis::default();
    for one in all {
        if whole.findings.is_empty() {
            whole.kind = one.kind;
        }
        whole.findings.extend(one.findings);
    }
    whole
}

fn read(rules: &Rules, mail: &Mail<'_>, depth: usize) -> Analysis {
    let is_report =
        |kind: &str| mail.structure.report_type.is_some_and(|stated| stated.eq_ignore_ascii_case(kind.as_bytes()));
    if let Some(found) = notification(rules, mail) {
        return found;
    }
    let shared = Shared::of(mail);
    if let Some(group) = &mail.feedback {
        let findings = feedback::findings(mail, group, &shared);
        let undecoded = findings.is_empty().then(|| "a feedback report that names no recipient".to_owned());
        return Analysis { kind: Kind::Feedback, findings, undecoded };
    }
    if mail.has_disposition || is_report("disposition-notification") {
        return Analysis { kind: Kind::Receipt, findings: Vec::new(), undecoded: None };
    }
    if is_report("tlsrpt") || is_report("dmarc") {
        return nothing("an aggregate report");
    }
    let signs = Signs::of(rules, &mail.human);
    if let Some(findings) = feedback::without_report(mail, &signs, &shared) {
        return Analysis { kind: Kind::Feedback, findings, undecoded: None };
    }
    let system = systems::identify(mail, &signs);
    if let Some(why) = no_notice(mail, &system) {
        return nothing(why);
    }
    if mail.has_status || is_report("delivery-status") {
        return delivery_status(rules, mail, &signs, system, &shared);
    }
    if system.points >= 4 {
        let named = plain_drafts(mail);
        if named.is_empty()
            && depth < MAX_FORWARDS
            && let Some(inner) = mail.inner.as_deref().filter(|inner| {
                inner.starts_with(b"From ")
                    || inner.starts_with(b"Return-Path:")
                    || mail.structure.parts.iter().any(|part| part.media == Media::Message)
            })
        {
            // A system that passes on the notice of another one, whole.
            let within = nested(rules, inner, depth + 1);
            if within.kind == Kind::Bounce && !within.findings.is_empty() {
                return within;
            }
        }
        let drafts = with_recipients(mail, system.machine, named);
        if !drafts.is_empty() {
            let (mut findings, mut more_than_words) = (Vec::with_capacity(drafts.len()), false);
            conclude(rules, mail, &signs, system, &shared, drafts, |finding, more| {
                // Whoever writes to people about parcels means the one to whom it is written; a notice means somebody else.
                if system.machine || !is_addressee(mail, &finding.recipient) {
                    findings.push(finding);
                    more_than_words |= more;
                }
            });
            if !findings.is_empty() && (more_than_words || system.points >= 6) {
                return Analysis { kind: Kind::Bounce, findings, undecoded: None };
            }
        }
    }
    if let Some(finding) = autoreply::finding(mail, &shared) {
        return Analysis { kind: Kind::AutoReply, findings: vec![finding], undecoded: None };
    }
    let mut found = nothing("neither a report nor the words of one");
    if system.points >= 5 {
        found.undecoded =
            Some("it looks like a notice, but it names no recipient and no error that is known".to_owned());
    }
    found
}

/// What has the words of a notice and is none, and what tells so.
fn no_notice(mail: &Mail<'_>, system: &System) -> Option<&'static str> {
    let header = mail.header();
    let has = |names: &[&str]| names.iter().any(|name| header.get(name).is_some());
    if !system.machine && has(&["List-Id", "List-Unsubscribe", "List-Post", "X-List-Administrivia"]) {
        return Some("mail of a mailing list");
    }
    // Postfix tells its postmaster about strange dialogues (notify_classes = protocol, policy, resource).
    static ERRORS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"errors from"));
    if ERRORS.find(mail.subject.as_bytes()).is_some()
        && ["SMTP server: errors from", "SMTP client: errors from", "LMTP client: errors from"]
            .iter()
            .any(|words| mail.subject.contains(words))
    {
        return Some("a postmaster's transcript of a session");
    }
    None
}

/// Is it an address that the mail itself is for?
fn is_addressee(mail: &Mail<'_>, recipient: &str) -> bool {
    let to = mail.header().get("To").map(yamabiko_report::decode::header).unwrap_or_default();
    text::one_address(&to).is_some_and(|address| address.eq_ignore_ascii_case(recipient))
}

/// A notification of Amazon SNS that came by mail: JSON in the text.
fn notification(rules: &Rules, mail: &Mail<'_>) -> Option<Analysis> {
    let human = mail.human.trim_start();
    if !human.starts_with('{') || !text::contains(&human[..text::floor(human, 4096)], "notificationtype\"") {
        return None;
    }
    let end = human.find("\n\n--").or_else(|| human.find("\n--\n")).unwrap_or(human.len());
    // Lines that are too long were cut with an exclamation mark (sendmail).
    let json = human[..end].replace("!\n ", "").replace("!\n", "").replace('\n', "");
    let found = together(event::analyze(rules, json.trim().as_bytes())?);
    let shared = Shared::of(mail);
    let mut found = found;
    for finding in &mut found.findings {
        if finding.rhost.is_empty() {
            finding.rhost = shared.received_rhost().to_owned();
        }
        if finding.lhost.is_empty() {
            finding.lhost = shared.received_lhost().to_owned();
        }
    }
    Some(found)
}

/// Reads the text for people for recipients.
fn plain_drafts(mail: &Mail<'_>) -> Vec<Draft> {
    plain::read(&mail.human, &[])
}

/// The first address in the text that is not the one to whom the notice is written, or else the first of all.
fn address_in_text<'m>(mail: &'m Mail<'_>) -> Option<&'m str> {
    let mut rest = &*mail.human;
    let mut first = None;
    for _ in 0..20 {
        let Some(found) = text::address(rest) else { break };
        if !is_addressee(mail, found.address) {
            return Some(found.address);
        }
        first = first.or(Some(found.address));
        rest = &rest[found.end..];
    }
    first
}

/// Where the text names no recipient, other places may. (A person's mail that looks like a notice mostly names its reader.)
fn with_recipients(mail: &Mail<'_>, machine: bool, mut drafts: Vec<Draft>) -> Vec<Draft> {
    drafts.retain(|d| !d.recipient.is_empty());
    let header = mail.header();
    let failed: Vec<String> = header
        .all("X-Failed-Recipients")
        .flat_map(|value| {
            String::from_utf8_lossy(value)
                .split(',')
                .filter_map(text::one_address)
                .map(text::plain_address)
                .collect::<Vec<_>>()
        })
        .take(500)
        .collect();
    if drafts.is_empty() {
        drafts = failed.into_iter().map(Draft::to).collect();
    }
    if drafts.is_empty() {
        let original = &mail.original;
        let somewhere = [&*original.received_for, &*original.to, &*original.delivered_to]
            .into_iter()
            .find(|a| !a.is_empty())
            .or_else(|| if machine { address_in_text(mail) } else { text::address(&mail.human).map(|f| f.address) });
        drafts.extend(somewhere.map(|a| Draft::to(text::plain_address(a))));
    }
    drafts
}

fn delivery_status(rules: &Rules, mail: &Mail<'_>, signs: &Signs, system: System, shared: &Shared<'_>) -> Analysis {
    let mut drafts = dsn::drafts(mail);
    let blocks = plain_drafts(mail);
    if drafts.iter().all(|d| d.recipient.is_empty()) {
        let missing = with_recipients(mail, true, blocks.clone());
        // A status without its recipient: the text says whose it is.
        if let ([only], [first, ..]) = (drafts.as_mut_slice(), missing.as_slice()) {
            only.recipient.clone_from(&first.recipient);
        } else {
            drafts = missing;
        }
    }
    for draft in &mut drafts {
        let block = blocks
            .iter()
            .find(|b| b.recipient.eq_ignore_ascii_case(&draft.recipient))
            .or_else(|| blocks.iter().find(|b| !b.alias.is_empty() && b.alias.eq_ignore_ascii_case(&draft.recipient)));
        if let Some(block) = block {
            draft.said.clone_from(&block.said);
            if draft.alias.is_empty() && !block.alias.is_empty() {
                draft.alias.clone_from(&block.alias);
            }
        }
    }
    drafts.retain(|d| !d.recipient.is_empty());
    if drafts.is_empty() {
        let undecoded = Some("a delivery status that names no recipient".to_owned());
        return Analysis { kind: Kind::Bounce, findings: Vec::new(), undecoded };
    }
    let mut findings = Vec::with_capacity(drafts.len());
    conclude(rules, mail, signs, system, shared, drafts, |finding, _| findings.push(finding));
    Analysis { kind: Kind::Bounce, findings, undecoded: None }
}

/// Decides about all recipients; `each` gets what was found, and whether there was more to go by than single words.
fn conclude(
    rules: &Rules,
    mail: &Mail<'_>,
    signs: &Signs,
    system: System,
    shared: &Shared<'_>,
    drafts: Vec<Draft>,
    mut each: impl FnMut(Finding, bool),
) {
    let alone = drafts.len() == 1;
    let refusals = if signs.quoted { refusals(&mail.human) } else { Vec::new() };
    let notice = Notice { rules, mail, signs, system, shared, several: !alone, refusals: &refusals };
    for mut draft in drafts {
        draft.alone = alone;
        let (finding, more_than_words) = finding(notice, draft);
        each(finding, more_than_words);
    }
}
