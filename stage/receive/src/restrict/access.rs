//! What the right-hand side of an access(5) table says (Postfix: `check_table_result`).

use yamabiko_status::EnhancedStatus;

use super::eval::{About, CLIENT, Evaluation, HELO, MAX_DEPTH, RECIPIENT, Ruled, SENDER};
use super::rule::{Compiler, Node, Rule};
use super::{Record, Said};

/// What is to be done: an entry of a table, or the answer of a policy server.
#[derive(Clone, Copy)]
pub(super) struct Entry<'e> {
    /// As warnings name it.
    pub(super) table: &'e str,
    pub(super) key: &'e str,
    pub(super) value: &'e str,
}

impl<'a> Evaluation<'a> {
    /// Does what the entry says.
    pub(super) fn act(&mut self, node: &Node, hit: Entry<'_>, about: About<'a>) -> Ruled<'a> {
        let value = hit.value.trim();
        let (word, text) = match value.split_once([' ', '\t']) {
            Some((word, text)) => (word, text.trim_start()),
            None => (value, ""),
        };
        let codes = &self.policy.codes;
        let text_or = |default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
        let said = match word.to_ascii_uppercase().as_str() {
            "DUNNO" => Said::Dunno,
            "OK" | "RELAY" => Said::Permit,
            "REJECT" => {
                let (status, text) = split(text, "5.7.1", "Access denied");
                self.rejected(codes.map_reject, &fix(&status, about.class), about, text)
            }
            "DEFER" => {
                let (status, text) = split(text, "4.7.1", "Access denied");
                self.rejected(codes.map_defer, &fix(&status, about.class), about, text)
            }
            "DEFER_IF_REJECT" | "DEFER_IF_PERMIT" => {
                let (status, text) = split(text, "4.7.1", "Service unavailable");
                let permit = word.eq_ignore_ascii_case("DEFER_IF_PERMIT");
                self.defer_if(permit, codes.map_defer, &fix(&status, about.class), about, text);
                Said::Dunno
            }
            "WARN" => self.note("warn", text.to_owned()),
            "INFO" => self.note("info", text.to_owned()),
            "HOLD" => {
                if !self.state.effects.hold && self.has_message("HOLD", hit) {
                    let text = format!("<{}>: {} {}", about.name, about.class, text_or("triggers HOLD action"));
                    self.note("hold", text);
                    self.state.effects.hold = true;
                }
                Said::Dunno
            }
            "DISCARD" => {
                if self.has_message("DISCARD", hit) {
                    let text = format!("<{}>: {} {}", about.name, about.class, text_or("triggers DISCARD action"));
                    self.note("discard", text);
                    self.state.effects.discard = true;
                    Said::Permit
                } else {
                    Said::Dunno
                }
            }
            "FILTER" => self.filter(hit, text, about),
            "REDIRECT" | "BCC" => self.other_recipient(&word.to_ascii_uppercase(), hit, text, about),
            // As it is: policyd-spf ends its fields with a blank.
            "PREPEND" => {
                let field = hit.value.trim_start().split_once([' ', '\t']).map_or("", |(_, field)| field.trim_start());
                self.prepend(hit, field)
            }
            // `450` alone is no code: numbers are what pop-before-smtp daemons write.
            _ if !word.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => Said::Permit,
            _ if is_code(word) => self.coded(word, text, about),
            _ => return self.restrictions(node, hit, value, about),
        };
        said.into()
    }

    fn note(&mut self, word: &'static str, text: String) -> Said {
        self.state.records.push(Record::Decided(word, text));
        Said::Dunno
    }

    fn warn(&mut self, hit: Entry<'_>, what: &str) -> Said {
        let table = hit.table;
        self.state.records.push(Record::Warning(format!("access table {table} entry \"{}\" {what}", hit.key)));
        Said::Dunno
    }

    /// Actions on a message need one: not at CONNECT or HELO time.
    fn has_message(&mut self, action: &str, hit: Entry<'_>) -> bool {
        let early = matches!(self.facts.stage, "CONNECT" | "HELO" | "EHLO");
        if early {
            self.state.records.push(Record::Warning(format!(
                "access table {}: with smtpd_delay_reject=no, action {action} is always skipped in {} or {} \
                 restrictions",
                hit.table, "smtpd_client_restrictions", "smtpd_helo_restrictions"
            )));
        }
        !early
    }

    fn coded(&mut self, word: &str, text: &str, about: About<'_>) -> Said {
        // Three digits, seen by the caller.
        let code = word.parse().unwrap_or(450);
        let default = if code >= 500 { "5.7.1" } else { "4.7.1" };
        let (status, text) = split(text, default, "Access denied");
        self.rejected(code, &fix(&status, about.class), about, text)
    }

    fn filter(&mut self, hit: Entry<'_>, text: &str, about: About<'_>) -> Said {
        if !self.has_message("FILTER", hit) {
            return Said::Dunno;
        }
        if text.is_empty() {
            return self.warn(hit, "has FILTER entry without value");
        }
        if !text.contains(':') {
            return self.warn(hit, "requires transport:destination");
        }
        self.state.effects.filter = Some(text.to_owned());
        self.note("filter", format!("<{}>: {} triggers FILTER {text}", about.name, about.class))
    }

    fn other_recipient(&mut self, action: &str, hit: Entry<'_>, text: &str, about: About<'_>) -> Said {
        if !self.has_message(action, hit) {
            return Said::Dunno;
        }
        if !text.contains('@') {
            return self.warn(hit, "requires user@domain target");
        }
        let log = format!("<{}>: {} triggers {action} {text}", about.name, about.class);
        if action == "BCC" {
            if !self.state.effects.bcc.iter().any(|old| old == text) {
                self.state.effects.bcc.push(text.to_owned());
            }
            return self.note("bcc", log);
        }
        self.state.effects.redirect = Some(text.to_owned());
        self.note("redirect", log)
    }

    fn prepend(&mut self, hit: Entry<'_>, text: &str) -> Said {
        if !self.has_message("PREPEND", hit) {
            return Said::Dunno;
        }
        if self.facts.stage == "END-OF-MESSAGE" {
            let table = hit.table;
            let warning =
                format!("access table {table}: action PREPEND must be used before smtpd_end_of_data_restrictions");
            self.state.records.push(Record::Warning(warning));
            return Said::Dunno;
        }
        let is_header = text.split_once(':').is_some_and(|(name, _)| {
            let name = name.trim_end();
            !name.is_empty() && name.bytes().all(|b| (33..127).contains(&b))
        });
        if !is_header {
            return self.warn(hit, "requires header: text");
        }
        // Once, however many recipients are checked.
        if !self.state.effects.prepend.iter().any(|old| old == text) {
            self.state.effects.prepend.push(text.to_owned());
        }
        Said::Dunno
    }

    /// A list of restrictions. Tables may not name tables: whoever can write one could have any file read.
    fn restrictions(&mut self, node: &Node, hit: Entry<'_>, value: &str, about: About<'a>) -> Ruled<'a> {
        let table = hit.table.to_owned();
        if value.contains(':') {
            for warning in [
                format!("access table {table} has entry with lookup table: {value}"),
                "do not specify lookup tables inside SMTPD access maps".to_owned(),
                "define a restriction class and specify its name instead.".to_owned(),
            ] {
                self.state.records.push(Record::Warning(warning));
            }
            return self.server_error(format!("access table {table}: cannot use entry \"{}\"", hit.key)).into();
        }
        if self.depth > MAX_DEPTH {
            return self
                .server_error(format!("access table {table} entry {value} causes unreasonable recursion"))
                .into();
        }
        if value.is_empty() {
            self.state.records.push(Record::Warning(format!("access table {table} entry {} has empty value", hit.key)));
            return Said::Permit.into();
        }
        let mut compiler = Compiler { shared: &self.policy.shared, warnings: Vec::new(), remarks: Vec::new() };
        let list = compiler.list(value, &table, node.place.clone(), None);
        // An argument that names a table was refused above, so nothing was opened.
        if list.iter().any(|inner| matches!(inner.rule, Rule::Access(..) | Rule::ServerAccess(..))) {
            return self.server_error(format!("access table {table} has entry with lookup table: {value}")).into();
        }
        Ruled::List { list, about, matched: None }
    }
}

