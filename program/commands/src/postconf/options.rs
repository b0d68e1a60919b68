//! The options of postconf, and which of them go together.

/// What the program is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Parameters of main.cf: no option, or `-p`.
    Main,
    /// Services of master.cf: `-M`.
    Services,
    /// Columns of master.cf: `-F`.
    Columns,
    /// `-o` settings of master.cf: `-P`.
    ServiceParameters,
    /// `-a`.
    ServerSasl,
    /// `-A`.
    ClientSasl,
    /// `-b`: templates of notices, filled.
    FilledTemplates,
    /// `-t`: templates of notices as they are.
    Templates,
    /// `-l`.
    Locks,
    /// `-m`.
    TableTypes,
    /// `-T what`.
    Tls,
}

/// A change instead of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edit {
    /// `-e`, or `name=value` among the arguments.
    Set,
    /// `-#`.
    CommentOut,
    /// `-X`.
    Exclude,
}

/// The classes of parameters that `-C` chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Classes {
    pub(super) builtin: bool,
    pub(super) service: bool,
    pub(super) user: bool,
}

impl Classes {
    const NONE: Classes = Classes { builtin: false, service: false, user: false };
    const ALL: Classes = Classes { builtin: true, service: true, user: true };
}

/// The command line, understood.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) mode: Mode,
    pub(super) edit: Option<Edit>,
    pub(super) config_directory: Option<String>,
    pub(super) classes: Classes,
    /// `-d`.
    pub(super) defaults: bool,
    /// `-n`.
    pub(super) set_only: bool,
    /// `-f`.
    pub(super) fold: bool,
    /// `-x`.
    pub(super) expand: bool,
    /// `-h`.
    pub(super) hide_name: bool,
    /// `-H`.
    pub(super) hide_value: bool,
    /// `-o name=value`, in order.
    pub(super) overrides: Vec<String>,
    /// The word after `-T`.
    pub(super) tls_mode: String,
    pub(super) arguments: Vec<String>,
}

const WITHOUT_VALUE: &str = "aAbdeEfFhHlmMnpPtvxX#";
const WITH_VALUE: &str = "cCoT";

/// Options of which one excludes the others, in the order in which they are named in messages.
const EXCLUSIVE: &[&str] = &["aAbFlmMpPtT", "denX#", "efX#", "ehHX#", "eoX#", "exX#"];

/// Options that a mode does not take.
const INCOMPATIBLE: &[(char, &str)] = &[
    ('a', "deHhnofxX#"),
    ('A', "deHhnofxX#"),
    ('b', "deHhnofxX#"),
    ('F', "dnX#"),
    ('l', "deHhnofxX#"),
    ('m', "deHhnofxX#"),
    ('M', "dnhH"),
    ('P', "dn#"),
    ('t', "deHhnofxX#"),
    ('T', "deHhnofxX#"),
];

/// Reads the command line.
///
/// # Errors
/// What `postconf` says before it ends: bad options, options that do not go together. The first part is a line of its own.
pub(super) fn parse(program: &str, args: &[String]) -> Result<Options, Vec<String>> {
    let mut seen = String::new();
    let mut options = Options {
        mode: Mode::Main,
        edit: None,
        config_directory: None,
        classes: Classes::NONE,
        defaults: false,
        set_only: false,
        fold: false,
        expand: false,
        hide_name: false,
        hide_value: false,
        overrides: Vec::new(),
        tls_mode: String::new(),
        arguments: Vec::new(),
    };
    let mut rest = args.iter();
    while let Some(arg) = rest.as_slice().first() {
        if arg == "--" {
            rest.next();
            break;
        }
        let Some(letters) = arg.strip_prefix('-').filter(|letters| !letters.is_empty()) else { break };
        rest.next();
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            if WITHOUT_VALUE.contains(letter) {
                seen.push(letter);
            } else if WITH_VALUE.contains(letter) {
                seen.push(letter);
                let attached = letters.as_str();
                let value = if attached.is_empty() { rest.next().cloned() } else { Some(attached.to_string()) };
                letters = "".chars();
                let Some(value) = value else {
                    let complaint = format!("{program}: option requires an argument -- '{letter}'");
                    return Err(vec![complaint, format!("{program}: fatal: {}", usage(program))]);
                };
                options.take(letter, value).map_err(|text| vec![format!("{program}: fatal: {text}")])?;
            } else {
                let complaint = format!("{program}: invalid option -- '{letter}'");
                return Err(vec![complaint, format!("{program}: fatal: {}", usage(program))]);
            }
        }
    }
    options.arguments = rest.cloned().collect();
    let has = |letter| seen.contains(letter);
    // `postconf name=value` edits without being told to.
    let assigns = options.arguments.iter().any(|argument| argument.contains('='));
    let takes_templates = has('b') || has('t');
    if assigns && !takes_templates {
        seen.push('e');
    }
    check(&seen).map_err(|text| vec![format!("{program}: fatal: {text}")])?;
    options.apply(&seen);
    Ok(options)
}

