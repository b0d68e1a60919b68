//! The settings of notices.

use std::sync::OnceLock;
use std::time::Duration;

use yamabiko_config::View;
use yamabiko_envelope::{BodyType, Envelope, Ret, TlsWish};
use yamabiko_report::{BodyEncoding, Template, Templates};

use crate::language::Languages;
use crate::{Controls, Wanted};

/// Which copies the postmaster gets (`notify_classes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Classes {
    pub(crate) bounce: bool,
    pub(crate) double_bounce: bool,
    pub(crate) delay: bool,
}

/// Decides on notices and composes them. Made once per configuration.
#[derive(Clone, Debug)]
pub struct Bouncer {
    pub(crate) view: View,
    pub(crate) templates: Templates,
    pub(crate) built_in: Templates,
    pub(crate) myhostname: String,
    pub(crate) mail_name: String,
    /// For addresses without a domain; `None` when they stay as they are.
    pub(crate) append_domain: Option<String>,
    /// `double_bounce_sender` with our host name.
    pub(crate) double_bounce: String,
    pub(crate) classes: Classes,
    pub(crate) bounce_recipient: String,
    pub(crate) double_bounce_recipient: String,
    pub(crate) delay_recipient: String,
    pub(crate) size_limit: u64,
    pub(crate) queue_lifetime: Duration,
    pub(crate) threaded: bool,
    pub(crate) verp_bounces: bool,
    pub(crate) smtputf8: bool,
    /// `requiretls_redact_dsn`
    pub(crate) redact: bool,
    /// `bounce_style = qmail`
    pub(crate) qmail: bool,
    /// User and domain in `From:`, where they are not the template's.
    pub(crate) from_user: Option<String>,
    pub(crate) from_domain: Option<String>,
    /// Notices that could not be delivered are always told of, as qmail does.
    pub(crate) always_double: bool,
    /// `confirm_delay_cleared`
    pub(crate) confirm_delay_cleared: bool,
    pub(crate) languages: Languages,
    /// Templates as they stand in every notice, in the order of [`yamabiko_report::TemplateKind::ALL`].
    pub(crate) expanded: [OnceLock<Ready>; 4],
    /// Those of copies for the postmaster, which have no text.
    pub(crate) copies: [OnceLock<Template>; 4],
}

/// A template filled in, and the warnings that each notice of its kind repeats.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub(crate) template: Template,
    pub(crate) warnings: Vec<String>,
}

impl Bouncer {
    /// From a view, and the text of `bounce_template_file` with its name where that is set. What comes with it are
    /// warnings for the log. A template that cannot be used, or a file, is replaced by the built-in one.
    pub fn new(view: &View, template_file: Option<(&str, &[u8])>) -> (Self, Vec<String>) {
        let obsolete_from = view.text("header_from_format").eq_ignore_ascii_case("obsolete");
        let built_in = Templates::built_in(obsolete_from);
        let (templates, warnings) = match template_file {
            None => (built_in.clone(), Vec::new()),
            Some((name, file)) => match Templates::read(file, name, obsolete_from) {
                Ok(read) => read,
                Err(error) => (built_in.clone(), vec![format!("{error} -- using the built-in templates")]),
            },
        };
        let listed = view.list("notify_classes");
        let has = |class: &str| listed.iter().any(|word| word.eq_ignore_ascii_case(class));
        let myhostname = view.text("myhostname");
        let bouncer = Self {
            templates,
            built_in,
            mail_name: view.text("mail_name"),
            append_domain: view.bool("append_at_myorigin").then(|| view.text("myorigin")),
            double_bounce: format!("{}@{myhostname}", view.text("double_bounce_sender")),
            classes: Classes { bounce: has("bounce"), double_bounce: has("2bounce"), delay: has("delay") },
            bounce_recipient: view.text("bounce_notice_recipient"),
            double_bounce_recipient: view.text("2bounce_notice_recipient"),
            delay_recipient: view.text("delay_notice_recipient"),
            size_limit: u64::try_from(view.int("bounce_size_limit")).unwrap_or(0),
            queue_lifetime: view.duration("maximal_queue_lifetime"),
            threaded: view.bool("enable_threaded_bounces"),
            verp_bounces: !view.bool("disable_verp_bounces"),
            smtputf8: view.bool("smtputf8_enable"),
            redact: view.bool("requiretls_redact_dsn"),
            qmail: view.text("bounce_style") == "qmail",
            always_double: view.text("bounce_style") == "qmail",
            from_user: given(view, "bounce_from_user"),
            from_domain: given(view, "bounce_from_domain"),
            confirm_delay_cleared: view.bool("confirm_delay_cleared"),
            languages: Languages {
                wanted: view.list("bounce_language"),
                jis: view.text("bounce_japanese_charset") == "iso-2022-jp",
                ..Languages::default()
            },
            view: view.clone(),
            myhostname,
            expanded: Default::default(),
            copies: Default::default(),
        };
        (bouncer, warnings)
    }

