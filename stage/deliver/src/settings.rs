//! What an SMTP or LMTP client service is configured to do: one value, read once from the configuration.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use yamabiko_config::View;
use yamabiko_sasl::mechanisms::SecurityOptions;

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// smtp(8)
    Smtp,
    /// lmtp(8): LHLO, and one reply per recipient after the message.
    Lmtp,
}

/// Which address family is tried first where there are both (`smtp_address_preference`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// `any`
    Any,
    /// `ipv4`
    Ipv4,
    /// `ipv6`
    Ipv6,
}

/// How long to wait for what; zero waits as long as the system does.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// `smtp_connect_timeout`
    pub connect: Duration,
    /// `smtp_helo_timeout`, `lmtp_lhlo_timeout`: greeting and EHLO
    pub helo: Duration,
    /// `smtp_starttls_timeout`: the reply to STARTTLS, and the handshake.
    pub starttls: Duration,
    /// `smtp_xforward_timeout`
    pub xforward: Duration,
    /// `smtp_mail_timeout`
    pub mail: Duration,
    /// `smtp_rcpt_timeout`
    pub rcpt: Duration,
    /// `smtp_data_init_timeout`
    pub data_init: Duration,
    /// `smtp_data_xfer_timeout`
    pub data_transfer: Duration,
    /// `smtp_data_done_timeout`
    pub data_done: Duration,
    /// `smtp_rset_timeout`
    pub rset: Duration,
    /// `smtp_quit_timeout`
    pub quit: Duration,
}

/// When connections are kept for the next message.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// `smtp_connection_cache_on_demand`: while mail for the destination waits.
    pub on_demand: bool,
    /// `smtp_connection_cache_time_limit`, and not more than `connection_cache_ttl_limit`: how long one may be idle.
    pub idle_limit: Duration,
    /// `smtp_connection_reuse_time_limit`: how long one may live.
    pub time_limit: Duration,
    /// `smtp_connection_reuse_count_limit`: how often one may be used; 0 for no limit.
    pub count_limit: u32,
}

/// The parameters of smtp(8), or those of lmtp(8) that are named like them.
struct Own<'a> {
    view: &'a View,
    protocol: Protocol,
}

impl Own<'_> {
    fn name(&self, suffix: &str) -> String {
        let prefix = match self.protocol {
            Protocol::Smtp => "smtp_",
            Protocol::Lmtp => "lmtp_",
        };
        format!("{prefix}{suffix}")
    }

    fn is_written(&self, suffix: &str) -> bool {
        self.view.is_set(&self.name(suffix))
    }

    fn flag(&self, suffix: &str) -> bool {
        self.view.bool(&self.name(suffix))
    }

    fn text(&self, suffix: &str) -> String {
        self.view.text(&self.name(suffix))
    }

    fn list(&self, suffix: &str) -> Vec<String> {
        self.view.list(&self.name(suffix))
    }

    fn time(&self, suffix: &str) -> Duration {
        self.view.duration(&self.name(suffix))
    }

    /// No number is negative; what is too large is as large as can be.
    fn count(&self, suffix: &str) -> u32 {
        let number = self.view.int(&self.name(suffix)).max(0);
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// What the two protocols call differently.
    fn either(&self, smtp: &'static str, lmtp: &'static str) -> &'static str {
        match self.protocol {
            Protocol::Smtp => smtp,
            Protocol::Lmtp => lmtp,
        }
    }
}

impl Timeouts {
    fn read(own: &Own<'_>) -> Self {
        Self {
            connect: own.time("connect_timeout"),
            helo: own.time(own.either("helo_timeout", "lhlo_timeout")),
            starttls: own.time("starttls_timeout"),
            xforward: own.time("xforward_timeout"),
            mail: own.time("mail_timeout"),
            rcpt: own.time("rcpt_timeout"),
            data_init: own.time("data_init_timeout"),
            data_transfer: own.time("data_xfer_timeout"),
            data_done: own.time("data_done_timeout"),
            rset: own.time("rset_timeout"),
            quit: own.time("quit_timeout"),
        }
    }
}

impl CacheSettings {
    fn read(own: &Own<'_>) -> Self {
        Self {
            on_demand: own.flag("connection_cache_on_demand"),
            idle_limit: own.time("connection_cache_time_limit").min(own.view.duration("connection_cache_ttl_limit")),
            time_limit: own.time("connection_reuse_time_limit"),
            count_limit: own.count("connection_reuse_count_limit"),
        }
    }
}

