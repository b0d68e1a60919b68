//! Words and texts looked for in others, quickly: where their rarest byte stands, the others are compared.

use yamabiko_report::structure::find_near;

/// How often a byte is in mail, roughly: letters in the order of their frequency.
const FREQUENCY: [u8; 256] = {
    let mut table = [0; 256];
    let order = *b"zqxjkvbygpwfmcdlrhsnioate ";
    let mut place = 0;
    while place < order.len() {
        // Fewer than 256.
        table[order[place] as usize] = place as u8 + 1;
        place += 1;
    }
    table
};

/// Words (ASCII, lower case) that are looked for in any case of letters, by their rarest byte. A constant where they are known: choosing
/// the byte takes longer than most searches.
pub(crate) struct Needle<'w> {
    words: &'w [u8],
    /// Where the rarest byte is.
    rarest: usize,
}

impl<'w> Needle<'w> {
    pub(crate) const fn of(words: &'w str) -> Self {
        let words = words.as_bytes();
        let (mut rarest, mut place) = (0, 1);
        while place < words.len() {
            if FREQUENCY[words[place] as usize] < FREQUENCY[words[rarest] as usize] {
                rarest = place;
            }
            place += 1;
        }
        Self { words, rarest }
    }

    pub(crate) fn is_in(&self, text: &str) -> bool {
        let (text, words) = (text.as_bytes(), self.words);
        let Some(room) = text.len().checked_sub(words.len()) else { return false };
        let Some(byte) = words.get(self.rarest) else { return true };
        memchr::memchr2_iter(*byte, byte.to_ascii_uppercase(), &text[self.rarest..self.rarest + room + 1])
            .any(|at| text[at..at + words.len()].eq_ignore_ascii_case(words))
    }
}

/// Where a text stands in another one, as it is written: `None` also where it would take long to tell.
pub(crate) fn find_piece(text: &[u8], piece: &[u8]) -> Option<usize> {
    let room = text.len().checked_sub(piece.len())?;
    // The beginning has a byte that is rare enough.
    let beginning = &piece[..piece.len().min(16)];
    let (rarest, byte) = beginning.iter().enumerate().min_by_key(|(_, byte)| FREQUENCY[usize::from(**byte)])?;
    let mut at = 0;
    for _ in 0..64 {
        at += find_near(*byte, text.get(rarest + at..=rarest + room)?)?;
        if text[at..].starts_with(piece) {
            return Some(at);
        }
        at += 1;
    }
    None
}
