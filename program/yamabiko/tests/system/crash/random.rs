//! Moments and choices that a seed repeats.

/// xorshift; it need not be better than that.
pub struct Random(pub u64);

impl Random {
    /// From a seed and a number of one's own.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut random = Self((seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1);
        // Neighbouring seeds are alike at first.
        for _ in 0..8 {
            random.below(2);
        }
        random
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}
