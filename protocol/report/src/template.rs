//! Templates of notices: `bounce_template_file` (bounce(5)) and the built-in ones.
//!
//! A file holds up to four templates, each from `name_template = <<WORD` to a line that is `WORD`: headers that say how
//! the notice looks (`Charset:`, `From:`, `Subject:`, `Postmaster-Subject:`), an empty line, and a text in which
//! `$name` stands for settings. A template with a fault is passed over, with a warning, and the built-in one is used.

use std::fmt;

/// Which of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateKind {
    /// `failure_template`
    Failure,
    /// `delay_template`
    Delay,
    /// `success_template`
    Success,
    /// `verify_template`
    Verify,
}

impl TemplateKind {
    /// All four in Postfix's order.
    pub const ALL: [Self; 4] = [Self::Failure, Self::Delay, Self::Success, Self::Verify];

    /// The word before `_template`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Delay => "delay",
            Self::Success => "success",
            Self::Verify => "verify",
        }
    }
}

/// How one kind of notice looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Of the text.
    pub charset: String,
    /// Value of `From:`; addresses without a domain get `$myorigin`.
    pub from: String,
    /// Value of `Subject:`
    pub subject: String,
    /// Value of `Subject:` in copies for the postmaster. Empty for kinds that have none.
    pub postmaster_subject: String,
    /// The text for people, lines with their line ends; `$name` not expanded when it comes from a file.
    pub text: Vec<u8>,
    /// Where it was read from; `[built-in]` for ours. For warnings.
    pub source: String,
}

/// Why a template file, or a template in it, is not used. `text` is a line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// What, and where.
    pub text: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for TemplateError {}

/// The four templates in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    /// Mail that failed.
    pub failure: Template,
    /// Mail that is late.
    pub delay: Template,
    /// Mail that arrived, for `NOTIFY=SUCCESS`.
    pub success: Template,
    /// `sendmail -v` and `-bv`.
    pub verify: Template,
}

const FAILURE: &str = "\
This is the mail system at host $myhostname.

Your message could not be delivered to one or more recipients.
It will not be tried again.

What went wrong is written below for each recipient, in the words
of the server that refused the message where there was one. Your
message, or the beginning of it, is attached.

If the address is misspelled, please correct it and send the message
again. If the reason tells you nothing, ask the recipient by another
way, or show this whole notice to your postmaster.
";

const DELAY: &str = "\
This is the mail system at host $myhostname.

This is only a warning. You need not send your message again.

Your message has been waiting for more than $delay_warning_time_hours hour(s), because
one or more recipients could not be reached. It will be tried again
until it is $maximal_queue_lifetime_days day(s) old; if that does not help, you will get
another notice.

What is in the way is written below for each recipient.
";

const SUCCESS: &str = "\
This is the mail system at host $myhostname.

You asked to be told: your message was delivered to the recipients
below, or handed to the next server on their way. In the latter case
you may still hear from other systems if it does not arrive.
";

const VERIFY: &str = "\
This is the mail system at host $myhostname.

This is the delivery report that you asked for.
";

impl Templates {
    /// The built-in ones. `obsolete_from`: `header_from_format = obsolete`.
    pub fn built_in(obsolete_from: bool) -> Self {
        let from =
            if obsolete_from { "MAILER-DAEMON (Mail Delivery System)" } else { "Mail Delivery System <MAILER-DAEMON>" };
        let template = |subject: &str, postmaster_subject: &str, text: &str| Template {
            charset: "us-ascii".into(),
            from: from.into(),
            subject: subject.into(),
            postmaster_subject: postmaster_subject.into(),
            text: text.into(),
            source: "[built-in]".into(),
        };
        Self {
            failure: template("Undelivered Mail Returned to Sender", "Postmaster Copy: Undelivered Mail", FAILURE),
            delay: template("Delayed Mail (still being retried)", "Postmaster Warning: Delayed Mail", DELAY),
            success: template("Successful Mail Delivery Report", "", SUCCESS),
            verify: template("Mail Delivery Status Report", "", VERIFY),
        }
    }

    /// One of them.
    pub fn get(&self, kind: TemplateKind) -> &Template {
        match kind {
            TemplateKind::Failure => &self.failure,
            TemplateKind::Delay => &self.delay,
            TemplateKind::Success => &self.success,
            TemplateKind::Verify => &self.verify,
        }
    }

    fn get_mut(&mut self, kind: TemplateKind) -> &mut Template {
        match kind {
            TemplateKind::Failure => &mut self.failure,
            TemplateKind::Delay => &mut self.delay,
            TemplateKind::Success => &mut self.success,
            TemplateKind::Verify => &mut self.verify,
        }
    }

