//! A finding as a row of named values: Sisimai's fields, its old names and its new ones.

use std::io::Write;

use yamabiko_analyze::{Action, Evidence, Finding};

use super::options::Keys;
use super::token::token;

/// One recipient's report with where it was read.
pub struct Record<'a> {
    /// What was found.
    pub finding: &'a Finding,
    /// The path it was read from.
    pub origin: &'a str,
    /// The reason by the name that was asked for.
    pub reason: &'static str,
}

/// A value of a field.
pub enum Value<'a> {
    /// Text; unknown is empty.
    Text(std::borrow::Cow<'a, str>),
    /// A number.
    Number(i64),
    /// Yes or no.
    Bool(bool),
}

/// Which programs know a field: those that read the output of Sisimai 5, of Sisimai 4.
struct Field {
    name: &'static str,
    five: bool,
    four: bool,
    value: for<'a> fn(&Record<'a>) -> Value<'a>,
}

macro_rules! fields {
    ($($name:literal $five:literal $four:literal = $value:expr;)*) => {
        &[$(Field { name: $name, five: $five, four: $four, value: $value }),*]
    };
}

fn text(value: &str) -> Value<'_> {
    Value::Text(value.into())
}

fn owned<'a>(value: String) -> Value<'a> {
    Value::Text(value.into())
}

/// All fields, by name, so that the order of keys is always the same.
const FIELDS: &[Field] = fields! {
    "action" true true = |r| text(r.finding.action.map_or("", Action::name));
    "addresser" true true = |r| text(&r.finding.addresser);
    "alias" true true = |r| text(&r.finding.alias);
    "catch" true true = |_| text("");
    "command" true false = |r| text(r.finding.command);
    "decodedby" true false = |r| text(r.finding.decoded_by);
    "deliverystatus" true true = |r| owned(r.finding.status.map(|status| status.to_string()).unwrap_or_default());
    "destination" true true = |r| text(&r.finding.destination);
    "diagnosticcode" true true = |r| text(&r.finding.diagnostic.text);
    "diagnostictype" true true = |r| text(&r.finding.diagnostic.kind);
    "feedbackid" true false = |r| text(&r.finding.feedback_id);
    "feedbacktype" true true = |r| text(&r.finding.feedback_type);
    "hardbounce" true false = |r| Value::Bool(r.finding.hard_bounce);
    "lhost" true true = |r| text(&r.finding.lhost);
    "listid" true true = |r| text(&r.finding.list_id);
    "messageid" true true = |r| text(&r.finding.message_id);
    "origin" true true = |r| text(r.origin);
    "reason" true true = |r| text(r.reason);
    "recipient" true true = |r| text(&r.finding.recipient);
    "replycode" true true = |r| owned(r.finding.reply_code.map(|code| code.to_string()).unwrap_or_default());
    "rhost" true true = |r| text(&r.finding.rhost);
    "senderdomain" true true = |r| text(&r.finding.sender_domain);
    "smtpagent" false true = |r| text(r.finding.decoded_by);
    "smtpcommand" false true = |r| text(r.finding.command);
    "softbounce" false true = |r| Value::Number(softbounce(r.finding));
    "subject" true true = |r| text(&r.finding.subject);
    "timestamp" true true = |r| Value::Number(r.finding.date.map_or(0, |date| date.seconds));
    "timezoneoffset" true true = |r| owned(r.finding.date.map_or_else(|| "+0000".to_owned(), |date| date.offset()));
    "token" true true = |r| {
        let finding = r.finding;
        owned(token(&finding.addresser, &finding.recipient, finding.date.map_or(0, |date| date.seconds)))
    };
};

/// Sisimai 4: 0 hard, 1 soft, -1 no bounce.
fn softbounce(finding: &Finding) -> i64 {
    if finding.reason.is_no_failure() { -1 } else { i64::from(!finding.hard_bounce) }
}

fn chosen(keys: Keys) -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(move |field| match keys {
        Keys::Both => true,
        Keys::Five => field.five,
        Keys::Four => field.four,
    })
}

