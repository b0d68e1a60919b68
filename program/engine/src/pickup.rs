//! What `postdrop` left in `maildrop/` while the engine was down, or may still leave.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use yamabiko_envelope::{Severity, Timestamp};
use yamabiko_ipc::control::Reply;
use yamabiko_pickup::maildrop::{Dropped, Found, read};

use crate::control::Control;
use crate::generation::Current;

/// A file that is not whole after so long was given up by its writer.
const STALE: Duration = Duration::from_secs(86_400);
/// Extension of files that nobody wants.
const REFUSED: &str = "refused";
/// How often the directory is looked at without being told (`pickup` in master.cf has 60 s).
const EVERY: Duration = Duration::from_secs(60);

/// Takes up files until the engine stops.
pub async fn run(maildrop: PathBuf, control: Control, current: Current, wake: Arc<Notify>) {
    loop {
        sweep(&maildrop, &control, &current).await;
        let _ = tokio::time::timeout(EVERY, wake.notified()).await;
    }
}

async fn sweep(maildrop: &Path, control: &Control, current: &Current) {
    let names = match fs::read_dir(maildrop) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect::<Vec<_>>(),
        Err(error) => {
            current.say(Severity::Warning, None, &format!("cannot read {}: {error}", maildrop.display()));
            return;
        }
    };
    for path in names {
        if path.extension().is_some_and(|extension| extension == REFUSED) {
            continue;
        }
        let name = path.display();
        let file = path.clone();
        let found = tokio::task::spawn_blocking(move || read(&file)).await;
        match found.unwrap_or_else(|error| Err(error.into())) {
            Ok(Found::Whole(dropped)) => {
                let Dropped { envelope, content, uid, .. } = *dropped;
                let Some(_passing) = control.gate.pass().await else { return };
                if let Some(Reply::Refused(why)) = control.may_send(uid, &envelope.sender).await {
                    // A notice would go to somebody whose name was only used.
                    let text = format!("{name}: uid={uid}: {why}; the file is kept with .{REFUSED}");
                    current.say(Severity::Warning, None, &text);
                    let _ = fs::rename(&path, path.with_extension(REFUSED));
                    continue;
                }
                // A panic is a bug of ours: the file waits, and the others are taken up all the same.
                let taken = AssertUnwindSafe(control.take(envelope.clone(), content.clone(), uid)).catch_unwind();
                match taken.await.unwrap_or_else(|_| Reply::TryLater("internal error".to_owned())) {
                    Reply::Accepted(_) => remove(&path, current),
                    // Its submitter was told that all is well: so it goes back.
                    Reply::Refused(why) if control.give_back(envelope, content, uid, &why).await => {
                        remove(&path, current);
                    }
                    Reply::Refused(why) => {
                        // Nobody can be told: kept for the admin to see, out of the way.
                        let text = format!("{name}: refused: {why}; the file is kept with .{REFUSED}");
                        current.say(Severity::Warning, None, &text);
                        let _ = fs::rename(&path, path.with_extension(REFUSED));
                    }
                    Reply::TryLater(why) | Reply::Wait(why) => {
                        current.say(Severity::Warning, None, &format!("{name}: not taken up yet: {why}"))
                    }
                    _ => {}
                }
            }
            Ok(Found::Unfinished(changed)) => {
                if Timestamp::now().since(Timestamp::from_seconds(changed)) > STALE {
                    current.say(Severity::Warning, None, &format!("{name}: never finished by its writer, removed"));
                    remove(&path, current);
                }
            }
            Ok(Found::Strange(why)) => {
                current.say(Severity::Warning, None, &format!("{name}: {why}; left alone"));
            }
            Err(error) => current.say(Severity::Warning, None, &format!("{name}: {error}")),
        }
    }
}

fn remove(path: &Path, current: &Current) {
    if let Err(error) = fs::remove_file(path) {
        // It would be taken up again and again: that is worse than keeping it under another name.
        current.say(Severity::Error, None, &format!("cannot remove {}: {error}", path.display()));
        let _ = fs::rename(path, path.with_extension(REFUSED));
    }
}

/// A file in `maildrop/`, for `mailq`.
pub struct Waiting {
    /// Its name.
    pub name: String,
    /// Its time.
    pub time: Timestamp,
    /// Bytes.
    pub size: u64,
    /// Envelope sender.
    pub sender: String,
    /// Recipients; none where the file is not whole.
    pub recipients: Vec<String>,
}

/// What waits in the directory, for `mailq`.
pub fn listing(maildrop: &Path) -> impl Iterator<Item = Waiting> {
    let entries = fs::read_dir(maildrop).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Ok(Found::Whole(dropped)) = read(&entry.path()) {
            return Some(Waiting {
                name,
                time: Timestamp::from_seconds(dropped.changed),
                size: dropped.size,
                sender: dropped.envelope.sender,
                recipients: dropped.envelope.recipients,
            });
        }
        let metadata = entry.metadata().ok()?;
        let time = Timestamp::from_seconds(u64::try_from(metadata.mtime()).unwrap_or(0));
        Some(Waiting { name, time, size: metadata.len(), sender: String::new(), recipients: Vec::new() })
    })
}
