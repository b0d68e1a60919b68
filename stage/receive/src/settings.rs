//! The settings of one service of master.cf, read once per configuration. A session keeps the [`Settings`] it began
//! with; a reload gives new sessions new ones.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use yamabiko_config::{View, expand};
use yamabiko_envelope::TroubleClass;
use yamabiko_lookup::matchlist::StringList;
use yamabiko_lookup::{Maps, TableSet};
use yamabiko_message::date::Zone;
use yamabiko_milter::Milters;
use yamabiko_status::ReplyCode;
use yamabiko_tls::Level;

use crate::before_queue::BeforeQueue;
use crate::footer::Footer;
use crate::limits::Range;
use crate::peer::Discard;
use crate::restrict::Policy;
use crate::sasl::SaslSettings;
use crate::tls::{TlsSettings, TlsSource};
use crate::upstream::Upstream;

/// What is done about lines that end in LF alone (`smtpd_forbid_bare_newline`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BareNewline {
    /// `no`: as Postfix before 3.9; any dot alone on a line ends the message.
    Accept,
    /// `normalize`, `yes`: only `CRLF . CRLF` ends the message.
    #[default]
    Normalize,
    /// `note`: as `normalize`, and the disconnect line says so.
    Note,
    /// `reject`: as `normalize`, and the message is refused.
    Reject,
}

impl BareNewline {
    fn parse(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "no" => Self::Accept,
            "note" => Self::Note,
            "reject" => Self::Reject,
            _ => Self::Normalize,
        }
    }
}

/// Classes of trouble that `notify_classes` can ask notices for, and that a session can have seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorClasses(u8);

impl ErrorClasses {
    /// Policy: refused by a restriction.
    pub const POLICY: Self = Self(1);
    /// Protocol: what the client said was no SMTP.
    pub const PROTOCOL: Self = Self(2);
    /// Resource: no disk, no memory.
    pub const RESOURCE: Self = Self(4);
    /// Software: a configuration that cannot be obeyed.
    pub const SOFTWARE: Self = Self(8);
    /// Bounce: an unknown recipient.
    pub const BOUNCE: Self = Self(16);
    /// Data: a table that cannot be asked.
    pub const DATA: Self = Self(32);

    /// The classes in `notify_classes` that are about sessions.
    pub fn parse(list: &[String]) -> Self {
        let mut found = Self::default();
        for word in list {
            found.add(match word.to_ascii_lowercase().as_str() {
                "policy" => Self::POLICY,
                "protocol" => Self::PROTOCOL,
                "resource" => Self::RESOURCE,
                "software" => Self::SOFTWARE,
                "bounce" => Self::BOUNCE,
                "data" => Self::DATA,
                _ => Self::default(),
            });
        }
        found
    }
    /// Adds the classes of `other`.
    pub fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
    /// A class is in both.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
    /// The classes that are in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    /// As the rest of the program names them.
    pub fn classes(self) -> Vec<TroubleClass> {
        let all = [
            (Self::BOUNCE, TroubleClass::Bounce),
            (Self::POLICY, TroubleClass::Policy),
            (Self::PROTOCOL, TroubleClass::Protocol),
            (Self::DATA, TroubleClass::Data),
            (Self::SOFTWARE, TroubleClass::Software),
            (Self::RESOURCE, TroubleClass::Resource),
        ];
        all.into_iter().filter(|(class, _)| self.meets(*class)).map(|(_, class)| class).collect()
    }
    /// None at all.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Numbers that are different under stress (all sessions of the service in use; Postfix: STRESS_README).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// `smtpd_timeout`
    pub timeout: Duration,
    /// `smtpd_hard_error_limit`
    pub hard_error_limit: u32,
    /// `smtpd_junk_command_limit`
    pub junk_command_limit: u32,
    /// `smtpd_per_request_deadline`
    pub per_request_deadline: bool,
}

