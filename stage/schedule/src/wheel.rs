//! A wheel of times (Varghese and Lauck): five rows of 64 spots, each spot of a row as long as the whole row before it.
//!
//! A tick is 2^20 microseconds, about a second; the rows reach 67 seconds, 72 minutes, 3 days, 7 months and 36 years
//! ahead. Entering and leaving take constant time whatever the number of messages. What stands at a spot is a list
//! that [`Waiting`](crate::waiting::Waiting) keeps; the wheel knows which spots are taken and where a time belongs.

use yamabiko_envelope::Timestamp;

const BITS: u32 = 6;
const ROWS: usize = 5;
/// Spots in a row.
const ROW: u64 = 1 << BITS;

/// The tick that a moment is in.
pub(crate) fn tick(at: Timestamp) -> u64 {
    at.0 >> 20
}

/// One of the spots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot(u16);

impl Spot {
    fn new(row: usize, place: u64) -> Self {
        Self((row as u64 * ROW + place) as u16)
    }

    /// What [`Spot::as_index`] gave.
    pub(crate) fn from_index(index: u16) -> Self {
        Self(index)
    }

    /// In two bytes.
    pub(crate) fn as_index(self) -> u16 {
        self.0
    }

    /// Below [`Wheel::SPOTS`].
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Wheel {
    /// The tick that time has come to.
    cursor: u64,
    /// Spots that are taken, a bit each, by row.
    taken: [u64; ROWS],
    /// The earliest time that was entered at a spot since it was empty.
    earliest: Box<[Timestamp]>,
}

impl Wheel {
    /// How many spots there are.
    pub(crate) const SPOTS: usize = ROWS * ROW as usize;

    pub(crate) fn new() -> Self {
        Self { cursor: 0, taken: [0; ROWS], earliest: vec![Timestamp(0); Self::SPOTS].into() }
    }

    /// The same moment with nothing on it.
    pub(crate) fn emptied(&self) -> Self {
        Self { cursor: self.cursor, ..Self::new() }
    }

    /// Where a time belongs; `None` when it has come.
    pub(crate) fn spot(&self, at: Timestamp) -> Option<Spot> {
        let tick = tick(at);
        if tick <= self.cursor {
            return None;
        }
        // The row of the highest digit in which it differs from now: below it are its own digits, above it ours.
        let row = ((u64::BITS - 1 - (tick ^ self.cursor).leading_zeros()) / BITS) as usize;
        if row < ROWS {
            return Some(Spot::new(row, (tick >> (BITS * row as u32)) % ROW));
        }
        // The last row goes round: as far as a whole turn from now. What is further stands at the spot that comes last,
        // and is looked at again then.
        let top = BITS * (ROWS as u32 - 1);
        let now = self.cursor >> top;
        Some(Spot::new(ROWS - 1, (tick >> top).min(now + ROW - 1) % ROW))
    }

    /// Something stands at a spot now.
    pub(crate) fn enter(&mut self, spot: Spot, at: Timestamp) {
        let (row, place) = (spot.index() / ROW as usize, spot.index() % ROW as usize);
        let bit = 1 << place;
        // A spot is below the number of spots.
        let earliest = &mut self.earliest[spot.index()];
        *earliest = if self.taken[row] & bit == 0 { at } else { at.min(*earliest) };
        self.taken[row] |= bit;
    }

    /// Nothing stands at a spot any more.
    pub(crate) fn leave(&mut self, spot: Spot) {
        self.taken[spot.index() / ROW as usize] &= !(1 << (spot.index() % ROW as usize));
    }

    /// Time goes on to a tick: the spots that it has come to or passed, now empty; what stood there is to be placed
    /// anew. `None` when it is the same tick as before, or time was set back.
    pub(crate) fn advance(&mut self, tick: u64) -> Option<Vec<Spot>> {
        if tick <= self.cursor {
            return None;
        }
        let mut reached = Vec::new();
        for row in 0..ROWS {
            let shift = BITS * row as u32;
            let (from, to) = (self.cursor >> shift, tick >> shift);
            if self.taken[row] != 0 {
                for step in 1..=(to - from).min(ROW) {
                    let place = (from + step) % ROW;
                    if self.taken[row] & 1 << place != 0 {
                        reached.push(Spot::new(row, place));
                    }
                }
            }
            if from == to {
                break;
            }
        }
        reached.iter().for_each(|spot| self.leave(*spot));
        self.cursor = tick;
        Some(reached)
    }

    /// The earliest time on the wheel, or an earlier one that was taken off.
    pub(crate) fn first_due(&self) -> Option<Timestamp> {
        // Whatever is in a lower row comes before what is in a higher one.
        let row = self.taken.iter().position(|taken| *taken != 0)?;
        let now = ((self.cursor >> (BITS * row as u32)) % ROW) as u32;
        // The first taken place after now, around the row.
        let ahead = self.taken[row].rotate_right((now + 1) % ROW as u32).trailing_zeros();
        let place = (u64::from(now) + 1 + u64::from(ahead)) % ROW;
        Some(self.earliest[Spot::new(row, place).index()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tick: u64) -> Timestamp {
        Timestamp(tick << 20)
    }

    #[test]
    fn times_belong_to_rows() {
        let mut wheel = Wheel::new();
        wheel.advance(64 * 64 + 10);
        let now = 64 * 64 + 10;
        for (ahead, row) in [(1, 0), (53, 0), (54, 1), (4000, 1), (4096, 2), (1 << 18, 3), (1 << 24, 4), (1 << 40, 4)] {
            let spot = wheel.spot(at(now + ahead)).map(|spot| spot.index() / 64);
            assert_eq!(spot, Some(row), "{ahead} ticks ahead");
        }
        assert_eq!(wheel.spot(at(now)), None);
        assert_eq!(wheel.spot(at(0)), None);
        assert!(wheel.spot(Timestamp(u64::MAX)).is_some());
    }

    /// Whatever the steps, a time comes out when it is reached, not before, and `first_due` never promises later.
    #[test]
    fn every_time_comes_out_when_it_is_reached() {
        for (ahead, step) in
            [(100u64, 1u64), (5000, 7), (5000, 900), (300_000, 4001), (20_000_000, 77_777), (1 << 40, 1 << 32)]
        {
            let mut wheel = Wheel::new();
            let mut now = 1_750_000_000u64;
            wheel.advance(now);
            let mut lists: Vec<Vec<u64>> = vec![vec![]; Wheel::SPOTS];
            let mut waiting = 0usize;
            let mut seed = ahead;
            for round in 0..1000 {
                for _ in 0..if round < 300 { 3 } else { 0 } {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let due = now + 1 + (seed >> 16) % ahead;
                    let spot = wheel.spot(at(due)).unwrap();
                    wheel.enter(spot, at(due));
                    lists[spot.index()].push(due);
                    waiting += 1;
                }
                let first = lists.iter().flatten().min().copied();
                assert_eq!(wheel.first_due(), first.map(at));
                now = if round < 300 { now + 1 + step } else { first.unwrap_or(now + 1).max(now + 1) };
                for spot in wheel.advance(now).unwrap_or_default() {
                    for due in std::mem::take(&mut lists[spot.index()]) {
                        match wheel.spot(at(due)) {
                            Some(spot) => {
                                wheel.enter(spot, at(due));
                                lists[spot.index()].push(due);
                            }
                            None => {
                                assert!(due <= now);
                                waiting -= 1;
                            }
                        }
                    }
                }
                assert!(lists.iter().flatten().all(|due| *due > now), "one was passed over");
            }
            assert!(waiting < 250, "{ahead}: {waiting}");
        }
    }
}
