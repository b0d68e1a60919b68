//! The commands of a client, written from a job: XFORWARD, MAIL and RCPT with what the server offers and the message
//! asks for.

use std::net::IpAddr;

use yamabiko_address::{quote, quote_strictly};
use yamabiko_envelope::{BodyType, ClientAttributes, Notify, QueueId, Ret, RewriteContext};
use yamabiko_smtp::capability::{Capabilities, Xforward};
use yamabiko_smtp::xtext;

use crate::settings::Settings;

/// One recipient of a job.
#[derive(Clone, Debug)]
pub struct Addressee<'a> {
    /// The address as it is sent (after `smtp_generic_maps`), internal form.
    pub address: String,
    /// The recipient as the sender wrote it, for ORCPT; empty when not known.
    pub original: &'a str,
    /// `ORCPT=` as it was given, `type;address`; empty when none.
    pub orcpt: &'a str,
    /// `NOTIFY=`
    pub notify: Notify,
}

/// One message for some recipients, ready to be sent.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// The message's name, for warnings.
    pub queue_id: QueueId,
    /// Where it goes, for texts.
    pub nexthop: &'a str,
    /// Envelope sender as it is sent (after `smtp_generic_maps`), internal form.
    pub sender: String,
    /// Who is to get it.
    pub recipients: Vec<Addressee<'a>>,
    /// Bytes with CRLF line ends.
    pub size: u64,
    /// `BODY=`
    pub body: BodyType,
    /// The sender asked for SMTPUTF8.
    pub smtputf8: bool,
    /// It also needs it: an address or a header is not ASCII.
    pub needs_smtputf8: bool,
    /// `ENVID=`; empty when none.
    pub envid: &'a str,
    /// `RET=`
    pub ret: Option<Ret>,
    /// For XFORWARD.
    pub client: &'a ClientAttributes,
    /// For XFORWARD SOURCE.
    pub context: RewriteContext,
    /// Ask the server about the recipients, deliver nothing.
    pub probe: bool,
    /// It has waited for so long that it may go without TLS where TLS is optional and does not work.
    pub delayed: bool,
    /// It has waited for `smtp_pix_workaround_threshold_time`.
    pub waits_for_pix: bool,
}

/// The message must be converted to seven-bit text for this server (Postfix: `SMTP_MIME_DOWNGRADE`).
pub fn needs_downgrade(job: &Job<'_>, offered: &Capabilities, settings: &Settings) -> bool {
    !settings.disable_mime_output_conversion && !offered.eight_bit_mime && job.body != BodyType::SevenBit
}

fn put_address(address: &str, settings: &Settings, out: &mut Vec<u8>) {
    out.push(b'<');
    if settings.quote_envelope && !address.is_empty() {
        put_printable(&quote_strictly(address), out);
    } else {
        put_printable(address, out);
    }
    out.push(b'>');
}

/// A line end within an address would be a command of its own.
fn put_printable(text: &str, out: &mut Vec<u8>) {
    out.extend(text.bytes().map(|b| if b < b' ' || b == 127 { b'?' } else { b }));
}