impl Preference {
    fn named(word: &str) -> Self {
        match word {
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            _ => Self::Any,
        }
    }
}

/// What is set for logins.
#[derive(Clone, Debug, Default)]
pub struct SaslSettings {
    /// `smtp_sasl_mechanism_filter`: names, `!` before those that are not wanted; empty for all.
    pub filter: Vec<String>,
    /// `smtp_sasl_security_options`
    pub plain: SecurityOptions,
    /// `smtp_sasl_tls_security_options`
    pub encrypted: SecurityOptions,
    /// `smtp_sasl_tls_verified_security_options`
    pub verified: SecurityOptions,
    /// `smtp_sasl_auth_soft_bounce`
    pub soft_bounce: bool,
    /// `send_cyrus_sasl_authzid`
    pub authzid: bool,
    /// `smtp_send_dummy_mail_auth`
    pub dummy_mail_auth: bool,
    /// `smtp_sasl_auth_cache_name` is set: refused logins are remembered for `smtp_sasl_auth_cache_time`.
    pub remember_refusals: Option<Duration>,
}

impl SaslSettings {
    fn read(own: &Own<'_>) -> Self {
        let options = |suffix: &str| SecurityOptions::parse(&own.list(suffix)).0;
        let remembers = !own.text("sasl_auth_cache_name").trim().is_empty();
        Self {
            filter: own.list("sasl_mechanism_filter"),
            plain: options("sasl_security_options"),
            encrypted: options("sasl_tls_security_options"),
            verified: options("sasl_tls_verified_security_options"),
            soft_bounce: own.flag("sasl_auth_soft_bounce"),
            authzid: own.view.bool("send_cyrus_sasl_authzid"),
            dummy_mail_auth: own.flag("send_dummy_mail_auth"),
            remember_refusals: remembers.then(|| own.time("sasl_auth_cache_time")),
        }
    }

    /// The filter lets a mechanism through. As in every list of Postfix's the first word that fits decides.
    pub fn lets(&self, mechanism: &str) -> bool {
        if self.filter.is_empty() {
            return true;
        }
        let fits = |word: &&String| word.trim_start_matches('!').eq_ignore_ascii_case(mechanism);
        self.filter.iter().find(fits).is_some_and(|word| !word.starts_with('!'))
    }

    /// The filter names the mechanism.
    pub fn names(&self, mechanism: &str) -> bool {
        self.filter.iter().any(|word| word.eq_ignore_ascii_case(mechanism))
    }
}

