//! How postconf writes lines: white space made single, long lines folded on request.

/// The longest folded line.
const LINE_LIMIT: usize = 80;
/// The longest folded line of a service: Postfix counts differently there.
const SERVICE_LINE_LIMIT: usize = 79;
/// How a continuation line begins.
const INDENT: &str = "    ";
/// Where the columns of master.cf begin.
const COLUMNS: [usize; 8] = [0, 11, 17, 25, 33, 41, 49, 57];

/// One line of words, folded when asked.
pub(super) fn line(text: &str, fold: bool) -> String {
    let mut out = String::with_capacity(text.len() + 1);
    let mut length = 0;
    for word in text.split([' ', '\t', '\r', '\n']).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            length = separate(&mut out, length, word.len(), fold.then_some(LINE_LIMIT));
        }
        out.push_str(word);
        length += word.len();
    }
    out.push('\n');
    out
}

/// Puts a blank or a folded line end before a word, and gives back the new length of the line.
fn separate(out: &mut String, length: usize, next: usize, limit: Option<usize>) -> usize {
    if limit.is_some_and(|limit| length + 1 + next > limit) {
        out.push('\n');
        out.push_str(INDENT);
        INDENT.len()
    } else {
        out.push(' ');
        length + 1
    }
}

/// `name = value`, or the part of it that is wanted.
pub(super) fn parameter(name: &str, value: &str, hide_name: bool, hide_value: bool, fold: bool) -> String {
    if hide_value {
        format!("{name}\n")
    } else if hide_name {
        line(value, fold)
    } else {
        line(&format!("{name} = {value}"), fold)
    }
}

/// The words of a service's command behind the program's name.
pub(super) fn command_words(words: &[String], expand: &mut dyn FnMut(&str) -> String) -> Vec<CommandWord> {
    let mut result = Vec::with_capacity(words.len());
    let mut words = words.iter();
    let mut options = true;
    while let Some(word) = words.next() {
        options = options && word.starts_with('-') && word != "--";
        if options
            && word == "-o"
            && let Some(setting) = words.next()
        {
            let setting = match setting.split_once('=') {
                Some((name, value)) => format!("{name}={}", expand(value)),
                None => setting.clone(),
            };
            let braces = setting.contains([' ', '\t', '\r', '\n']);
            let text = if braces { format!("-o {{{setting}}}") } else { format!("-o {setting}") };
            result.push(CommandWord { text, own_line: true });
        } else {
            result.push(CommandWord { text: word.clone(), own_line: false });
        }
    }
    result
}

/// A word, or a setting with its option, of a service's command.
pub(super) struct CommandWord {
    text: String,
    /// Settings have lines of their own when lines are folded.
    own_line: bool,
}

/// A service as a line of master.cf; `columns` are the eight columns.
pub(super) fn service(columns: [&str; 8], words: &[CommandWord], fold: bool) -> String {
    let mut out = String::new();
    for (column, goal) in columns.iter().zip(COLUMNS) {
        if !out.is_empty() {
            out.push(' ');
            while out.len() < goal {
                out.push(' ');
            }
        }
        out.push_str(column);
    }
    let length = out.len();
    append_words(&mut out, length, words, fold);
    out.push('\n');
    out
}

/// The last column of a service: the program and its words, behind `head`.
pub(super) fn command(head: &str, words: &[CommandWord], fold: bool) -> String {
    let mut out = head.to_string();
    append_words(&mut out, head.len(), words, fold);
    out.push('\n');
    out
}

fn append_words(out: &mut String, mut length: usize, words: &[CommandWord], fold: bool) {
    let mut force = false;
    for word in words {
        if force || word.own_line {
            length = LINE_LIMIT;
        }
        length = separate(out, length, word.text.len(), fold.then_some(SERVICE_LINE_LIMIT));
        out.push_str(&word.text);
        length += word.text.len();
        force = word.own_line;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding() {
        let words: Vec<String> = (0..60).map(|n| format!("w{n}")).collect();
        let folded = line(&format!("name = {}", words.join("  ")), true);
        assert!(folded.lines().all(|line| line.len() <= LINE_LIMIT));
        assert!(folded.lines().skip(1).all(|line| line.starts_with(INDENT)));
        assert_eq!(line("name = ", false), "name =\n");
        assert_eq!(line("name = a\t b ", false), "name = a b\n");
        let long = "x".repeat(100);
        assert_eq!(line(&format!("n = {long}"), true), format!("n =\n    {long}\n"));
    }

    #[test]
    fn services() {
        let words: Vec<String> = ["-v", "-o", "a=b c", "-o", "d=$e", "x", "-o", "y"].map(str::to_string).to_vec();
        let words = command_words(&words, &mut |value| value.replace("$e", "E"));
        let columns = ["smtp", "inet", "n", "-", "n", "1?", "-", "smtpd"];
        assert_eq!(
            service(columns, &words, false),
            "smtp       inet  n       -       n       1?      -       smtpd -v -o {a=b c} -o d=E x -o y\n"
        );
        assert_eq!(
            service(columns, &words, true),
            "smtp       inet  n       -       n       1?      -       smtpd -v\n    -o {a=b c}\n    -o d=E\n    x -o y\n"
        );
    }
}