/// Everything a session wants to know.
#[allow(missing_docs)]
pub struct Settings {
    /// The service's name in master.cf: `smtp`, `submission`, `2525`.
    pub service: Arc<str>,
    pub syslog_name: Arc<str>,
    pub myhostname: Arc<str>,
    pub mail_name: Arc<str>,
    pub banner: String,
    pub normal: Pressure,
    pub stressed: Pressure,
    pub soft_error_limit: u32,
    pub error_sleep: Duration,
    pub line_limit: usize,
    pub helo_required: bool,
    pub message_size_limit: u64,
    /// `cleanup_replace_stray_cr_lf`: a CR within a line of a message becomes a blank.
    pub replace_stray_cr: bool,
    pub recipient_limit: usize,
    pub recipient_overshoot: u32,
    pub disable_vrfy: bool,
    pub smtputf8: bool,
    pub requiretls: bool,
    pub strict_smtputf8: bool,
    pub strict_rfc821: bool,
    pub delay_reject: bool,
    pub soft_bounce: bool,
    /// `smtpd_milters`
    pub milters: Option<Arc<Milters>>,
    /// `smtpd_milter_maps`: others for a client, and where their settings are.
    milter_maps: Option<(Maps, View)>,
    /// `smtpd_reject_footer`, unexpanded.
    pub reject_footer: String,
    /// `smtpd_reject_footer_maps`: a footer for a reply, in place of the usual one.
    pub reject_footer_maps: Maps,
    /// `smtpd_reject_filter_maps`: another reply for a refusal.
    pub reject_filter_maps: Maps,
    /// `smtpd_command_filter`: another command line for one of a client.
    pub command_filter: Maps,
    /// `smtpd_hide_client_session`: `Received:` does not tell of the client.
    pub hide_client: bool,
    /// What footers are made with (`smtpd_expansion_filter`).
    pub footer: Footer,
    pub bare_newline: BareNewline,
    pub bare_newline_code: u16,
    pub forbid_unauth_pipelining: bool,
    pub verp_delimiters: String,
    pub verp_filter: String,
    pub port_logging: bool,
    pub peername_lookup: bool,
    /// Encryption is demanded: without TLS no mail is taken here.
    pub enforce_tls: bool,
    pub tls: TlsSettings,
    pub sasl: SaslSettings,
    pub noop_commands: StringList,
    pub forbidden_commands: StringList,
    pub discard: Discard,
    pub connection_limit: u32,
    pub connection_rate: u32,
    pub message_rate: u32,
    pub recipient_rate: u32,
    /// Clients are counted by networks of so many bits.
    pub ipv4_prefix: u8,
    pub ipv6_prefix: u8,
    pub min_data_rate: u64,
    pub history_threshold: usize,
    pub notify_classes: ErrorClasses,
    pub error_notice_recipient: String,
    pub bounce_notice_recipient: String,
    pub content_filter: String,
    pub no_address_mappings: bool,
    pub no_header_body_checks: bool,
    pub no_unknown_recipient_checks: bool,
    pub double_bounce_sender: String,
    /// The log has room for how refusals came about.
    pub log_steps: bool,
    /// A proxy before us says who the client is.
    pub upstream: Upstream,
    /// `smtpd_proxy_filter`
    pub before_queue: Option<BeforeQueue>,
    pub verbose: bool,
    /// Sessions of this service at once; 0 is no limit.
    pub session_limit: usize,
    /// The time zone of dates in headers.
    pub zone: Zone,
    /// Restrictions, address checks and match lists.
    pub policy: Policy,
    /// For the log, once, when the settings come into force.
    pub notices: Vec<String>,
}

/// A configuration with which the server would be an open relay, or cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError(pub String);

impl std::fmt::Display for SettingsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingsError {}

fn small(view: &View, name: &str) -> u32 {
    u32::try_from(view.int(name)).unwrap_or(if view.int(name) < 0 { 0 } else { u32::MAX })
}