    /// With what qmail's control files say. What main.cf says counts before them; the warnings tell where it does.
    #[must_use]
    pub fn with_controls(mut self, controls: &Controls) -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        let mut put =
            |file: &str, parameter: &str, mine: &mut Option<String>, other: &Option<String>| match (&*mine, other) {
                (Some(mine), Some(other)) if mine != other => {
                    warnings.push(format!("{file}: it is not used, because main.cf has {parameter}"));
                }
                (None, Some(other)) => *mine = Some(other.clone()),
                _ => {}
            };
        put("bouncefrom", "bounce_from_user", &mut self.from_user, &controls.from);
        put("bouncehost", "bounce_from_domain", &mut self.from_domain, &controls.host);
        if controls.double_to.is_some() || controls.double_host.is_some() {
            let set = self.view.is_set("2bounce_notice_recipient");
            let user = controls.double_to.as_deref().unwrap_or("postmaster");
            let host = controls.double_host.as_deref().unwrap_or(&self.myhostname);
            let mut mine = set.then(|| self.double_bounce_recipient.clone());
            put("doublebounceto", "2bounce_notice_recipient", &mut mine, &Some(format!("{user}@{host}")));
            self.double_bounce_recipient = mine.unwrap_or_default();
            self.always_double = true;
        }
        if let Some(lifetime) = controls.lifetime {
            if self.view.is_set("maximal_queue_lifetime") {
                warnings.push("queuelifetime: it is not used, because main.cf has maximal_queue_lifetime".to_owned());
            } else {
                self.queue_lifetime = lifetime;
            }
        }
        (self, warnings)
    }

    /// A sender who was told of a delay is to hear that it is over (`confirm_delay_cleared`).
    pub fn confirms_delay_cleared(&self) -> bool {
        self.confirm_delay_cleared
    }

    /// The address that notices to the postmaster come from: `double-bounce@$myhostname`. Mail to it is dropped.
    pub fn double_bounce_address(&self) -> &str {
        &self.double_bounce
    }

    /// How much of the message [`failed`](Self::failed) needs. Delay and success notices only need the headers.
    pub fn wanted(&self, envelope: &Envelope) -> Wanted {
        let too_large = self.size_limit > 0 && envelope.size > self.size_limit;
        if too_large
            || ((envelope.ret == Some(Ret::Headers) || (envelope.tls == TlsWish::Required && self.redact))
                && !envelope.sender.is_empty())
        {
            Wanted::Headers
        } else {
            Wanted::Full
        }
    }

    /// What a notice about this message has to say of its own bytes.
    pub(crate) fn encoding(&self, envelope: &Envelope) -> BodyEncoding {
        match envelope.body {
            _ if self.smtputf8 => BodyEncoding::EightBit,
            BodyType::EightBitMime => BodyEncoding::EightBit,
            BodyType::SevenBit => BodyEncoding::SevenBit,
            BodyType::Unspecified => BodyEncoding::Unknown,
        }
    }
}

/// A text that is not empty.
fn given(view: &View, name: &str) -> Option<String> {
    Some(view.text(name)).filter(|text| !text.is_empty())
}