/// What a client service is configured to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The protocol.
    pub protocol: Protocol,
    /// `myhostname`: a server of this name is ourselves.
    pub myhostname: String,
    /// `notify_classes` has `protocol`.
    pub notify_protocol: bool,
    /// `smtp_helo_name`, `lmtp_lhlo_name`
    pub helo_name: String,
    /// `smtp_always_send_ehlo`
    pub always_send_ehlo: bool,
    /// `smtp_never_send_ehlo`
    pub never_send_ehlo: bool,
    /// `smtp_discard_ehlo_keywords`
    pub discard: Discard,
    /// `smtp_send_xforward_command`
    pub send_xforward: bool,
    /// `smtp_quote_rfc821_envelope`
    pub quote_envelope: bool,
    /// `smtp_skip_5xx_greeting`
    pub skip_5xx_greeting: bool,
    /// `smtp_skip_quit_response`
    pub skip_quit_response: bool,
    /// `lmtp_assume_final`
    pub assume_final: bool,
    /// `cleanup_replace_stray_cr_lf`: no CR goes out but at the end of a line.
    pub replace_stray_cr: bool,
    /// `smtp_line_length_limit`; 0 for none.
    pub line_length_limit: usize,
    /// `disable_mime_output_conversion`: eight-bit text is sent as it is to servers that did not offer 8BITMIME.
    pub disable_mime_output_conversion: bool,
    /// `smtp_tcp_port`
    pub tcp_port: String,
    /// `relayhost`: when this is the destination, its permanent troubles are taken as configuration problems.
    pub relayhost: String,
    /// `smtp_fallback_relay`
    pub fallback_relay: Vec<String>,
    /// `best_mx_transport` is set: looping mail would go there.
    pub best_mx_transport: String,
    /// `soft_bounce`: permanent refusals are temporary, so the next host is tried.
    pub soft_bounce: bool,
    /// `smtp_dns_support_level = disabled` or `disable_dns_lookups`: no MX lookups.
    pub dns_disabled: bool,
    /// `smtp_host_lookup` has `dns`.
    pub lookup_dns: bool,
    /// `smtp_host_lookup` has `native`.
    pub lookup_native: bool,
    /// `ignore_mx_lookup_error`
    pub ignore_mx_lookup_error: bool,
    /// `smtp_defer_if_no_mx_address_found`
    pub defer_if_no_mx_address_found: bool,
    /// `inet_protocols` has IPv4.
    pub ipv4: bool,
    /// `inet_protocols` has IPv6.
    pub ipv6: bool,
    /// `smtp_address_preference`
    pub address_preference: Preference,
    /// `smtp_balance_inet_protocols`
    pub balance_inet_protocols: bool,
    /// `smtp_randomize_addresses`
    pub randomize_addresses: bool,
    /// `smtp_mx_address_limit`; 0 for none.
    pub mx_address_limit: usize,
    /// `smtp_mx_session_limit`; 0 for none.
    pub mx_session_limit: usize,
    /// `smtp_bind_address`
    pub bind_address: Option<IpAddr>,
    /// `smtp_bind_address6`
    pub bind_address6: Option<IpAddr>,
    /// `smtp_bind_address_enforce`
    pub bind_address_enforce: bool,
    /// Addresses of `inet_interfaces`: where there is just one of a family, connections come from it.
    pub interfaces: Vec<IpAddr>,
    /// `queue_directory`: relative paths of UNIX-domain sockets begin here.
    pub queue_directory: PathBuf,
    /// Addresses that this mail system listens on, proxies included: mail must not be sent there on port 25.
    pub own_addresses: Vec<IpAddr>,
    /// Probes (`sendmail -bv`) end after DATA instead of RCPT (`smtp_address_verify_target`).
    pub probe_data: bool,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Connection reuse.
    pub cache: CacheSettings,
    /// Why nothing may be sent at all, in words for the log: settings that contradict each other.
    pub refusal: Option<String>,
    /// `smtp_tls_wrappermode`: the handshake comes before the greeting.
    pub wrappermode: bool,
    /// `smtp_tls_note_starttls_offer`
    pub note_starttls_offer: bool,
    /// `minimal_backoff_time`: mail that has waited for so long may go without TLS where TLS is optional and does not work.
    pub minimal_backoff: Duration,
    /// What is set for logins.
    pub sasl: SaslSettings,
    /// `tls_required_enable`: `TLS-Required: No` in a message counts.
    pub tls_required: bool,
    /// `requiretls_enable`
    pub requiretls: bool,
    /// `smtp_log_tls_feature_status`, where that is written.
    pub log_tls_status: bool,
    /// `use_srv_lookup`: services whose hosts are found by SRV records.
    pub srv_services: Vec<String>,
    /// `allow_srv_lookup_fallback`
    pub srv_fallback: bool,
    /// `ignore_srv_lookup_error`
    pub ignore_srv_lookup_error: bool,
    /// Workarounds for PIX firewalls.
    pub pix: Pix,
    /// `smtp_per_request_deadline`: a command and its reply have to get done within their time limit together, the message
    /// within its own, which grows by a second for each so many bytes sent (`smtp_min_data_rate`).
    pub deadline: Option<u32>,
    /// `smtp_cname_overrides_servername`: a server is called as the CNAME at which its name ends.
    pub canonical_names: bool,
    /// `tcp_windowsize`: bytes of the socket's buffers; 0 leaves them to the system.
    pub window: u32,
    /// `known_tcp_ports`
    pub known_ports: Vec<(String, u16)>,
}

/// What a server offers in its reply to EHLO and is not taken up on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discard {
    /// The keywords.
    pub keywords: Vec<String>,
    /// The log does not hear of it.
    pub silently: bool,
}

impl Discard {
    /// Keywords as they are written, `silent-discard` among them.
    pub fn of(words: Vec<String>) -> Self {
        let (silent, keywords): (Vec<_>, Vec<_>) =
            words.into_iter().partition(|word| word.eq_ignore_ascii_case("silent-discard"));
        Self { keywords, silently: !silent.is_empty() }
    }
}

