//! The elements of an alias value, a `.forward` or an `:include:` file (aliases(5)).

use yamabiko_address::unquote;

/// One destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element {
    /// `|command`
    Command(String),
    /// `/file/name`, `~/file/name`; a maildir when it ends with a slash.
    File(String),
    /// `:include:/file/name`
    Include(String),
    /// An address in internal form, `\` before it kept.
    Address(String),
}

/// Elements of one line, separated by commas; words without a comma between them are addresses of their own, as local(8) reads
/// them. Comments in parentheses and empty elements are dropped; two quotes with nothing between are an address (the empty
/// one).
pub fn elements(text: &str) -> Vec<Element> {
    split(text).into_iter().flat_map(|piece| words(&piece)).collect()
}

/// Elements of a file, line by line: `#` begins a comment line, a blank before a line means nothing.
pub fn file_elements(text: &str) -> Vec<Element> {
    text.lines().filter(|line| !line.starts_with('#')).flat_map(elements).collect()
}

/// The words of what stands between two commas. `Name <address>` is one, and so are words around an `@`.
fn words(piece: &str) -> Vec<Element> {
    let mut words: Vec<String> = Vec::new();
    let (mut quoted, mut literal, mut escaped, mut open, mut begun) = (false, false, false, false, false);
    for c in piece.trim().chars() {
        let bare = !quoted && !literal && !escaped;
        if bare && c == '<' {
            open = true;
        }
        if bare && c.is_whitespace() {
            begun = false;
            continue;
        }
        let joined = c == '@' && bare || words.last().is_some_and(|word| word.ends_with('@'));
        match words.last_mut() {
            Some(word) if begun || joined => word.push(c),
            _ => words.push(c.to_string()),
        }
        begun = true;
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' if !literal => quoted = !quoted,
            '[' if !quoted => literal = true,
            ']' if !quoted => literal = false,
            _ => {}
        }
    }
    if open && piece.trim_end().ends_with('>') {
        return element(piece).into_iter().collect();
    }
    // Half a bracket means nothing.
    words.iter().filter_map(|word| element(word.trim_start_matches(['<', '>']))).collect()
}

/// Cuts at commas outside quotes, parentheses, brackets and angle brackets.
fn split(text: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut piece = String::new();
    let (mut quoted, mut comment, mut literal) = (false, 0u32, false);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        let keep = comment == 0;
        match c {
            '\\' => {
                if keep {
                    piece.push(c);
                }
                if let Some(next) = characters.next()
                    && keep
                {
                    piece.push(next);
                }
                continue;
            }
            '"' if comment == 0 => quoted = !quoted,
            '(' if !quoted => comment = comment.saturating_add(1),
            ')' if !quoted && comment > 0 => {
                comment -= 1;
                continue;
            }
            '[' if !quoted && comment == 0 => literal = true,
            ']' if !quoted && comment == 0 => literal = false,
            ',' if !quoted && comment == 0 && !literal => {
                pieces.push(std::mem::take(&mut piece));
                continue;
            }
            _ => {}
        }
        if keep && comment == 0 {
            piece.push(c);
        }
    }
    pieces.push(piece);
    pieces
}

fn element(piece: &str) -> Option<Element> {
    let piece = piece.trim();
    if piece.is_empty() {
        return None;
    }
    // `"|command with, commas"`: the whole element in quotes.
    let whole = piece.strip_prefix('"').and_then(|p| p.strip_suffix('"')).filter(|inner| !has_bare_quote(inner));
    let bare = whole.map_or_else(|| piece.to_owned(), unescape);
    if let Some(command) = bare.strip_prefix('|') {
        return Some(Element::Command(command.trim().to_owned()));
    }
    if bare.starts_with(['/', '~']) {
        return Some(Element::File(bare));
    }
    if let Some(prefix) = bare.get(..9)
        && prefix.eq_ignore_ascii_case(":include:")
    {
        return Some(Element::Include(bare[9..].trim().trim_matches('"').to_owned()));
    }
    Some(Element::Address(address(piece)))
}

fn has_bare_quote(text: &str) -> bool {
    let mut escaped = false;
    text.chars().any(|c| {
        let hit = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        hit
    })
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => out.extend(characters.next()),
            c => out.push(c),
        }
    }
    out
}

/// `Name <user@domain>` or `user@domain`, to internal form.
fn address(piece: &str) -> String {
    let inside =
        piece.rfind('<').and_then(|open| piece[open + 1..].find('>').map(|close| &piece[open + 1..open + 1 + close]));
    let text = inside.unwrap_or(piece).trim();
    match text.strip_prefix('\\') {
        Some(rest) => format!("\\{}", unquote(rest)),
        None => unquote(text).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_all_kinds() {
        let a = |s: &str| Element::Address(s.into());
        for (text, expected) in [
            ("labuser1, labuser2", vec![a("labuser1"), a("labuser2")]),
            (r#""|cat > /x, y", b"#, vec![Element::Command("cat > /x, y".into()), a("b")]),
            (r#""|echo \"hi\" | x""#, vec![Element::Command("echo \"hi\" | x".into())]),
            ("|/usr/bin/prog", vec![Element::Command("/usr/bin/prog".into())]),
            // Unquoted, a command is one word.
            ("|exit 67", vec![Element::Command("exit".into()), a("67")]),
            ("a@x.test b c", vec![a("a@x.test"), a("b"), a("c")]),
            ("a @ x.test, \"b c\"@x.test d", vec![a("a@x.test"), a("b c@x.test"), a("d")]),
            ("c@x.test # d", vec![a("c@x.test"), a("#"), a("d")]),
            ("~/box, >/x", vec![Element::File("~/box".into()), Element::File("/x".into())]),
            ("\"\"", vec![a("")]),
            (
                "/var/mail/x, /home/y/Maildir/",
                vec![Element::File("/var/mail/x".into()), Element::File("/home/y/Maildir/".into())],
            ),
            (":include:/etc/list", vec![Element::Include("/etc/list".into())]),
            (r#"":include:/etc/list""#, vec![Element::Include("/etc/list".into())]),
            (r"\root, Some One <one@x.test>", vec![a(r"\root"), a("one@x.test")]),
            (r#""a b"@x.test, u@[192.0.2.1]"#, vec![a("a b@x.test"), a("u@[192.0.2.1]")]),
            ("a (comment, with comma), , b", vec![a("a"), a("b")]),
            ("", vec![]),
            (r#"",""#, vec![a(",")]),
            ("\\", vec![a("\\")]),
            ("(((", vec![]),
            ("\"open", vec![a("open")]),
        ] {
            assert_eq!(elements(text), expected, "{text}");
        }
        assert_eq!(file_elements("# c\n\na,\n b\n#x\nc\n  \n #\n"), [a("a"), a("b"), a("c"), a("#")]);
    }
}
