//! What sendmail was asked to do, out of its command line. All of Sendmail's letters are known; those that mean nothing
//! here are read and forgotten, as Postfix does.

use yamabiko_envelope::{BodyType, Notify, Ret, Trace, VerpDelimiters};

use crate::getopt::{Flag, parse};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `-bm`: take a message from standard input.
    Submit,
    /// `-bs`: speak SMTP on standard input and output.
    Smtp,
    /// `-bp`: list the queue.
    List,
    /// `-bi`, `-I`: build the alias database.
    Aliases,
    /// `-bd`: be a daemon.
    Daemon,
    /// `-q`: try everything now.
    FlushAll,
    /// `-qIid`
    FlushMessage(String),
    /// `-qRsite`
    FlushSite(String),
    /// `-qinterval`, `-bh`, `-bH`: nothing to do here.
    Nothing,
}

/// The command line, understood.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is to be done.
    pub mode: Mode,
    /// `-C`
    pub config: Option<String>,
    /// `-f`, `-r`
    pub sender: Option<String>,
    /// `-F`
    pub full_name: Option<String>,
    /// Not `-i`: a line with a dot ends the message.
    pub dot_ends: bool,
    /// `-t`
    pub extract: bool,
    /// `-N`
    pub notify: Notify,
    /// `-R`
    pub ret: Option<Ret>,
    /// `-V`
    pub envid: String,
    /// `-B`
    pub body: BodyType,
    /// `-O smtputf8=yes`
    pub smtputf8: bool,
    /// `-O requiretls=yes`
    pub requiretls: bool,
    /// `-bv`, `-v`
    pub trace: Trace,
    /// `-XV`; the delimiters where they are given.
    pub verp: Option<Option<VerpDelimiters>>,
    /// `-oA`
    pub alias_database: Option<String>,
    /// Recipients.
    pub recipients: Vec<String>,
}

/// Why it could not be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// getopt's words first, then the usage.
    Usage(Option<String>),
    /// A fatal error of its own.
    Fatal(String),
}

const LETTERS: &str = "A:B:C:F:GIL:N:O:R:UV:X:ab:ce:f:h:imno:p:r:q:tvx";

/// Reads the arguments after the program's name.
pub fn read(args: &[String], default: Mode) -> Result<Options, Misuse> {
    // `-q` and `-V` stand alone where getopt wants a value.
    let args: Vec<String> =
        args.iter().map(|word| if word == "-q" { "-q0".to_owned() } else { word.clone() }).collect();
    let (flags, recipients) = parse(LETTERS, &args).map_err(|bad| Misuse::Usage(Some(bad.to_string())))?;
    let mut options = Options {
        mode: default,
        config: None,
        sender: None,
        full_name: None,
        dot_ends: true,
        extract: false,
        notify: Notify::default(),
        ret: None,
        envid: String::new(),
        body: BodyType::Unspecified,
        smtputf8: false,
        requiretls: false,
        trace: Trace::No,
        verp: None,
        alias_database: None,
        recipients,
    };
    for flag in flags {
        match flag {
            Flag::Plain(letter) => options.plain(letter),
            Flag::Value(letter, value) => options.valued(letter, value)?,
        }
    }
    Ok(options)
}

impl Options {
    fn plain(&mut self, letter: char) {
        match letter {
            'I' => self.mode = Mode::Aliases,
            'i' => self.dot_ends = false,
            't' => self.extract = true,
            'v' if self.trace == Trace::No => self.trace = Trace::Record,
            // G U a c m n x: gateway, initial submission, and old queueing switches.
            _ => {}
        }
    }

