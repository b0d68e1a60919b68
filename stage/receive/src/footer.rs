//! `smtpd_reject_footer`, `postscreen_reject_footer`: text after every refusal, so that people know whom to ask.

use yamabiko_config::expand;
use yamabiko_envelope::Timestamp;
use yamabiko_message::date::Zone;
use yamabiko_status::EnhancedStatus;

/// What the footers of a service are made with.
#[derive(Clone, Debug)]
pub struct Footer {
    /// `$myhostname`, `$server_name`
    pub myhostname: String,
    /// `$mail_name`
    pub mail_name: String,
    /// Characters that may come into a footer from a client.
    pub filter: String,
    /// The zone of `$localtime`.
    pub zone: Zone,
}

/// What `$name` can stand for in the footer.
pub(crate) struct FooterFacts<'a> {
    pub(crate) client: &'a str,
    pub(crate) client_name: &'a str,
    pub(crate) client_address: String,
    pub(crate) client_port: u16,
    pub(crate) helo_name: &'a str,
    pub(crate) sender: &'a str,
    pub(crate) recipient: &'a str,
    pub(crate) now: Timestamp,
}

/// The lines of a refusal with its footer: `\c` at the front continues the line of the refusal, `\n` begins a new one.
pub(crate) fn append(reply: &str, footer: &str, settings: &Footer, facts: &FooterFacts<'_>) -> Vec<String> {
    let lookup = |name: &str| value(name, settings, facts);
    let footer = expand::expand(footer, &lookup).unwrap_or_else(|_| footer.to_owned());
    let (code, rest) = reply.split_at_checked(3).unwrap_or((reply, ""));
    let text = rest.trim_start();
    let status = EnhancedStatus::split(text).map(|(status, _)| format!("{status} ")).unwrap_or_default();
    let mut first = reply.to_owned();
    let footer = match footer.strip_prefix("\\c") {
        Some(footer) => {
            let (same_line, more) = footer.split_once("\\n").unwrap_or((footer, ""));
            first.push_str(same_line);
            more.to_owned()
        }
        None => footer,
    };
    let more: Vec<&str> = if footer.is_empty() { Vec::new() } else { footer.split("\\n").collect() };
    let last = more.len();
    let mut lines = Vec::with_capacity(1 + last);
    if last > 0 {
        // A code has a blank after it, which becomes a hyphen in all lines but the last.
        first.replace_range(..first.len().min(4), &format!("{code}-"));
    }
    lines.push(first);
    for (at, line) in more.into_iter().enumerate() {
        let separator = if at + 1 < last { '-' } else { ' ' };
        lines.push(format!("{code}{separator}{status}{line}"));
    }
    lines
}

fn value(name: &str, settings: &Footer, facts: &FooterFacts<'_>) -> Option<String> {
    let part = |address: &str, domain: bool| {
        let (local, name) = yamabiko_address::split_domain(address);
        if domain { name.unwrap_or_default().to_owned() } else { local.to_owned() }
    };
    let ours = match name {
        "myhostname" => Some(settings.myhostname.clone()),
        "mail_name" => Some(settings.mail_name.clone()),
        "server_name" => Some(settings.myhostname.clone()),
        "localtime" => Some(local_time(facts.now, settings)),
        _ => None,
    };
    if ours.is_some() {
        return ours;
    }
    let text = match name {
        "client" => facts.client.to_owned(),
        "client_name" => facts.client_name.to_owned(),
        "client_address" => facts.client_address.clone(),
        "client_port" => facts.client_port.to_string(),
        "helo_name" => facts.helo_name.to_owned(),
        "sender" => if facts.sender.is_empty() { "<>" } else { facts.sender }.to_owned(),
        "sender_name" => part(facts.sender, false),
        "sender_domain" => part(facts.sender, true),
        "recipient" => facts.recipient.to_owned(),
        "recipient_name" => part(facts.recipient, false),
        "recipient_domain" => part(facts.recipient, true),
        _ => return Some(String::new()),
    };
    // A client must not put backslashes (line ends, see above) or control characters here.
    let fine = |c: char| settings.filter.contains(c) && !c.is_control() && c != '\\';
    Some(text.chars().map(|c| if fine(c) { c } else { '_' }).collect())
}

/// `Jan 15 12:00:01`
fn local_time(now: Timestamp, settings: &Footer) -> String {
    let text = yamabiko_message::date::ctime(now.seconds(), &settings.zone);
    // `Sat Nov 21 16:53:54 2026`: without weekday and year.
    text.get(4..19).unwrap_or_default().to_owned()
}