impl Record<'_> {
    /// The reason by its old or its newer, merged name.
    pub fn reason_name(finding: &Finding, merged: bool) -> &'static str {
        if merged { finding.reason.merged_name() } else { finding.reason.name() }
    }

    /// As a JSON object, without line end. With `why`, the evidence is in it too.
    pub fn json(&self, out: &mut Vec<u8>, keys: Keys, why: bool) {
        out.push(b'{');
        for (at, field) in chosen(keys).enumerate() {
            if at > 0 {
                out.extend_from_slice(b", ");
            }
            quoted(out, field.name);
            out.extend_from_slice(b": ");
            match (field.value)(self) {
                Value::Text(text) => quoted(out, &text),
                Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
                Value::Bool(yes) => out.extend_from_slice(if yes { b"true" } else { b"false" }),
            }
        }
        if why {
            out.extend_from_slice(b", ");
            json_why(out, self.finding.confidence, &self.finding.evidence);
        }
        out.push(b'}');
    }

    /// As a line of comma-separated values (RFC 4180), line end included.
    pub fn csv(&self, out: &mut Vec<u8>, keys: Keys, why: bool) {
        for (at, field) in chosen(keys).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            match (field.value)(self) {
                Value::Text(text) => csv_value(out, &text),
                Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
                Value::Bool(yes) => out.extend_from_slice(if yes { b"true" } else { b"false" }),
            }
        }
        if why {
            let evidence: Vec<String> = self.finding.evidence.iter().map(sentence).collect();
            out.extend_from_slice(format!(",{},", self.finding.confidence).as_bytes());
            csv_value(out, &evidence.join("; "));
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The first line of a file of comma-separated values.
pub fn csv_head(keys: Keys, why: bool) -> String {
    let mut names: Vec<&str> = chosen(keys).map(|field| field.name).collect();
    if why {
        names.extend(["confidence", "evidence"]);
    }
    names.join(",") + "\r\n"
}

/// `"confidence": 95, "evidence": [...]`
pub fn json_why(out: &mut Vec<u8>, confidence: u8, evidence: &[Evidence]) {
    out.extend_from_slice(format!("\"confidence\": {confidence}, \"evidence\": [").as_bytes());
    for (at, piece) in evidence.iter().enumerate() {
        out.extend_from_slice(if at > 0 { b", {" } else { b"{" });
        for (name, value) in [
            ("kind", piece.kind.name()),
            ("reason", piece.reason.name()),
            ("rule", &piece.rule),
            ("place", piece.place),
            ("text", &piece.text),
        ] {
            quoted(out, name);
            out.extend_from_slice(b": ");
            quoted(out, value);
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(format!("\"weight\": {}}}", piece.weight).as_bytes());
    }
    out.push(b']');
}

/// One piece of evidence for people.
pub fn sentence(piece: &Evidence) -> String {
    format!(
        "{:>3} {} for {}: \"{}\" in {} ({})",
        piece.weight,
        piece.kind.name(),
        piece.reason,
        super::width::visible(&piece.text),
        piece.place,
        piece.rule
    )
}

/// A JSON string.
pub fn quoted(out: &mut Vec<u8>, text: &str) {
    // Writing a str to a Vec cannot fail.
    let _ = serde_json::to_writer(&mut *out, text);
}

/// A value of a comma-separated line, quoted where need be.
pub fn csv_value(out: &mut Vec<u8>, text: &str) {
    // A table program would take the first of these for a formula.
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    if text.contains(['"', ',', '\n', '\r']) || formula {
        out.push(b'"');
        if formula {
            out.push(b'\'');
        }
        let _ = out.write_all(text.replace('"', "\"\"").as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_either_version() {
        let five = csv_head(Keys::Five, false);
        assert_eq!(
            five.trim_end(),
            "action,addresser,alias,catch,command,decodedby,deliverystatus,destination,diagnosticcode,diagnostictype,feedbackid,\
             feedbacktype,hardbounce,lhost,listid,messageid,origin,reason,recipient,replycode,rhost,senderdomain,subject,timestamp,\
             timezoneoffset,token"
        );
        let four = csv_head(Keys::Four, false);
        assert_eq!(
            four.trim_end(),
            "action,addresser,alias,catch,deliverystatus,destination,diagnosticcode,diagnostictype,feedbacktype,lhost,listid,\
             messageid,origin,reason,recipient,replycode,rhost,senderdomain,smtpagent,smtpcommand,softbounce,subject,timestamp,\
             timezoneoffset,token"
        );
        assert!(csv_head(Keys::Both, true).ends_with("confidence,evidence\r\n"));
        assert!(FIELDS.is_sorted_by_key(|field| field.name));
    }

    #[test]
    fn csv_values() {
        for (value, wanted) in [
            ("a", "a"),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("=1+1", "\"'=1+1\""),
            ("+0900", "+0900"),
            ("", ""),
        ] {
            let mut out = Vec::new();
            csv_value(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), wanted);
        }
    }
}