    /// Reads a template file over the built-in ones. `name` is the file's, for messages. Warnings are lines for the
    /// log; templates they speak of are passed over.
    ///
    /// # Errors
    /// A line between templates that is no `name = ...`: Postfix refuses the whole file then.
    pub fn read(file: &[u8], name: &str, obsolete_from: bool) -> Result<(Self, Vec<String>), TemplateError> {
        let mut templates = Self::built_in(obsolete_from);
        let mut warnings = Vec::new();
        let mut lines = file.split(|b| *b == b'\n').enumerate();
        while let Some((number, line)) = lines.next() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let text = String::from_utf8_lossy(line);
            let Some((key, value)) = text.split_once('=') else {
                let line = number + 1;
                return Err(TemplateError {
                    text: format!("{name}, line {line}: missing '=' after attribute name: \"{text}\""),
                });
            };
            let (key, value) = (key.trim(), value.trim());
            let mut body = Vec::new();
            let mut last = number;
            if let Some(word) = value.strip_prefix("<<") {
                let word = word.trim();
                let mut ended = false;
                for (number, line) in lines.by_ref() {
                    last = number;
                    if line == word.as_bytes() {
                        ended = true;
                        break;
                    }
                    body.push(line);
                }
                if !ended {
                    // What follows the last line end is not a line.
                    if body.last().is_some_and(|line| line.is_empty()) {
                        body.pop();
                    }
                    warnings.push(format!("{name}, line {last}: missing \"{word}\" end marker"));
                }
            } else {
                body.push(value.as_bytes());
            }
            let Some(kind) =
                TemplateKind::ALL.into_iter().find(|kind| key.strip_suffix("_template") == Some(kind.name()))
            else {
                let line = last + 1;
                warnings.push(format!("{name}, line {line}: unknown template name: {key} -- ignoring this template"));
                continue;
            };
            match read_template(&body, kind, name, templates.get(kind)) {
                Ok(template) => *templates.get_mut(kind) = template,
                Err(mut lines) => warnings.append(&mut lines),
            }
        }
        Ok((templates, warnings))
    }

    /// All templates as a template file, unexpanded: `postconf -t`.
    pub fn dump(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for kind in TemplateKind::ALL {
            let template = self.get(kind);
            if !out.is_empty() {
                out.push(b'\n');
            }
            out.extend_from_slice(format!("{}_template = <<EOF\n", kind.name()).as_bytes());
            for (label, value) in [
                ("Charset", &template.charset),
                ("From", &template.from),
                ("Subject", &template.subject),
                ("Postmaster-Subject", &template.postmaster_subject),
            ] {
                if !value.is_empty() {
                    out.extend_from_slice(format!("{label}: {value}\n").as_bytes());
                }
            }
            out.push(b'\n');
            out.extend_from_slice(&template.text);
            out.extend_from_slice(b"EOF\n");
        }
        out
    }
}