/// `submissions=465`; several names of one port stand before it.
fn known_ports(words: &[String]) -> Vec<(String, u16)> {
    let mut known = Vec::new();
    for word in words {
        if let Some((names, port)) = word.rsplit_once('=')
            && let Ok(port) = port.parse()
        {
            known.extend(names.split('=').map(|name| (name.to_owned(), port)));
        }
    }
    known
}

/// What is done when a greeting looks as Cisco's PIX firewalls make it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pix {
    /// `disable_esmtp` is among `smtp_pix_workarounds`.
    pub helo: bool,
    /// `delay_dotcrlf` is.
    pub dot: bool,
    /// `smtp_pix_workaround_delay_time`
    pub delay: Duration,
    /// `smtp_pix_workaround_threshold_time`: only for mail that has waited for so long.
    pub threshold: Duration,
}

impl Pix {
    fn read(own: &Own<'_>) -> Self {
        let times = Self {
            helo: false,
            dot: false,
            delay: own.time("pix_workaround_delay_time"),
            threshold: own.time("pix_workaround_threshold_time"),
        };
        times.with(&own.list("pix_workarounds"))
    }

    /// The same with the workarounds that these words name; others name none, as in Postfix.
    #[must_use]
    pub fn with(self, words: &[String]) -> Self {
        let has = |word: &str| words.iter().any(|one| one.eq_ignore_ascii_case(word));
        Self { helo: has("disable_esmtp"), dot: has("delay_dotcrlf"), ..self }
    }
}

impl Default for Settings {
    /// Postfix's defaults for smtp(8).
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            protocol: Protocol::Smtp,
            myhostname: "localhost".to_owned(),
            notify_protocol: false,
            helo_name: "localhost".to_owned(),
            always_send_ehlo: true,
            never_send_ehlo: false,
            discard: Discard::default(),
            send_xforward: false,
            quote_envelope: true,
            skip_5xx_greeting: true,
            skip_quit_response: true,
            assume_final: false,
            replace_stray_cr: true,
            line_length_limit: 998,
            disable_mime_output_conversion: false,
            tcp_port: "smtp".to_owned(),
            relayhost: String::new(),
            fallback_relay: Vec::new(),
            best_mx_transport: String::new(),
            soft_bounce: false,
            dns_disabled: false,
            lookup_dns: true,
            lookup_native: false,
            ignore_mx_lookup_error: false,
            defer_if_no_mx_address_found: false,
            ipv4: true,
            ipv6: true,
            address_preference: Preference::Any,
            balance_inet_protocols: true,
            randomize_addresses: true,
            mx_address_limit: 5,
            mx_session_limit: 2,
            bind_address: None,
            bind_address6: None,
            bind_address_enforce: false,
            interfaces: Vec::new(),
            queue_directory: PathBuf::from("/var/spool/postfix"),
            own_addresses: Vec::new(),
            probe_data: false,
            timeouts: Timeouts {
                connect: Duration::from_secs(30),
                helo: minutes(5),
                starttls: minutes(5),
                xforward: minutes(5),
                mail: minutes(5),
                rcpt: minutes(5),
                data_init: minutes(2),
                data_transfer: minutes(3),
                data_done: minutes(10),
                rset: Duration::from_secs(20),
                quit: minutes(5),
            },
            cache: CacheSettings {
                on_demand: true,
                idle_limit: Duration::from_secs(2),
                time_limit: minutes(5),
                count_limit: 0,
            },
            refusal: None,
            wrappermode: false,
            note_starttls_offer: false,
            minimal_backoff: Duration::from_secs(300),
            sasl: SaslSettings::default(),
            tls_required: true,
            requiretls: true,
            log_tls_status: false,
            srv_services: Vec::new(),
            srv_fallback: false,
            ignore_srv_lookup_error: false,
            pix: Pix::default(),
            deadline: None,
            canonical_names: false,
            window: 0,
            known_ports: Vec::new(),
        }
    }
}

