//! Outcomes turned into notices, and the knowledge when not to.
//!
//! * [`Bouncer`] is the settings that count, from a config view and the template file.
//! * [`Reported`] is what became of one recipient; [`Bouncer::report_failure`] and [`Bouncer::report_outcome`] make them.
//! * [`Bouncer::failed`], [`Bouncer::delayed`] and [`Bouncer::settled`] decide which notices there are, to whom, and
//!   compose them. What comes back is a [`Plan`]: submissions for the queue, and lines for the log.
//!
//! A notice goes out with the null sender, so nothing can bounce it back to us as ordinary mail; if it fails, the
//! postmaster may get it (`notify_classes`), from the double-bounce sender; if that fails it is dropped with a warning.
//! There is never a third. Pure: time, zone and queue IDs are arguments, the original message is bytes read by the caller
//! ([`read_original`] does it).

mod controls;
mod digest;
mod expand;
mod governor;
mod language;
mod loops;
mod plan;
mod recipient;
mod settings;
mod show;

pub use controls::Controls;
pub use digest::{Digest, DigestSettings, Fate, Summary, normal_reason};
pub use governor::{Budget, Governor, GovernorSettings, Rates};
pub use plan::{Job, Plan, Planned};
pub use recipient::{Reported, failure_of};
pub use settings::Bouncer;
pub use show::{Shown, show_expanded, show_templates};

use std::io;

use bytes::Bytes;
use yamabiko_envelope::{Content, Envelope};
use yamabiko_message::{Fields, Separator};

/// How much of the original message a notice needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it.
    Full,
    /// Its headers.
    Headers,
}

/// More header text than this is not returned.
const HEADERS_MAX: u64 = 1024 * 1024;

/// Reads what [`Bouncer::wanted`] asks for. With [`Wanted::Headers`] what comes back may hold a piece of the body too.
///
/// # Errors
/// Those of reading the content. The notice can be written all the same, with [`Job::original`] `None`.
pub fn read_original(content: &Content, wanted: Wanted) -> io::Result<Bytes> {
    if wanted == Wanted::Full {
        return content.to_bytes();
    }
    if let Content::Memory(bytes) = content {
        return Ok(bytes.clone());
    }
    let mut read: Vec<u8> = Vec::new();
    let mut size = 16 * 1024;
    loop {
        let at = read.len();
        read.resize(size, 0);
        let mut filled = at;
        while filled < read.len() {
            match content.read_at(&mut read[filled..], filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        let ended = filled < read.len();
        read.truncate(filled);
        // A line that is no header ends the headers, even if only its beginning was read; the end of what was read
        // does not.
        if ended || size as u64 >= HEADERS_MAX || Fields::of(&read).separator() == Separator::EmptyLine {
            return Ok(read.into());
        }
        size *= 4;
    }
}

/// The sender of notices to the postmaster: ours, or qmail's.
fn is_double_bounce(envelope: &Envelope, double_bounce: &str) -> bool {
    let fold = yamabiko_address::domain::fold_case;
    is_qmail_double_bounce(&envelope.sender) || fold(&envelope.sender) == fold(double_bounce)
}

/// `#@[]`: what fails for this sender is never told of.
fn is_qmail_double_bounce(sender: &str) -> bool {
    sender == "#@[]"
}
