//! Which language a notice is in (`bounce_language`, `bounce_language_maps`), and its text in it.

use std::collections::BTreeMap;

use yamabiko_report::language::{advice, built_in, encoded_subject, language_of, to_iso_2022_jp};
use yamabiko_report::{RecipientReport, Template, TemplateKind, Templates};

use crate::Bouncer;
use crate::expand::expand_with;

/// Recipients that are named at the top.
const NAMED: usize = 10;
/// Different pieces of advice in one notice.
const ADVICES: usize = 3;
/// Between two languages.
const RULE: &[u8] = b"\n----------------------------------------------------------------------\n\n";

/// Templates by language from files, and what is set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Languages {
    /// `bounce_language`
    pub(crate) wanted: Vec<String>,
    /// `bounce_language_directory`
    pub(crate) files: BTreeMap<String, Templates>,
    /// `bounce_japanese_charset = iso-2022-jp`
    pub(crate) jis: bool,
}

impl Bouncer {
    /// With template files by language (`bounce_language_directory`): the name of the language, of the file, its text. Warnings
    /// are for the log.
    #[must_use]
    pub fn with_languages(mut self, files: &[(String, String, Vec<u8>)]) -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        for (language, name, text) in files {
            match Templates::read(text, name, false) {
                Ok((templates, said)) => {
                    warnings.extend(said);
                    self.languages.files.insert(language.clone(), templates);
                }
                Err(error) => warnings.push(format!("{error} -- this language is not used")),
            }
        }
        for wanted in &self.languages.wanted {
            if !self.knows_language(wanted) {
                warnings.push(format!(
                    "bounce_language: there are no texts in \"{wanted}\": en and ja are built in, others are files {wanted}.cf \
                     in bounce_language_directory"
                ));
            }
        }
        (self, warnings)
    }

    /// There are texts in this language, or it is `original`.
    pub fn knows_language(&self, language: &str) -> bool {
        matches!(language, "en" | "ja" | "original") || self.languages.files.contains_key(language)
    }

    /// The languages of a notice; empty when none are asked for, and the templates are as always.
    pub(crate) fn languages_of(&self, asked: &[String], original: Option<&[u8]>) -> Vec<String> {
        let wanted = if asked.is_empty() { &self.languages.wanted } else { asked };
        let mut out: Vec<String> = Vec::new();
        for word in wanted {
            let language = match word.as_str() {
                "original" => {
                    let known = |tag: &str| tag != "original" && self.knows_language(tag);
                    original.and_then(|original| language_of(original, known))
                }
                word => Some(word.to_owned()).filter(|word| self.knows_language(word)),
            };
            out.extend(language.filter(|language| !out.contains(language)));
        }
        if out.is_empty() && !wanted.is_empty() {
            out.push("en".to_owned());
        }
        // `original, en` is one language, or the other.
        if wanted.first().is_some_and(|word| word == "original") && out.len() > 1 {
            out.truncate(1);
        }
        out
    }

    /// The template of a notice in some languages, expanded, and warnings.
    pub(crate) fn in_languages(
        &self,
        languages: &[String],
        kind: TemplateKind,
        reports: &[RecipientReport],
    ) -> (Template, Vec<String>) {
        let like = self.built_in.get(kind);
        let (mut text, mut warnings) = (Vec::new(), Vec::new());
        let mut all: Option<Template> = None;
        for language in languages {
            let from_file = self.languages.files.get(language).map(|templates| templates.get(kind).clone());
            let Some(template) = from_file.or_else(|| built_in(language, kind, like)) else { continue };
            let own = |name: &str| match name {
                "notice_recipients" => Some(named(language, reports)),
                "notice_advice" => Some(advices(language, reports)),
                _ => None,
            };
            let expanded = expand_with(&self.view, kind, &template, like, &own);
            warnings.extend(expanded.warnings);
            if !text.is_empty() {
                text.extend_from_slice(RULE);
            }
            text.extend_from_slice(&expanded.text);
            match &mut all {
                None => all = Some(template),
                // One of them names both: what programs look for, and the words.
                Some(all) if template.subject.contains(&all.subject) => all.subject = template.subject,
                Some(_) => {}
            }
        }
        let mut template = all.unwrap_or_else(|| like.clone());
        template.postmaster_subject = like.postmaster_subject.clone();
        if let Ok(readable) = std::str::from_utf8(&text)
            && !readable.is_ascii()
        {
            template.charset = "utf-8".into();
            let plain =
                reports.iter().all(|one| one.reason.is_ascii() && one.address.is_ascii() && one.original.is_ascii());
            if self.languages.jis
                && plain
                && languages.iter().any(|language| language == "ja")
                && let Some(bytes) = to_iso_2022_jp(readable)
            {
                template.charset = "iso-2022-jp".into();
                text = bytes;
            }
        }
        template.subject = encoded_subject(&template.subject, template.charset == "iso-2022-jp");
        template.text = text;
        (template, warnings)
    }
}

/// The recipients, a line each.
fn named(language: &str, reports: &[RecipientReport]) -> String {
    let line = |report: &RecipientReport| {
        let given = if report.original.is_empty() { &report.address } else { &report.original };
        let given: String = given.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        format!("    {given}\n")
    };
    let mut text: String = reports.iter().take(NAMED).map(line).collect();
    if let Some(more) = reports.len().checked_sub(NAMED).filter(|more| *more > 0) {
        text.push_str(&if language == "ja" {
            format!("    ほか {more} 件\n")
        } else {
            format!("    and {more} more\n")
        });
    }
    text
}

/// What the sender can do.
fn advices(language: &str, reports: &[RecipientReport]) -> String {
    let mut found: Vec<&str> = Vec::new();
    for report in reports {
        let one = advice(language, report.status);
        if !found.contains(&one) && found.len() < ADVICES {
            found.push(one);
        }
    }
    found.concat()
}
