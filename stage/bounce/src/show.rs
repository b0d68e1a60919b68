//! `postconf -t` and `postconf -b`: the templates, and their texts with everything filled in.

use yamabiko_config::View;
use yamabiko_report::TemplateKind;

use crate::Bouncer;
use crate::expand::expand_template;

/// What to print, and warnings for the standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// On standard output.
    pub text: Vec<u8>,
    /// Lines without `warning: `; Postfix prefixes them with `postfix/bounce: warning: `.
    pub warnings: Vec<String>,
    /// A template has a fault that notices can only be written in spite of; Postfix writes none then.
    pub faulty: bool,
}

/// `postconf -t [file]`
pub fn show_templates(view: &View, template_file: Option<(&str, &[u8])>) -> Shown {
    let (bouncer, warnings) = Bouncer::new(view, template_file);
    Shown { text: bouncer.templates.dump(), warnings, faulty: false }
}

/// `postconf -b [file]`
pub fn show_expanded(view: &View, template_file: Option<(&str, &[u8])>) -> Shown {
    let (bouncer, mut warnings) = Bouncer::new(view, template_file);
    let (mut text, mut faulty) = (Vec::new(), false);
    for kind in TemplateKind::ALL {
        let expanded = expand_template(view, kind, bouncer.templates.get(kind), bouncer.built_in.get(kind));
        if !text.is_empty() {
            text.push(b'\n');
        }
        text.extend_from_slice(format!("expanded_{}_text = <<EOF\n", kind.name()).as_bytes());
        text.extend_from_slice(&expanded.text);
        text.extend_from_slice(b"EOF\n");
        warnings.extend(expanded.warnings);
        faulty |= expanded.faulty;
    }
    Shown { text, warnings, faulty }
}
