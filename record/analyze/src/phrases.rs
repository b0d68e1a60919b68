//! Many phrases found in one walk over a folded text.
//!
//! A phrase begins where a word begins, so there are few places to look at: they are found many bytes at a time
//! ([`beginnings`]), half of them are passed over for their first two bytes ([`Twos`]), most others for their first eight bytes alone
//! ([`Long`], [`Heads`] for phrases that have fewer), and at the others a tree of phrases (edges of several bytes, [`Node`])
//! is walked as far as the text goes along. The tree is made at start from the sorted phrases in a few milliseconds and stays below a megabyte, where an automaton over all bytes took forty to build.
//!
//! Time is linear in the text: what is walked from one place is bounded by the longest phrase.

/// A phrase in a text: several rules may have it, each with a number of its own ([`Phrases::numbers`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    pub start: u32,
    pub end: u32,
    /// The node of the tree where it ends.
    node: u32,
}

impl Match {
    /// The same in the text that begins at `start`, where it begins or earlier.
    pub(crate) fn moved_back(self, start: u32) -> Self {
        Self { start: self.start - start, end: self.end - start, ..self }
    }
}

/// An edge of the tree and where it leads.
#[derive(Clone, Copy, Default)]
struct Node {
    /// Its bytes: the first eight, and which bits of them there are.
    start: u64,
    mask: u64,
    /// All of them: `labels[label..label + length]`.
    label: u32,
    length: u32,
    /// Its children, side by side: `nodes[child..child + children]`, sorted by their first byte.
    child: u32,
    children: u32,
    /// Phrases that end here: `numbers[ends..ends + count]`.
    ends: u32,
    count: u32,
}

/// Phrases, ready to be found.
#[derive(Clone, Default)]
pub(crate) struct Phrases {
    nodes: Vec<Node>,
    /// First byte of each node's label, so that a child is found without a look at the others.
    firsts: Vec<u8>,
    labels: Vec<u8>,
    numbers: Vec<u32>,
    /// Node by the first two bytes of a phrase shorter than eight bytes, where both are ASCII (`PAIRS` of them); 0 where no phrase begins so. Most
    /// words of a text are passed over by this alone.
    pairs: Vec<u32>,
    /// Node by the first byte of all other phrases.
    others: Vec<u32>,
    /// Node by the first eight bytes of the phrases that have so many: the upper part of their tree, where most walks would end.
    long: Long,
    heads: Heads,
    /// A bit for the first two bytes of each phrase.
    twos: Twos,
}

/// A bit for each two bytes.
#[derive(Clone)]
struct Twos(Box<[u64; WORDS]>);

impl Default for Twos {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl Twos {
    fn of(phrases: &[(&str, u32)]) -> Self {
        let mut twos = Self::default();
        for (phrase, _) in phrases {
            match phrase.as_bytes() {
                [first, second, ..] => twos.set([*first, *second]),
                // What follows it may be anything.
                [first] => (0..=255).for_each(|second| twos.set([*first, second])),
                [] => {}
            }
        }
        twos
    }
    fn set(&mut self, two: [u8; 2]) {
        let two = usize::from(u16::from_le_bytes(two));
        self.0[two >> 6] |= 1 << (two & 63);
    }
    /// Some phrase begins with the first two of these bytes.
    fn may_begin(&self, eight: u64) -> bool {
        let two = eight as usize & 0xffff;
        self.0[two >> 6] & 1 << (two & 63) != 0
    }
}

/// A table of 65,536 bits has so many words: ten bits of a hash choose one, six a bit of it.
const WORDS: usize = 1 << 10;

/// The first bytes of the phrases shorter than eight bytes, so that most places are passed over.
#[derive(Clone)]
struct Heads {
    /// The first four bytes, as bits by a hash.
    fours: Box<[u64; WORDS]>,
    /// First bytes of the phrases of one or two bytes: no such, before the end of a word, anywhere.
    tiny: [Tiny; 256],
}

/// Where a phrase of one or two bytes may be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tiny {
    Nowhere,
    AtEnds,
    Anywhere,
}

impl Default for Heads {
    fn default() -> Self {
        Self { fours: Box::new([0; WORDS]), tiny: [Tiny::Nowhere; 256] }
    }
}

