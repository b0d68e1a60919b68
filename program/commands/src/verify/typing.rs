//! Likely typing errors: what somebody meant who typed this.
//!
//! The distance between two domains is that of fingers, not of letters: a key beside the right one, two letters the wrong
//! way round, a letter twice or a dot left out cost little; any other letter costs much.

use std::collections::HashMap;
use std::sync::LazyLock;

/// `domain: mistaken mistaken ...`, one in a line.
const TABLE: &str = include_str!("domains.txt");

/// Costs in tenths of an error.
const NEIGHBOUR: u32 = 5;
const SWAPPED: u32 = 6;
const DOUBLED: u32 = 4;
const DOT: u32 = 6;
const LEFT_OUT: u32 = 8;
const OTHER: u32 = 11;
/// So much is a likely slip; in short names half of it.
const LIMIT: u32 = 12;
const SHORT: usize = 8;

struct Known {
    domains: Vec<&'static str>,
    mistaken: HashMap<&'static str, &'static str>,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let mut known = Known { domains: Vec::new(), mistaken: HashMap::new() };
    for line in TABLE.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (domain, mistaken) = line.split_once(':').unwrap_or((line, ""));
        known.domains.push(domain);
        known.mistaken.extend(mistaken.split_whitespace().map(|wrong| (wrong, domain)));
    }
    known
});

/// The domain that was probably meant; `None` where this one is well known or like none.
pub fn meant(domain: &str) -> Option<&'static str> {
    let domain = domain.to_ascii_lowercase();
    if KNOWN.domains.contains(&domain.as_str()) {
        return None;
    }
    if let Some(meant) = KNOWN.mistaken.get(domain.as_str()) {
        return Some(meant);
    }
    // Longer than anything in the table.
    if domain.len() > 40 {
        return None;
    }
    let limit = |known: &str| if known.len() < SHORT { LIMIT / 2 } else { LIMIT };
    KNOWN
        .domains
        .iter()
        .filter(|known| known.len().abs_diff(domain.len()) <= 2)
        .map(|known| (distance(&domain, known), *known))
        .filter(|(far, known)| *far > 0 && *far <= limit(known))
        .min_by_key(|(far, _)| *far)
        .map(|(_, known)| known)
}

/// Weighted distance with neighbours swapped (optimal string alignment), in tenths of an error.
fn distance(typed: &str, meant: &str) -> u32 {
    let (typed, meant) = (typed.as_bytes(), meant.as_bytes());
    let width = meant.len() + 1;
    let mut cost = vec![0_u32; (typed.len() + 1) * width];
    // All indices below are within the table: rows up to typed.len(), columns up to meant.len().
    for row in 0..=typed.len() {
        for column in 0..=meant.len() {
            let at = row * width + column;
            let mut best = if row == 0 && column == 0 { 0 } else { u32::MAX };
            if row > 0 {
                best = best.min(cost[at - width] + one_more(typed, row - 1));
            }
            if column > 0 {
                best = best.min(cost[at - 1] + one_more(meant, column - 1));
            }
            if row > 0 && column > 0 {
                best = best.min(cost[at - width - 1] + instead(typed[row - 1], meant[column - 1]));
            }
            let swapped = row > 1
                && column > 1
                && typed[row - 1] == meant[column - 2]
                && typed[row - 2] == meant[column - 1]
                && typed[row - 1] != typed[row - 2];
            if swapped {
                best = best.min(cost[at - 2 * width - 2] + SWAPPED);
            }
            cost[at] = best;
        }
    }
    cost[cost.len() - 1]
}

/// A letter too many, or one left out.
fn one_more(text: &[u8], at: usize) -> u32 {
    let letter = text[at];
    let doubled = at.checked_sub(1).is_some_and(|before| text[before] == letter) || text.get(at + 1) == Some(&letter);
    match letter {
        _ if doubled => DOUBLED,
        b'.' => DOT,
        _ => LEFT_OUT,
    }
}

fn instead(typed: u8, meant: u8) -> u32 {
    match typed {
        _ if typed == meant => 0,
        _ if beside(typed, meant) => NEIGHBOUR,
        // What looks alike.
        b'0' if meant == b'o' => NEIGHBOUR,
        b'1' if matches!(meant, b'l' | b'i') => NEIGHBOUR,
        b'l' if meant == b'i' => NEIGHBOUR,
        _ => OTHER,
    }
}

