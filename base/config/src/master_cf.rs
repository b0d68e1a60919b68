//! The grammar of master.cf: services of eight columns, and the arguments of their commands.
//!
//! Comments and continuation are those of main.cf. There is no quoting but `{ text with blanks }`. Of two entries for one
//! name and type the last one counts.

use std::fmt;
use std::sync::Arc;

use crate::main_cf::{Fault, Place, is_blank, logical_lines, split_name_value};

/// How a service is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceType {
    /// A TCP port.
    Inet,
    /// A stream socket in the file system.
    Unix,
    /// A datagram socket in the file system.
    UnixDatagram,
    /// A named pipe.
    Fifo,
    /// A socket that is handed connections by another service.
    Pass,
}

impl ServiceType {
    /// The word of master.cf.
    pub fn word(self) -> &'static str {
        match self {
            ServiceType::Inet => "inet",
            ServiceType::Unix => "unix",
            ServiceType::UnixDatagram => "unix-dgram",
            ServiceType::Fifo => "fifo",
            ServiceType::Pass => "pass",
        }
    }

    /// The type a word names.
    pub fn of_word(word: &str) -> Option<ServiceType> {
        [Self::Inet, Self::Unix, Self::UnixDatagram, Self::Fifo, Self::Pass]
            .into_iter()
            .find(|kind| kind.word() == word)
    }
}

/// When a service is woken without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wakeup {
    /// Seconds between wake-ups; 0 means never.
    pub seconds: u32,
    /// Only when the service has been used (`?`).
    pub only_if_used: bool,
}

/// One setting of a service's command: `-o name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The parameter.
    pub name: String,
    /// The value, unexpanded.
    pub value: String,
}

/// Host and port of an `inet` service, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Host name or address without brackets; `None` means the addresses of `inet_interfaces`.
    pub host: Option<String>,
    /// Port number or the name of one.
    pub port: String,
}

impl Listen {
    /// The port's number: digits, a port name mail programs use, or one that `/etc/services` (its text) lists for tcp.
    pub fn port_number(&self, services_file: &str) -> Option<u16> {
        if let Ok(number) = self.port.parse::<u16>() {
            return Some(number);
        }
        for (name, number) in
            [("lmtp", 24), ("smtp", 25), ("smtps", 465), ("submissions", 465), ("submission", 587), ("qmqp", 628)]
        {
            if self.port == name {
                return Some(number);
            }
        }
        services_file.lines().find_map(|line| {
            let line = line.split('#').next().unwrap_or("");
            let mut words = line.split_whitespace();
            let name = words.next()?;
            let port = words.next()?.strip_suffix("/tcp")?.parse().ok()?;
            (name == self.port || words.any(|alias| alias == self.port)).then_some(port)
        })
    }
}

/// A service of master.cf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The first column.
    pub name: String,
    /// The second column.
    pub kind: ServiceType,
    /// The third to seventh columns as written: private, unprivileged, chroot, wakeup, process limit.
    pub columns: [String; 5],
    /// The program: last column's first word.
    pub command: String,
    /// All words after the program. Settings stand as `-o` and `name=value`, without braces; braces around the first
    /// word that is no option are removed; other groups keep theirs.
    pub words: Vec<String>,
    /// Where the service is written.
    pub place: Place,
    /// The `-o` settings, in order; of two for one name the last one counts.
    pub overrides: Vec<Override>,
    /// How many `-v`.
    pub verbose: u32,
    /// `-D`: run under `debugger_command`.
    pub debug: bool,
    /// The words that are neither options above nor their values: pipe(8)'s `flags=` `user=` `argv=` and what follows.
    /// Braces around a group are removed.
    pub arguments: Vec<String>,
}

/// The names of the columns, as `postconf -F` prints them.
pub const COLUMN_NAMES: [&str; 8] =
    ["service", "type", "private", "unprivileged", "chroot", "wakeup", "process_limit", "command"];

impl Service {
    /// `name/type`, as postconf(1) names services.
    pub fn id(&self) -> String {
        format!("{}/{}", self.name, self.kind.word())
    }

    fn column(&self, index: usize, default: bool) -> bool {
        match self.columns.get(index).map(String::as_str) {
            Some("y") => true,
            Some("n") => false,
            _ => default,
        }
    }

    /// Reachable for the mail system only; the default is yes.
    pub fn is_private(&self) -> bool {
        self.column(0, true)
    }