impl Settings {
    /// Reads the settings of a service whose program is `smtp` or `lmtp`.
    pub fn from_view(view: &View, protocol: Protocol) -> Self {
        let own = Own { view, protocol };
        let smtp = protocol == Protocol::Smtp;
        let protocols = view.list("inet_protocols");
        let has = |word: &str| protocols.iter().any(|p| p == "all" || p == word);
        let host_lookup = own.list("host_lookup");
        let dns_disabled = view.bool("disable_dns_lookups") || own.text("dns_support_level") == "disabled";
        let interfaces: Vec<IpAddr> = view.own_addresses().collect();
        let mut own_addresses = interfaces.clone();
        own_addresses.extend(view.list("proxy_interfaces").iter().filter_map(|word| word.parse::<IpAddr>().ok()));

        Self {
            protocol,
            myhostname: view.text("myhostname"),
            notify_protocol: view.list("notify_classes").iter().any(|class| class.eq_ignore_ascii_case("protocol")),
            helo_name: own.text(own.either("helo_name", "lhlo_name")),
            always_send_ehlo: smtp && view.bool("smtp_always_send_ehlo"),
            never_send_ehlo: smtp && view.bool("smtp_never_send_ehlo"),
            discard: Discard::of(own.list(own.either("discard_ehlo_keywords", "discard_lhlo_keywords"))),
            send_xforward: own.flag("send_xforward_command"),
            quote_envelope: own.flag("quote_rfc821_envelope"),
            skip_5xx_greeting: own.flag("skip_5xx_greeting"),
            skip_quit_response: own.flag("skip_quit_response"),
            assume_final: !smtp && view.bool("lmtp_assume_final"),
            replace_stray_cr: view.bool("cleanup_replace_stray_cr_lf"),
            line_length_limit: own.count("line_length_limit") as usize,
            disable_mime_output_conversion: view.bool("disable_mime_output_conversion"),
            tcp_port: own.text("tcp_port"),
            relayhost: if smtp { view.text("relayhost") } else { String::new() },
            fallback_relay: own.list("fallback_relay"),
            best_mx_transport: if smtp { view.text("best_mx_transport") } else { String::new() },
            soft_bounce: view.bool("soft_bounce"),
            dns_disabled,
            lookup_dns: !dns_disabled && host_lookup.iter().any(|word| word == "dns"),
            lookup_native: dns_disabled || host_lookup.iter().any(|word| word == "native"),
            ignore_mx_lookup_error: smtp && view.bool("ignore_mx_lookup_error"),
            defer_if_no_mx_address_found: own.flag("defer_if_no_mx_address_found"),
            ipv4: has("ipv4"),
            ipv6: has("ipv6"),
            address_preference: Preference::named(&own.text("address_preference")),
            balance_inet_protocols: own.flag("balance_inet_protocols"),
            randomize_addresses: own.flag("randomize_addresses"),
            mx_address_limit: own.count("mx_address_limit") as usize,
            mx_session_limit: own.count("mx_session_limit") as usize,
            bind_address: own.text("bind_address").parse().ok(),
            bind_address6: own.text("bind_address6").trim_matches(['[', ']']).parse().ok(),
            bind_address_enforce: own.flag("bind_address_enforce"),
            interfaces,
            queue_directory: PathBuf::from(view.text("queue_directory")),
            own_addresses,
            probe_data: own.text("address_verify_target").eq_ignore_ascii_case("data"),
            timeouts: Timeouts::read(&own),
            cache: CacheSettings::read(&own),
            refusal: None,
            wrappermode: own.flag("tls_wrappermode"),
            note_starttls_offer: own.flag("tls_note_starttls_offer"),
            minimal_backoff: view.duration("minimal_backoff_time"),
            sasl: SaslSettings::read(&own),
            tls_required: view.bool("tls_required_enable"),
            requiretls: view.bool("requiretls_enable"),
            log_tls_status: own.is_written("log_tls_feature_status") && own.flag("log_tls_feature_status"),
            srv_services: if smtp { view.list("use_srv_lookup") } else { Vec::new() },
            srv_fallback: view.bool("allow_srv_lookup_fallback"),
            ignore_srv_lookup_error: view.bool("ignore_srv_lookup_error"),
            pix: Pix::read(&own),
            deadline: own
                .text("per_request_deadline")
                .eq_ignore_ascii_case("yes")
                .then(|| own.count("min_data_rate").max(1)),
            canonical_names: own.flag("cname_overrides_servername"),
            window: u32::try_from(view.int("tcp_windowsize")).unwrap_or(0),
            known_ports: known_ports(&view.list("known_tcp_ports")),
        }
    }
}