/// One template from its lines; on a fault, lines for the log.
fn read_template(
    lines: &[&[u8]],
    kind: TemplateKind,
    file: &str,
    built_in: &Template,
) -> Result<Template, Vec<String>> {
    let what = kind.name();
    let mut template = Template { source: file.to_owned(), ..built_in.clone() };
    let mut rest = lines;
    while let [line, tail @ ..] = rest {
        if line.trim_ascii().is_empty() {
            rest = tail;
            break;
        }
        // What is no header begins the text.
        let Some(length) = yamabiko_message::field_name_len(line) else { break };
        let label = String::from_utf8_lossy(&line[..length]).into_owned();
        // A colon follows the name: `field_name_len` has seen it.
        let colon = length + line[length..].iter().position(|b| *b == b':').unwrap_or(0);
        let value = line[colon + 1..].trim_ascii();
        let Some(value) = std::str::from_utf8(value).ok().filter(|value| value.is_ascii()) else {
            return Err(vec![format!(
                "{file}: non-ASCII \"{label}\" header value in {what} template -- ignoring this template"
            )]);
        };
        let field = match label.to_ascii_lowercase().as_str() {
            "charset" => &mut template.charset,
            "from" => &mut template.from,
            "subject" => &mut template.subject,
            "postmaster-subject" if built_in.postmaster_subject.is_empty() => {
                return Err(vec![format!(
                    "{file}: inapplicable \"{label}\" header label in {what} template -- ignoring this template"
                )]);
            }
            "postmaster-subject" => &mut template.postmaster_subject,
            _ => {
                return Err(vec![format!(
                    "{file}: unknown \"{label}\" header label in {what} template -- ignoring this template"
                )]);
            }
        };
        if value.is_empty() {
            return Err(vec![format!(
                "{file}: empty \"{label}\" header value in {what} template -- ignoring this template"
            )]);
        }
        *field = value.chars().filter(|c| !c.is_control()).collect();
        rest = tail;
    }
    template.text = rest.iter().flat_map(|line| line.iter().chain(b"\n")).copied().collect();
    if template.text.trim_ascii().is_empty() {
        return Err(vec![format!("{file}: missing message text in {what} template -- ignoring this template")]);
    }
    if template.charset.eq_ignore_ascii_case("us-ascii") && !template.text.is_ascii() {
        return Err(vec![
            format!("{file}: 8-bit message text in {what} template"),
            "please specify a charset value other than us-ascii".into(),
            "-- ignoring this template for now".into(),
        ]);
    }
    Ok(template)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Templates, Vec<String>) {
        Templates::read(text.as_bytes(), "b.cf", false).unwrap()
    }

    #[test]
    fn a_file_replaces_what_it_says() {
        let (templates, warnings) = read(
            "# comment\n\n  \nfailure_template = <<EOF\nCharset: ISO-2022-JP\nfrom: Robot <r>\n\
             postmaster-subject:   Copy  \nSubject: Sub\n\n$$x $name\n indented\n\nEOF\n  # other\n\
             success_template = <<END\nEOF\nEND\n",
        );
        assert_eq!(warnings, [""; 0]);
        let failure = &templates.failure;
        assert_eq!(failure.charset, "ISO-2022-JP");
        assert_eq!(failure.from, "Robot <r>");
        assert_eq!(failure.subject, "Sub");
        assert_eq!(failure.postmaster_subject, "Copy");
        assert_eq!(failure.text, b"$$x $name\n indented\n\n");
        assert_eq!(templates.success.text, b"EOF\n");
        assert_eq!(templates.success.subject, "Successful Mail Delivery Report");
        assert_eq!(templates.delay, Templates::built_in(false).delay);
    }

    #[test]
    fn faults_are_told_and_the_built_in_one_is_used() {
        let built_in = Templates::built_in(false);
        for (headers_and_text, expected) in [
            (
                "X-Unknown: foo\n\ntext",
                "b.cf: unknown \"X-Unknown\" header label in failure template -- ignoring this template",
            ),
            (
                "Subject: \u{e9}\n\ntext",
                "b.cf: non-ASCII \"Subject\" header value in failure template -- ignoring this template",
            ),
            ("Subject:\n\ntext", "b.cf: empty \"Subject\" header value in failure template -- ignoring this template"),
            ("Subject: x\n", "b.cf: missing message text in failure template -- ignoring this template"),
            ("Charset: us-ascii\n\n\u{e9} text", "b.cf: 8-bit message text in failure template"),
        ] {
            let (templates, warnings) = read(&format!("failure_template = <<EOF\n{headers_and_text}\nEOF\n"));
            assert_eq!(warnings[0], expected);
            assert_eq!(templates, built_in);
        }
        let (_, warnings) = read("success_template = <<EOF\nPostmaster-Subject: x\n\ntext\nEOF\n");
        assert!(warnings[0].contains("inapplicable \"Postmaster-Subject\" header label in success template"));
        let (templates, warnings) = read("nosuch_template = <<EOF\nSubject: x\n\nabc\nEOF\n");
        assert_eq!(warnings, ["b.cf, line 5: unknown template name: nosuch_template -- ignoring this template"]);
        assert_eq!(templates, built_in);
        let (templates, warnings) = read("failure_template = <<EOF\nSubject: x\n\nabc\n");
        assert_eq!(warnings, ["b.cf, line 4: missing \"EOF\" end marker"]);
        assert_eq!(templates.failure.text, b"abc\n");
        assert_eq!(
            Templates::read(b"failure_template = abc\nfoo\n", "b.cf", false).unwrap_err().text,
            "b.cf, line 2: missing '=' after attribute name: \"foo\""
        );
    }

    #[test]
    fn text_without_headers() {
        for text in ["no header\n\ntext", "\nno header\n\ntext"] {
            let (templates, _) = read(&format!("failure_template = <<EOF\n{text}\nEOF\n"));
            assert_eq!(templates.failure.text, b"no header\n\ntext\n", "{text}");
            assert_eq!(templates.failure.subject, "Undelivered Mail Returned to Sender");
        }
    }

    #[test]
    fn dump_reads_back() {
        let templates = Templates::built_in(true);
        let dump = templates.dump();
        let (mut again, warnings) = Templates::read(&dump, "[built-in]", false).unwrap();
        assert_eq!(warnings, [""; 0]);
        again.failure.source = "[built-in]".into();
        assert_eq!(again, templates);
        for kind in TemplateKind::ALL {
            assert!(templates.get(kind).text.starts_with(b"This is the mail system at host $myhostname.\n"));
        }
    }
}
