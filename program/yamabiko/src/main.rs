//! One binary: every command by the name it is called by, every process by its role.

use std::path::Path;
use std::process::ExitCode;

use yamabiko_commands as commands;

#[global_allocator]
static ALLOCATOR: yamabiko_sys::memory::Allocator = yamabiko_sys::memory::Allocator;

/// Verbs of `postfix` that are also ours.
const VERBS: [&str; 8] = ["start", "start-fg", "stop", "abort", "reload", "flush", "check", "status"];

/// Subcommands that later releases bring: named here so that nobody takes their absence for a typing mistake.
const NOT_YET: [&str; 6] = ["demo", "explain", "lint", "test", "replay", "top"];

const USAGE: &str = "\
Yamabiko, a mail server that knows what became of every message.

  yamabiko start               run without any configuration, in ./yamabiko-data
  yamabiko start -c DIR        run a Postfix configuration directory
  yamabiko stop|reload|flush|check|status|abort|start-fg [-c DIR]
  yamabiko install --prefix DIR | --bindir DIR
                               lay the command names as links to this program
  yamabiko analyze [PATH...]   bounces: who was not reached, and why (--help)
  yamabiko fate QUERY          what became of a message: address, domain, queue ID, Message-ID,
                               a pasted bounce or log line (--help)
  yamabiko suppress ...        addresses that are not mailed: list, add, remove, check, why, learn,
                               import, export, serve (--help)
  yamabiko stream TO           what happens, as lines of JSON, to a file, program or web hook (--help)
  yamabiko classify [REPLY]    what a single reply means (--help)
  yamabiko dkim genkey|check   keys of DKIM signatures, and their records in DNS
  yamabiko import [PATH...]    old mail logs and bounce mailboxes into the ledger (--help)
  yamabiko report [LOG...]     totals as pflogsumm makes them; --sheet: which addresses are dead, and why
  yamabiko verify ADDRESS...   addresses looked at before mail is sent: syntax, domain, typing errors, history
  yamabiko verify --tls DOMAIN TLS with the mail servers of a domain, and whether mail would go to them
  yamabiko tls-report [DAY]    what was counted of TLS with other servers, and the reports about it
  yamabiko sim PROFILE...      receivers on the loopback for rehearsals: docomo, gmail, ... (--help)
  yamabiko source              numbered messages, and what became of them (--help)
  yamabiko passwd USER         set a password for smtpd_sasl_type = yamabiko
  yamabiko COMMAND ...         sendmail mailq newaliases postqueue postsuper postcat
                               postconf postmap postalias postlog postdrop qshape postfix
  yamabiko limits ...          what receivers' replies have taught: list, freeze, forget, set
  yamabiko queue ...           list, count, hold, release, requeue, delete, expire, flush by predicate;
                               status, verify, dump, repair, export, import

Every command also works by its own name, once it is installed.";

fn main() -> ExitCode {
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let called = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    let name = Path::new(&called).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if commands::context::is_set_id() {
        // Only `postdrop` is meant to have more rights than its caller, and even it believes nothing of what the caller
        // has put around it.
        yamabiko_sys::privileges::forget_environment();
        if name != "postdrop" && yamabiko_sys::privileges::give_up_set_id().is_err() {
            return ExitCode::from(71);
        }
    }
    match args.split_first() {
        Some((role, rest)) if role == "--role" => self::role(rest),
        Some((command, rest)) if name.starts_with("yamabiko") => own(command, rest),
        None if name.starts_with("yamabiko") => {
            yamabiko_commands::say!("{USAGE}");
            ExitCode::from(64)
        }
        _ => command(&name, &args, false).unwrap_or_else(|| {
            eprintln!("yamabiko: fatal: called by an unknown name: {name}");
            ExitCode::from(64)
        }),
    }
}

/// The processes of a running mail system.
fn role(args: &[String]) -> ExitCode {
    match args.split_first() {
        Some((role, _)) if role == "engine" => yamabiko_engine::run(),
        Some((role, rest)) if role == "local" => yamabiko_local::run(rest),
        Some((role, rest)) if role == "supervisor" => commands::postfix::supervisor_role(rest),
        _ => {
            eprintln!("yamabiko: fatal: --role is for the program itself");
            ExitCode::from(64)
        }
    }
}

/// `yamabiko SOMETHING ...`
fn own(word: &str, rest: &[String]) -> ExitCode {
    if VERBS.contains(&word) {
        // `start -c DIR` and `-c DIR start` mean the same.
        let mut args = rest.to_vec();
        args.push(word.to_owned());
        return commands::postfix::run(&args, true);
    }
    if word.starts_with("-c") {
        let args: Vec<String> = std::iter::once(word.to_owned()).chain(rest.iter().cloned()).collect();
        return commands::postfix::run(&args, true);
    }
    if word == "install" {
        return commands::install::run(rest);
    }
    if word == "dkim" {
        return commands::dkim::run(rest);
    }
    if word == "passwd" {
        return commands::passwd::run(rest, true);
    }
    if word == "analyze" {
        return commands::analyze::run(rest);
    }
    if word == "sim" {
        return yamabiko_sim::run(rest);
    }
    if word == "source" {
        return yamabiko_sim::run_source(rest);
    }
    if word == "import" {
        return commands::import::run(rest);
    }
    if word == "report" {
        return commands::report::run(rest);
    }
    if word == "tls-report" {
        return commands::tls_report::run(rest);
    }
    if word == "verify" {
        return commands::verify::run(rest);
    }
    if word == "limits" {
        return commands::limits::run(rest);
    }
    if word == "classify" {
        return commands::analyze::classify(rest);
    }
    if word == "fate" {
        return commands::fate::run(rest);
    }
    if word == "suppress" {
        return commands::suppress::run(rest);
    }
    if word == "stream" {
        return commands::stream::run(rest);
    }
    if NOT_YET.contains(&word) {
        eprintln!("yamabiko: {word} is not there yet: it comes with a later release");
        return ExitCode::from(69);
    }
    if matches!(word, "help" | "--help" | "-h") {
        yamabiko_commands::say!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    if matches!(word, "version" | "--version" | "-V") {
        yamabiko_commands::say!("yamabiko {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    command(word, rest, true).unwrap_or_else(|| {
        eprintln!("yamabiko: unknown command: {word}\n\n{USAGE}");
        ExitCode::from(64)
    })
}

/// A command by its name.
fn command(name: &str, args: &[String], ours: bool) -> Option<ExitCode> {
    Some(match name {
        "postfix" => commands::postfix::run(args, ours),
        "sendmail" | "mailq" | "newaliases" => commands::sendmail::run(name, args, ours),
        "postqueue" => commands::postqueue::run(args, ours),
        "postsuper" => commands::postsuper::run(args, ours),
        "postcat" => commands::postcat::run(args, ours),
        "postlog" => commands::postlog::run(args, ours),
        "postdrop" => commands::sendmail::postdrop(args),
        "qshape" => commands::qshape::run(args, ours),
        // By this name only as `yamabiko queue`.
        "queue" if ours => commands::queue_tool::run(args, ours),
        "postconf" => commands::postconf::run(name, args, ours),
        "postmap" => commands::postmap::run("postmap", args),
        "postalias" => commands::postmap::run("postalias", args),
        _ => return commands::qmail::run(name, args, ours),
    })
}
