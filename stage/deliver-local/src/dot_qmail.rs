//! The grammar of `.qmail` files and of their names (dot-qmail(5)). What is done with them is the agent's affair.

/// A line of a `.qmail` file that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `&address`, or an address.
    Forward(String),
    /// `|command`
    Program(String),
    /// `/file` or `./file`
    Mailbox(String),
    /// The same with a slash at the end.
    Maildir(String),
    /// Something that this file may not say; with what is said of it.
    Refused(&'static str),
}

const PROGRAM_REFUSED: &str = "Uh-oh: .qmail has prog delivery but has x bit set. (#4.7.0)";
const FILE_REFUSED: &str = "Uh-oh: .qmail has file delivery but has x bit set. (#4.7.0)";
const BLANK_FIRST: &str = "Uh-oh: first line of .qmail file is blank. (#4.2.1)";

/// Reads the lines of a `.qmail` file. An executable one, and what follows `+list`, may only name addresses.
pub fn instructions(text: &str, executable: bool) -> Vec<Instruction> {
    let mut only_addresses = executable;
    let mut all = Vec::new();
    for (number, line) in text.split('\n').enumerate() {
        let line = line.trim_end_matches([' ', '\t', '\r']);
        let refused = |why| Instruction::Refused(why);
        let rest = |prefix: char| line.strip_prefix(prefix).unwrap_or(line);
        all.push(match line.chars().next() {
            None if number == 0 && !text.is_empty() => refused(BLANK_FIRST),
            None | Some('#') => continue,
            Some('|') if only_addresses => refused(PROGRAM_REFUSED),
            Some('|') => Instruction::Program(rest('|').to_owned()),
            Some('/' | '.') if only_addresses => refused(FILE_REFUSED),
            Some('/' | '.') if line.ends_with('/') => Instruction::Maildir(line.to_owned()),
            Some('/' | '.') => Instruction::Mailbox(line.to_owned()),
            Some('+') => {
                only_addresses |= line == "+list";
                continue;
            }
            Some('&') => Instruction::Forward(rest('&').trim_start().to_owned()),
            Some(_) => Instruction::Forward(line.to_owned()),
        });
    }
    all
}

/// No file has a longer name.
const LONGEST: usize = 255;

/// Names of files that may hold the instructions for an address, each with what its `default` stands for.
///
/// `dash` is the character between user and extension, or nothing for the bare user.
pub fn candidates(dash: &str, extension: &str) -> Vec<(String, Option<String>)> {
    let safe = safe(extension);
    let mut all = vec![(format!(".qmail{dash}{safe}"), None)];
    if dash.is_empty() {
        return all;
    }
    for (at, _) in safe.char_indices().chain([(safe.len(), ' ')]).rev() {
        if at <= LONGEST && (at == 0 || safe[..at].ends_with('-')) {
            let matched = extension.get(at..).unwrap_or_default().to_owned();
            all.push((format!(".qmail{dash}{}default", &safe[..at]), Some(matched)));
        }
    }
    all
}

/// An extension as it stands in names of files: nothing in it leads to another directory.
fn safe(extension: &str) -> String {
    extension.to_ascii_lowercase().replace('.', ":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let forward = |text: &str| Instruction::Forward(text.to_owned());
        let program = |text: &str| Instruction::Program(text.to_owned());
        for (text, executable, expected) in [
            ("", false, vec![]),
            ("# nothing\n", false, vec![]),
            (
                "\n./Mailbox\n",
                false,
                vec![Instruction::Refused(BLANK_FIRST), Instruction::Mailbox("./Mailbox".to_owned())],
            ),
            ("&a@b.test \t\nc@d.test\n\nE\n", false, vec![forward("a@b.test"), forward("c@d.test"), forward("E")]),
            (
                "|bouncesaying \"x\" grep y\n./Mail Box\n./Maildir/\n/var/mail/x",
                false,
                vec![
                    program("bouncesaying \"x\" grep y"),
                    Instruction::Mailbox("./Mail Box".to_owned()),
                    Instruction::Maildir("./Maildir/".to_owned()),
                    Instruction::Mailbox("/var/mail/x".to_owned()),
                ],
            ),
            (
                "&a\n|x\n./y\n",
                true,
                vec![forward("a"), Instruction::Refused(PROGRAM_REFUSED), Instruction::Refused(FILE_REFUSED)],
            ),
            (
                "|first\n+list\n&a\n|second\n+other\n",
                false,
                vec![program("first"), forward("a"), Instruction::Refused(PROGRAM_REFUSED)],
            ),
            ("./Mailbox\r\n", false, vec![Instruction::Mailbox("./Mailbox".to_owned())]),
        ] {
            assert_eq!(instructions(text, executable), expected, "{text:?}");
        }
    }

    #[test]
    fn files_for_an_address() {
        for (dash, extension, expected) in [
            ("", "", vec![(".qmail", None)]),
            ("-", "", vec![(".qmail-", None), (".qmail-default", Some(""))]),
            ("-", "List", vec![(".qmail-list", None), (".qmail-default", Some("List"))]),
            (
                "-",
                "foo-Bar.x",
                vec![
                    (".qmail-foo-bar:x", None),
                    (".qmail-foo-default", Some("Bar.x")),
                    (".qmail-default", Some("foo-Bar.x")),
                ],
            ),
            (
                "-",
                "foo-",
                vec![(".qmail-foo-", None), (".qmail-foo-default", Some("")), (".qmail-default", Some("foo-"))],
            ),
            (
                "-",
                "../../etc/passwd",
                vec![(".qmail-::/::/etc/passwd", None), (".qmail-default", Some("../../etc/passwd"))],
            ),
        ] {
            let expected: Vec<_> =
                expected.into_iter().map(|(name, default)| (name.to_owned(), default.map(str::to_owned))).collect();
            assert_eq!(candidates(dash, extension), expected, "{extension}");
        }
    }
}