    /// Runs as mail_owner; the default is yes.
    pub fn is_unprivileged(&self) -> bool {
        self.column(1, true)
    }

    /// Runs below the queue directory. `by_default` is what `-` means: no at compatibility level 1 and above.
    pub fn is_chroot(&self, by_default: bool) -> bool {
        self.column(2, by_default)
    }

    /// When the service is woken.
    pub fn wakeup(&self) -> Wakeup {
        let written = self.columns[3].as_str();
        let (number, only_if_used) = match written.strip_suffix('?') {
            Some(number) => (number, true),
            None => (written, false),
        };
        Wakeup { seconds: number.parse().unwrap_or(0), only_if_used }
    }

    /// Processes at once as written: `None` for the default (`-`), 0 for no limit.
    pub fn process_limit(&self) -> Option<u32> {
        self.columns[4].parse().ok()
    }

    /// Host and port of an `inet` service, `None` for other types.
    pub fn listen(&self) -> Option<Listen> {
        (self.kind == ServiceType::Inet)
            .then(|| split_listen(&self.name).unwrap_or(Listen { host: None, port: self.name.clone() }))
    }

    /// The value that counts of `-o name=`.
    pub fn override_of(&self, name: &str) -> Option<&str> {
        self.overrides.iter().rev().find(|setting| setting.name == name).map(|setting| setting.value.as_str())
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

fn split_listen(name: &str) -> Option<Listen> {
    if let Some(rest) = name.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = rest.strip_prefix(':')?;
        return Some(Listen { host: Some(host.to_string()), port: port.to_string() });
    }
    match name.rsplit_once(':') {
        None => Some(Listen { host: None, port: name.to_string() }),
        Some((host, port)) => {
            Some(Listen { host: (!host.is_empty()).then(|| host.to_string()), port: port.to_string() })
        }
    }
}

/// master.cf as written.
#[derive(Debug, Clone, Default)]
pub struct MasterCf {
    /// Every entry in the order of the file, repeated ones included.
    pub entries: Vec<Service>,
    /// Remarks of the reader.
    pub remarks: Vec<Fault>,
}

impl MasterCf {
    /// Reads the text of a master.cf.
    ///
    /// # Errors
    /// The first line that is no service, with what is wrong with it.
    pub fn parse(file: &str, text: &str) -> Result<MasterCf, Fault> {
        let file: Arc<str> = file.into();
        let mut master = MasterCf::default();
        for line in logical_lines(text) {
            let place = Place::new(&file, line.first);
            if line.text.starts_with(is_blank) {
                let shown: String = line.text.chars().take(30).collect();
                master
                    .remarks
                    .push(Fault::at(&place, format!("logical line must not start with whitespace: \"{shown}\"")));
                continue;
            }
            let service = parse_service(&line.text, place, &mut master.remarks)?;
            master.entries.push(service);
        }
        Ok(master)
    }

