//! The right-hand side of a rule: an action and its text.

use yamabiko_message::field_name_len;
use yamabiko_status::{Class, EnhancedStatus};

/// What is to be done about a header field or a line (header_checks(5), ACTIONS). The text is what stands behind the
/// action's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `DUNNO`, `OK`: as if nothing had matched.
    Dunno,
    /// `IGNORE`: left out.
    Ignore,
    /// `STRIP`: left out, and said so.
    Strip(Vec<u8>),
    /// `REPLACE`: this instead.
    Replace(Vec<u8>),
    /// `PREPEND`: this before it.
    Prepend(Vec<u8>),
    /// `REJECT`: the message is refused. The status is 4.x.x or 5.x.x.
    Reject(EnhancedStatus, String),
    /// `DISCARD`: success is claimed and nothing kept.
    Discard(Vec<u8>),
    /// `HOLD`
    Hold(Vec<u8>),
    /// `WARN`
    Warn(Vec<u8>),
    /// `INFO`
    Info(Vec<u8>),
    /// `PASS`: no more checks for this message.
    Pass(Vec<u8>),
    /// `REDIRECT`: to this address instead.
    Redirect(String),
    /// `BCC`: to this address too.
    Bcc(String),
    /// `FILTER`: through `transport:destination`.
    Filter(String),
}

/// Why a right-hand side is no action. It does nothing then, and is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No such action.
    Unknown(String),
    /// An action that needs a text has none.
    Missing(&'static str),
    /// The text of PREPEND or REPLACE is no header field.
    NoHeader(&'static str, String),
    /// REDIRECT or BCC without an address.
    NoAddress(&'static str, String),
    /// FILTER without transport and destination.
    NoFilter(String),
}

impl Fault {
    /// Postfix's words for it, about a rule in the tables of `parameter`.
    pub fn text(&self, parameter: &str) -> String {
        match self {
            Self::Unknown(value) => format!("unknown command in {parameter} map: {value}"),
            Self::Missing("FILTER") => format!("missing FILTER command argument in {parameter} map"),
            Self::Missing(name) => format!("{name} action without text in {parameter} map"),
            Self::NoHeader(name, text) => {
                format!("bad {name} header text \"{text}\" in {parameter} map -- need \"headername: headervalue\"")
            }
            Self::NoAddress("BCC", text) => {
                format!("bad BCC address \"{text}\" in {parameter} map -- need user@domain")
            }
            Self::NoAddress(name, text) => {
                format!("bad {name} target \"{text}\" in {parameter} map -- need user@domain")
            }
            Self::NoFilter(text) => {
                format!("bad FILTER command {text} in {parameter} -- need transport:destination")
            }
        }
    }
}

impl Action {
    /// Reads a right-hand side; `header` says that it is about a header field and not a line of the body.
    pub fn parse(value: &[u8], header: bool) -> Result<Self, Fault> {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let end = value.iter().position(blank).unwrap_or(value.len());
        let (name, rest) = value.split_at(end);
        let text = &rest[rest.iter().take_while(|byte| blank(byte)).count()..];
        let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        let content = |name: &'static str| match text {
            [] => Err(Fault::Missing(name)),
            text if header && field_name_len(text).is_none() => Err(Fault::NoHeader(name, shown(text))),
            text => Ok(text.to_vec()),
        };
        let address = |name: &'static str| match shown(text) {
            text if text.contains('@') => Ok(text),
            text => Err(Fault::NoAddress(name, text)),
        };
        Ok(match name.to_ascii_uppercase().as_slice() {
            b"DUNNO" | b"OK" => Self::Dunno,
            b"IGNORE" => Self::Ignore,
            b"STRIP" => Self::Strip(text.to_vec()),
            b"REPLACE" => Self::Replace(content("REPLACE")?),
            b"PREPEND" => Self::Prepend(content("PREPEND")?),
            b"REJECT" => reject(&shown(text)),
            b"DISCARD" => Self::Discard(text.to_vec()),
            b"HOLD" => Self::Hold(text.to_vec()),
            b"WARN" => Self::Warn(text.to_vec()),
            b"INFO" => Self::Info(text.to_vec()),
            b"PASS" => Self::Pass(text.to_vec()),
            b"REDIRECT" => Self::Redirect(address("REDIRECT")?),
            b"BCC" => Self::Bcc(address("BCC")?),
            b"FILTER" if text.is_empty() => return Err(Fault::Missing("FILTER")),
            b"FILTER" if !text.contains(&b':') => return Err(Fault::NoFilter(shown(text))),
            b"FILTER" => Self::Filter(shown(text)),
            _ => return Err(Fault::Unknown(shown(value))),
        })
    }
}

/// REJECT's text may begin with a status; what is neither 4.x.x nor 5.x.x becomes 4 for its class.
fn reject(text: &str) -> Action {
    let default = EnhancedStatus::permanent(7, 1);
    if text.is_empty() {
        return Action::Reject(default, "message content rejected".into());
    }
    match EnhancedStatus::split(text) {
        Some((status, rest)) => {
            let status = if status.class == Class::Success {
                EnhancedStatus::transient(status.subject, status.detail)
            } else {
                status
            };
            Action::Reject(status, rest.to_owned())
        }
        None => Action::Reject(default, text.to_owned()),
    }
}
