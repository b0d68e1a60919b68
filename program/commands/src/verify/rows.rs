//! Lists of addresses: one in a line, or a table of comma-separated values of which one column has the address.

/// A line of a table taken apart (RFC 4180; a quoted value may hold a line end, which is joined by the caller).
pub fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut letters = line.chars().peekable();
    while let Some(c) = letters.next() {
        // There is always a last field.
        let Some(field) = fields.last_mut() else { break };
        match c {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    fields
}

/// Does a line end inside a quoted value?
pub fn is_open(line: &str) -> bool {
    line.bytes().filter(|byte| *byte == b'"').count() % 2 == 1
}

/// Names of the column with the address.
const NAMES: [&str; 9] =
    ["email", "e-mail", "mail", "mailaddress", "address", "recipient", "emailaddress", "メールアドレス", "メール"];

/// The column with the address, from the first line; and whether that line is a heading.
pub fn column(first: &[String]) -> (usize, bool) {
    let named = first.iter().position(|field| {
        let field: String = field.trim().to_lowercase().chars().filter(|c| !matches!(c, ' ' | '_' | '-')).collect();
        NAMES.iter().any(|name| name.replace('-', "") == field)
    });
    match named {
        Some(at) => (at, true),
        None => (first.iter().position(|field| field.contains(['@', '＠'])).unwrap_or(0), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        assert_eq!(split("a,\"b,\"\"c\",d"), ["a", "b,\"c", "d"]);
        assert_eq!(split(""), [""]);
        assert!(is_open("a,\"b") && !is_open("a,\"b\""));
        let row = |text: &str| split(text);
        assert_eq!(column(&row("id,E-Mail,name")), (1, true));
        assert_eq!(column(&row("番号,メールアドレス")), (1, true));
        assert_eq!(column(&row("7,a@b")), (1, false));
        assert_eq!(column(&row("nothing")), (0, false));
    }
}
