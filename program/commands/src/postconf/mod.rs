//! postconf(1): shows and edits main.cf and master.cf.
//!
//! Output, warnings and errors are Postfix's. [`options`] reads the command line, [`show`] reports, [`edit`] changes files,
//! [`mod@print`] writes lines. What postconf shows is what is written: values are not checked here.

mod edit;
mod options;
mod print;
mod show;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use yamabiko_config::Host;
use yamabiko_supervisor::{Embedded, Instance};

use options::{Mode, Options};

/// The directory of the configuration when nothing else is said.
const DEFAULT_DIRECTORY: &str = "/etc/postfix";

/// Runs `postconf`; `program_name` is what it was called by, for messages.
/// `called_as_yamabiko`: a data folder in the working directory counts before the default directory.
pub fn run(program_name: &str, args: &[String], called_as_yamabiko: bool) -> ExitCode {
    let stdout = std::io::stdout();
    let mut out = std::io::BufWriter::new(stdout.lock());
    let host = Host::of_this_machine("postconf");
    let embedded = match crate::context::instance(None, called_as_yamabiko) {
        Instance::Embedded(data) => yamabiko_supervisor::embedded(&data).ok(),
        Instance::Directory(_) => None,
    };
    let environment_directory = std::env::var("MAIL_CONFIG").ok();
    let program = Program { name: program_name, environment_directory, host: &host, embedded };
    let mut messages = std::io::stderr();
    let code = program.main(args, &mut out, &mut messages);
    let flushed = out.flush();
    ExitCode::from(if flushed.is_err() { 1 } else { code })
}

/// What the program knows besides its arguments.
struct Program<'a> {
    name: &'a str,
    environment_directory: Option<String>,
    host: &'a Host,
    /// The texts of both files where there are none: the data folder of `yamabiko start`.
    embedded: Option<Embedded>,
}

/// Why the program ends: the text behind `fatal: `.
#[derive(Debug)]
struct Fatal(String);

impl From<std::io::Error> for Fatal {
    fn from(error: std::io::Error) -> Fatal {
        Fatal(format!("write error: {error}"))
    }
}

impl Program<'_> {
    fn main(&self, args: &[String], out: &mut dyn Write, messages: &mut dyn Write) -> u8 {
        let options = match options::parse(self.name, args) {
            Ok(options) => options,
            Err(lines) => {
                for line in lines {
                    // Nothing can be done when messages cannot be written.
                    let _ = writeln!(messages, "{line}");
                }
                return 1;
            }
        };
        let mut report = Report { program: self.name, out, messages };
        match self.dispatch(&options, &mut report) {
            Ok(code) => code,
            Err(Fatal(text)) => {
                let _ = report.out.flush();
                let _ = writeln!(report.messages, "{}: fatal: {text}", self.name);
                1
            }
        }
    }

    fn directory(&self, options: &Options) -> PathBuf {
        let named = options.config_directory.clone().or_else(|| self.environment_directory.clone());
        PathBuf::from(named.unwrap_or_else(|| DEFAULT_DIRECTORY.to_string()))
    }

    /// The configuration has no files.
    fn texts(&self, options: &Options) -> Option<&Embedded> {
        self.embedded.as_ref().filter(|_| options.config_directory.is_none())
    }

    fn dispatch(&self, options: &Options, report: &mut Report<'_>) -> Result<u8, Fatal> {
        match options.mode {
            Mode::ServerSasl | Mode::ClientSasl => {
                // No SASL implementation is built in yet, so there are no types to list.
            }
            Mode::Locks => report.out.write_all(b"flock\nfcntl\ndotlock\n")?,
            Mode::TableTypes => {
                let mut types = [TABLE_TYPES, yamabiko_lookup_remote::types()].concat();
                types.sort_unstable();
                for kind in types {
                    writeln!(report.out, "{kind}")?;
                }
            }
            Mode::Tls => return tls(options, report),
            Mode::FilledTemplates | Mode::Templates => return self.templates(options, report),
            Mode::Main | Mode::Services | Mode::Columns | Mode::ServiceParameters => match options.edit {
                Some(_) if self.texts(options).is_some() => {
                    return Err(Fatal(
                        "this mail system runs without configuration files; make a directory with main.cf and \
                         master.cf (postconf -n and -M print what they are now) and start it with -c"
                            .to_string(),
                    ));
                }
                Some(kind) => edit::edit(self, options, kind, report)?,
                None => show::show(self, options, report)?,
            },
        }
        Ok(0)
    }

    fn templates(&self, options: &Options, report: &mut Report<'_>) -> Result<u8, Fatal> {
        let config = show::load_quietly(self, options)?;
        let view = config.main();
        let configured = view.text("bounce_template_file");
        let file = match options.arguments.as_slice() {
            [] => Some(configured.as_str()).filter(|file| !file.is_empty()),
            [file] => Some(file.as_str()).filter(|file| !file.is_empty()),
            _ => return Err(Fatal("specify one of -b and -t".to_string())),
        };
        let text = match file {
            Some(file) => Some(std::fs::read(file).map_err(|error| Fatal(open_error(Path::new(file), &error)))?),
            None => None,
        };
        let file = file.zip(text.as_deref());
        let shown = if options.mode == Mode::Templates {
            yamabiko_bounce::show_templates(&view, file)
        } else {
            yamabiko_bounce::show_expanded(&view, file)
        };
        // These are the words of bounce(8), which Postfix runs for this.
        let mut bounce = Report { program: "postfix/bounce", out: &mut *report.out, messages: &mut *report.messages };
        for warning in &shown.warnings {
            bounce.warn(warning);
        }
        report.out.write_all(&shown.text)?;
        Ok(u8::from(shown.faulty))
    }
}

/// `postconf -T`
fn tls(options: &Options, report: &mut Report<'_>) -> Result<u8, Fatal> {
    match options.tls_mode.as_str() {
        "compile-version" | "run-version" => {
            writeln!(report.out, "{}", yamabiko_tls::LIBRARY)?;
            Ok(0)
        }
        "public-key-algorithms" => {
            for name in yamabiko_tls::public_key_algorithms() {
                writeln!(report.out, "{name}")?;
            }
            Ok(0)
        }
        other => {
            report.warn(&format!("unknown 'postconf -T' mode: {other}"));
            Ok(1)
        }
    }
}

/// The types of tables that can be opened, sorted.
const TABLE_TYPES: &[&str] = &[
    "btree",
    "cdb",
    "cidr",
    "environ",
    "fail",
    "hash",
    "inline",
    "internal",
    "lmdb",
    "pcre",
    "pipemap",
    "proxy",
    "randmap",
    "regexp",
    "socketmap",
    "static",
    "tcp",
    "texthash",
    "unionmap",
    "unix",
];

/// Where results and messages go.
struct Report<'a> {
    program: &'a str,
    out: &'a mut dyn Write,
    messages: &'a mut dyn Write,
}

impl Report<'_> {
    /// A warning; results written so far come out first, so that both read in order.
    fn warn(&mut self, text: &str) {
        // Nothing can be done when messages cannot be written.
        let _ = self.out.flush();
        let _ = writeln!(self.messages, "{}: warning: {text}", self.program);
    }
}

/// `open FILE: reason`, as Postfix words it.
fn open_error(path: &Path, error: &std::io::Error) -> String {
    let reason = match error.kind() {
        std::io::ErrorKind::NotFound => "No such file or directory".to_string(),
        std::io::ErrorKind::PermissionDenied => "Permission denied".to_string(),
        _ => error.to_string(),
    };
    format!("open {}: {reason}", path.display())
}

#[cfg(test)]
mod tests;
