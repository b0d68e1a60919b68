//! Work that may wait for a socket with blocking calls (remote lookup tables): done where it holds up nobody else.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use tokio::runtime::{Handle, RuntimeFlavor};

/// Awaits `work`; where `blocks` says so, other tasks of this thread move to another one while it is polled.
pub async fn where_it_may_block<F: Future>(blocks: bool, work: F) -> F::Output {
    let mut work = pin!(work);
    if !blocks || Handle::current().runtime_flavor() != RuntimeFlavor::MultiThread {
        return work.await;
    }
    std::future::poll_fn(|context| -> Poll<F::Output> { tokio::task::block_in_place(|| work.as_mut().poll(context)) })
        .await
}
