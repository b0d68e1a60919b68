//! getopt(3) as Postfix's commands use it: bundled letters, values attached or apart, `--` ends, order kept.

/// One option as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flag {
    /// A letter without value.
    Plain(char),
    /// A letter with its value.
    Value(char, String),
}

/// What was wrong, in getopt's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadFlag {
    /// `invalid option -- 'x'`
    Unknown(char),
    /// `option requires an argument -- 'x'`
    NoValue(char),
}

impl std::fmt::Display for BadFlag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadFlag::Unknown(c) => write!(f, "invalid option -- '{c}'"),
            BadFlag::NoValue(c) => write!(f, "option requires an argument -- '{c}'"),
        }
    }
}

/// Options and operands. `spec` is getopt's: a letter, with `:` after it when it takes a value. Parsing stops at the
/// first operand, as POSIX has it; `sendmail` reorders before it calls this.
pub fn parse(spec: &str, args: &[String]) -> Result<(Vec<Flag>, Vec<String>), BadFlag> {
    let mut flags = Vec::new();
    let mut at = 0;
    while let Some(word) = args.get(at) {
        if word == "--" {
            at += 1;
            break;
        }
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else { break };
        at += 1;
        let mut rest = letters.chars();
        while let Some(letter) = rest.next() {
            let known = spec.char_indices().find(|(_, c)| *c == letter && letter != ':');
            let Some((place, _)) = known else { return Err(BadFlag::Unknown(letter)) };
            if !spec[place + letter.len_utf8()..].starts_with(':') {
                flags.push(Flag::Plain(letter));
                continue;
            }
            let attached = rest.as_str();
            let value = if attached.is_empty() {
                let value = args.get(at).cloned().ok_or(BadFlag::NoValue(letter))?;
                at += 1;
                value
            } else {
                attached.to_owned()
            };
            flags.push(Flag::Value(letter, value));
            break;
        }
    }
    Ok((flags, args[at.min(args.len())..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_as_getopt_reads_them() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (spec, line, flags, rest) in [
            ("c:pj", "-p -c dir x -j", vec![Flag::Plain('p'), Flag::Value('c', "dir".into())], "x -j"),
            ("c:pj", "-pjcdir", vec![Flag::Plain('p'), Flag::Plain('j'), Flag::Value('c', "dir".into())], ""),
            ("c:pj", "-p -- -j", vec![Flag::Plain('p')], "-j"),
            ("d:", "-d - hold", vec![Flag::Value('d', "-".into())], "hold"),
            ("d", "- x", vec![], "- x"),
        ] {
            assert_eq!(parse(spec, &words(line)), Ok((flags, words(rest))), "{line}");
        }
        assert_eq!(parse("c:p", &words("-x")), Err(BadFlag::Unknown('x')));
        assert_eq!(parse("c:p", &words("-c")), Err(BadFlag::NoValue('c')));
        assert_eq!(parse("c:p", &words("-:")), Err(BadFlag::Unknown(':')));
    }
}
