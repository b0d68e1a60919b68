//! Work that may wait for a socket with blocking calls (remote lookup tables): done where it holds up nobody else.

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::Poll;

use tokio::runtime::{Handle, RuntimeFlavor};

/// Awaits `work`; where `blocks` says so, other tasks of this thread move to another one while it is polled. A large future
/// comes boxed: handed over by itself it would be in the caller's future twice.
pub async fn where_it_may_block<F: Future + Unpin>(blocks: bool, mut work: F) -> F::Output {
    if !blocks || Handle::current().runtime_flavor() != RuntimeFlavor::MultiThread {
        return work.await;
    }
    let mut work = Pin::new(&mut work);
    std::future::poll_fn(|context| -> Poll<F::Output> { tokio::task::block_in_place(|| work.as_mut().poll(context)) })
        .await
}

/// While this thread waits for a fraction of a millisecond, another one takes up what comes in.
pub fn others_go_on() -> bool {
    Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread && handle.metrics().num_workers() > 1)
}

/// Asks the user database. Where that may be on another machine, other tasks of this thread do not wait for it.
pub fn ask_users<T>(question: impl FnOnce() -> T) -> T {
    if !users_are_elsewhere() || Handle::current().runtime_flavor() != RuntimeFlavor::MultiThread {
        return question();
    }
    tokio::task::block_in_place(question)
}

/// nsswitch.conf(5) names a source of users that is not a file of this machine.
fn users_are_elsewhere() -> bool {
    static ELSEWHERE: OnceLock<bool> = OnceLock::new();
    *ELSEWHERE.get_or_init(|| std::fs::read_to_string("/etc/nsswitch.conf").is_ok_and(|text| names_another(&text)))
}

fn names_another(text: &str) -> bool {
    let sources = text.lines().filter_map(|line| line.trim_start().strip_prefix("passwd:"));
    let words = sources.flat_map(|sources| sources.split('#').next().unwrap_or_default().split_ascii_whitespace());
    words.filter(|word| !word.starts_with('[')).any(|word| !matches!(word, "files" | "compat" | "db"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_other_machines() {
        for (text, expected) in [
            ("passwd: files\n", false),
            ("passwd:\tfiles db # sss\ngroup: ldap\n", false),
            ("passwd: files [NOTFOUND=return] sss\n", true),
            ("passwd: compat ldap", true),
            ("", false),
        ] {
            assert_eq!(names_another(text), expected, "{text}");
        }
    }

    fn size_of_future<A, B, Task>(_: impl Fn(A, B) -> Task) -> usize {
        size_of::<Task>()
    }

    /// One is made for each delivery, and there may be hundreds.
    #[test]
    fn a_delivery_is_small() {
        let size = size_of_future(crate::agents::Agent::deliver);
        assert!(size <= 12 << 10, "{size} bytes: some agent's future wants a box");
    }
}
