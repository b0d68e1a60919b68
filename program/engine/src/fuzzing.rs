//! What is read of strangers' replies and of files, for the fuzz targets: nothing else uses it.

use std::time::Duration;

use yamabiko_deliver::visit::Heard;
use yamabiko_envelope::{SmtpStage, Timestamp};
use yamabiko_schedule::{Schedule, Settings};
use yamabiko_status::ReplyCode;

/// The wait that a reply asks for.
pub fn hinted_wait(reply: &str) -> Option<Duration> {
    crate::meaning::hinted_wait(reply)
}

/// What a reply means at every stage; the answer is of no interest.
pub fn signal(reply: &str) {
    for stage in [SmtpStage::Connect, SmtpStage::Mail, SmtpStage::Rcpt, SmtpStage::EndOfData] {
        let heard = Heard {
            host: "mx.a.test".to_owned(),
            stage,
            code: reply.get(..3).and_then(|code| code.parse().ok()).map(ReplyCode),
            text: reply.to_owned(),
            uses: 2,
        };
        let _ = crate::meaning::signal(&[heard]);
    }
}

/// Takes up a file of learned limits; what would be written then.
///
/// # Errors
/// It is no such file.
pub fn learned_limits(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut schedule = Schedule::new(Settings::default());
    crate::limits::teach(&mut schedule, crate::limits::parse(text)?, Timestamp::from_seconds(1_790_000_000));
    serde_json::to_vec(&crate::limits::sheet(&schedule)).map_err(|error| error.to_string())
}
