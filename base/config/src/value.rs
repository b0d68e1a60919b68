//! Values: yes and no, numbers, times, lists, as postconf(5) reads them. Texts of errors are Postfix's.

/// `yes` or `no` in any case of letters.
///
/// # Errors
/// Postfix's text for anything else.
pub fn parse_bool(name: &str, value: &str) -> Result<bool, String> {
    if value.eq_ignore_ascii_case("yes") {
        Ok(true)
    } else if value.eq_ignore_ascii_case("no") {
        Ok(false)
    } else {
        Err(format!("bad boolean configuration: {name} = {value}"))
    }
}

/// A decimal number in the range of Postfix's `int`.
///
/// # Errors
/// Postfix's text for junk and for numbers beyond 2^31.
pub fn parse_int(name: &str, value: &str) -> Result<i64, String> {
    value
        .parse::<i64>()
        .ok()
        .filter(|number| i32::try_from(*number).is_ok())
        .ok_or_else(|| format!("bad numerical configuration: {name} = {value}"))
}

/// A decimal number that may be larger than 2^31: sizes of messages and files.
///
/// # Errors
/// Postfix's text for junk.
pub fn parse_size(name: &str, value: &str) -> Result<i64, String> {
    value.parse::<i64>().map_err(|_| format!("bad numerical configuration: {name} = {value}"))
}

/// Seconds in one of the units `s m h d w`.
pub fn unit_seconds(unit: char) -> Option<i64> {
    match unit.to_ascii_lowercase() {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86400),
        'w' => Some(7 * 86400),
        _ => None,
    }
}

/// A number and a unit, as written: what follows the unit's letter is ignored, as Postfix does (`1day` is a day).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenTime {
    /// The number before the unit.
    pub number: i64,
    /// The unit, `None` when none is written.
    pub unit: Option<char>,
}

impl WrittenTime {
    /// Seconds, with `default_unit` when no unit is written; `None` beyond 2^31 seconds.
    pub fn seconds(self, default_unit: char) -> Option<i64> {
        let factor = unit_seconds(self.unit.unwrap_or(default_unit))?;
        (self.number < i64::from(i32::MAX) / factor).then(|| self.number * factor)
    }
}

/// Reads a time.
///
/// # Errors
/// Postfix's text for junk, negative numbers, unknown units.
pub fn parse_time(name: &str, value: &str) -> Result<WrittenTime, String> {
    let bad = || format!("parameter {name}: bad time value or unit: {value}");
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let number: i64 = number.parse().map_err(|_| bad())?;
    let unit = unit.chars().next();
    if unit.is_some_and(|unit| unit_seconds(unit).is_none()) {
        return Err(bad());
    }
    Ok(WrittenTime { number, unit })
}

/// The words of a list: separated by commas and white space; `{ ... }` keeps a word together, braces included.
pub fn split_list(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut level = 0usize;
    for c in value.chars() {
        match c {
            '{' => level += 1,
            '}' => level = level.saturating_sub(1),
            _ => {}
        }
        if level == 0 && matches!(c, ',' | ' ' | '\t' | '\r' | '\n') {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// `{ text }` without its braces and the blanks beside them; other text as it is.
pub fn strip_braces(word: &str) -> &str {
    word.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).map_or(word, str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, unit, expected) in [
            ("5d", 's', Some(432_000)),
            ("1day", 's', Some(86_400)),
            ("300", 's', Some(300)),
            ("2", 'h', Some(7200)),
            ("1W", 's', Some(604_800)),
            ("86400", 'd', None),
            ("24855d", 's', None),
            ("24854d", 's', Some(2_147_385_600)),
        ] {
            assert_eq!(parse_time("x", text).unwrap().seconds(unit), expected, "{text}");
        }
        for text in ["", "d", "-1", "1y", "1 d", "999999999999999999999999"] {
            assert_eq!(parse_time("x", text), Err(format!("parameter x: bad time value or unit: {text}")));
        }
    }

    #[test]
    fn lists() {
        for (text, expected) in [
            ("", &[][..]),
            (" , ,", &[]),
            ("a,b c\td", &["a", "b", "c", "d"]),
            ("inline:{ a=b, c=d } x", &["inline:{ a=b, c=d }", "x"]),
            ("{a {b c}} d", &["{a {b c}}", "d"]),
            ("a} b", &["a}", "b"]),
            ("{a b", &["{a b"]),
        ] {
            assert_eq!(split_list(text), expected, "{text}");
        }
        assert_eq!(strip_braces("{ a b }"), "a b");
    }
}
