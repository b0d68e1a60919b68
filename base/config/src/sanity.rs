//! Checks that need more than one value's own text. Errors are worded as Postfix words them.

use yamabiko_address::domain::valid_hostname;

use crate::expand::level_of;
use crate::main_cf::Fault;
use crate::value::split_list;
use crate::view::View;

/// Everything that is wrong with the settings together.
pub(crate) fn faults(view: &View) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut blame = |name: &str, text: String| faults.push(Fault { place: view.place(name), text });
    // A value that cannot be expanded was reported with its parameter: here it is left alone.
    let text = |name: &str| view.try_expand(&view.unexpanded(name).unwrap_or_default()).ok();

    if let Some(hostname) = text("myhostname") {
        if !valid_hostname(&hostname) {
            blame("myhostname", format!("parameter myhostname: bad parameter value: {hostname}"));
        }
        if text("relayhost").is_some_and(|relayhost| relayhost.eq_ignore_ascii_case(&hostname)) {
            let text = format!("myhostname and relayhost parameter settings must not be identical: {hostname}");
            blame("relayhost", text);
        }
    }
    if let Some(domain) = text("mydomain").filter(|domain| !valid_hostname(domain)) {
        blame("mydomain", format!("parameter mydomain: bad parameter value: {domain}"));
    }
    if let Some(origin) = text("myorigin").filter(|origin| split_list(origin).len() > 1) {
        blame("myorigin", format!("myorigin parameter setting must not contain multiple values: {origin}"));
    }
    if let Some(style) = text("mynetworks_style").filter(|style| !matches!(style.as_str(), "host" | "subnet" | "class"))
    {
        blame("mynetworks_style", format!("unknown mynetworks mask style value \"{style}\" in \"{style}\""));
    }
    if let Some(protocols) = text("inet_protocols") {
        for word in split_list(&protocols) {
            if !["all", "ipv4", "ipv6"].iter().any(|known| word.eq_ignore_ascii_case(known)) {
                blame("inet_protocols", format!("unknown inet_protocols value \"{word}\" in \"{protocols}\""));
            }
        }
    }
    for name in &view.shared.unresolved {
        blame("inet_interfaces", format!("config variable inet_interfaces: host not found: {name}"));
    }
    if let Some(Err(error)) = text("compatibility_level").map(|level| level_of(&level)) {
        blame("compatibility_level", error.to_string());
    }
    faults
}
