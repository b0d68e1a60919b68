//! sendmail(1), the way in for every program on the machine. Also `mailq` and `newaliases`, which are names of it.
//!
//! A submission goes to the running engine over the control socket. When the engine is down it becomes a file in
//! `maildrop/`: directly where this user may write there, through the setgid `postdrop` elsewhere.

mod options;
mod submit;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use yamabiko_envelope::Severity;
use yamabiko_ipc::control::{Caller, Flush, Reply, Request};

use crate::context::{Context, exit, instance};
use options::{Misuse, Mode, Options};

pub use submit::postdrop;

/// Runs it under one of its names.
pub fn run(name: &str, args: &[String], called_as_yamabiko: bool) -> ExitCode {
    let default = match name {
        "mailq" => Mode::List,
        "newaliases" => Mode::Aliases,
        _ => Mode::Submit,
    };
    let options = options::read(args, default);
    let directory = options.as_ref().ok().and_then(|options| options.config.as_deref()).map(config_directory);
    let mut context = match Context::open_running("sendmail", instance(directory.as_deref(), called_as_yamabiko)) {
        Ok(context) => context,
        Err(_) => return ExitCode::from(exit::TEMPFAIL),
    };
    let options = match options {
        Ok(options) => options,
        Err(Misuse::Usage(why)) => {
            if let Some(why) = why {
                // Twice: Postfix's sendmail looks at its options twice.
                eprintln!("sendmail: {why}\nsendmail: {why}");
            }
            return context.fatal(exit::TEMPFAIL, "usage: sendmail [options]");
        }
        Err(Misuse::Fatal(why)) => return context.fatal(exit::TEMPFAIL, &why),
    };
    match options.mode.clone() {
        Mode::Submit => submit::submit(&mut context, options),
        // Who speaks SMTP says it there, for each message.
        Mode::Smtp if options.requiretls => context.fatal(exit::USAGE, "-O requiretls=yes does not go with -bs"),
        Mode::Smtp => smtp(&mut context),
        Mode::List => crate::postqueue::list(&mut context, crate::postqueue::Form::Classic),
        Mode::Aliases => {
            context.program = "postalias";
            crate::postmap::rebuild_aliases(context, options.alias_database.as_deref())
        }
        Mode::Daemon => daemon(called_as_yamabiko, &options),
        Mode::FlushAll => crate::postqueue::flush(&mut context, Flush::All),
        Mode::FlushSite(site) => crate::postqueue::flush(&mut context, Flush::Site(site)),
        Mode::FlushMessage(id) => match id.parse() {
            Ok(id) => crate::postqueue::flush(&mut context, Flush::Message(id)),
            Err(_) => context.fatal(exit::USAGE, &format!("Invalid queue ID: {id}")),
        },
        Mode::Nothing => ExitCode::SUCCESS,
    }
}

/// `-C` names a directory or, as Sendmail has it, a file in one.
fn config_directory(given: &str) -> String {
    let path = std::path::Path::new(given);
    if path.is_dir() {
        return given.to_owned();
    }
    path.parent().map_or_else(|| given.to_owned(), |parent| parent.display().to_string())
}

fn daemon(called_as_yamabiko: bool, options: &Options) -> ExitCode {
    let mut args = Vec::new();
    if let Some(config) = &options.config {
        args.extend(["-c".to_owned(), config_directory(config)]);
    }
    args.push("start".to_owned());
    crate::postfix::run(&args, called_as_yamabiko)
}

/// `-bs`: the engine speaks SMTP with whatever is on standard input and output.
fn smtp(context: &mut Context) -> ExitCode {
    let queue = context.queue_directory();
    let asked = Caller::ask(&queue, Request::Smtp).and_then(|mut caller| {
        let answer = caller.reply()?;
        Ok((caller.into_stream(), answer))
    });
    let stream = match asked {
        Ok((stream, Reply::Done)) => stream,
        Ok((_, Reply::Refused(why) | Reply::TryLater(why))) => return context.fatal(exit::TEMPFAIL, &why),
        Ok((_, other)) => return context.fatal(exit::TEMPFAIL, &format!("unexpected answer: {other:?}")),
        Err(error) => {
            context.log(Severity::Warning, None, &format!("-bs: mail system is down: {error}"));
            eprintln!("sendmail: fatal: -bs: mail system is down ({error}); start it with `postfix start`");
            return ExitCode::from(exit::TEMPFAIL);
        }
    };
    let _ = stream.set_read_timeout(None);
    match relay(&stream) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => context.fatal(exit::TEMPFAIL, &format!("-bs: {error}")),
    }
}

fn relay(stream: &UnixStream) -> std::io::Result<()> {
    let mut upward = stream.try_clone()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 16384];
        let mut input = std::io::stdin().lock();
        while let Ok(n) = input.read(&mut buffer) {
            if n == 0 || upward.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = upward.shutdown(std::net::Shutdown::Write);
    });
    let mut downward = stream.try_clone()?;
    let mut out = std::io::stdout().lock();
    let mut buffer = [0; 16384];
    loop {
        let n = downward.read(&mut buffer)?;
        if n == 0 {
            return out.flush();
        }
        out.write_all(&buffer[..n])?;
        out.flush()?;
    }
}
