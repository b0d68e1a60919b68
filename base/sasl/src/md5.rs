//! MD5 (RFC 1321) and its HMAC (RFC 2104): for CRAM-MD5, and for the names that old tables have for certificates. Broken as
//! a signature, and not for anything new.

/// RFC 1321 section 3.4: how far each step turns.
const TURNS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// The digest of `bytes`. RFC 1321.
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    // RFC 1321 section 3.4: the integer part of 2^32 times the sine.
    let sines: [u32; 64] = std::array::from_fn(|i| (((i + 1) as f64).sin().abs() * 4_294_967_296.0) as u32);
    let mut padded = bytes.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(bytes.len() as u64).wrapping_mul(8).to_le_bytes());
    let mut state = [0x6745_2301u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded.chunks_exact(64) {
        let mut words = [0u32; 16];
        for (word, quad) in words.iter_mut().zip(block.chunks_exact(4)) {
            // Exactly four bytes.
            *word = u32::from_le_bytes([quad[0], quad[1], quad[2], quad[3]]);
        }
        let [mut a, mut b, mut c, mut d] = state;
        for i in 0..64 {
            // All indices are below 16 or 64.
            let (mix, at) = match i / 16 {
                0 => ((b & c) | (!b & d), i),
                1 => ((d & b) | (!d & c), 5 * i + 1),
                2 => (b ^ c ^ d, 3 * i + 5),
                _ => (c ^ (b | !d), 7 * i),
            };
            let sum = a.wrapping_add(mix).wrapping_add(sines[i]).wrapping_add(words[at % 16]);
            (a, d, c, b) = (d, c, b, b.wrapping_add(sum.rotate_left(TURNS[i / 16][i % 4])));
        }
        for (old, new) in state.iter_mut().zip([a, b, c, d]) {
            *old = old.wrapping_add(new);
        }
    }
    let mut out = [0; 16];
    for (quad, word) in out.chunks_exact_mut(4).zip(state) {
        quad.copy_from_slice(&word.to_le_bytes());
    }
    out
}

/// HMAC with MD5 (RFC 2104).
pub fn hmac(key: &[u8], text: &[u8]) -> [u8; 16] {
    let mut block = [0u8; 64];
    if key.len() > block.len() {
        block[..16].copy_from_slice(&md5(key));
    } else {
        // No longer than the block.
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |with: u8, text: &[u8]| md5(&[&block.map(|byte| byte ^ with)[..], text].concat());
    padded(0x5c, &padded(0x36, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let hex = |bytes: [u8; 16]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(md5(b"abc")), "900150983cd24fb0d6963f7d28e17f72");
        // RFC 2202 section 2, and RFC 2195 section 2.
        for (key, text, expected) in [
            (&[0x0b; 16][..], "Hi There", "9294727a3638bb1c13f48ef8158bfc9d"),
            (b"Jefe", "what do ya want for nothing?", "750c783e6ab0b503eaa86e310a5db738"),
            (&[0xaa; 80], "Test Using Larger Than Block-Size Key - Hash Key First", "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"),
            (b"tanstaaftanstaaf", "<1896.697170952@postoffice.reston.mci.net>", "b913a602c7eda7a495b4e6e7334d3890"),
        ] {
            assert_eq!(hex(hmac(key, text.as_bytes())), expected, "{text}");
        }
    }
}
