//! What both agents share: giving a message to a worker, and making an outcome of what it says.

use std::io;

use yamabiko_address::domain::fold_case;
use yamabiko_envelope::{
    Action, ContentReader, DeliveryRequest, DiagnosticType, Outcome, Result as Ended, Timestamp, Trace,
};
use yamabiko_message::date::{self, Zone};
use yamabiko_status::EnhancedStatus;

use crate::job::Done;

/// Status and reason of what became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub status: EnhancedStatus,
    pub reason: String,
    /// What a command said: `Diagnostic-Code: x-unix; ...`.
    pub diagnostic: Option<String>,
    /// A worker says so, and not we.
    pub of_worker: bool,
    pub action: Action,
}

impl Verdict {
    pub(crate) fn new(status: EnhancedStatus, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), diagnostic: None, of_worker: false, action: Action::Delivered }
    }

    pub(crate) fn sent(reason: impl Into<String>) -> Self {
        Self::new(EnhancedStatus::success(0, 0), reason)
    }

    /// Our own trouble: always try again later.
    pub(crate) fn trouble(reason: impl Into<String>) -> Self {
        Self::new(EnhancedStatus::transient(3, 0), reason)
    }

    /// What a worker answered; `sent` is the reason for success.
    pub(crate) fn of(done: io::Result<Done>, sent: impl FnOnce(&str) -> String) -> Self {
        match done {
            Ok(Done::Delivered(output) | Done::Enough(output)) => Self::sent(sent(&bounded(output))),
            Ok(Done::Failed { status, reason, diagnostic }) => Self {
                status: status.parse().unwrap_or(EnhancedStatus::transient(3, 0)),
                reason: bounded(reason),
                diagnostic: diagnostic.map(bounded),
                of_worker: true,
                action: Action::Delivered,
            },
            Ok(Done::Text(_) | Done::Unsafe(_) | Done::Qmail(_) | Done::Withheld) => {
                Self::trouble("the delivery worker gave an answer to another question")
            }
            Err(error) => Self::trouble(format!("delivery worker: {error}")),
        }
    }
}

/// A worker is its user's process, so what it says is as long as its user wants. It is kept for every recipient, logged
/// and sent in notices.
fn bounded(mut reason: String) -> String {
    const LONGEST: usize = 12 << 10;
    let end = (0..=LONGEST.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
    reason.truncate(end);
    reason
}

/// The message only asks what would become of it (`sendmail -bv`): nothing is delivered, and the answer says where it
/// would have been.
pub(crate) fn is_probe(request: &DeliveryRequest) -> bool {
    matches!(request.envelope.trace, Trace::ProbeReport | Trace::Probe)
}

/// An outcome for a recipient, or for an address that it became.
pub(crate) fn outcome(
    request: &DeliveryRequest,
    recipient: usize,
    address: Option<&str>,
    verdict: Verdict,
    relay: &str,
    now: Timestamp,
) -> Outcome {
    let known = &request.recipients[recipient];
    let expanded = address.filter(|address| *address != known.address).map(str::to_owned);
    let result = Outcome::result_of(verdict.status, verdict.action);
    let diagnostic =
        verdict.diagnostic.filter(|_| !matches!(result, Ended::Sent(_))).map(|text| (DiagnosticType::Unix, text));
    Outcome {
        expanded,
        diagnostic,
        relay: relay.to_owned(),
        ..Outcome::of_our_own(known.index, result, verdict.status, verdict.reason, now)
    }
}

/// The addresses that a message has been through already, folded: its `Delivered-To:` fields.
pub(crate) struct Trail(std::collections::HashSet<String>);

impl Trail {
    /// Reads the header only, and no more of it than this many bytes.
    pub(crate) fn of(request: &DeliveryRequest) -> io::Result<Self> {
        const HEADER_LIMIT: u64 = 1 << 20;
        let mut head = Vec::new();
        let mut reader: io::Take<ContentReader> = io::Read::take(request.content.reader(), HEADER_LIMIT);
        // A small message is one piece of memory already; a large one is read until its header ends.
        let mut buffer = vec![0; 1 << 14];
        loop {
            let n = io::Read::read(&mut reader, &mut buffer)?;
            let searched = head.len().saturating_sub(1);
            head.extend_from_slice(&buffer[..n]);
            if n == 0 || head[searched..].windows(2).any(|pair| pair == b"\n\n") {
                break;
            }
        }
        let mut trail = std::collections::HashSet::new();
        for line in head.split(|b| *b == b'\n').take_while(|line| !line.is_empty()) {
            if let Some((name, value)) = line.split_at_checked(13)
                && name.eq_ignore_ascii_case(b"delivered-to:")
            {
                let value = String::from_utf8_lossy(value.trim_ascii());
                let value = value.trim_start_matches('<').trim_end_matches('>');
                trail.insert(fold_case(&yamabiko_address::unquote(value)).into_owned());
            }
        }
        Ok(Self(trail))
    }

    pub(crate) fn has(&self, address: &str) -> bool {
        self.0.contains(&*fold_case(address))
    }
}

/// `Return-Path:`, `X-Original-To:`, `Delivered-To:`, in Postfix's order (mail_copy(3)).
pub(crate) fn fields(request: &DeliveryRequest, original: Option<&str>, delivered_to: Option<&str>) -> String {
    use yamabiko_address::quote;
    let mut text = format!("Return-Path: <{}>\n", quote(&request.sender));
    for (name, value) in [("X-Original-To", original), ("Delivered-To", delivered_to)] {
        if let Some(value) = value {
            text.push_str(name);
            text.push_str(": ");
            text.push_str(&quote(value));
            text.push('\n');
        }
    }
    text
}

/// The `From ` line of an mbox: `From sender  Sat Nov 21 16:53:54 2026`, the time in the local zone.
pub(crate) fn from_line(sender: &str, at: Timestamp) -> String {
    let sender = if sender.is_empty() { "MAILER-DAEMON".into() } else { yamabiko_address::quote(sender) };
    format!("From {sender}  {}", date::ctime(at.seconds(), &Zone::system()))
}
