//! Reply codes (RFC 5321 section 4.2) and enhanced status codes (RFC 3463), and the classes they share.
//!
//! An [`EnhancedStatus`] is `class.subject.detail`; a [`ReplyCode`] is the three digits before it. The first digit
//! of both must agree in every reply that we write ([`EnhancedStatus::agreeing_with`]): that is what Postfix does,
//! and what readers of logs and reports rely on.

use std::fmt;
use std::str::FromStr;

/// The class of an enhanced status code: its first digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// `2.X.X`
    Success,
    /// `4.X.X`: persistent transient failure, try again later.
    Transient,
    /// `5.X.X`: permanent failure.
    Permanent,
}

impl Class {
    /// The digit written for the class.
    pub fn digit(self) -> u8 {
        match self {
            Class::Success => 2,
            Class::Transient => 4,
            Class::Permanent => 5,
        }
    }
}

/// An enhanced status code (RFC 3463 section 2): class, subject and detail, the latter two 0 to 999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnhancedStatus {
    /// First number.
    pub class: Class,
    /// Second number, 0 to 999.
    pub subject: u16,
    /// Third number, 0 to 999.
    pub detail: u16,
}

impl EnhancedStatus {
    /// A code of class 2.
    pub const fn success(subject: u16, detail: u16) -> Self {
        Self { class: Class::Success, subject, detail }
    }
    /// A code of class 4.
    pub const fn transient(subject: u16, detail: u16) -> Self {
        Self { class: Class::Transient, subject, detail }
    }
    /// A code of class 5.
    pub const fn permanent(subject: u16, detail: u16) -> Self {
        Self { class: Class::Permanent, subject, detail }
    }

    /// The same code in the class of an SMTP reply code, as Postfix's `dsn_prefix` adjustment does.
    /// A reply code outside 2xx, 4xx and 5xx leaves the class alone.
    pub fn agreeing_with(self, code: ReplyCode) -> Self {
        let class = match code.0 / 100 {
            2 => Class::Success,
            4 => Class::Transient,
            5 => Class::Permanent,
            _ => self.class,
        };
        Self { class, ..self }
    }

    /// Splits `"5.1.1 text"` into the code and the text after it, blanks between dropped. `None` when the text does
    /// not begin with a code that ends at a blank or at the end. (Postfix: `dsn_valid`, `dsn_split`.)
    pub fn split(text: &str) -> Option<(Self, &str)> {
        let end = text.find(|c: char| c.is_ascii_whitespace()).unwrap_or(text.len());
        let code = text[..end].parse().ok()?;
        Some((code, text[end..].trim_start()))
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class.digit(), self.subject, self.detail)
    }
}

/// The text was not an enhanced status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAStatus;

impl fmt::Display for NotAStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an enhanced status code (class.subject.detail)")
    }
}

impl std::error::Error for NotAStatus {}

impl FromStr for EnhancedStatus {
    type Err = NotAStatus;

    fn from_str(s: &str) -> Result<Self, NotAStatus> {
        let mut parts = s.split('.');
        let (Some(class), Some(subject), Some(detail), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotAStatus);
        };
        let class = match class {
            "2" => Class::Success,
            "4" => Class::Transient,
            "5" => Class::Permanent,
            _ => return Err(NotAStatus),
        };
        let number = |part: &str| match part.len() {
            1..=3 if part.bytes().all(|b| b.is_ascii_digit()) => part.parse::<u16>().map_err(|_| NotAStatus),
            _ => Err(NotAStatus),
        };
        Ok(Self { class, subject: number(subject)?, detail: number(detail)? })
    }
}

/// An SMTP reply code, 200 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyCode(pub u16);

impl ReplyCode {
    /// 2xx
    pub fn is_success(self) -> bool {
        self.0 / 100 == 2
    }
    /// 3xx
    pub fn is_intermediate(self) -> bool {
        self.0 / 100 == 3
    }
    /// 4xx
    pub fn is_transient(self) -> bool {
        self.0 / 100 == 4
    }
    /// 5xx
    pub fn is_permanent(self) -> bool {
        self.0 / 100 == 5
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_parse_and_print() {
        for text in ["2.0.0", "4.4.1", "5.1.1", "5.7.999"] {
            assert_eq!(text.parse::<EnhancedStatus>().unwrap().to_string(), text);
        }
        for text in ["", "5", "5.1", "3.1.1", "5.1.1.1", "5..1", "5.1.1000", "5.a.1", "5.1.-1", "5.1.1;"] {
            assert_eq!(text.parse::<EnhancedStatus>(), Err(NotAStatus), "{text:?}");
        }
    }

    #[test]
    fn split_takes_code_and_text() {
        assert_eq!(
            EnhancedStatus::split("5.1.1 no such user"),
            Some((EnhancedStatus::permanent(1, 1), "no such user"))
        );
        assert_eq!(EnhancedStatus::split("4.2.2"), Some((EnhancedStatus::transient(2, 2), "")));
        assert_eq!(EnhancedStatus::split("mailbox gone"), None);
    }

    #[test]
    fn class_follows_the_reply_code() {
        assert_eq!(EnhancedStatus::permanent(7, 1).agreeing_with(ReplyCode(450)).to_string(), "4.7.1");
        assert_eq!(EnhancedStatus::permanent(7, 1).agreeing_with(ReplyCode(354)).to_string(), "5.7.1");
    }
}
