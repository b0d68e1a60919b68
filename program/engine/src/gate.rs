//! Steps that an orderly end does not cut in two: a submission is accepted and then its submitter is told, or its file
//! removed. Cut in between it would be handed in once more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// More than can be under way at once.
const MOST: u32 = 1 << 20;

/// Cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

/// Such a step is under way.
pub struct Passing {
    _permit: OwnedSemaphorePermit,
}

impl Gate {
    /// Open.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST as usize)))
    }

    /// Begins such a step; it lasts until what is returned is dropped. `None` when none may begin any more.
    pub async fn pass(&self) -> Option<Passing> {
        let permit = Arc::clone(&self.0).acquire_owned().await.ok()?;
        Some(Passing { _permit: permit })
    }

    /// Waits until no step is under way, but not for ever. None begins from now on.
    pub async fn close(&self, within: Duration) {
        // Whoever comes later waits behind us.
        let _ = tokio::time::timeout(within, self.0.acquire_many(MOST)).await;
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_under_way_is_waited_for() {
        let gate = Gate::new();
        let passing = gate.pass().await.unwrap();
        let closing = tokio::spawn({
            let gate = gate.clone();
            async move { gate.close(Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        assert!(!closing.is_finished());
        drop(passing);
        closing.await.unwrap();
        assert!(gate.pass().await.is_none());
        // A step that does not end is not waited for.
        let gate = Gate::new();
        let _passing = gate.pass().await.unwrap();
        gate.close(Duration::ZERO).await;
        assert!(gate.pass().await.is_none());
    }
}
