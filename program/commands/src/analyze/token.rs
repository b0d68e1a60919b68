//! The identifier that Sisimai computes for a bounce: SHA-1 over sender, recipient and time. Programs that keep Sisimai's
//! output in a database have it as their key, so it has to be the same. It protects nothing.

/// The token of a bounce.
pub fn token(sender: &str, recipient: &str, seconds: i64) -> String {
    let text = format!("\x02{}\x1e{}\x1e{seconds}\x03", sender.to_ascii_lowercase(), recipient.to_ascii_lowercase());
    let mut out = String::with_capacity(40);
    for word in sha1(text.as_bytes()) {
        use std::fmt::Write;
        // Writing to a String cannot fail.
        let _ = write!(out, "{word:08x}");
    }
    out
}

/// FIPS 180-4 section 6.1.
fn sha1(text: &[u8]) -> [u32; 5] {
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut padded = text.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(text.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut schedule = [0_u32; 80];
        for (word, bytes) in schedule.iter_mut().zip(block.chunks_exact(4)) {
            *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
        }
        for at in 16..80 {
            let mixed = schedule[at - 3] ^ schedule[at - 8] ^ schedule[at - 14] ^ schedule[at - 16];
            schedule[at] = mixed.rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (at, word) in schedule.iter().enumerate() {
            let (f, k) = match at {
                0..20 => (b & c | !b & d, 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
            (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
        }
        for (old, new) in state.iter_mut().zip([a, b, c, d, e]) {
            *old = old.wrapping_add(new);
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let hex = |text: &str| sha1(text.as_bytes()).map(|word| format!("{word:08x}")).concat();
        assert_eq!(hex("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(hex(""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(
            hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "84983e441c3bd26ebaae4aa1f95129e5e54670f1"
        );
    }

    #[test]
    fn case_does_not_matter() {
        assert_eq!(token("A@example.com", "b@example.com", 1), token("a@example.com", "B@Example.com", 1));
        assert_ne!(token("a@example.com", "b@example.com", 1), token("a@example.com", "b@example.com", 2));
    }
}
