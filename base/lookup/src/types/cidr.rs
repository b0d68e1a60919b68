//! `cidr:`: `network/prefix value`, for keys that are network addresses.

use std::net::IpAddr;

use super::replace::Replacement;
use super::rules::{Dialect, Group, Matcher, Statement, Warning};
use crate::lines::trim_str;
use crate::net::Network;

/// `cidr:`
pub(crate) struct Cidr;

fn address(key: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(key).ok()?.parse().ok()
}

impl Matcher for Network {
    fn is_match(&self, key: &[u8]) -> Result<bool, String> {
        Ok(address(key).is_some_and(|address| self.contains(address)))
    }
    fn groups(&self, _key: &[u8]) -> Result<Option<Vec<Group>>, String> {
        Ok(None)
    }
}

/// `!network`: other addresses of the same family. About anything else nothing is said, as in Postfix.
struct Negated(Network);

impl Matcher for Negated {
    fn is_match(&self, key: &[u8]) -> Result<bool, String> {
        Ok(address(key).is_some_and(|address| self.0.excludes(address)))
    }
    fn groups(&self, _key: &[u8]) -> Result<Option<Vec<Group>>, String> {
        Ok(None)
    }
}

fn matcher(text: &str, positive: bool, warn: &mut dyn FnMut(Warning)) -> Option<Box<dyn Matcher>> {
    match Network::parse(text) {
        Ok(network) if positive => Some(Box::new(network)),
        Ok(network) => Some(Box::new(Negated(network))),
        Err(why) => {
            warn(Warning::Placed(format!("{why}: skipping this rule")));
            None
        }
    }
}

/// The pattern without its `!`s, and whether there is an even number of them.
fn negation(text: &str) -> (&str, bool) {
    let pattern = text.trim_start_matches(|c: char| c == '!' || c.is_ascii_whitespace());
    let negations = text[..text.len() - pattern.len()].bytes().filter(|&byte| byte == b'!').count();
    (pattern, negations % 2 == 0)
}

impl Dialect for Cidr {
    const KIND: &'static str = "cidr";
    const LONELY_ENDIF: &'static str = "ENDIF without IF: skipping this rule";

    fn read(line: &str, warn: &mut dyn FnMut(Warning)) -> Statement {
        let word = |text: &str| {
            let rest = line.get(text.len()..)?;
            let start = line.get(..text.len())?;
            let whole = !rest.starts_with(|c: char| c.is_ascii_alphanumeric());
            (start.eq_ignore_ascii_case(text) && whole).then(|| trim_str(rest).to_owned())
        };
        let read = |warn: &mut dyn FnMut(Warning)| {
            if let Some(rest) = word("if") {
                let (pattern, positive) = negation(&rest);
                if pattern.is_empty() {
                    warn(Warning::Placed("no address pattern: skipping this rule".into()));
                    return None;
                }
                return Some(Statement::If { matcher: matcher(pattern, positive, warn)?, positive: true });
            }
            if let Some(rest) = word("endif") {
                if !rest.is_empty() {
                    warn(Warning::Placed("garbage after ENDIF: skipping this rule".into()));
                    return None;
                }
                return Some(Statement::EndIf);
            }
            let (text, positive) = negation(line);
            let end = text.find(|c: char| c.is_ascii_whitespace()).unwrap_or(text.len());
            let (pattern, value) = text.split_at(end);
            let value = trim_str(value);
            let matcher = matcher(pattern, positive, warn)?;
            if value.is_empty() {
                warn(Warning::Placed("no lookup result: skipping this rule".into()));
                return None;
            }
            Some(Statement::Rule { matcher, positive: true, replacement: Replacement::literal(value) })
        };
        read(warn).unwrap_or(Statement::Skip)
    }
}
