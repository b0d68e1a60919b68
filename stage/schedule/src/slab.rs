//! Things with small numbers for names. A number is used again after its thing is gone.

use std::ops::{Index, IndexMut};

/// Room for so many stays when there are none.
const KEPT: usize = 16;

#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            // Numbers on the free list are those of entries.
            Some(key) => {
                self.entries[key as usize] = Some(value);
                key
            }
            None => {
                self.entries.push(Some(value));
                // Bounded by the active limits, far below four thousand million.
                (self.entries.len() - 1) as u32
            }
        }
    }

    pub(crate) fn remove(&mut self, key: u32) {
        if self.entries.get_mut(key as usize).and_then(Option::take).is_some() {
            self.free.push(key);
        }
        if self.free.len() == self.entries.len() {
            // What many have left gives its memory back; mail that goes out as it comes in finds its room again.
            if self.entries.capacity() > KEPT {
                *self = Self::new();
            }
            self.entries.clear();
            self.free.clear();
        }
    }

    pub(crate) fn get(&self, key: u32) -> Option<&T> {
        self.entries.get(key as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.entries.get_mut(key as usize)?.as_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn keys(&self) -> Vec<u32> {
        (0..self.entries.len() as u32).filter(|key| self.get(*key).is_some()).collect()
    }
}

/// Indexing is for keys whose thing is known to be there: the schedule's own references, which are counted.
impl<T> Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, key: u32) -> &T {
        match self.get(key) {
            Some(value) => value,
            None => unreachable!("a reference outlived what it names"),
        }
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, key: u32) -> &mut T {
        match self.get_mut(key) {
            Some(value) => value,
            None => unreachable!("a reference outlived what it names"),
        }
    }
}