impl Settings {
    /// Reads the settings as a service sees them; a view without service is `sendmail -bs`. Tables are opened in `tables`.
    ///
    /// # Errors
    /// Where Postfix's server ends with `fatal:`: neither the relay nor the recipient restrictions refuse strangers.
    pub fn from(view: &View, tables: &TableSet) -> Result<Self, SettingsError> {
        let listed = |name: &str| StringList::new(tables, name, &view.text(name), false);
        let mut notices = Vec::new();
        let (discard, unknown) = Discard::parse(&view.text("smtpd_discard_ehlo_keywords"));
        notices
            .extend(unknown.into_iter().map(|word| format!("smtpd_discard_ehlo_keywords: unknown keyword \"{word}\"")));
        let tls = TlsSettings::read(view, tables);
        notices.extend(tls.options.notices.iter().cloned());
        let enforce_tls = tls.options.level == Level::Encrypt;
        let sasl = SaslSettings::read(view, tables, &mut notices);
        let upstream = Upstream::read(view, "smtpd", &mut notices);
        let before_queue = BeforeQueue::read(view, &mut notices);
        let mut milters = Milters::new(view, "smtpd_milters", &mut |text| notices.push(text)).map(Arc::new);
        let overrides = view.list("receive_override_options");
        let overridden = |word: &str| overrides.iter().any(|w| w.eq_ignore_ascii_case(word));
        if overridden("no_milters") {
            milters = None;
        }
        let by_client = Maps::open(tables, "smtpd_milter_maps", &view.text("smtpd_milter_maps"));
        let milter_maps = (!by_client.is_empty() && !overridden("no_milters")).then(|| (by_client, view.clone()));
        let policy = Policy::compile(view, tables)?;
        notices.extend(policy.notices());
        Ok(Self {
            service: view.service().map_or("smtpd", |service| &service.name).into(),
            syslog_name: view.text("syslog_name").into(),
            myhostname: view.text("myhostname").into(),
            mail_name: view.text("mail_name").into(),
            banner: view.text("smtpd_banner"),
            normal: Pressure::read(&|name| view.text(name)),
            stressed: Pressure::read(&|name| under_stress(view, name)),
            soft_error_limit: small(view, "smtpd_soft_error_limit"),
            error_sleep: view.duration("smtpd_error_sleep_time"),
            line_limit: usize::try_from(view.int("line_length_limit")).unwrap_or(0).clamp(512, 1 << 16),
            helo_required: view.bool("smtpd_helo_required"),
            message_size_limit: u64::try_from(view.int("message_size_limit")).unwrap_or(0),
            replace_stray_cr: view.bool("cleanup_replace_stray_cr_lf"),
            recipient_limit: usize::try_from(view.int("smtpd_recipient_limit")).unwrap_or(0),
            recipient_overshoot: small(view, "smtpd_recipient_overshoot_limit"),
            disable_vrfy: view.bool("disable_vrfy_command"),
            smtputf8: view.bool("smtputf8_enable"),
            requiretls: view.bool("requiretls_enable"),
            strict_smtputf8: view.bool("strict_smtputf8"),
            strict_rfc821: view.bool("strict_rfc821_envelopes"),
            delay_reject: view.bool("smtpd_delay_reject"),
            milters,
            milter_maps,
            soft_bounce: view.bool("soft_bounce"),
            reject_footer: view.raw("smtpd_reject_footer"),
            reject_filter_maps: Maps::open(tables, "smtpd_reject_filter_maps", &view.text("smtpd_reject_filter_maps")),
            command_filter: Maps::open(tables, "smtpd_command_filter", &view.text("smtpd_command_filter")),
            hide_client: view.bool("smtpd_hide_client_session"),
            reject_footer_maps: Maps::open(tables, "smtpd_reject_footer_maps", &view.text("smtpd_reject_footer_maps")),
            footer: Footer {
                myhostname: view.text("myhostname"),
                mail_name: view.text("mail_name"),
                filter: unescaped(&view.raw("smtpd_expansion_filter")),
                zone: Zone::system(),
            },
            bare_newline: BareNewline::parse(&view.text("smtpd_forbid_bare_newline")),
            bare_newline_code: u16::try_from(view.int("smtpd_forbid_bare_newline_reject_code")).unwrap_or(550),
            forbid_unauth_pipelining: view.bool("smtpd_forbid_unauth_pipelining"),
            verp_delimiters: view.text("default_verp_delimiters"),
            verp_filter: view.text("verp_delimiter_filter"),
            port_logging: view.bool("smtpd_client_port_logging"),
            peername_lookup: view.bool("smtpd_peername_lookup"),
            enforce_tls,
            tls,
            sasl,
            noop_commands: listed("smtpd_noop_commands"),
            forbidden_commands: listed("smtpd_forbidden_commands"),
            discard,
            connection_limit: small(view, "smtpd_client_connection_count_limit"),
            connection_rate: small(view, "smtpd_client_connection_rate_limit"),
            message_rate: small(view, "smtpd_client_message_rate_limit"),
            recipient_rate: small(view, "smtpd_client_recipient_rate_limit"),
            ipv4_prefix: u8::try_from(view.int("smtpd_client_ipv4_prefix_length")).unwrap_or(32),
            ipv6_prefix: u8::try_from(view.int("smtpd_client_ipv6_prefix_length")).unwrap_or(84),
            min_data_rate: u64::try_from(view.int("smtpd_min_data_rate")).unwrap_or(500).max(1),
            history_threshold: usize::try_from(view.int("smtpd_history_flush_threshold")).unwrap_or(100),
            notify_classes: ErrorClasses::parse(&view.list("notify_classes")),
            error_notice_recipient: view.text("error_notice_recipient"),
            bounce_notice_recipient: view.text("bounce_notice_recipient"),
            content_filter: view.text("content_filter"),
            no_address_mappings: overridden("no_address_mappings"),
            no_header_body_checks: overridden("no_header_body_checks"),
            no_unknown_recipient_checks: overridden("no_unknown_recipient_checks"),
            double_bounce_sender: view.text("double_bounce_sender"),
            log_steps: view.text("log_format") == "json",
            upstream,
            before_queue: before_queue.filter(|_| view.service().is_some()),
            verbose: view.service().is_some_and(|service| service.verbose > 0),
            session_limit: session_limit(view),
            zone: Zone::system(),
            policy,
            notices,
        })
    }

