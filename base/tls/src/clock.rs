//! A timer that is moved instead of made anew: a turn of a dialogue sets a deadline that nearly always passes unused,
//! and entering it into the runtime's timers and taking it out again would cost more than the turn's own work.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::time::{Instant, Sleep, sleep_until};

/// One connection's timer. It is entered once, rings early after the deadline has moved on, and is then entered again.
#[derive(Debug, Default)]
pub struct Clock {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// Awaits `work` until a deadline, which is asked for when there is something to wait for. `None` when it passed.
    pub async fn within<T>(&mut self, deadline: impl FnOnce() -> Instant, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let (mut ask, mut until) = (Some(deadline), None);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            if let Some(ask) = ask.take() {
                let end = ask();
                until = Some(end);
                match &mut self.sleep {
                    Some(sleep) if sleep.deadline() > end => sleep.as_mut().reset(end),
                    Some(_) => {}
                    None => self.sleep = Some(Box::pin(sleep_until(end))),
                }
            }
            // Both were set at the first turn of this.
            let (Some(end), Some(sleep)) = (until, &mut self.sleep) else { return Poll::Pending };
            while sleep.as_mut().poll(context).is_ready() {
                if Instant::now() >= end {
                    return Poll::Ready(None);
                }
                sleep.as_mut().reset(end);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::sleep;

    /// How long work takes and how long it may take, in seconds, one after the other on one clock.
    const TABLE: &[(u64, u64, bool)] = &[
        (0, 300, true),
        (1, 300, true),
        (299, 300, true),
        (301, 300, false),
        (2, 1, false),
        (5, 600, true),
        (601, 600, false),
    ];

    #[tokio::test(start_paused = true)]
    async fn deadlines_are_kept_however_they_move() {
        let mut clock = Clock::default();
        for &(takes, may, in_time) in TABLE {
            let begin = Instant::now();
            let work = async {
                if takes > 0 {
                    sleep(Duration::from_secs(takes)).await;
                }
            };
            let done = clock.within(|| Instant::now() + Duration::from_secs(may), work).await;
            assert_eq!(done.is_some(), in_time, "{takes} of {may}");
            let took = begin.elapsed().as_secs_f64();
            assert!((took - takes.min(may) as f64).abs() < 0.1, "{takes} of {may}: {took}");
        }
    }
}
