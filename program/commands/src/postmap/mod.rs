//! postmap(1), postalias(1) and newaliases(1): build, ask and change lookup tables.
//!
//! Options, texts and exit codes are Postfix's. What differs: `hash:x` and `btree:x` are indexed in `x.cdb` (a format
//! every program can read and no library of another licence is needed for), `cdb:` tables can be listed, and a table
//! that has no index yet answers from its text.

mod build;
mod query;
#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::sync::Arc;

use yamabiko_lookup::{Format, Notice, NoticeKind, Options, Table, TableSet};

use crate::context::{Context, instance};
use crate::getopt::{Flag, parse};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Task {
    Build,
    /// `-i`
    Add,
    /// `-q key`
    Query(String),
    /// `-d key`
    Delete(String),
    /// `-s`
    List,
}

/// The options.
#[derive(Clone, Debug)]
struct Settings {
    format: Format,
    task: Task,
    /// `-w`: no word about duplicates.
    ignore_duplicates: bool,
    /// `-r`: the last of several entries stays.
    replace: bool,
    /// `-N`: store terminating null bytes.
    nulls: bool,
    /// `-o`: do not become the owner of the source file.
    keep_root: bool,
    /// `-p`: do not take the permissions of the source file.
    plain_mode: bool,
    /// `-f` switches this off.
    fold_case: bool,
    /// `-F`: values are names of files.
    values_are_files: bool,
    /// `-h`, `-b`, `-m`
    headers: bool,
    bodies: bool,
    mime: bool,
}

/// The command while it runs.
struct Command {
    context: Context,
    settings: Settings,
    set: TableSet,
}

/// Ends the command.
struct Exit(ExitCode);

const POSTMAP_USAGE: &str = "usage: postmap [-bfFhimnNoprsuUvw] [-c config_dir] [-d key] [-q key] [map_type:]file...";
const POSTALIAS_USAGE: &str = "usage: postalias [-Nfinoprsuvw] [-c config_dir] [-d key] [-q key] [map_type:]file...";

/// Runs `postmap` or `postalias`; `args` are without the program's name.
pub fn run(program: &'static str, args: &[String]) -> ExitCode {
    let aliases = program == "postalias";
    let fatal = |text: &str| {
        eprintln!("{program}: fatal: {text}");
        ExitCode::FAILURE
    };
    let usage = if aliases { POSTALIAS_USAGE } else { POSTMAP_USAGE };
    let letters = if aliases { "Nc:d:finopq:rsuvw" } else { "bc:d:fFhimnNopq:rsuUvw" };
    let (flags, tables) = match parse(letters, args) {
        Ok(parsed) => parsed,
        Err(bad) => {
            eprintln!("{program}: {bad}");
            return fatal(usage);
        }
    };
    let (directory, settings, warning) = match settings(aliases, &flags) {
        Ok(settings) => settings,
        Err(text) => return fatal(text),
    };
    let context = match Context::open(program, instance(directory.as_deref(), false)) {
        Ok(context) => context,
        Err(code) => return code,
    };
    if tables.is_empty() {
        return fatal(usage);
    }
    let mut command = Command::new(context, settings);
    if let Some(text) = warning {
        command.context.warn(text);
    }
    match command.run(&tables) {
        Ok(code) | Err(Exit(code)) => code,
    }
}

/// newaliases(1): rebuilds the tables of `alias_database`, or the one of `-oA`. Also `sendmail -bi` and `-I`.
pub fn newaliases(args: &[String]) -> ExitCode {
    let (mut directory, mut database) = (None, None);
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if let Some(spec) = word.strip_prefix("-oA") {
            database = Some(spec.to_owned());
        } else if word == "-C" || word == "-c" {
            directory = words.next().cloned();
        } else if !word.starts_with('-') {
            eprintln!("newaliases: fatal: alias initialization mode requires no recipient");
            return ExitCode::from(crate::context::exit::TEMPFAIL);
        }
    }
    match Context::open("postalias", instance(directory.as_deref(), false)) {
        Ok(context) => rebuild_aliases(context, database.as_deref()),
        Err(code) => code,
    }
}

/// Rebuilds `database`, or all tables of `alias_database`, as `postalias` does. The context's program is `postalias`.
pub fn rebuild_aliases(context: Context, database: Option<&str>) -> ExitCode {
    let tables = match database {
        Some(one) => vec![one.to_owned()],
        None => context.main().list("alias_database"),
    };
    // These options are right: there are none.
    let Ok((_, settings, _)) = settings(true, &[]) else { return ExitCode::FAILURE };
    match Command::new(context, settings).run(&tables) {
        Ok(code) | Err(Exit(code)) => code,
    }
}