impl Options {
    fn take(&mut self, letter: char, value: String) -> Result<(), String> {
        match letter {
            'c' => self.config_directory = Some(value),
            'o' => self.overrides.push(value),
            'T' => self.tls_mode = value,
            _ => {
                for word in value.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
                    match word {
                        "builtin" => self.classes.builtin = true,
                        "service" => self.classes.service = true,
                        "user" => self.classes.user = true,
                        "all" => self.classes = Classes::ALL,
                        _ => return Err(format!("unknown -C option value \"{word}\" in \"{value}\"")),
                    }
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, seen: &str) {
        let has = |letter| seen.contains(letter);
        for (letter, mode) in [
            ('a', Mode::ServerSasl),
            ('A', Mode::ClientSasl),
            ('b', Mode::FilledTemplates),
            ('F', Mode::Columns),
            ('l', Mode::Locks),
            ('m', Mode::TableTypes),
            ('M', Mode::Services),
            ('P', Mode::ServiceParameters),
            ('t', Mode::Templates),
            ('T', Mode::Tls),
        ] {
            if has(letter) {
                self.mode = mode;
            }
        }
        for (letter, edit) in [('e', Edit::Set), ('#', Edit::CommentOut), ('X', Edit::Exclude)] {
            if has(letter) {
                self.edit = Some(edit);
            }
        }
        if self.classes == Classes::NONE {
            self.classes = Classes::ALL;
        }
        self.defaults = has('d');
        self.set_only = has('n');
        self.fold = has('f');
        self.expand = has('x');
        self.hide_name = has('h');
        self.hide_value = has('H');
    }
}

fn check(seen: &str) -> Result<(), String> {
    for group in EXCLUSIVE {
        let present: Vec<String> =
            group.chars().filter(|letter| seen.contains(*letter)).map(|l| format!("-{l}")).collect();
        if present.len() > 1 {
            return Err(format!("specify one of {}", present.join(" ")));
        }
    }
    for (mode, refused) in INCOMPATIBLE {
        if seen.contains(*mode)
            && let Some(letter) = refused.chars().find(|letter| seen.contains(*letter))
        {
            return Err(format!("with option -{mode}, do not specify -{letter}"));
        }
    }
    Ok(())
}

fn usage(program: &str) -> String {
    format!(
        "usage: {program} [-a (server SASL types)] [-A (client SASL types)] [-b (bounce templates)] [-c config_dir] \
         [-c param_class] [-d (parameter defaults)] [-e (edit configuration)] [-f (fold lines)] [-F (master.cf fields)] \
         [-h (no names)] [-H (no values)] [-l (lock types)] [-m (map types)] [-M (master.cf)] \
         [-n (non-default parameters)] [-o name=value (override parameter value)] [-p (main.cf, default)] \
         [-P (master.cf parameters)] [-t (bounce templates)] [-T compile-version|run-version|public-key-algorithms] \
         [-v (verbose)] [-x (expand parameter values)] [-X (exclude)] [-# (comment-out)] [name...]"
    )
}
