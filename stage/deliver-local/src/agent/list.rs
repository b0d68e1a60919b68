//! The elements of an alias value, a `.forward` or an `:include:` file (aliases(5)).

use yamabiko_address::unquote;

/// One destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element {
    /// `|command`
    Command(String),
    /// `/file/name`; a maildir when it ends with a slash.
    File(String),
    /// `:include:/file/name`
    Include(String),
    /// An address in internal form, `\` before it kept.
    Address(String),
}

/// Elements of one logical line, separated by commas. Comments in parentheses and empty elements are dropped.
pub fn elements(text: &str) -> Vec<Element> {
    split(text).into_iter().filter_map(|piece| element(&piece)).collect()
}

/// Elements of a file: `#` begins a comment line, a line that begins with a blank goes on from the one before.
pub fn file_elements(text: &str) -> Vec<Element> {
    let mut logical: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        match logical.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => logical.push(line.trim().to_owned()),
        }
    }
    logical.iter().flat_map(|line| elements(line)).collect()
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
    if bare.starts_with('/') {
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
        assert_eq!(file_elements("# c\n\na,\n b\n#x\nc\n"), [a("a"), a("b"), a("c")]);
    }
}
