//! Drives a conversation: reads and writes for it, and stamps the time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use yamabiko_envelope::Timestamp;
use yamabiko_lookup::{LookupError, Maps};
use yamabiko_smtp::reply::{Reply, ReplyParser};

use crate::command::{Job, needs_downgrade};
use crate::connection::{Connection, Socket};
use crate::content::{PIECE, Text, Wire};
use crate::conversation::{Broken, Conversation, Report, Step};
use crate::expect::Expect;
use crate::settings::Settings;
use crate::transcript::Transcript;

/// Drives a conversation over a connection.
pub(crate) async fn talk(
    settings: &Settings,
    filter: Option<&Maps>,
    connection: &mut Connection,
    job: &Job<'_>,
    text: &Text<'_>,
    keep: bool,
) -> Report {
    let mut transcript = settings.notify_protocol.then(Transcript::default);
    // Bytes of the message in the output: they are in no transcript.
    let mut of_message = 0;
    let buffer = std::mem::take(&mut connection.output);
    let Connection { socket, session, .. } = connection;
    let mut conversation = Conversation::new(settings, session, job, keep, buffer, Timestamp::now());
    loop {
        let step = conversation.next();
        // With deadlines a command and its reply have one time limit together.
        let until = match step {
            Step::Read(limit) if settings.deadline.is_some() && !limit.is_zero() => Some(Instant::now() + limit),
            _ => None,
        };
        if step != Step::Send && !conversation.output.is_empty() {
            let output = std::mem::take(&mut conversation.output);
            if let Some(transcript) = &mut transcript {
                // Passwords are in no transcript.
                let secret = conversation.expects() == Some(Expect::Auth);
                let said =
                    if secret { &b"AUTH (not shown)\r\n"[..] } else { output.get(of_message..).unwrap_or_default() };
                transcript.said(said);
                of_message = 0;
            }
            let written = socket.write(&output, limit_of(step, settings)).await;
            conversation.output = output;
            conversation.output.clear();
            if let Err(how) = written
                && step != Step::Done
            {
                // The reason may still be there to be read; if not, reading says what is wrong.
                if how == Broken::TimedOut {
                    conversation.broken(how, false, Timestamp::now());
                    continue;
                }
            }
        }
        match step {
            Step::Done => break,
            Step::Send => of_message = send(settings, socket, &mut conversation, job, text).await,
            Step::Handshake => {
                let terms = Arc::clone(&conversation.session().terms);
                let Some(client) = &terms.client else { break };
                // A handshake is large and soon over: it does not belong into every delivery's memory.
                let done = Box::pin(socket.secure(client, &terms.demand, settings.timeouts.starttls)).await;
                conversation.secured(done, Timestamp::now());
            }
            Step::Read(limit) => match socket.reply(limit, until).await {
                Ok(Ok(reply)) => {
                    let reply = match filter {
                        None => reply,
                        Some(filter) => match filtered(reply, filter).await {
                            Ok(reply) => reply,
                            Err(_) => {
                                conversation.broken(Broken::LocalData, false, Timestamp::now());
                                continue;
                            }
                        },
                    };
                    if let Some(transcript) = &mut transcript {
                        transcript.heard(&reply, conversation.expects());
                    }
                    conversation.take(&reply, Timestamp::now());
                }
                Ok(Err(garbage)) => conversation.take_garbage(&garbage.0, Timestamp::now()),
                Err(how) => conversation.broken(how, false, Timestamp::now()),
            },
        }
    }
    let (mut report, buffer) = conversation.finish_report();
    if !report.keep && !report.stale {
        socket.close().await;
    }
    connection.output = buffer;
    report.trouble = transcript.and_then(Transcript::worth_telling);
    report
}

/// `smtp_reply_filter`: a reply with its lines as the table has them. What is no reply any more stays as it was.
async fn filtered(reply: Reply, filter: &Maps) -> Result<Reply, LookupError> {
    let (mut text, mut changed) = (String::new(), false);
    for line in reply.lines() {
        match filter.find(line).await? {
            Some(new) => {
                changed = true;
                text.push_str(&new);
            }
            None => text.push_str(line),
        }
        text.push_str("\r\n");
    }
    if !changed {
        return Ok(reply);
    }
    let parsed = ReplyParser::new().parse(&mut text.as_bytes());
    Ok(parsed.and_then(Result::ok).unwrap_or(reply))
}

