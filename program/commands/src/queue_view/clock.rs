//! Times as ctime(3) writes them, many of them that are near each other.

use jiff::tz::TimeZone;
use yamabiko_envelope::Timestamp;

/// Seconds of a block within which only minutes and seconds change.
const BLOCK: u64 = 900;

/// `Sat Nov 21 16:53:54 2026` in one zone. Messages of a listing arrived one after the other: the calendar is asked once
/// in a quarter of an hour of theirs.
pub struct Clock {
    zone: TimeZone,
    /// The block that `text` is of, and minutes and seconds at its start; none when its time does not run evenly.
    block: Option<(u64, u64)>,
    text: String,
}

impl Clock {
    /// For a zone.
    pub fn new(zone: TimeZone) -> Self {
        Self { zone, block: None, text: String::new() }
    }

    fn full(&self, at: Timestamp) -> String {
        let micros = i64::try_from(at.0).unwrap_or_default();
        let time = jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        time.to_zoned(self.zone.clone()).strftime("%a %b %e %H:%M:%S %Y").to_string()
    }

    /// The time as text.
    pub fn ctime(&mut self, at: Timestamp) -> &str {
        let seconds = at.seconds();
        let block = seconds / BLOCK;
        if let Some((known, start)) = self.block
            && known == block
            && self.put(start + seconds % BLOCK)
        {
            return &self.text;
        }
        // `WWW MMM DD HH:MM:SS YYYY`: the hour must be the same from the block's start to its end.
        let ends = [block * BLOCK, block * BLOCK + BLOCK - 1].map(|at| self.full(Timestamp::from_seconds(at)));
        let within = |text: &str| {
            let (minutes, seconds) = (text.get(14..16)?.parse::<u64>().ok()?, text.get(17..19)?.parse::<u64>().ok()?);
            Some(minutes * 60 + seconds)
        };
        let same = ends[0].get(..13) == ends[1].get(..13) && ends[0].get(19..) == ends[1].get(19..);
        self.block = match (within(&ends[0]), within(&ends[1])) {
            (Some(first), Some(last)) if same && last == first + BLOCK - 1 => Some((block, first)),
            _ => None,
        };
        self.text = self.full(at);
        &self.text
    }

    /// Puts minutes and seconds into the text. False when it is not one that has them.
    fn put(&mut self, within: u64) -> bool {
        let (minutes, seconds) = (within / 60, within % 60);
        let digits =
            [minutes / 10, minutes % 10, seconds / 10, seconds % 10].map(|digit| char::from(b'0' + digit as u8));
        let [a, b, c, d] = digits;
        if self.text.len() < 19 || !self.text.is_ascii() || minutes > 59 {
            return false;
        }
        self.text.replace_range(14..19, [a, b, ':', c, d].iter().collect::<String>().as_str());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let mut clock = Clock::new(TimeZone::UTC);
        assert_eq!(clock.ctime(Timestamp::from_seconds(1_795_280_034)), "Sat Nov 21 16:53:54 2026");
        assert_eq!(clock.ctime(Timestamp::from_seconds(1_772_672_523)), "Thu Mar  5 01:02:03 2026");
        assert_eq!(clock.ctime(Timestamp(u64::MAX)), "Thu Jan  1 00:00:00 1970");
    }

    /// The same as the calendar says, second by second over changes of the offset, in zones with odd offsets.
    #[test]
    fn every_second() {
        let zones = [
            TimeZone::UTC,
            TimeZone::get("Asia/Kathmandu").unwrap_or(TimeZone::UTC),
            TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::UTC),
            TimeZone::fixed(jiff::tz::Offset::from_seconds(3 * 3600 + 7 * 60 + 11).unwrap()),
        ];
        for zone in zones {
            let mut clock = Clock::new(zone);
            // The last Sunday of October 2026, one o'clock.
            for at in (1_792_890_000 - 3000..1_792_890_000 + 3000).step_by(7).chain([5, 3, 1_792_890_001]) {
                let wanted = clock.full(Timestamp::from_seconds(at));
                assert_eq!(clock.ctime(Timestamp::from_seconds(at)), wanted);
            }
        }
    }
}
