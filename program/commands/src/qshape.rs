//! qshape(1): how old the mail for each domain is.

use std::process::ExitCode;

use yamabiko_envelope::Timestamp;
use yamabiko_ipc::control::QueueName;

use crate::context::{Context, exit, instance};
use crate::getopt::{Flag, parse};
use crate::listing::{self, NoListing};
use crate::queue_view::qshape::{Options, Shape};

const USAGE: &str = "usage: qshape [-s] [-p] [-m min_subdomains] [-b bucket_count] [-t bucket_time] [-l] [-w terminal_width] \
                     [-N batch_msg_count] [-n batch_top_domains] [-c config_directory] [queue_name ...]";

/// Runs it.
pub fn run(args: &[String], called_as_yamabiko: bool) -> ExitCode {
    let usage = || {
        eprintln!("{USAGE}");
        ExitCode::from(1)
    };
    let Ok((flags, words)) = parse("b:c:hlm:n:N:pst:w:", args) else { return usage() };
    let (mut options, mut directory) = (Options::default(), None);
    for flag in &flags {
        let number = |text: &str| text.parse::<usize>().ok();
        match flag {
            Flag::Plain('s') => options.senders = true,
            Flag::Plain('p') => options.parents = true,
            Flag::Plain('l') => options.linear = true,
            Flag::Value('c', dir) => directory = Some(dir.as_str()),
            // `-N` is how often the original shows progress; there is nothing to wait for here.
            Flag::Value('N', _) => {}
            Flag::Value(letter, value) => match (letter, number(value)) {
                ('m', Some(n)) => options.minimum_subdomains = n,
                ('b', Some(n)) if n > 0 => options.buckets = n,
                ('t', Some(n)) if n > 0 => options.minutes = n as u64,
                ('w', Some(n)) => options.width = n,
                ('n', Some(n)) => options.top = Some(n),
                _ => return usage(),
            },
            Flag::Plain(_) => return usage(),
        }
    }
    let mut queues = Vec::new();
    for word in &words {
        match QueueName::by_name(word) {
            Some(queue) => queues.push(queue),
            None => {
                eprintln!("qshape: {word}: no such queue");
                return ExitCode::from(1);
            }
        }
    }
    if queues.is_empty() {
        queues = vec![QueueName::Incoming, QueueName::Active];
    }
    let mut context = match Context::open_running("qshape", instance(directory, called_as_yamabiko)) {
        Ok(context) => context,
        Err(code) => return code,
    };
    let mut shape = Shape::new(options, Timestamp::now());
    let counted = listing::each(&mut context, &queues, |_| {}, &mut |message, left| {
        let addresses = left.map(|recipient| recipient.map(|(address, _)| address)).collect::<Result<Vec<_>, _>>()?;
        shape.add(message.arrival, message.sender, addresses);
        Ok(())
    });
    match counted {
        Ok(()) => {}
        Err(NoListing::Refused(why) | NoListing::Broken(why)) => return context.fatal(exit::UNAVAILABLE, &why),
        Err(NoListing::Down(error)) => {
            return context.fatal(exit::UNAVAILABLE, &format!("mail system is down: {error}"));
        }
        Err(NoListing::Output(error)) => return context.fatal(exit::UNAVAILABLE, &error.to_string()),
    }
    match shape.write(&mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => context.fatal(exit::UNAVAILABLE, &format!("standard output: {error}")),
    }
}