type Read = (Option<String>, Settings, Option<&'static str>);

/// Reads the options: the configuration directory, the settings, and a warning to give.
fn settings(aliases: bool, flags: &[Flag]) -> Result<Read, &'static str> {
    let mut settings = Settings {
        format: if aliases { Format::Alias } else { Format::Map },
        task: Task::Build,
        ignore_duplicates: false,
        replace: false,
        nulls: false,
        keep_root: false,
        plain_mode: false,
        fold_case: true,
        values_are_files: false,
        headers: false,
        bodies: false,
        mime: false,
    };
    let (mut directory, mut add) = (None, false);
    for flag in flags {
        match flag {
            Flag::Value('c', dir) => directory = Some(dir.clone()),
            Flag::Value(letter, key) => {
                if settings.task != Task::Build {
                    return Err("specify only one of -s -q or -d");
                }
                settings.task = if *letter == 'q' { Task::Query(key.clone()) } else { Task::Delete(key.clone()) };
            }
            Flag::Plain('s') => {
                if settings.task != Task::Build {
                    return Err("specify only one of -s or -q or -d");
                }
                settings.task = Task::List;
            }
            Flag::Plain('i') => add = true,
            Flag::Plain('w') => (settings.ignore_duplicates, settings.replace) = (true, false),
            Flag::Plain('r') => (settings.ignore_duplicates, settings.replace) = (false, true),
            Flag::Plain('N') => settings.nulls = true,
            Flag::Plain('n') => settings.nulls = false,
            Flag::Plain('o') => settings.keep_root = true,
            Flag::Plain('p') => settings.plain_mode = true,
            Flag::Plain('f') => settings.fold_case = false,
            Flag::Plain('F') => settings.values_are_files = true,
            Flag::Plain('h') => settings.headers = true,
            Flag::Plain('b') => settings.bodies = true,
            Flag::Plain('m') => settings.mime = true,
            // -u, -U: keys and values are always UTF-8. -v: nothing more to tell.
            Flag::Plain(_) => {}
        }
    }
    let message = settings.headers || settings.bodies;
    if (message || settings.mime) && settings.task != Task::Query("-".to_owned()) {
        return Err("specify -b -h or -m only with \"-q -\"");
    }
    let warning = (settings.mime && !message).then_some("ignoring -m option without -b or -h");
    if add && settings.task == Task::Build {
        settings.task = Task::Add;
    }
    Ok((directory, settings, warning))
}

impl Command {
    fn new(context: Context, settings: Settings) -> Self {
        let program = context.program;
        // What the tables say is printed at once; that a text is newer than its index is no news to who is about to
        // look.
        let notify = Arc::new(move |notice: Notice| match notice.kind {
            NoticeKind::Info => {}
            NoticeKind::Warning => eprintln!("{program}: warning: {}", notice.text),
            NoticeKind::Error => eprintln!("{program}: error: {}", notice.text),
        });
        let main = context.main();
        let ledger = std::path::PathBuf::from(main.text("ledger_directory"));
        let others = yamabiko_lookup_remote::extension(Arc::new(move |name| main.find(name)));
        let extension = Some(yamabiko_ledger::suppress::table::extension(&ledger, others));
        let size = |name: &str| usize::try_from(context.main().int(name)).unwrap_or(0);
        let set = TableSet::new(Options {
            notify,
            fold_case: settings.fold_case,
            extension,
            socketmap_max_query: size("socketmap_max_query_size"),
            socketmap_max_reply: size("socketmap_max_reply_size"),
            ..Options::default()
        });
        Self { context, settings, set }
    }

    fn run(&mut self, tables: &[String]) -> Result<ExitCode, Exit> {
        match self.settings.task.clone() {
            Task::Build | Task::Add => {
                for spec in tables {
                    self.build(spec)?;
                }
                Ok(ExitCode::SUCCESS)
            }
            Task::Delete(key) => self.delete(tables, &key),
            Task::Query(key) if key == "-" => self.query_stdin(tables),
            Task::Query(key) => self.query(tables, &key),
            Task::List => self.list(tables),
        }
    }

    fn fatal(&mut self, text: &str) -> Exit {
        Exit(self.context.fatal(1, text))
    }

    /// `type:name` of an argument; without a type, `default_database_type`.
    fn spec(&self, argument: &str) -> (String, String) {
        match argument.split_once(':') {
            Some((kind, name)) => (kind.to_owned(), name.to_owned()),
            None => (self.context.main().text("default_database_type"), argument.to_owned()),
        }
    }

    fn open(&mut self, kind: &str, name: &str) -> Result<Arc<dyn Table>, Exit> {
        let spec = format!("{kind}:{name}");
        // Only tables that postalias builds are in its format.
        let indexed = build::Index::of(kind).is_some();
        let open = match self.settings.format {
            Format::Alias if indexed => self.set.open_aliases(&spec),
            _ => self.set.open(&spec),
        };
        open.map_err(|error| self.fatal(&error.0))
    }
}
