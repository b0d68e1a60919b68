//! The attributes of a service that runs pipe(8): `flags= user= directory= chroot= eol= null_sender= size= argv=`.
//!
//! The engine reads them to know what to run, the supervisor to know as whom: neither takes the other's word.

use crate::master_cf::Service;

/// What a pipe service of master.cf says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipeService {
    /// The letters of `flags=`, all of them known.
    flags: String,
    /// `user=name`
    pub user: String,
    /// The group of `user=name:group`; `None` for the user's own.
    pub group: Option<String>,
    /// `directory=`; empty for the queue directory.
    pub directory: String,
    /// `chroot=`; empty for none.
    pub chroot: String,
    /// `eol=`, escapes resolved.
    pub eol: String,
    /// `null_sender=`: what stands for the empty sender.
    pub null_sender: String,
    /// `size=`: longest message, bytes; 0 for no limit.
    pub size: u64,
    /// `argv=` and what follows, at least one word, not expanded.
    pub argv: Vec<String>,
}

/// The letters that `flags=` may have.
const FLAGS: &str = "BDFORXhqu.>";

impl PipeService {
    /// Reads the arguments of a service. The error is a sentence with the place, for the administrator.
    ///
    /// # Errors
    /// An unknown attribute, a value that cannot be used, no `user=` or no `argv=`.
    pub fn of(service: &Service) -> Result<Self, String> {
        Self::read(&service.arguments).map_err(|why| format!("{}: service {}: {why}", service.place, service.name))
    }

    fn read(arguments: &[String]) -> Result<Self, String> {
        let mut found = Self {
            flags: String::new(),
            user: String::new(),
            group: None,
            directory: String::new(),
            chroot: String::new(),
            eol: "\n".to_owned(),
            null_sender: "MAILER-DAEMON".to_owned(),
            size: 0,
            argv: Vec::new(),
        };
        let mut words = arguments.iter();
        for word in words.by_ref() {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("unknown attribute name: {word}"))?;
            match name.to_ascii_lowercase().as_str() {
                "flags" => {
                    if let Some(unknown) = value.chars().find(|flag| !FLAGS.contains(*flag)) {
                        return Err(format!("unknown flag: {unknown}; there are {FLAGS}"));
                    }
                    found.flags = value.to_owned();
                }
                "user" => {
                    let (user, group) =
                        value.split_once(':').map_or((value, None), |(user, group)| (user, Some(group.to_owned())));
                    found.user = user.to_owned();
                    found.group = group.filter(|group| !group.is_empty());
                }
                "directory" => found.directory = value.to_owned(),
                "chroot" => found.chroot = value.to_owned(),
                "eol" => found.eol = unescape(value),
                "null_sender" => found.null_sender = value.to_owned(),
                "size" => found.size = value.parse().map_err(|_| format!("bad size limit: {value}"))?,
                "argv" => {
                    found.argv = [value.to_owned()].into_iter().filter(|first| !first.is_empty()).collect();
                    break;
                }
                _ => return Err(format!("unknown attribute name: {word}")),
            }
        }
        found.argv.extend(words.cloned());
        if found.user.is_empty() {
            return Err("missing user= command-line attribute".to_owned());
        }
        if found.argv.is_empty() {
            return Err("missing argv= command-line attribute".to_owned());
        }
        Ok(found)
    }

    /// `flags=` has this letter.
    pub fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }

    /// `user` or `user:group`, as written.
    pub fn user_and_group(&self) -> String {
        match &self.group {
            Some(group) => format!("{}:{group}", self.user),
            None => self.user.clone(),
        }
    }
}

/// `\a \b \f \n \r \t \v \nnn`, and any other character for itself.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match characters.next() {
            Some('a') => out.push('\u{7}'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('v') => out.push('\u{b}'),
            Some(first) if first.is_digit(8) => {
                let mut code = first.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = characters.peek().and_then(|next| next.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    characters.next();
                }
                out.extend(char::from_u32(code));
            }
            Some(other) => out.push(other),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PipeService, String> {
        PipeService::read(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn attributes() {
        let all = "flags=DRhu user=vmail:mail directory=/var chroot=/srv EOL=\\r\\n null_sender= size=100 \
                   argv=/bin/prog -d ${recipient} flags=x";
        let pipe = read(all).unwrap();
        assert!("DRhu".chars().all(|flag| pipe.has(flag)) && !pipe.has('q'));
        assert_eq!((pipe.user.as_str(), pipe.group.as_deref()), ("vmail", Some("mail")));
        assert_eq!((pipe.directory.as_str(), pipe.chroot.as_str()), ("/var", "/srv"));
        assert_eq!((pipe.eol.as_str(), pipe.null_sender.as_str(), pipe.size), ("\r\n", "", 100));
        assert_eq!(pipe.argv, ["/bin/prog", "-d", "${recipient}", "flags=x"]);
        let plain = read("user=vmail argv=/bin/true").unwrap();
        assert_eq!((plain.eol.as_str(), plain.null_sender.as_str(), plain.size), ("\n", "MAILER-DAEMON", 0));
        assert_eq!(plain.user_and_group(), "vmail");
    }

    #[test]
    fn faults() {
        for (text, why) in [
            ("argv=/bin/true", "missing user="),
            ("user= argv=/bin/true", "missing user="),
            ("user=a", "missing argv="),
            ("user=a argv=", "missing argv="),
            ("user=a color=blue argv=/bin/true", "unknown attribute name: color=blue"),
            ("user=a blue argv=/bin/true", "unknown attribute name: blue"),
            ("flags=DZ user=a argv=/bin/true", "unknown flag: Z"),
            ("size=-1 user=a argv=/bin/true", "bad size limit: -1"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn escapes() {
        for (text, expected) in [
            ("\\n", "\n"),
            ("\\r\\n", "\r\n"),
            ("\\012x", "\nx"),
            ("\\0", "\0"),
            ("\\", "\\"),
            ("\\q", "q"),
            ("a", "a"),
        ] {
            assert_eq!(unescape(text), expected, "{text}");
        }
    }
}