/// Appends `MAIL FROM:<...>` with its parameters.
pub fn mail(job: &Job<'_>, offered: &Capabilities, requires_tls: bool, settings: &Settings, out: &mut Vec<u8>) {
    out.extend_from_slice(b"MAIL FROM:");
    put_address(&job.sender, settings, out);
    // The size after a conversion is not known yet.
    if offered.size && !needs_downgrade(job, offered, settings) {
        out.extend_from_slice(format!(" SIZE={}", job.size).as_bytes());
    }
    if offered.eight_bit_mime {
        match job.body {
            BodyType::EightBitMime => out.extend_from_slice(b" BODY=8BITMIME"),
            BodyType::SevenBit => out.extend_from_slice(b" BODY=7BIT"),
            BodyType::Unspecified => {}
        }
    }
    if offered.dsn {
        if !job.envid.is_empty() {
            out.extend_from_slice(b" ENVID=");
            xtext::encode(job.envid, out);
        }
        match job.ret {
            Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
            Some(Ret::Headers) => out.extend_from_slice(b" RET=HDRS"),
            None => {}
        }
    }
    if offered.smtputf8 && job.smtputf8 {
        out.extend_from_slice(b" SMTPUTF8");
    }
    if offered.requiretls && requires_tls {
        out.extend_from_slice(b" REQUIRETLS");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `RCPT TO:<...>` with its parameters.
pub fn rcpt(job: &Job<'_>, to: &Addressee<'_>, offered: &Capabilities, settings: &Settings, out: &mut Vec<u8>) {
    out.extend_from_slice(b"RCPT TO:");
    put_address(&to.address, settings, out);
    if offered.dsn {
        if let Some((kind, address)) = to.orcpt.split_once(';') {
            put_orcpt(kind, address, out);
        } else if !to.original.is_empty() {
            let address = quote(to.original);
            let kind = if job.smtputf8 && !address.is_ascii() { "utf-8" } else { "rfc822" };
            put_orcpt(kind, &address, out);
        }
        put_notify(to.notify, out);
    }
    out.extend_from_slice(b"\r\n");
}

fn put_orcpt(kind: &str, address: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b" ORCPT=");
    put_printable(kind, out);
    out.push(b';');
    if kind.eq_ignore_ascii_case("utf-8") {
        put_unitext(address, out);
    } else {
        xtext::encode(address, out);
    }
}

/// `utf-8-addr-xtext` (RFC 6533 section 3): all of it ASCII, so that any server can take it.
fn put_unitext(text: &str, out: &mut Vec<u8>) {
    for c in text.chars() {
        match c {
            '\\' | '+' | '=' => out.extend_from_slice(format!("\\x{{{:02X}}}", u32::from(c)).as_bytes()),
            '!'..='~' => out.push(c as u8),
            _ => out.extend_from_slice(format!("\\x{{{:02X}}}", u32::from(c)).as_bytes()),
        }
    }
}

fn put_notify(notify: Notify, out: &mut Vec<u8>) {
    let words =
        [(notify.never, "NEVER"), (notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
    let asked: Vec<&str> = words.iter().filter(|(asked, _)| *asked).map(|(_, word)| *word).collect();
    if !asked.is_empty() {
        out.extend_from_slice(b" NOTIFY=");
        out.extend_from_slice(asked.join(",").as_bytes());
    }
}

/// There is something to say in the first XFORWARD command.
pub fn has_xforward_name(job: &Job<'_>, offered: Xforward) -> bool {
    let client = job.client;
    (offered.name && !client.name.is_empty())
        || (offered.addr && client.address.is_some())
        || (offered.port && client.port != 0)
}

/// There is something to say in the second XFORWARD command. The message always has an identity and a context.
pub fn has_xforward_protocol(job: &Job<'_>, offered: Xforward) -> bool {
    let client = job.client;
    (offered.proto && !client.protocol.is_empty())
        || (offered.helo && !client.helo.is_empty())
        || offered.ident
        || offered.source
}

/// Appends XFORWARD with the client's name, address and port.
pub fn xforward_name(job: &Job<'_>, offered: Xforward, out: &mut Vec<u8>) {
    let client = job.client;
    out.extend_from_slice(b"XFORWARD");
    if offered.name && !client.name.is_empty() {
        put_attribute("NAME", &client.name, out);
    }
    if let Some(address) = client.address.filter(|_| offered.addr) {
        let text = match address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("IPv6:{v6}"),
        };
        put_attribute("ADDR", &text, out);
    }
    if offered.port && client.port != 0 {
        put_attribute("PORT", &client.port.to_string(), out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends XFORWARD with the client's protocol and HELO name, the message's identity and where it came from.
pub fn xforward_protocol(job: &Job<'_>, offered: Xforward, out: &mut Vec<u8>) {
    let client = job.client;
    out.extend_from_slice(b"XFORWARD");
    if offered.proto && !client.protocol.is_empty() {
        put_attribute("PROTO", &client.protocol, out);
    }
    if offered.helo && !client.helo.is_empty() {
        put_attribute("HELO", &client.helo, out);
    }
    if offered.ident {
        if client.ident.is_empty() {
            put_attribute("IDENT", &job.queue_id.to_string(), out);
        } else {
            put_attribute("IDENT", &client.ident, out);
        }
    }
    if offered.source {
        put_attribute("SOURCE", if job.context == RewriteContext::Local { "LOCAL" } else { "REMOTE" }, out);
    }
    out.extend_from_slice(b"\r\n");
}

fn put_attribute(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.push(b'=');
    xtext::encode(value, out);
}