/// Rows of keys, and by how many quarters of a key each is moved to the right.
const ROWS: [(&[u8], i32); 4] = [(b"1234567890-", -2), (b"qwertyuiop", 0), (b"asdfghjkl", 1), (b"zxcvbnm,./", 3)];

fn place(key: u8) -> Option<(i32, i32)> {
    ROWS.iter().enumerate().find_map(|(row, (keys, moved))| {
        let column = keys.iter().position(|known| *known == key)?;
        // There are four rows of at most eleven keys.
        Some((row as i32, column as i32 * 4 + moved))
    })
}

/// Do two keys touch?
fn beside(one: u8, other: u8) -> bool {
    let (Some((row, x)), Some((other_row, other_x))) = (place(one), place(other)) else { return false };
    (row - other_row).abs() <= 1 && (x - other_x).abs() <= 4
}

/// Full-width letters and signs as Japanese keyboards make them, brackets and blanks from pasting: what was meant.
pub fn tidied(text: &str) -> String {
    let narrow: String = text
        .chars()
        .map(|c| match c {
            '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
            '\u{3002}' | '\u{ff61}' => '.',
            '\u{3000}' | '\u{a0}' | '\u{200b}' | '\u{feff}' => ' ',
            c => c,
        })
        .collect();
    let mut text = narrow.trim();
    if let Some((_, rest)) = text.rsplit_once('<')
        && let Some((address, _)) = rest.split_once('>')
    {
        text = address.trim();
    }
    let text = text.strip_prefix("mailto:").unwrap_or(text);
    text.trim_matches(|c: char| matches!(c, ',' | ';' | ' ' | '<' | '>' | '\'') || c.is_control())
        .trim_end_matches('.')
        .replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips() {
        for (typed, wanted) in [
            ("icliud.com", Some("icloud.com")),
            ("ezweb.be.jp", Some("ezweb.ne.jp")),
            ("gmial.com", Some("gmail.com")),
            ("gmail.con", Some("gmail.com")),
            ("gmailcom", Some("gmail.com")),
            ("gmaill.com", Some("gmail.com")),
            ("gnail.com", Some("gmail.com")),
            ("gmail.co.jp", Some("gmail.com")),
            ("docomo.ne.jo", Some("docomo.ne.jp")),
            ("docomo.nejp", Some("docomo.ne.jp")),
            ("docomo.co.jp", Some("docomo.ne.jp")),
            ("dcoomo.ne.jp", Some("docomo.ne.jp")),
            ("docmo.ne.jp", Some("docomo.ne.jp")),
            ("softbank.ne.jp", None),
            ("i.sotfbank.jp", Some("i.softbank.jp")),
            ("yahoo.co.jo", Some("yahoo.co.jp")),
            ("yaoo.co.jp", Some("yahoo.co.jp")),
            ("hotmial.com", Some("hotmail.com")),
            ("outlok.com", Some("outlook.com")),
            ("GMIAL.COM", Some("gmail.com")),
            ("gmail.com", None),
            ("mail.com", None),
            ("ymail.com", None),
            ("example.com", None),
            ("gmo.jp", None),
            ("company.co.jp", None),
            ("au.com", None),
            ("ac.com", None),
            ("", None),
            ("山.jp", None),
        ] {
            assert_eq!(meant(typed), wanted, "{typed}");
        }
    }

    #[test]
    fn the_table_is_sound() {
        for (wrong, right) in &KNOWN.mistaken {
            assert!(KNOWN.domains.contains(right), "{right}");
            assert!(!KNOWN.domains.contains(wrong) || *wrong == "ymobile.ne.jp", "{wrong} is a domain of its own");
        }
        // No well-known domain is taken for another.
        for domain in &KNOWN.domains {
            assert_eq!(meant(domain), None, "{domain}");
        }
    }

    #[test]
    fn pasted_and_full_width() {
        for (typed, wanted) in [
            ("ａｂｃ＠ｅｘａｍｐｌｅ．ｃｏｍ", "abc@example.com"),
            (" Name <a@b.example> ", "a@b.example"),
            ("mailto:a@b.example", "a@b.example"),
            ("a@b.example.", "a@b.example"),
            ("a@b.example,", "a@b.example"),
            ("a @ b.example", "a@b.example"),
            ("a@b。jp", "a@b.jp"),
        ] {
            assert_eq!(tidied(typed), wanted);
        }
    }
}