fn limit_of(step: Step, settings: &Settings) -> Duration {
    match step {
        Step::Read(limit) => limit,
        // A last word that nobody waits for.
        _ => settings.timeouts.quit.min(Duration::from_secs(5)),
    }
}

/// The time that a message may still take.
struct Allowance {
    most: Duration,
    left: Duration,
    /// Bytes for which it grows by a second; without a deadline each write has all of the time.
    rate: Option<u32>,
}

impl Allowance {
    fn new(settings: &Settings) -> Self {
        let most = settings.timeouts.data_transfer;
        Self { most, left: most, rate: settings.deadline.filter(|_| !most.is_zero()) }
    }

    async fn write(&mut self, socket: &mut Socket, bytes: &[u8]) -> Result<(), Broken> {
        let Some(rate) = self.rate else { return socket.write(bytes, self.most).await };
        let begun = Instant::now();
        // Zero would be for ever.
        socket.write(bytes, self.left.max(Duration::from_millis(1))).await?;
        self.spent(begun.elapsed(), bytes.len(), rate);
        Ok(())
    }

    fn spent(&mut self, time: Duration, bytes: usize, rate: u32) {
        let earned = Duration::from_secs_f64(bytes as f64 / f64::from(rate));
        self.left = (self.left.saturating_sub(time) + earned).min(self.most);
    }
}

/// Sends the message: in one write together with what follows it when it is small, in pieces when it is not. How much of it
/// is in the output still.
async fn send(
    settings: &Settings,
    socket: &mut Socket,
    conversation: &mut Conversation<'_>,
    job: &Job<'_>,
    text: &Text<'_>,
) -> usize {
    let downgrade = needs_downgrade(job, &conversation.session().capabilities, settings);
    let mut wire = Wire::new(text, settings.line_length_limit, downgrade);
    let mut allowance = Allowance::new(settings);
    if settings.replace_stray_cr {
        wire = wire.without_stray_cr();
    }
    loop {
        match wire.fill(&mut conversation.output) {
            Err(_) => {
                // Cut off in the middle: only a connection that breaks keeps the server from taking half a message.
                conversation.broken(Broken::LocalData, true, Timestamp::now());
                return conversation.output.len();
            }
            Ok(true) if conversation.output.len() >= PIECE => {
                let output = std::mem::take(&mut conversation.output);
                let written = allowance.write(socket, &output).await;
                conversation.output = output;
                conversation.output.clear();
                if let Err(how) = written {
                    conversation.broken(how, true, Timestamp::now());
                    return 0;
                }
            }
            Ok(true) => {}
            Ok(false) => {
                // PIX firewalls want the last dot in a packet of its own.
                let pix = conversation.session().pix.filter(|pix| pix.dot && job.waits_for_pix);
                if let Some(pix) = pix
                    && conversation.output.ends_with(b".\r\n")
                {
                    let mut output = std::mem::take(&mut conversation.output);
                    output.truncate(output.len() - 3);
                    let written = allowance.write(socket, &output).await;
                    if let Err(how) = written {
                        conversation.broken(how, true, Timestamp::now());
                        return 0;
                    }
                    tokio::time::sleep(pix.delay).await;
                    output.clear();
                    output.extend_from_slice(b".\r\n");
                    conversation.output = output;
                }
                if wire.broke_a_line() {
                    conversation.broke_a_line();
                }
                let of_message = conversation.output.len();
                conversation.sent(Timestamp::now());
                return of_message;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_earns_time_by_getting_on() {
        // Seconds and bytes of one write after the other; seconds that are left then, of 180, at 500 bytes a second.
        let table: &[(u64, usize, u64)] = &[(10, 0, 170), (5, 5_000, 175), (1, 32_768, 180), (200, 500, 1), (0, 0, 1)];
        let settings = Settings { deadline: Some(500), ..Settings::default() };
        let mut allowance = Allowance::new(&settings);
        for &(seconds, bytes, left) in table {
            allowance.spent(Duration::from_secs(seconds), bytes, 500);
            assert_eq!(allowance.left.as_secs(), left, "{seconds} {bytes}");
        }
        assert!(Allowance::new(&Settings::default()).rate.is_none());
    }
}
