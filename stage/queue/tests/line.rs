//! The line in every interleaving of its callers and the log's thread: what is put in line is written once, in order,
//! by one writer at a time, and nobody waits for ever.

use loom::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use yamabiko_queue::line::{ALONE, Line};

/// What the lock holds: the line, whose writer is what it has written, and how far that was told.
struct State {
    line: Line<Vec<u32>, u32>,
    told: usize,
    closing: bool,
}

struct Shared {
    state: Mutex<State>,
    wake_log: Condvar,
    wake_callers: Condvar,
}

impl Shared {
    fn new() -> Arc<Self> {
        let mut line = Line::new(Vec::new(), Duration::ZERO);
        // As after some commits of one caller, so that callers lead.
        for item in 0..ALONE {
            line.push(1000 + item, 1, true);
            let (writer, _) = line.take().unwrap();
            assert!(!line.put_back(writer));
        }
        let state = State { line, told: 0, closing: false };
        Arc::new(Self { state: Mutex::new(state), wake_log: Condvar::new(), wake_callers: Condvar::new() })
    }

    /// Writes what was taken; outside the lock, as the queue does.
    fn commit(&self, mut writer: Vec<u32>, items: Vec<u32>) {
        loom::thread::yield_now();
        writer.extend(items);
        let mut state = self.state.lock().unwrap();
        assert!(state.told <= writer.len());
        state.told = writer.len();
        if state.line.put_back(writer) || state.closing {
            self.wake_log.notify_one();
        }
        self.wake_callers.notify_all();
    }

    fn log_thread(&self) {
        let mut state = self.state.lock().unwrap();
        loop {
            if state.line.is_wanted()
                && let Some((writer, batch)) = state.line.take()
            {
                drop(state);
                self.commit(writer, batch.items);
                state = self.state.lock().unwrap();
                continue;
            }
            if state.closing && state.line.writer().is_some() {
                return;
            }
            state.line.sleeps(None);
            state = self.wake_log.wait(state).unwrap();
            state.line.wakes();
        }
    }

    fn append(&self, item: u32) {
        let mut state = self.state.lock().unwrap();
        state.line.push(item, 1, true);
        if let Some((writer, batch)) = state.line.lead(|_, _| true) {
            drop(state);
            return self.commit(writer, batch.items);
        }
        if state.line.wake() {
            self.wake_log.notify_one();
        }
        // A writer is out, or the log's thread is awake: somebody tells.
        while state.line.writer().is_none_or(|written| !written.contains(&item)) {
            state = self.wake_callers.wait(state).unwrap();
        }
    }
}

#[test]
fn every_interleaving() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Shared::new();
        let log = {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || shared.log_thread())
        };
        let other = {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || shared.append(1))
        };
        shared.append(2);
        shared.append(3);
        other.join().unwrap();
        let mut state = shared.state.lock().unwrap();
        state.closing = true;
        shared.wake_log.notify_one();
        drop(state);
        log.join().unwrap();
        let state = shared.state.lock().unwrap();
        let written = state.line.writer().unwrap();
        let own: Vec<u32> = written.iter().copied().filter(|item| *item != 1).collect();
        assert_eq!((own, written.len(), state.told), (vec![2, 3], 3, 3));
    });
}