impl Heads {
    fn of(phrases: &[(&str, u32)]) -> Self {
        let mut heads = Self::default();
        for (phrase, _) in phrases {
            match phrase.as_bytes() {
                [a, b, c, d, ..] => heads.set([*a, *b, *c, *d]),
                // What follows it may be anything: a phrase that ends in no letter may be within a word.
                [a, b, c] => (0..=255_u8)
                    .filter(|d| !d.is_ascii_alphanumeric() || !c.is_ascii_alphanumeric())
                    .for_each(|d| heads.set([*a, *b, *c, d])),
                [a, rest @ ..] => {
                    let last = rest.last().unwrap_or(a);
                    let tiny = if last.is_ascii_alphanumeric() { Tiny::AtEnds } else { Tiny::Anywhere };
                    let known = &mut heads.tiny[usize::from(*a)];
                    *known = tiny.max(*known);
                }
                [] => {}
            }
        }
        heads
    }
    /// Place of the first four of eight bytes by [`hash`] of these: the lower half depends on nothing else, its upper 16 bits on
    /// all bits of the four.
    fn place(hash: u64) -> (usize, u64) {
        let hash = hash as u32 >> 16;
        ((hash >> 6) as usize, 1 << (hash & 63))
    }
    fn set(&mut self, four: [u8; 4]) {
        let (word, bit) = Self::place(hash(eight_of(&four)));
        self.fours[word] |= bit;
    }
    /// A phrase of fewer than eight bytes may begin with these (those that are beyond the text are zero), whose [`hash`] this is.
    fn may_begin(&self, eight: u64, hash: u64) -> bool {
        let (word, bit) = Self::place(hash);
        if self.fours[word] & bit != 0 {
            return true;
        }
        let [first, second, third, ..] = eight.to_le_bytes();
        match self.tiny[usize::from(first)] {
            Tiny::Nowhere => false,
            Tiny::AtEnds => !second.is_ascii_alphanumeric() || !third.is_ascii_alphanumeric(),
            Tiny::Anywhere => true,
        }
    }
}

