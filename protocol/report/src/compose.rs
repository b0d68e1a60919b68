//! One notice written out (RFC 3464, RFC 3462, RFC 6533; Postfix: `bounce_notify_util`).

use std::borrow::Cow;

use yamabiko_address::header::AddressList;
use yamabiko_message::header_block;
use yamabiko_status::EnhancedStatus;

use crate::template::Template;
use crate::wrap::wrap;

/// What a notice tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Action: failed`
    Failed,
    /// `Action: delayed`, with `Will-Retry-Until:`
    Delayed,
    /// Success, or a trace: the recipient's own action.
    Settled,
}

/// `Content-Transfer-Encoding:` of the notice, by what the message it returns may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEncoding {
    /// Nobody said: no such header.
    Unknown,
    /// `7bit`
    SevenBit,
    /// `8bit`
    EightBit,
}

/// The message the notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Original<'a> {
    /// The whole message.
    Full(&'a [u8]),
    /// The message, or enough of it to hold its headers; only these are returned.
    HeadersOf(&'a [u8]),
    /// It could not be read.
    Unavailable,
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientReport {
    /// Final recipient, internal form.
    pub address: String,
    /// As it was given, internal form, if it is another: `(expanded from <...>)`. Empty when not.
    pub original: String,
    /// `Original-Recipient:` as `type;address`; empty when it is not known.
    pub orcpt: String,
    /// `Action:`
    pub action: &'static str,
    /// `Status:`
    pub status: EnhancedStatus,
    /// The reason, for people.
    pub reason: String,
    /// `Remote-MTA:` without its type; empty when there is none.
    pub remote_mta: String,
    /// `Diagnostic-Code:` with its type (`smtp; 550 ...`); empty: the reason itself, as our own text.
    pub diagnostic: String,
}

/// Everything that stands in one notice. Dates are written by the caller (`yamabiko_message::date`).
#[derive(Clone, Debug)]
pub struct Notice<'a> {
    /// What it tells.
    pub kind: Kind,
    /// From, Subject, charset and text; `text` expanded already.
    pub template: &'a Template,
    /// A copy for the postmaster: other subject, no text for people.
    pub postmaster_copy: bool,
    /// `Date:`
    pub date: &'a str,
    /// To whom it goes, internal form.
    pub to: &'a str,
    /// Put after `@` in addresses of the header without a domain; `None` leaves them alone.
    pub append_domain: Option<&'a str>,
    /// The original's Message-ID with its angle brackets, for `References:`; `None` for no thread.
    pub thread: Option<&'a str>,
    /// The notice's own, with angle brackets.
    pub message_id: &'a str,
    /// Boundary between the parts: `QUEUEID.SECONDS/HOST` in Postfix.
    pub boundary: &'a str,
    /// `Reporting-MTA:`, our host name.
    pub reporting_mta: &'a str,
    /// `mail_name`, for `X-Postfix-...` fields.
    pub mail_name: &'a str,
    /// The original message's queue ID.
    pub queue_id: &'a str,
    /// Its envelope sender, internal form: `X-Postfix-Sender:` and `Return-Path:`; the null sender has been replaced.
    pub sender: &'a str,
    /// Its `ENVID`; empty when none.
    pub envid: &'a str,
    /// `Arrival-Date:`
    pub arrival_date: &'a str,
    /// `Will-Retry-Until:`, for [`Kind::Delayed`].
    pub retry_until: &'a str,
    /// By the original message.
    pub encoding: BodyEncoding,
    /// The original was sent with SMTPUTF8: the types of RFC 6533.
    pub smtputf8: bool,
    /// What became of whom.
    pub recipients: &'a [RecipientReport],
    /// The message it is about.
    pub original: Original<'a>,
}

/// RFC 822 specials and blanks, which cannot stand in a field name, as hyphens.
fn field_name_part(mail_name: &str) -> String {
    let special = |c: char| c.is_ascii_control() || c.is_whitespace() || "()<>@,;:\\\".[]".contains(c) || !c.is_ascii();
    mail_name.chars().map(|c| if special(c) { '-' } else { c }).collect()
}

/// `utf-8` for an address that needs it (RFC 6533 section 3).
fn address_type(address: &str) -> &'static str {
    if address.is_ascii() { "rfc822" } else { "utf-8" }
}

