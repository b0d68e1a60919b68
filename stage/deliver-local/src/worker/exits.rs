//! What the end of a command means: by sysexits(3), as sendmail and Postfix read it, or by qmail-command(8).

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use yamabiko_status::{Class, EnhancedStatus};

use crate::job::{Done, Exits};

/// sysexits(3) as sendmail and Postfix read them: code, enhanced status, text.
const EXITS: [(i32, &str, &str); 15] = [
    (64, "5.3.0", "command line usage error"),
    (65, "5.6.0", "data format error"),
    (66, "5.3.0", "cannot open input"),
    (67, "5.1.1", "user unknown"),
    (68, "5.1.2", "host name unknown"),
    (69, "5.3.0", "service unavailable"),
    (70, "5.3.0", "internal software error"),
    (71, "4.3.0", "system resource problem"),
    (72, "5.3.0", "critical OS file missing"),
    (73, "5.2.0", "can't create user output file"),
    (74, "5.3.0", "input/output error"),
    (75, "4.3.0", "temporary failure"),
    (76, "5.5.0", "remote error in protocol"),
    (77, "5.7.0", "permission denied"),
    (78, "5.3.5", "local configuration error"),
];

/// What stands in the notice when a command that was stopped had said nothing.
const STOPPED: &str = "internal software error";

/// Enhanced status and text of a sysexits code.
pub fn exit_status(code: i32) -> Option<(&'static str, &'static str)> {
    EXITS.iter().find(|(number, _, _)| *number == code).map(|(_, status, text)| (*status, *text))
}

fn with_output(reason: String, output: &str) -> String {
    if output.is_empty() { reason } else { format!("{reason}. Command output: {output}") }
}

/// `reason` with the output behind it; in the notice the output alone, or `instead`.
fn failed(status: &str, reason: String, output: &str, instead: String) -> Done {
    let diagnostic = if output.is_empty() { instead } else { output.trim_end().to_owned() };
    Done::Failed { status: status.to_owned(), reason: with_output(reason, output), diagnostic: Some(diagnostic) }
}

/// The time limit has passed.
pub(super) fn timed_out(shown: &str, exits: Exits, output: &str) -> Done {
    let status = match exits {
        Exits::Sysexits => "5.3.0",
        // A crash is temporary there, and so is this.
        Exits::Qmail => "4.3.0",
    };
    failed(status, format!("Command time limit exceeded: \"{shown}\""), output, STOPPED.to_owned())
}

/// By sysexits(3).
pub(super) fn sysexits(shown: &str, status: ExitStatus, output: &str) -> Done {
    if status.success() {
        return Done::Delivered(output.trim_end().to_owned());
    }
    if let Some(signal) = status.signal() {
        return failed("4.3.0", format!("Command died with signal {signal}: \"{shown}\""), output, STOPPED.to_owned());
    }
    let code = status.code().unwrap_or(-1);
    // Output that begins with an enhanced status code says better what happened than the exit status.
    if let Some((said, rest)) = EnhancedStatus::split(output)
        && said.class != Class::Success
    {
        let reason = if rest.is_empty() { output } else { rest };
        let diagnostic = Some(reason.trim_end().to_owned());
        return Done::Failed { status: said.to_string(), reason: reason.to_owned(), diagnostic };
    }
    match exit_status(code) {
        Some((status, text)) => failed(status, text.to_owned(), output, text.to_owned()),
        None => {
            let reason = format!("Command died with status {code}: \"{shown}\"");
            failed("5.3.0", reason, output, format!("unknown mail system error {code}"))
        }
    }
}

/// Exit codes that are final besides 100 (qmail-command(8): they come from older mail systems).
const FINAL: [i32; 7] = [64, 65, 70, 76, 77, 78, 112];

/// By qmail-command(8): the output is the report.
pub(super) fn qmail(shown: &str, status: ExitStatus, output: &str) -> Done {
    let output = output.trim_end();
    let (class, reason) = match (status.code(), status.signal()) {
        (Some(0), _) => return Done::Delivered(output.to_owned()),
        (Some(99), _) => return Done::Enough(output.to_owned()),
        (Some(code), _) => {
            let class = if code == 100 || FINAL.contains(&code) { '5' } else { '4' };
            (class, format!("Command ended with status {code}: \"{shown}\""))
        }
        (None, signal) => ('4', format!("Aack, child crashed with signal {}: \"{shown}\"", signal.unwrap_or_default())),
    };
    let status = said_status(output, class).unwrap_or_else(|| format!("{class}.3.0"));
    let reason = if output.is_empty() { reason } else { output.to_owned() };
    Done::Failed { status, diagnostic: Some(reason.clone()), reason }
}

/// `(#5.7.1)` at the end of a report, or `5.7.1` at its beginning, where the class is that of the exit code.
fn said_status(output: &str, class: char) -> Option<String> {
    let marked = output.strip_suffix(')').and_then(|text| text.rsplit_once("(#")).map(|(_, status)| status);
    let status = match marked {
        Some(status) => status.parse::<EnhancedStatus>().ok()?,
        None => EnhancedStatus::split(output)?.0,
    };
    Some(status.to_string()).filter(|status| status.starts_with(class))
}