    fn valued(&mut self, letter: char, value: String) -> Result<(), Misuse> {
        match letter {
            'A' if value == "c" || value == "m" => {}
            'B' => {
                self.body = match value.to_ascii_uppercase().as_str() {
                    "7BIT" => BodyType::SevenBit,
                    "8BITMIME" => BodyType::EightBitMime,
                    _ => return Err(Misuse::Fatal("specify -B7BIT or -B8BITMIME".to_owned())),
                }
            }
            'C' => self.config = Some(value),
            'F' => self.full_name = Some(value),
            'f' | 'r' => self.sender = Some(value),
            'N' => self.notify = notify(&value)?,
            'R' => {
                self.ret = match value.to_ascii_lowercase().as_str() {
                    "full" => Some(Ret::Full),
                    "hdrs" => Some(Ret::Headers),
                    _ => return Err(Misuse::Fatal("specify -R hdrs or -R full".to_owned())),
                }
            }
            'V' => self.envid = value,
            'X' => self.log_or_verp(&value)?,
            'O' => self.named(&value)?,
            'b' => self.mode_of(&value)?,
            'o' => match value.chars().next() {
                Some('i') if value.len() == 1 => self.dot_ends = false,
                Some('A') if value.len() > 1 => self.alias_database = Some(value[1..].to_owned()),
                // 7, 8, em, m and the rest of Sendmail's options.
                _ => {}
            },
            'q' => self.queue_run(&value)?,
            // L e h p: label, error mode, hop count, protocol.
            _ => {}
        }
        Ok(())
    }

    /// `-O name=value`: two of them are Postfix's (3.11), the rest is Sendmail's and means nothing here.
    fn named(&mut self, text: &str) -> Result<(), Misuse> {
        let (name, setting) = text.split_once('=').unwrap_or((text, ""));
        let name = name.trim().to_ascii_lowercase();
        let place = match &*name {
            "requiretls" => &mut self.requiretls,
            "smtputf8" => &mut self.smtputf8,
            _ => return Ok(()),
        };
        // Whoever wants a promise kept hears of a slip of the pen: a word that is skipped would send the mail without it.
        *place = match &*setting.trim().to_ascii_lowercase() {
            "yes" => true,
            "no" => false,
            _ => return Err(Misuse::Fatal(format!("specify -O {name}=yes or -O {name}=no"))),
        };
        Ok(())
    }

    fn log_or_verp(&mut self, value: &str) -> Result<(), Misuse> {
        let Some(rest) = value.strip_prefix('V') else {
            // `-X file`: a log of the dialogue, which Postfix does not write either.
            return Ok(());
        };
        let mut pair = rest.chars();
        self.verp = Some(match (pair.next(), pair.next(), pair.next()) {
            (None, ..) => None,
            (Some(first), Some(second), None) => Some(VerpDelimiters { first, second }),
            _ => return Err(Misuse::Fatal(format!("-V requires two characters from -=+, not: {rest}"))),
        });
        Ok(())
    }

    fn mode_of(&mut self, value: &str) -> Result<(), Misuse> {
        self.mode = match value.chars().next() {
            Some('d' | 'D' | 'l') => Mode::Daemon,
            Some('h' | 'H') => Mode::Nothing,
            Some('i') => Mode::Aliases,
            Some('m') => Mode::Submit,
            Some('p') => Mode::List,
            Some('s') => Mode::Smtp,
            Some('v') => {
                self.trace = Trace::ProbeReport;
                Mode::Submit
            }
            _ => return Err(Misuse::Fatal(format!("unsupported: -b{value}"))),
        };
        Ok(())
    }

    fn queue_run(&mut self, value: &str) -> Result<(), Misuse> {
        self.mode = match value.chars().next() {
            Some('0') if value.len() == 1 => Mode::FlushAll,
            Some(digit) if digit.is_ascii_digit() => match self.mode {
                // `-bd -q30m`: the interval is the daemon's.
                Mode::Daemon => Mode::Daemon,
                _ => Mode::Nothing,
            },
            Some('I') => Mode::FlushMessage(value[1..].to_owned()),
            Some('R') => Mode::FlushSite(value[1..].to_owned()),
            Some('S') => return Err(Misuse::Fatal("-qS is not implemented".to_owned())),
            _ => return Err(Misuse::Fatal("-q: expected a time, -qIid or -qRsite".to_owned())),
        };
        Ok(())
    }
}