/// One line, whatever the text: control characters would end a header or a field.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    match text.contains(char::is_control) {
        true => text.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        false => Cow::Borrowed(text),
    }
}

impl Notice<'_> {
    /// The notice: headers from `Date:` on (`Received:` is added by whoever queues it), empty line, body. LF line ends.
    pub fn compose(&self) -> Vec<u8> {
        let returned = match self.original {
            Original::Full(message) => message.len(),
            Original::HeadersOf(message) => header_block(message).len(),
            Original::Unavailable => 0,
        };
        let mut writer = Writer { notice: self, out: Vec::with_capacity(returned + 4096) };
        writer.header();
        writer.text_part();
        writer.status_part();
        writer.original_part();
        writer.out
    }
}

const WIDTH: usize = 79;
const INDENT: usize = 4;

struct Writer<'n> {
    notice: &'n Notice<'n>,
    out: Vec<u8>,
}

impl Writer<'_> {
    /// A line of so many pieces.
    fn pieces(&mut self, pieces: &[&str]) {
        pieces.iter().for_each(|piece| self.out.extend_from_slice(piece.as_bytes()));
        self.out.push(b'\n');
    }
    fn line(&mut self, text: &str) {
        self.pieces(&[text]);
    }
    fn field(&mut self, name: &str, value: &str) {
        self.pieces(&[name, ": ", value]);
    }
    /// A field whose value begins with a type: `dns; mx.example.com`.
    fn typed(&mut self, name: &str, kind: &str, value: &str) {
        self.pieces(&[name, ": ", kind, "; ", value]);
    }
    fn boundary(&mut self, end: &str) {
        self.pieces(&["--", self.notice.boundary, end]);
    }
    /// True when parts of the notice must say that they are 8-bit.
    fn is_eight_bit(&self) -> bool {
        self.notice.encoding == BodyEncoding::EightBit
    }
    fn part_encoding(&mut self) {
        if self.is_eight_bit() {
            self.field("Content-Transfer-Encoding", "8bit");
        }
    }

    /// An address header as cleanup would leave it: addresses without a domain get ours.
    fn address_field(&mut self, name: &str, value: &str) {
        let mut list = AddressList::parse(value.as_bytes());
        let domain = self.notice.append_domain;
        let changed = list.replace(|address| match domain {
            Some(domain) if !address.is_empty() && !address.contains('@') => Some(format!("{address}@{domain}")),
            _ => None,
        });
        if changed {
            self.out.extend_from_slice(&list.to_header(name).text);
            self.out.push(b'\n');
        } else {
            self.field(name, value);
        }
    }

    fn header(&mut self) {
        let notice = self.notice;
        self.field("Date", notice.date);
        self.address_field("From", &notice.template.from);
        let subject =
            if notice.postmaster_copy { &notice.template.postmaster_subject } else { &notice.template.subject };
        self.field("Subject", subject);
        self.address_field("To", &yamabiko_address::quote(&one_line(notice.to)));
        if let Some(id) = notice.thread {
            self.field("References", id);
            self.field("In-Reply-To", id);
        }
        // RFC 3834 section 5.
        self.field("Auto-Submitted", if notice.postmaster_copy { "auto-generated" } else { "auto-replied" });
        self.field("MIME-Version", "1.0");
        self.field("Content-Type", "multipart/report; report-type=delivery-status;");
        self.pieces(&["\tboundary=\"", notice.boundary, "\""]);
        match notice.encoding {
            BodyEncoding::Unknown => {}
            BodyEncoding::SevenBit => self.field("Content-Transfer-Encoding", "7bit"),
            BodyEncoding::EightBit => self.field("Content-Transfer-Encoding", "8bit"),
        }
        self.field("Message-Id", notice.message_id);
        self.line("");
        self.line("This is a MIME-encapsulated message.");
        self.line("");
    }

    fn text_part(&mut self) {
        let notice = self.notice;
        self.boundary("");
        self.field("Content-Description", "Notification");
        let charset = match notice.template.charset.as_str() {
            // Addresses and reasons in the text may be UTF-8.
            ascii if ascii.eq_ignore_ascii_case("us-ascii") && self.is_eight_bit() => "utf-8",
            charset => charset,
        };
        self.pieces(&["Content-Type: text/plain; charset=", charset]);
        self.part_encoding();
        self.line("");
        if !notice.postmaster_copy {
            self.out.extend_from_slice(&notice.template.text);
        }
        for recipient in notice.recipients {
            self.line("");
            let address = yamabiko_address::quote(&recipient.address);
            let text = if recipient.original.is_empty() || recipient.original == recipient.address {
                ["<", &address, ">: ", &recipient.reason].concat()
            } else {
                let original = yamabiko_address::quote(&recipient.original);
                ["<", &address, "> (expanded from <", &original, ">): ", &recipient.reason].concat()
            };
            wrap(&mut self.out, &one_line(&text), WIDTH, INDENT);
        }
        self.line("");
    }

    fn status_part(&mut self) {
        let notice = self.notice;
        self.boundary("");
        self.field("Content-Description", "Delivery report");
        let global = if notice.smtputf8 { "global-" } else { "" };
        self.pieces(&["Content-Type: message/", global, "delivery-status"]);
        if notice.smtputf8 {
            self.part_encoding();
        }
        self.line("");
        self.typed("Reporting-MTA", "dns", notice.reporting_mta);
        if !notice.envid.is_empty() {
            self.field("Original-Envelope-Id", &one_line(notice.envid));
        }
        let name = field_name_part(notice.mail_name);
        self.pieces(&["X-", &name, "-Queue-ID: ", notice.queue_id]);
        if !notice.sender.is_empty() {
            let sender = yamabiko_address::quote(notice.sender);
            let sender = one_line(&sender);
            self.pieces(&["X-", &name, "-Sender: ", address_type(&sender), "; ", &sender]);
        }
        self.field("Arrival-Date", notice.arrival_date);
        for recipient in notice.recipients {
            self.recipient_fields(recipient, &name);
        }
        self.line("");
    }

    fn recipient_fields(&mut self, recipient: &RecipientReport, name: &str) {
        let notice = self.notice;
        self.line("");
        let address = yamabiko_address::quote(&recipient.address);
        let address = one_line(&address);
        self.typed("Final-Recipient", address_type(&address), &address);
        if !recipient.orcpt.is_empty() {
            self.field("Original-Recipient", &one_line(&recipient.orcpt));
        } else if !recipient.original.is_empty() {
            let original = yamabiko_address::quote(&recipient.original);
            let original = one_line(&original);
            self.typed("Original-Recipient", address_type(&original), &original);
        }
        self.field("Action", if notice.kind == Kind::Failed { "failed" } else { recipient.action });
        self.field("Status", &recipient.status.to_string());
        if !recipient.remote_mta.is_empty() {
            let text = ["Remote-MTA: dns; ", &recipient.remote_mta].concat();
            wrap(&mut self.out, &one_line(&text), WIDTH, INDENT);
        }
        let diagnostic = if recipient.diagnostic.is_empty() {
            ["Diagnostic-Code: X-", name, "; ", &recipient.reason].concat()
        } else {
            ["Diagnostic-Code: ", &recipient.diagnostic].concat()
        };
        wrap(&mut self.out, &one_line(&diagnostic), WIDTH, INDENT);
        if notice.kind == Kind::Delayed {
            self.field("Will-Retry-Until", notice.retry_until);
        }
    }

    fn original_part(&mut self) {
        let notice = self.notice;
        self.boundary("");
        let whole = matches!(notice.original, Original::Full(_));
        let un = if notice.kind == Kind::Settled { "" } else { "Undelivered " };
        self.pieces(&["Content-Description: ", un, "Message", if whole { "" } else { " Headers" }]);
        let content_type = match (notice.smtputf8, whole) {
            (false, true) => "message/rfc822",
            (false, false) => "text/rfc822-headers",
            (true, true) => "message/global",
            (true, false) => "message/global-headers",
        };
        self.field("Content-Type", content_type);
        self.part_encoding();
        self.line("");
        let sender = yamabiko_address::quote(notice.sender);
        self.pieces(&["Return-Path: <", &one_line(&sender), ">"]);
        match notice.original {
            Original::Full(message) => self.out.extend_from_slice(message),
            Original::HeadersOf(message) => self.out.extend_from_slice(header_block(message)),
            Original::Unavailable => self.line("\t--- Undelivered message unavailable ---"),
        }
        if !self.out.ends_with(b"\n") {
            self.line("");
        }
        self.line("");
        self.boundary("--");
    }
}