/// The upper bits depend on all bits of the eight bytes.
fn hash(eight: u64) -> u64 {
    eight.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Nodes by eight bytes: a table of a power of two of places, a quarter of them taken; one that is taken leads to the next.
#[derive(Clone)]
struct Long {
    places: Vec<(u64, u32)>,
    /// A bit by another part of the hash for all that are taken, in 8 KB: most words are passed over without a look at the places.
    taken: Box<[u64; WORDS]>,
}

impl Default for Long {
    fn default() -> Self {
        Self { places: Vec::new(), taken: Box::new([0; WORDS]) }
    }
}

impl Long {
    /// With room for so many.
    fn of(count: usize) -> Self {
        Self { places: vec![(0, 0); (count * 4).next_power_of_two().max(2)], ..Self::default() }
    }
    fn bit(hash: u64) -> (usize, u64) {
        ((hash >> 54) as usize, 1 << (hash >> 48 & 63))
    }
    /// The place where these bytes are, or would be.
    fn place(&self, eight: u64, hash: u64) -> usize {
        let most = self.places.len() - 1;
        let mut place = (hash >> 32) as usize & most;
        // Most places are empty, so this ends.
        while self.places[place].1 != 0 && self.places[place].0 != eight {
            place = (place + 1) & most;
        }
        place
    }
    fn set(&mut self, eight: u64, node: u32) {
        let hash = hash(eight);
        let place = self.place(eight, hash);
        self.places[place] = (eight, node);
        let (word, bit) = Self::bit(hash);
        self.taken[word] |= bit;
    }
    /// 0 where no phrase begins so; beside the bytes their [`hash`].
    fn get(&self, eight: u64, hash: u64) -> u32 {
        let (word, bit) = Self::bit(hash);
        if self.taken[word] & bit == 0 {
            return 0;
        }
        self.places[self.place(eight, hash)].1
    }
}

/// The first eight bytes of a text, and zeros where it is shorter.
#[inline(always)]
fn eight_of(text: &[u8]) -> u64 {
    match text.first_chunk::<8>() {
        Some(eight) => u64::from_le_bytes(*eight),
        None => fewer_of(text),
    }
}

#[cold]
fn fewer_of(text: &[u8]) -> u64 {
    text.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

/// So many bytes are looked at together; the compiler makes them a few vectors.
const BLOCK: usize = 32;

/// Of these bytes those where a phrase may begin (`before` are the bytes before each): no blank, no byte within a word or a
/// character. Those are 0x80, all others 0.
fn beginnings(block: &[u8; BLOCK], before: &[u8; BLOCK]) -> [u8; BLOCK] {
    let word = |byte: u8| (byte.wrapping_sub(b'0') < 10) | (byte.wrapping_sub(b'a') < 26);
    let mut begin = [0; BLOCK];
    for (begin, (byte, before)) in begin.iter_mut().zip(block.iter().zip(before)) {
        let within = (word(*byte) & word(*before)) | (*byte & 0xc0 == 0x80);
        *begin = u8::from((*byte != b' ') & !within) << 7;
    }
    begin
}

const PAIRS: usize = 128 * 128;

/// Place of two ASCII bytes among the pairs.
fn pair(first: u8, second: u8) -> usize {
    usize::from(first & 127) << 7 | usize::from(second & 127)
}

impl Phrases {
    /// Of these phrases, each with its number. Empty ones are left out.
    pub(crate) fn of(mut phrases: Vec<(&str, u32)>) -> Self {
        phrases.retain(|(phrase, _)| !phrase.is_empty());
        phrases.sort_unstable();
        let twos = Twos::of(&phrases);
        let (long, phrases): (Vec<_>, Vec<_>) = phrases.into_iter().partition(|(phrase, _)| phrase.len() >= 8);
        let heads = Heads::of(&phrases);
        let mut tree = Self {
            twos,
            heads,
            long: Long::of(long.len()),
            // Node 0 stands for nothing.
            nodes: vec![Node::default()],
            firsts: vec![0],
            pairs: vec![0; PAIRS],
            others: vec![0; 256],
            ..Self::default()
        };
        let paired = |phrase: &str| match phrase.as_bytes() {
            [first, second, ..] if first.is_ascii() && second.is_ascii() => Some(pair(*first, *second)),
            _ => None,
        };
        // Sorted: phrases that begin alike stand together.
        for alike in long.chunk_by(|(one, _), (next, _)| one.as_bytes()[..8] == next.as_bytes()[..8]) {
            let root = tree.nodes.len();
            tree.long.set(eight_of(alike[0].0.as_bytes()), number(root));
            tree.nodes.push(Node::default());
            tree.firsts.push(alike[0].0.as_bytes()[7]);
            tree.grow(alike, root, 8);
        }
        // And so do those that share a place in a table.
        let mut from = 0;
        while from < phrases.len() {
            // Not past the end, see above; and no phrase is empty.
            let (place, first) = (paired(phrases[from].0), phrases[from].0.as_bytes()[0]);
            let alike = |(phrase, _): &&(&str, u32)| paired(phrase) == place && phrase.as_bytes()[0] == first;
            let to = from + phrases[from..].iter().take_while(alike).count();
            let root = number(tree.nodes.len());
            let (depth, byte) = if place.is_some() { (2, phrases[from].0.as_bytes()[1]) } else { (1, first) };
            match place {
                Some(place) => tree.pairs[place] = root,
                // A phrase of one byte stands before those that go on with no ASCII: two ranges, chained.
                None if tree.others[usize::from(first)] != 0 => {
                    from = to;
                    continue;
                }
                None => tree.others[usize::from(first)] = root,
            }
            tree.nodes.push(Node::default());
            tree.firsts.push(byte);
            let range: Vec<(&str, u32)> = match place {
                Some(_) => phrases[from..to].to_vec(),
                None => {
                    let same = |(phrase, _): &&(&str, u32)| paired(phrase).is_none() && phrase.as_bytes()[0] == first;
                    phrases[from..].iter().filter(same).copied().collect()
                }
            };
            tree.grow(&range, root as usize, depth);
            from = to;
        }
        tree
    }

    /// Adds the tree of sorted phrases, which all have their first `above` bytes in common, at a node.
    fn grow(&mut self, phrases: &[(&str, u32)], root: usize, above: usize) {
        // Node, the range of its phrases, how many bytes of them are above it.
        let mut todo = vec![(root, 0_usize, phrases.len(), above)];
        while let Some((at, from, to, depth)) = todo.pop() {
            let Some((first, last)) = phrases.get(from).zip(phrases.get(to.wrapping_sub(1))) else { continue };
            let (first, last) = (first.0.as_bytes(), last.0.as_bytes());
            // Sorted: what the first and the last have in common, all have.
            let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
            self.nodes[at].label = number(self.labels.len());
            self.nodes[at].length = number(common.saturating_sub(depth));
            let label = first.get(depth..common).unwrap_or_default();
            self.labels.extend_from_slice(label);
            self.nodes[at].start = eight_of(label);
            self.nodes[at].mask = u64::MAX.checked_shr(64 - 8 * number(label.len().min(8))).unwrap_or(0);
            let mut rest = from;
            self.nodes[at].ends = number(self.numbers.len());
            while let Some((_, id)) = phrases[..to].get(rest).filter(|(phrase, _)| phrase.len() == common) {
                self.numbers.push(*id);
                rest += 1;
            }
            self.nodes[at].count = number(rest - from);
            self.nodes[at].child = number(self.nodes.len());
            while rest < to {
                // All phrases from `rest` on are longer than `common`.
                let byte = phrases[rest].0.as_bytes()[common];
                let end = rest + phrases[rest..to].partition_point(|(phrase, _)| phrase.as_bytes()[common] == byte);
                // The byte that the child is chosen by is compared already.
                todo.push((self.nodes.len(), rest, end, common + 1));
                self.nodes.push(Node::default());
                self.firsts.push(byte);
                self.nodes[at].children += 1;
                rest = end;
            }
        }
    }

    /// The numbers that a phrase was given, ascending.
    pub(crate) fn numbers(&self, found: &Match) -> &[u32] {
        let Some(node) = self.nodes.get(found.node as usize) else { return &[] };
        &self.numbers[node.ends as usize..][..node.count as usize]
    }

    /// All phrases in a folded text that are no piece of a longer word (`relay` is not in `relayed`, but `rbl` is in
    /// `rbl.example`), by where they end, then by where they begin.
    pub(crate) fn find(&self, text: &[u8]) -> Vec<Match> {
        let mut found = Vec::with_capacity((text.len() / 16).clamp(8, 80));
        if self.nodes.len() < 2 {
            return found;
        }
        let mut padded;
        let mut at = 0;
        while at < text.len() {
            // The block with the byte before it; blanks stand before and behind the text.
            let within = at.checked_sub(1).and_then(|before| text.get(before..)?.first_chunk());
            let both: &[u8; BLOCK + 1] = match within {
                Some(both) => both,
                None => {
                    let (from, to) = (at.saturating_sub(1), text.len().min(at + BLOCK));
                    padded = [b' '; BLOCK + 1];
                    // As much as there is of the block and the byte before it: no more than there is room for.
                    padded[usize::from(at == 0)..][..to - from].copy_from_slice(&text[from..to]);
                    &padded
                }
            };
            let ([before @ .., _], [_, block @ ..]) = (both, both);
            let begin = beginnings(block, before);
            for (number, eight) in begin.as_chunks::<8>().0.iter().enumerate() {
                let mut begin = u64::from_le_bytes(*eight);
                while begin != 0 {
                    let start = at + number * 8 + (begin.trailing_zeros() / 8) as usize;
                    begin &= begin - 1;
                    let Some(rest) = text.get(start..) else { break };
                    let eight = eight_of(rest);
                    if !self.twos.may_begin(eight) {
                        continue;
                    }
                    let hash = hash(eight);
                    if self.heads.may_begin(eight, hash) {
                        self.look(text, start, &mut found);
                    }
                    let node = self.long.get(eight, hash);
                    if node != 0 {
                        self.walk(text, start, start + 8, node, &mut found);
                    }
                }
            }
            at += BLOCK;
        }
        found
    }

    /// All phrases of fewer than eight bytes that begin at a place.
    fn look(&self, text: &[u8], start: usize, found: &mut Vec<Match>) {
        let byte = text[start];
        let second = text.get(start + 1).copied().unwrap_or(0x80);
        if byte < 128 && second < 128 {
            let node = self.pairs[pair(byte, second)];
            if node != 0 {
                self.walk(text, start, start + 2, node, found);
            }
        }
        let node = self.others[usize::from(byte)];
        if node != 0 {
            self.walk(text, start, start + 1, node, found);
        }
    }

    /// Walks from a node, whose bytes above it are compared up to `end`.
    fn walk(&self, text: &[u8], start: usize, mut end: usize, mut at: u32, found: &mut Vec<Match>) {
        // Nodes, labels and numbers are where the tree says, as it was built.
        while let Some((node, rest)) = self.nodes.get(at as usize).zip(text.get(end..)) {
            let length = node.length as usize;
            // Mostly the first bytes tell already.
            if (eight_of(rest) ^ node.start) & node.mask != 0 || rest.len() < length {
                return;
            }
            if length > 8 && !self.goes_on(node, rest) {
                return;
            }
            end += length;
            if node.count > 0 && !within_word(text, end) {
                add(found, Match { start: number(start), end: number(end), node: at });
            }
            let Some(next) = rest.get(length) else { return };
            let children = &self.firsts[node.child as usize..][..node.children as usize];
            let Some(position) = children.iter().position(|first| first == next) else { return };
            // Below the number of children.
            at = node.child + position as u32;
            end += 1;
        }
    }

    /// The bytes of a node beyond its first eight are there as well.
    #[inline(never)]
    fn goes_on(&self, node: &Node, rest: &[u8]) -> bool {
        let length = node.length as usize;
        rest[8..length] == self.labels[node.label as usize + 8..][..length - 8]
    }
}

/// Adds a phrase at its place in the order of [`Phrases::find`]. They come by where they begin, so only phrases that overlap
/// it are passed: as many as a phrase has bytes, at most, and phrases end there.
fn add(found: &mut Vec<Match>, one: Match) {
    let key = |m: &Match| u64::from(m.end) << 32 | u64::from(m.start);
    if found.last().is_none_or(|last| key(last) < key(&one)) {
        return found.push(one);
    }
    let later = found.iter().rev().take_while(|m| key(m) > key(&one)).count();
    found.insert(found.len() - later, one);
}

/// Phrases and bytes of all of them are counted in 32 bits: four gigabytes of rules are more than anybody loads.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A word goes on here.
pub(crate) fn within_word(text: &[u8], at: usize) -> bool {
    let word = |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(u8::is_ascii_alphanumeric);
    word(Some(at)) && word(at.checked_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(phrases: &[&str], text: &str) -> Vec<String> {
        let numbered = phrases.iter().zip(0..).map(|(phrase, number)| (*phrase, number)).collect();
        let tree = Phrases::of(numbered);
        let seen = |m: Match| {
            let here = &text[m.start as usize..m.end as usize];
            tree.numbers(&m).iter().for_each(|number| assert_eq!(here, phrases[*number as usize]));
            here.to_owned()
        };
        tree.find(text.as_bytes()).into_iter().map(seen).collect()
    }

    #[test]
    fn phrases_are_found_by_their_ends() {
        let phrases = [
            "user",
            "user unknown",
            "unknown",
            "user un",
            ": user unknown",
            "rbl",
            "容量",
            "容量オーバー",
            "_102",
            "x",
        ];
        for (text, expected) in [
            ("no user unknown", vec!["user", "user unknown", "unknown"]),
            ("a: user unknown", vec!["user", ": user unknown", "user unknown", "unknown"]),
            ("users unknowns", vec![]),
            ("zen.rbl.example", vec!["rbl"]),
            ("ofr_102 ofr_1023", vec!["_102"]),
            ("メール容量オーバーです", vec!["容量", "容量オーバー"]),
            ("x", vec!["x"]),
            ("xx ax x", vec!["x"]),
            ("", vec![]),
        ] {
            assert_eq!(found(&phrases, text), expected, "{text}");
        }
    }

    #[test]
    fn equal_phrases_keep_their_numbers() {
        let tree = Phrases::of(vec![("a b", 2), ("a b", 1), ("a", 3)]);
        let numbers: Vec<u32> = tree.find(b"a b").iter().flat_map(|m| tree.numbers(m)).copied().collect();
        assert_eq!(numbers, [3, 1, 2]);
        assert_eq!(Phrases::of(Vec::new()).find(b"a"), []);
    }

    #[test]
    fn as_a_search_for_each_phrase_finds_them() {
        let phrases = ["ab", "a", "b c", "ab cd", "c", "cd", "é", "é a", "a é", "- a", "-"];
        let pieces = ["ab", "a", "b", "c", "cd", "é", "-", " ", " ", "cda"];
        let mut state = 7_u64;
        for _ in 0..2000 {
            let mut text = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            let mut expected = 0;
            for phrase in phrases {
                for start in 0..text.len() {
                    let bytes = text.as_bytes();
                    let here = bytes[start..].starts_with(phrase.as_bytes());
                    let word = |b: u8| b.is_ascii_alphanumeric();
                    let begins = start == 0 || !(word(bytes[start - 1]) && word(bytes[start]));
                    expected += usize::from(here && begins && !within_word(bytes, start + phrase.len()));
                }
            }
            assert_eq!(found(&phrases, &text).len(), expected, "{text}");
        }
    }
}
