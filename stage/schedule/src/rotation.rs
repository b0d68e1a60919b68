//! Taking turns: first by sender, then in order within a sender.

use std::collections::{HashMap, VecDeque};

/// Each sender has a line; lines are served in turn, one from each.
#[derive(Debug)]
pub(crate) struct Rotation {
    senders: VecDeque<u64>,
    lines: HashMap<u64, VecDeque<u32>>,
    len: usize,
}

impl Rotation {
    pub(crate) fn new() -> Self {
        Self { senders: VecDeque::new(), lines: HashMap::new(), len: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// To the end of the sender's line.
    pub(crate) fn push(&mut self, sender: u64, item: u32) {
        let line = self.lines.entry(sender).or_default();
        if line.is_empty() {
            self.senders.push_back(sender);
        }
        line.push_back(item);
        self.len += 1;
    }

    /// Whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        let sender = self.senders.pop_front()?;
        // Every sender in the round has a line that is not empty.
        let line = self.lines.get_mut(&sender)?;
        let item = line.pop_front();
        if line.is_empty() {
            self.lines.remove(&sender);
        } else {
            self.senders.push_back(sender);
        }
        self.len -= usize::from(item.is_some());
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_from_each_sender() {
        let mut rotation = Rotation::new();
        for (sender, item) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (3, 31)] {
            rotation.push(sender, item);
        }
        let order: Vec<u32> = std::iter::from_fn(|| rotation.pop()).collect();
        assert_eq!(order, [10, 20, 30, 11, 31, 12]);
        assert!(rotation.is_empty() && rotation.lines.is_empty());
    }
}