fn notify(value: &str) -> Result<Notify, Misuse> {
    let mut notify = Notify::default();
    for word in value.split([',', ' ']).filter(|word| !word.is_empty()) {
        match word.to_ascii_lowercase().as_str() {
            "never" => notify.never = true,
            "success" => notify.success = true,
            "failure" => notify.failure = true,
            "delay" => notify.delay = true,
            _ => {
                return Err(Misuse::Fatal(format!(
                    "bad -N option value -- specify never, or success,failure,delay: {value}"
                )));
            }
        }
    }
    if notify.never && (notify.success || notify.failure || notify.delay) || notify == Notify::default() {
        return Err(Misuse::Fatal(format!("bad -N option value -- specify never, or success,failure,delay: {value}")));
    }
    Ok(notify)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn modes() {
        for (line, mode) in [
            ("", Mode::Submit),
            ("-bp", Mode::List),
            ("-q", Mode::FlushAll),
            ("-q30m", Mode::Nothing),
            ("-bd -q30m", Mode::Daemon),
            ("-qIABC", Mode::FlushMessage("ABC".into())),
            ("-qRexample.jp", Mode::FlushSite("example.jp".into())),
            ("-bs", Mode::Smtp),
            ("-I", Mode::Aliases),
            ("-oem -oi -oQ/x -bm a", Mode::Submit),
        ] {
            assert_eq!(read(&words(line), Mode::Submit).unwrap().mode, mode, "{line}");
        }
    }

    #[test]
    fn submissions() {
        let options =
            read(&words("-oi -f me@x.test -F Name -N success,delay -R hdrs -V id -XV+= -v a b"), Mode::Submit).unwrap();
        assert!(!options.dot_ends);
        assert_eq!(options.sender.as_deref(), Some("me@x.test"));
        assert!(options.notify.success && options.notify.delay && !options.notify.failure);
        assert_eq!(options.verp, Some(Some(VerpDelimiters { first: '+', second: '=' })));
        assert_eq!((options.trace, options.recipients), (Trace::Record, words("a b")));
    }

    #[test]
    fn named_options() {
        // The words, REQUIRETLS, SMTPUTF8.
        for (line, requiretls, smtputf8) in [
            ("a", false, false),
            ("-O requiretls=yes a", true, false),
            ("-Orequiretls=yes a", true, false),
            ("-O RequireTLS=YES a", true, false),
            ("-O requiretls=no a", false, false),
            ("-O requiretls=yes -O requiretls=no a", false, false),
            ("-O requiretls=no -O requiretls=yes a", true, false),
            ("-O smtputf8=yes -O requiretls=yes a", true, true),
            ("-O smtputf8=yes a", false, true),
            // Sendmail's.
            ("-O DeliveryMode=b -O QueueDirectory a", false, false),
            ("-O x=requiretls=yes a", false, false),
            ("-orequiretls=yes a", false, false),
            ("-- -O requiretls=yes", false, false),
        ] {
            let options = read(&words(line), Mode::Submit).unwrap();
            assert_eq!((options.requiretls, options.smtputf8), (requiretls, smtputf8), "{line}");
        }
        for line in ["-O requiretls", "-O requiretls=", "-O requiretls=true", "-O requiretls=1", "-O requiretls=yes=no"]
        {
            let why = "specify -O requiretls=yes or -O requiretls=no";
            assert_eq!(read(&words(line), Mode::Submit).unwrap_err(), Misuse::Fatal(why.into()), "{line}");
        }
        let why = "specify -O smtputf8=yes or -O smtputf8=no";
        assert_eq!(read(&words("-O SMTPUTF8=maybe"), Mode::Submit).unwrap_err(), Misuse::Fatal(why.into()));
    }

    #[test]
    fn misuse() {
        assert_eq!(read(&words("-bz"), Mode::Submit).unwrap_err(), Misuse::Fatal("unsupported: -bz".into()));
        assert_eq!(read(&words("-Z"), Mode::Submit).unwrap_err(), Misuse::Usage(Some("invalid option -- 'Z'".into())));
        for line in ["-N never,success", "-N x", "-R x", "-B9", "-XVa", "-qSx"] {
            assert!(matches!(read(&words(line), Mode::Submit), Err(Misuse::Fatal(_))), "{line}");
        }
    }
}
