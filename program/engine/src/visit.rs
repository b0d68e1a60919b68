//! A delivery's visit to a receiving site: its questions go to the manager, what it hears is kept for the end.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;
use yamabiko_deliver::visit::{Heard, Pass, Visitor};
use yamabiko_schedule::{DeliveryId, Signal, site_name};

use crate::orders::{Manager, Order};

/// What a visit has taught.
#[derive(Clone, Debug)]
pub struct Visited {
    /// The site had no room, and nothing was done.
    pub postponed: bool,
    /// What the replies mean.
    pub signal: Signal,
    /// A session was ended.
    pub ended: bool,
}

/// One delivery's.
pub struct Visit {
    manager: Manager,
    delivery: DeliveryId,
    heard: Mutex<Vec<Heard>>,
    ended: AtomicBool,
    postponed: AtomicBool,
}

/// More refusals than this are not told apart.
const HEARD: usize = 32;

impl Visit {
    /// Of this delivery.
    pub fn new(manager: Manager, delivery: DeliveryId) -> Self {
        let (ended, postponed) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { manager, delivery, heard: Mutex::default(), ended, postponed }
    }

    /// What it has taught.
    pub fn visited(&self) -> Visited {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        Visited {
            postponed: self.postponed.load(Ordering::Relaxed),
            signal: crate::meaning::signal(&heard),
            ended: self.ended.load(Ordering::Relaxed),
        }
    }
}

impl Visitor for Visit {
    fn enter(&self, hosts: Vec<String>) -> Pin<Box<dyn Future<Output = Pass> + Send + '_>> {
        let site = site_name(hosts.iter().map(String::as_str));
        Box::pin(async move {
            let (answer, entry) = oneshot::channel();
            self.manager.send(Order::Enter(self.delivery, site.clone(), answer));
            // A manager that is gone means that we are stopping: nothing new is begun.
            let (go, session_messages) = entry.await.map_or((false, 0), |entry| (entry.go, entry.session_messages));
            self.postponed.store(!go, Ordering::Relaxed);
            Pass { go, session_messages, site: site.into() }
        })
    }

    fn heard(&self, heard: Heard) {
        let mut all = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < HEARD {
            all.push(heard);
        }
    }

    fn session_ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