/// Three digits, the first 4 or 5.
fn is_code(word: &str) -> bool {
    matches!(word.as_bytes(), [b'4' | b'5', a, b] if a.is_ascii_digit() && b.is_ascii_digit())
}

/// An enhanced status code at the front of the text, or the default one; a default text for none.
fn split<'t>(text: &'t str, status: &str, default: &'t str) -> (String, &'t str) {
    let (status, text) =
        EnhancedStatus::split(text).map_or_else(|| (status.to_owned(), text), |(code, rest)| (code.to_string(), rest));
    (status, if text.is_empty() { default } else { text })
}

/// x.1.N speaks of a recipient or of a sender: makes it speak of the right one (Postfix: `smtpd_dsn_fix`).
fn fix(status: &str, class: &'static str) -> String {
    let Some((digit, rest)) = status.split_once('.') else { return status.to_owned() };
    let sender = match rest {
        "1.1" | "1.0" | "1.4" | "1.5" | "1.6" => "1.0",
        "1.2" | "1.8" => "1.8",
        "1.3" | "1.7" => "1.7",
        _ => return status.to_owned(),
    };
    let recipient = match rest {
        "1.0" | "1.1" => "1.1",
        "1.8" | "1.2" => "1.2",
        "1.7" | "1.3" => "1.3",
        other => other,
    };
    match class {
        SENDER => format!("{digit}.{sender}"),
        RECIPIENT => format!("{digit}.{recipient}"),
        CLIENT | HELO => format!("{digit}.0.0"),
        _ => status.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_fit_their_subject() {
        for (status, sender, recipient) in [
            ("5.1.1", "5.1.0", "5.1.1"),
            ("4.1.2", "4.1.8", "4.1.2"),
            ("4.1.8", "4.1.8", "4.1.2"),
            ("5.1.3", "5.1.7", "5.1.3"),
            ("5.1.7", "5.1.7", "5.1.3"),
            ("5.7.1", "5.7.1", "5.7.1"),
        ] {
            assert_eq!(fix(status, SENDER), sender);
            assert_eq!(fix(status, RECIPIENT), recipient);
        }
    }
}