    /// The services that count: of repeated entries the last, in the place of the last.
    pub fn services(&self) -> Vec<Service> {
        let mut seen = std::collections::HashSet::new();
        let mut services: Vec<Service> =
            self.entries.iter().rev().filter(|s| seen.insert((s.name.as_str(), s.kind))).cloned().collect();
        services.reverse();
        services
    }
}

/// Reads one logical line.
///
/// # Errors
/// Postfix's texts for bad columns.
pub fn parse_service(line: &str, place: Place, remarks: &mut Vec<Fault>) -> Result<Service, Fault> {
    let (columns, rest) = split_columns(line).ok_or_else(|| Fault::at(&place, "bad field count"))?;
    let [name, kind_word, private, unprivileged, chroot, wakeup, limit, command] = columns;
    let bad = |field: &str, value: &str| Fault::at(&place, format!("invalid {field} field \"{value}\" in \"{line}\""));
    let kind = ServiceType::of_word(kind_word).ok_or_else(|| bad("type", kind_word))?;
    for (field, value) in [("private", private), ("unprivileged", unprivileged), ("chroot", chroot)] {
        if !matches!(value, "-" | "y" | "n") {
            return Err(bad(field, value));
        }
    }
    let is_number = |text: &str| !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
    if wakeup != "-" && !is_number(wakeup.strip_suffix('?').unwrap_or(wakeup)) {
        return Err(bad("wakeup", wakeup));
    }
    if limit != "-" && !is_number(limit) {
        return Err(bad("process_limit", limit));
    }
    let mut service = Service {
        name: name.to_string(),
        kind,
        columns: [private, unprivileged, chroot, wakeup, limit].map(str::to_string),
        command: command.to_string(),
        words: split_words(rest),
        place,
        overrides: Vec::new(),
        verbose: 0,
        debug: false,
        arguments: Vec::new(),
    };
    service.read_words(remarks);
    Ok(service)
}

impl Service {
    /// Fills overrides, verbose, debug and arguments from `words`, normalising the way settings are written.
    pub fn read_words(&mut self, remarks: &mut Vec<Fault>) {
        self.overrides.clear();
        self.arguments.clear();
        (self.verbose, self.debug) = (0, false);
        let words = std::mem::take(&mut self.words);
        let mut normal = Vec::with_capacity(words.len());
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let word = unbrace(&word, &self.place, remarks).to_string();
            if !word.starts_with('-') || word == "-" || word == "--" {
                // The command's own arguments begin; `-o` among them is none of ours.
                self.arguments.push(word.clone());
                normal.push(word);
                for word in words {
                    self.arguments.push(unbrace(&word, &self.place, remarks).to_string());
                    normal.push(word);
                }
                break;
            }
            if let Some(attached) = word.strip_prefix("-o") {
                let setting = if attached.is_empty() { words.next() } else { Some(attached.to_string()) };
                normal.push("-o".to_string());
                let Some(setting) = setting else { break };
                normal.push(self.read_override(&setting, remarks));
                continue;
            }
            let flags = word.strip_prefix('-').unwrap_or("");
            if flags.bytes().all(|flag| flag == b'v' || flag == b'D') {
                self.verbose += u32::try_from(flags.bytes().filter(|flag| *flag == b'v').count()).unwrap_or(0);
                self.debug |= flags.contains('D');
            } else {
                self.arguments.push(word.clone());
            }
            normal.push(word);
        }
        self.words = normal;
    }

    /// `name=value` or `{ name = value }`: remembers it, and gives back how it is written plainly.
    fn read_override(&mut self, setting: &str, remarks: &mut Vec<Fault>) -> String {
        let grouped = setting.starts_with('{');
        let inner = unbrace(setting, &self.place, remarks);
        let parsed = if grouped {
            split_name_value(inner)
        } else {
            // Without braces there are no blanks to take away.
            inner
                .split_once('=')
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| format!("missing '=' after attribute name: \"{inner}\""))
        };
        match parsed {
            Ok((name, value)) => {
                self.overrides.push(Override { name: name.to_string(), value: value.to_string() });
                format!("{name}={value}")
            }
            Err(text) => {
                remarks.push(Fault::at(&self.place, text));
                inner.to_string()
            }
        }
    }
}

fn split_columns(line: &str) -> Option<([&str; 8], &str)> {
    let mut columns = [""; 8];
    let mut rest = line;
    for column in &mut columns {
        rest = rest.trim_start_matches(is_blank);
        let end = rest.find(is_blank).unwrap_or(rest.len());
        (*column, rest) = rest.split_at(end);
        if column.is_empty() {
            return None;
        }
    }
    Some((columns, rest))
}

/// Words of a command: blanks between braces do not part.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut level = 0usize;
    for c in text.chars() {
        match c {
            '{' => level += 1,
            '}' => level = level.saturating_sub(1),
            _ => {}
        }
        if !is_blank(c) {
            word.push(c);
        } else if level > 0 {
            word.push(' ');
        } else if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// What is within the braces of a word that begins with one, blanks at both ends removed; other words as they are. A group
/// that does not end well, or not with the word, is said in `remarks`.
fn unbrace<'a>(word: &'a str, place: &Place, remarks: &mut Vec<Fault>) -> &'a str {
    let Some(inner) = word.strip_prefix('{') else { return word };
    let mut level = 1usize;
    let end = inner.bytes().position(|byte| {
        match byte {
            b'{' => level += 1,
            b'}' => level -= 1,
            _ => {}
        }
        level == 0
    });
    let group = match end {
        None => {
            remarks.push(Fault::at(place, format!("missing '}}' in \"{word}\"")));
            inner
        }
        Some(end) => {
            if end + 1 < inner.len() {
                remarks.push(Fault::at(place, format!("syntax error after '}}' in \"{word}\"")));
            }
            inner.get(..end).unwrap_or(inner)
        }
    };
    group.trim_matches(is_blank)
}