    /// Makes TLS ready with keys; until then STARTTLS answers `454`. What is wrong with them is told in the log.
    pub fn open_tls(&mut self, source: &TlsSource<'_>) {
        let said = self.tls.open(source);
        self.notices.extend(said);
    }

    /// The filters for a client, and what the log should warn of. A table that does not answer changes nothing: nobody
    /// passes unfiltered because of it.
    pub async fn milters_for(&self, client: IpAddr) -> (Option<Arc<Milters>>, Vec<String>) {
        let mut warnings = Vec::new();
        let Some((maps, view)) = &self.milter_maps else { return (self.milters.clone(), warnings) };
        // Few have such a table: its lookup does not belong into every session's memory.
        let milters = match Box::pin(maps.find(&client.to_string())).await {
            Ok(Some(text)) if text.trim().eq_ignore_ascii_case("DISABLE") => None,
            Ok(Some(text)) => {
                Milters::of_text(view, &text, maps.title(), &mut |text| warnings.push(text)).map(Arc::new)
            }
            Ok(None) => self.milters.clone(),
            Err(error) => {
                warnings.push(error.to_string());
                self.milters.clone()
            }
        };
        (milters, warnings)
    }

    /// A client as it is counted.
    pub fn range(&self, address: IpAddr) -> Range {
        Range::new(address, self.ipv4_prefix, self.ipv6_prefix)
    }

    /// The reply code of a refusal for bare newlines, 500 to 599.
    pub fn bare_newline_reply(&self) -> ReplyCode {
        ReplyCode(self.bare_newline_code.clamp(500, 599))
    }
}

fn session_limit(view: &View) -> usize {
    let limit = view.service().and_then(|service| service.process_limit());
    let limit = limit.map_or_else(|| view.int("default_process_limit"), i64::from);
    usize::try_from(limit).unwrap_or(0)
}

/// C escapes (`\t`, `\40`, `\\`) as the characters they stand for.
pub(crate) fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let mut octal = None;
        while let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)).filter(|_| octal.is_none_or(|n| n < 32)) {
            octal = Some(octal.unwrap_or(0) * 8 + digit);
            chars.next();
        }
        match octal {
            Some(code) => out.extend(char::from_u32(code)),
            None => out.extend(chars.next().map(|c| match c {
                't' => '\t',
                'n' => '\n',
                'r' => '\r',
                other => other,
            })),
        }
    }
    out
}

/// A value as it is with `stress = yes`.
pub(crate) fn under_stress(view: &View, name: &str) -> String {
    let lookup = |name: &str| if name == "stress" { Some("yes".to_owned()) } else { view.unexpanded(name) };
    view.unexpanded(name).and_then(|text| expand::expand(&text, &lookup).ok()).unwrap_or_default()
}

impl Pressure {
    fn read(text: &dyn Fn(&str) -> String) -> Self {
        let number = |name: &str, default: u32| text(name).parse::<u32>().unwrap_or(default);
        let timeout = yamabiko_config::value::parse_time("smtpd_timeout", &text("smtpd_timeout"))
            .ok()
            .and_then(|written| written.seconds('s'))
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(Duration::from_secs(300), Duration::from_secs);
        Self {
            timeout,
            hard_error_limit: number("smtpd_hard_error_limit", 20),
            junk_command_limit: number("smtpd_junk_command_limit", 100),
            per_request_deadline: text("smtpd_per_request_deadline").eq_ignore_ascii_case("yes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::unescaped;

    #[test]
    fn escapes_of_the_expansion_filter() {
        assert_eq!(unescaped(r"\t\40!\\ab\0401"), "\t !\\ab 1");
    }
}
