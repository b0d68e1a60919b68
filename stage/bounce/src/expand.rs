//! `$name` in the text of a template: parameters of main.cf, and times in a unit of choice
//! (`$maximal_queue_lifetime_days`).

use std::cell::{Cell, RefCell};
use std::time::Duration;

use yamabiko_config::{View, expand};
use yamabiko_report::{Template, TemplateKind};

/// The text with everything filled in, and warnings for the log.
pub(crate) struct Expanded {
    pub(crate) text: Vec<u8>,
    pub(crate) warnings: Vec<String>,
    /// Bad syntax, or a name that is none.
    pub(crate) faulty: bool,
}

/// Expands a template. One with bad syntax is replaced by the built-in one: a notice must go out.
pub(crate) fn expand_template(view: &View, kind: TemplateKind, template: &Template, built_in: &Template) -> Expanded {
    expand_with(view, kind, template, built_in, &|_| None)
}

/// The same with names that only one notice has a value for.
pub(crate) fn expand_with(
    view: &View,
    kind: TemplateKind,
    template: &Template,
    built_in: &Template,
    own: &dyn Fn(&str) -> Option<String>,
) -> Expanded {
    match expand_text(view, kind, template, own) {
        Ok(expanded) => expanded,
        Err(error) => {
            let warning = format!(
                "{}: bad $name syntax in {} template: {error} -- using the built-in text",
                template.source,
                kind.name()
            );
            // Ours has no fault; if it had, it would go out as it is.
            let fallback = expand_text(view, kind, built_in, own);
            let (text, mut warnings) =
                fallback.map_or_else(|_| (built_in.text.clone(), Vec::new()), |e| (e.text, e.warnings));
            warnings.insert(0, warning);
            Expanded { text, warnings, faulty: true }
        }
    }
}

fn expand_text(
    view: &View,
    kind: TemplateKind,
    template: &Template,
    own: &dyn Fn(&str) -> Option<String>,
) -> Result<Expanded, expand::ExpandError> {
    let (warnings, faulty) = (RefCell::new(Vec::new()), Cell::new(false));
    let lookup = |name: &str| {
        if let Some(value) = own(name) {
            // What a stranger wrote is not expanded.
            return Some(value.replace('$', "$$"));
        }
        let (value, mut lines) = value_of(view, kind, template, name);
        warnings.borrow_mut().append(&mut lines);
        faulty.set(faulty.get() || value.is_none());
        value
    };
    // Text in other charsets than UTF-8 (ISO-2022-JP has `$` in its escapes: it is written `$$`) passes unharmed:
    // one character per byte in, one byte per character out. Values are UTF-8 and go the same way.
    let latin: String = template.text.iter().copied().map(char::from).collect();
    let expanded = expand::expand(&latin, &|name| lookup(name).map(|value| value.bytes().map(char::from).collect()))?;
    // Every character is below 256: it was made from a byte.
    let text = expanded.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
    Ok(Expanded { text, warnings: warnings.into_inner(), faulty: faulty.into_inner() })
}

/// The value of a name, and what is odd about it.
fn value_of(view: &View, kind: TemplateKind, template: &Template, name: &str) -> (Option<String>, Vec<String>) {
    let source = &template.source;
    for parameter in ["delay_warning_time", "maximal_queue_lifetime"] {
        let Some(suffix) = name.strip_prefix(parameter).and_then(|rest| rest.strip_prefix('_')) else { continue };
        let Some(unit) = unit_seconds(suffix) else {
            return (None, vec![format!("{source}: unrecognized suffix \"{suffix}\" in parameter \"{name}\"")]);
        };
        let time = view.duration(parameter);
        let result = time.as_secs() / unit.as_secs();
        let kind = kind.name();
        let odd = match result {
            // A time that is switched off is nothing in every unit.
            0 if time.is_zero() => None,
            0 => Some(("zero result".to_owned(), "reduce")),
            1..=999 => None,
            _ => Some((format!("excessive result \"{result}\""), "increase")),
        };
        let warnings = odd.map_or_else(Vec::new, |(what, advice)| {
            vec![
                format!("{source}: {what} in {kind} template conversion of parameter \"{name}\""),
                format!("please {advice} time unit \"{suffix}\" of \"{name}\" in {kind} template"),
                "for instructions see the bounce(5) manual".to_owned(),
            ]
        });
        return (Some(result.to_string()), warnings);
    }
    let value = view.unexpanded(name);
    match name {
        "myhostname" | "mydomain" if view.bool("smtputf8_enable") => {
            (Some(yamabiko_address::domain::to_utf8(&view.text(name)).into_owned()), Vec::new())
        }
        _ if value.is_none() => (None, vec![format!("{source}: undefined ${name} in {} template", kind.name())]),
        _ => (value, Vec::new()),
    }
}

fn unit_seconds(suffix: &str) -> Option<Duration> {
    let seconds = match suffix {
        "seconds" => 1,
        "minutes" => 60,
        "hours" => 3600,
        "days" => 86_400,
        "weeks" => 604_800,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}
