//! Message content on the wire and in memory. On the wire lines end in CRLF and a dot at the start of a line is doubled
//! (RFC 5321 section 4.5.2); in memory lines end in LF. Each direction is one pass over the bytes as they come.
//!
//! Line ends as clients really send them, and what becomes of them ([`LineEnds`]):
//!
//! * CRs before an LF belong to the line end, however many there are (as in Postfix); any other CR is data.
//! * An LF without CR ends a line too, and is noticed ([`DataDecoder::bare_newline`]).
//! * With [`LineEnds::Standard`] only `CRLF . CRLF` ends the message, so that nothing can be smuggled past a server
//!   that sees another end. A dot alone on a line with any other line end is content, its dot removed as from every line.

use memchr::{memchr, memchr2};

/// What ends the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LineEnds {
    /// Only `CRLF . CRLF` (Postfix: `smtpd_forbid_bare_newline = normalize`, `note` or `reject`).
    #[default]
    Standard,
    /// A dot alone on a line, whatever ends the lines (Postfix: `smtpd_forbid_bare_newline = no`).
    Any,
}

/// Whether the end was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All of the input was used; the message goes on.
    More,
    /// The final dot was read. So many bytes of the input belonged to the message; what follows are commands.
    End(usize),
}

/// How many CRs are kept back while it is not known whether an LF follows; beyond that they are data.
const MAX_HELD: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// At the start of a line.
    Start,
    /// After a dot at the start of a line.
    Dot,
    /// Further on.
    Middle,
}

/// Wire to memory. Feed what the socket gives, in pieces of any size; the result does not depend on the pieces.
#[derive(Clone, Debug)]
pub struct DataDecoder {
    dots: bool,
    ends: LineEnds,
    at: At,
    /// CRs seen that an LF may turn into a line end.
    held: usize,
    /// The line before this one ended in CRLF, whatever stood before that; so did the DATA command.
    after_crlf: bool,
    bare_newline: bool,
    /// What is kept for a CR within a line.
    stray: u8,
}

impl DataDecoder {
    /// For the content after DATA.
    pub fn new(ends: LineEnds) -> Self {
        Self { dots: true, ends, at: At::Start, held: 0, after_crlf: true, bare_newline: false, stray: b'\r' }
    }

    /// For BDAT chunks: the same line ends, but dots are data and only the count says where the end is.
    pub fn chunks() -> Self {
        Self { dots: false, ..Self::new(LineEnds::Any) }
    }

    /// Keeps a blank for every CR within a line: what others take for a line end is none (Postfix:
    /// `cleanup_replace_stray_cr_lf`).
    pub fn without_stray_cr(self) -> Self {
        Self { stray: b' ', ..self }
    }

    /// An LF without CR was seen.
    pub fn bare_newline(&self) -> bool {
        self.bare_newline
    }

    /// Between lines: nothing of the next line has been seen.
    pub fn at_line_start(&self) -> bool {
        self.at == At::Start && self.held == 0
    }

    /// Decodes `input`, appending lines with LF to `out`. `out` grows by at most the length of `input` plus a kilobyte.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        out.reserve(input.len());
        let mut from = 0;
        while from < input.len() {
            if self.dots && self.at == At::Start && self.held == 0 && input[from] == b'.' {
                self.at = At::Dot;
                from += 1;
                continue;
            }
            let rest = &input[from..];
            // A line as lines should be, which needs no second look: text without a CR or LF of its own, and CRLF.
            let end = memchr2(b'\r', b'\n', rest);
            if let (Some(end), 0) = (end, self.held)
                && rest[end..].starts_with(b"\r\n")
            {
                from += end + 2;
                if end > 0 {
                    out.extend_from_slice(&rest[..end]);
                    self.at = At::Middle;
                }
                self.held = 1;
                if self.end_of_line(out) {
                    return Progress::End(from);
                }
                continue;
            }
            let Some(newline) = end.and_then(|end| Some(end + memchr(b'\n', &rest[end..])?)) else {
                self.text(rest, out);
                break;
            };
            from += newline + 1;
            self.text(&rest[..newline], out);
            if self.end_of_line(out) {
                return Progress::End(from);
            }
        }
        Progress::More
    }

    /// A piece of a line, without its LF.
    fn text(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let end = piece.iter().rposition(|b| *b != b'\r').map_or(0, |last| last + 1);
        let crs = piece.len() - end;
        if end > 0 {
            out.extend(std::iter::repeat_n(self.stray, self.held));
            self.held = 0;
            let start = out.len();
            out.extend_from_slice(&piece[..end]);
            if self.stray != b'\r' {
                // `start` was the length.
                replace_cr(&mut out[start..], self.stray);
            }
            self.at = At::Middle;
        }
        self.held += crs;
        if self.held > MAX_HELD {
            // All the same bytes, so it does not matter which of them go first.
            out.extend(std::iter::repeat_n(self.stray, self.held - MAX_HELD));
            self.held = MAX_HELD;
            self.at = At::Middle;
        }
    }

    /// An LF. True when that was the final dot.
    fn end_of_line(&mut self, out: &mut Vec<u8>) -> bool {
        let bare = self.held == 0;
        self.bare_newline |= bare;
        if self.at == At::Dot && (self.ends == LineEnds::Any || (self.held == 1 && self.after_crlf)) {
            return true;
        }
        out.push(b'\n');
        self.held = 0;
        self.after_crlf = !bare;
        self.at = At::Start;
        false
    }

    /// After the last BDAT chunk: ends a line that was left open.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.at_line_start() {
            self.held = 0;
            out.push(b'\n');
            self.at = At::Start;
        }
    }
}

/// Writes `instead` over every CR.
fn replace_cr(mut text: &mut [u8], instead: u8) {
    while let Some(at) = memchr(b'\r', text) {
        // `at` is within the text.
        text[at] = instead;
        text = &mut text[at + 1..];
    }
}

/// Memory to wire.
#[derive(Clone, Debug)]
pub struct DataEncoder {
    dots: bool,
    /// Bytes a line may have before it is broken; 0 for no limit.
    limit: usize,
    /// Room left on this line.
    room: usize,
    at_start: bool,
    broke: bool,
    /// What is sent for a CR within a line.
    stray: u8,
}

impl DataEncoder {
    /// For DATA: dots doubled. A line longer than `line_limit` bytes is broken by CRLF and a blank (Postfix:
    /// `smtp_line_length_limit`); 0 breaks none.
    pub fn new(line_limit: usize) -> Self {
        Self { dots: true, limit: line_limit, room: line_limit, at_start: true, broke: false, stray: b'\r' }
    }

    /// For BDAT and for counting: no dots doubled, no line broken.
    pub fn plain() -> Self {
        Self { dots: false, ..Self::new(0) }
    }

    /// Sends a blank for every CR within a line: to a server that takes a CR for a line end, what is one message here
    /// could be two (Postfix: `cleanup_replace_stray_cr_lf`).
    pub fn without_stray_cr(self) -> Self {
        Self { stray: b' ', ..self }
    }

    /// A line was broken because it was too long.
    pub fn broke_a_line(&self) -> bool {
        self.broke
    }

    /// Encodes `input` (LF line ends, in pieces of any size) onto `out`.
    pub fn encode(&mut self, input: &[u8], out: &mut Vec<u8>) {
        out.reserve(input.len() + input.len() / 16);
        // Nearly always there is none, and then no line is looked through for one.
        let strays = self.stray != b'\r' && memchr(b'\r', input).is_some();
        let mut rest = input;
        while !rest.is_empty() {
            let newline = memchr(b'\n', rest);
            let (line, later) = rest.split_at(newline.unwrap_or(rest.len()));
            let plain = !strays && self.at_start && (self.limit == 0 || line.len() <= self.limit);
            if plain && newline.is_some() {
                if self.dots && line.first() == Some(&b'.') {
                    out.push(b'.');
                }
                out.extend_from_slice(line);
            } else {
                self.line_piece(line, strays, out);
            }
            let Some((_, later)) = later.split_first() else { return };
            out.extend_from_slice(b"\r\n");
            self.at_start = true;
            self.room = self.limit;
            rest = later;
        }
    }

    /// What there is of a line, perhaps with CRs that are not to be sent.
    fn line_piece(&mut self, mut piece: &[u8], strays: bool, out: &mut Vec<u8>) {
        while !piece.is_empty() {
            if self.at_start && self.dots && piece[0] == b'.' {
                out.push(b'.');
            }
            self.at_start = false;
            if self.limit == 0 {
                self.put(piece, strays, out);
                return;
            }
            if self.room == 0 {
                // The line goes on beyond the limit: the blank counts as the first byte of the new one.
                self.broke = true;
                out.extend_from_slice(b"\r\n ");
                self.room = self.limit.saturating_sub(1).max(1);
            }
            let (now, later) = piece.split_at(piece.len().min(self.room));
            self.put(now, strays, out);
            self.room -= now.len();
            piece = later;
        }
    }

    fn put(&self, piece: &[u8], strays: bool, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(piece);
        if strays {
            replace_cr(out.get_mut(start..).unwrap_or_default(), self.stray);
        }
    }

    /// Ends a line that was left open and, for DATA, writes the final dot.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.at_start {
            out.extend_from_slice(b"\r\n");
        }
        if self.dots {
            out.extend_from_slice(b".\r\n");
        }
        self.at_start = true;
        self.room = self.limit;
    }
}

/// Appends `BDAT count [LAST]` (RFC 3030 section 2).
pub fn put_bdat(count: u64, last: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("BDAT {count}{}\r\n", if last { " LAST" } else { "" }).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(ends: LineEnds, input: &[u8]) -> (String, Option<usize>, bool) {
        let mut decoder = DataDecoder::new(ends);
        let mut out = Vec::new();
        let end = match decoder.decode(input, &mut out) {
            Progress::End(n) => Some(n),
            Progress::More => None,
        };
        (String::from_utf8_lossy(&out).into_owned(), end, decoder.bare_newline())
    }

    /// Input; content and whether it ended under the standard rule; the same under the lenient one.
    type Case = (&'static str, (&'static str, bool), (&'static str, bool));
    const CASES: &[Case] = &[
        (".\r\n", ("", true), ("", true)),
        ("a\r\n.\r\n", ("a\n", true), ("a\n", true)),
        ("..\r\n...x\r\n.y\r\n.\r\n", (".\n..x\ny\n", true), (".\n..x\ny\n", true)),
        ("a\rb\r\n.\r\n", ("a\rb\n", true), ("a\rb\n", true)),
        ("a\r\r\n.\r\n", ("a\n", true), ("a\n", true)),
        ("a\r\r\n\r\n.\r\n", ("a\n\n", true), ("a\n\n", true)),
        // Other people's ends of a message, none of which may be ours.
        ("a\n.\n", ("a\n\n", false), ("a\n", true)),
        ("a\n.\r\n", ("a\n\n", false), ("a\n", true)),
        ("a\r\n.\n", ("a\n\n", false), ("a\n", true)),
        ("a\r\n.\r\r\n", ("a\n\n", false), ("a\n", true)),
        ("a\r.\r\n", ("a\r.\n", false), ("a\r.\n", false)),
        ("a\r\n.\rb\r\n", ("a\n\rb\n", false), ("a\n\rb\n", false)),
        ("a\r\n\r.\r\n", ("a\n\r.\n", false), ("a\n\r.\n", false)),
        ("a\r\n\0.\r\n", ("a\n\0.\n", false), ("a\n\0.\n", false)),
        ("a\r\n.\0\r\n", ("a\n\0\n", false), ("a\n\0\n", false)),
    ];

    #[test]
    fn known_answers() {
        for (input, standard, any) in CASES {
            for (ends, (content, ended)) in [(LineEnds::Standard, standard), (LineEnds::Any, any)] {
                let (got, end, _) = decode(ends, input.as_bytes());
                // A lone line end beside a dot that was no end shows as an empty line.
                assert_eq!((got.as_str(), end.is_some()), (*content, *ended), "{input:?} {ends:?}");
            }
        }
    }

    #[test]
    fn a_stray_cr_becomes_a_blank() {
        for (input, expected) in [
            (&b"a\rb\r\nc\r\r\n\r.\r\n.\r\n"[..], &b"a b\nc\n .\n"[..]),
            (b"\rx\r\ry\r\n.\r\n", b" x  y\n"),
            (b"a\r.\rb\r\n.\r\n", b"a . b\n"),
        ] {
            for size in 1..=input.len() {
                let mut decoder = DataDecoder::new(LineEnds::Standard).without_stray_cr();
                let mut out = Vec::new();
                for piece in input.chunks(size) {
                    decoder.decode(piece, &mut out);
                }
                assert_eq!(out, expected, "{size}");
            }
        }
        let (many, mut out) = ([b'\r'; 3 * MAX_HELD], Vec::new());
        let mut decoder = DataDecoder::chunks().without_stray_cr();
        decoder.decode(&many, &mut out);
        assert_eq!(out, [b' '; 2 * MAX_HELD]);
    }

    #[test]
    fn what_follows_the_end_is_left_alone() {
        assert_eq!(decode(LineEnds::Standard, b"a\r\n.\r\nQUIT\r\n").1, Some(6));
        assert!(!decode(LineEnds::Standard, b"a\r\n.\r\nQUIT\n").2);
        assert!(decode(LineEnds::Standard, b"a\n.\r\n").2);
    }

    /// A small generator, so that tests are the same everywhere.
    struct Random(u64);
    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((self.0 >> 33) as usize) % n
        }
    }

    #[test]
    fn pieces_do_not_matter() {
        let mut random = Random(1);
        for round in 0..3000 {
            let alphabet = b".\r\n.\r\nab";
            let input: Vec<u8> = (0..random.below(40)).map(|_| alphabet[random.below(alphabet.len())]).collect();
            let ends = if round % 2 == 0 { LineEnds::Standard } else { LineEnds::Any };
            let whole = decode(ends, &input);
            let mut decoder = DataDecoder::new(ends);
            let (mut out, mut from, mut end) = (Vec::new(), 0, None);
            while from < input.len() && end.is_none() {
                let to = (from + 1 + random.below(5)).min(input.len());
                if let Progress::End(n) = decoder.decode(&input[from..to], &mut out) {
                    end = Some(from + n);
                }
                from = to;
            }
            assert_eq!((String::from_utf8_lossy(&out).into_owned(), end), (whole.0, whole.1), "{input:?}");
        }
    }

    #[test]
    fn what_is_encoded_decodes() {
        let mut random = Random(2);
        for round in 0..3000 {
            let alphabet = b"..\n\nab ";
            let mut content: Vec<u8> = (0..random.below(60)).map(|_| alphabet[random.below(alphabet.len())]).collect();
            let dots = round % 2 == 0;
            let mut encoder = if dots { DataEncoder::new(0) } else { DataEncoder::plain() };
            let mut wire = Vec::new();
            let mut rest = &content[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at((1 + random.below(7)).min(rest.len()));
                encoder.encode(now, &mut wire);
                rest = later;
            }
            encoder.finish(&mut wire);
            if content.last().is_some_and(|b| *b != b'\n') {
                content.push(b'\n');
            }
            let mut decoder = if dots { DataDecoder::new(LineEnds::Standard) } else { DataDecoder::chunks() };
            let mut out = Vec::new();
            let progress = decoder.decode(&wire, &mut out);
            assert_eq!(out, content);
            assert_eq!(progress, if dots { Progress::End(wire.len()) } else { Progress::More });
        }
    }

    #[test]
    fn pieces_do_not_matter_for_what_is_sent() {
        let mut random = Random(3);
        for round in 0..3000 {
            let alphabet = b"..\n\nabc\r";
            let content: Vec<u8> = (0..random.below(60)).map(|_| alphabet[random.below(alphabet.len())]).collect();
            let encoder = DataEncoder::new([0, 4][round % 2]);
            let encoder = if round % 3 == 0 { encoder } else { encoder.without_stray_cr() };
            let send = |mut encoder: DataEncoder, step: usize| {
                let mut out = Vec::new();
                content.chunks(step).for_each(|piece| encoder.encode(piece, &mut out));
                encoder.finish(&mut out);
                (out, encoder.broke_a_line())
            };
            let whole = send(encoder.clone(), 100);
            for step in 1..4 {
                assert_eq!(send(encoder.clone(), step), whole, "{content:?}");
            }
        }
    }

    #[test]
    fn long_lines_are_broken_as_postfix_breaks_them() {
        for (limit, input, wire) in [
            (4, "abcd\n", "abcd\r\n"),
            (4, "abcde\n", "abcd\r\n e\r\n"),
            (4, "abcdefgh\n", "abcd\r\n efg\r\n h\r\n"),
            (4, ".bcde\n", "..bcd\r\n e\r\n"),
            (4, "abcd.\n", "abcd\r\n .\r\n"),
            (0, "abcdefgh\n", "abcdefgh\r\n"),
        ] {
            let mut out = Vec::new();
            DataEncoder::new(limit).encode(input.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), wire);
        }
    }

    #[test]
    fn many_carriage_returns_stay_bounded() {
        let mut decoder = DataDecoder::new(LineEnds::Standard);
        let mut out = Vec::new();
        for _ in 0..100 {
            let before = out.len();
            decoder.decode(&[b'\r'; 4096], &mut out);
            assert!(out.len() - before <= 4096 + MAX_HELD);
        }
        decoder.decode(b"x\r\n", &mut out);
        assert_eq!(out.iter().filter(|b| **b == b'\r').count(), 409_600);
    }

    #[test]
    fn chunks_keep_their_dots() {
        let mut decoder = DataDecoder::chunks();
        let mut out = Vec::new();
        decoder.decode(b"a\r\n.\r", &mut out);
        decoder.decode(b"\n..x", &mut out);
        decoder.finish(&mut out);
        assert_eq!(out, b"a\n.\n..x\n");
        let mut bdat = Vec::new();
        put_bdat(12, true, &mut bdat);
        assert_eq!(bdat, b"BDAT 12 LAST\r\n");
    }

    #[test]
    fn no_carriage_return_is_sent_within_a_line() {
        for (text, wanted) in [
            (&b"a\r.\rMAIL FROM:<x>\r\n.\r\n"[..], &b"a . MAIL FROM:<x> \r\n.. \r\n.\r\n"[..]),
            (b"\r.\n\r\n", b" .\r\n \r\n.\r\n"),
            (b"plain\n", b"plain\r\n.\r\n"),
        ] {
            for limit in [0, 998] {
                let mut out = Vec::new();
                let mut encoder = DataEncoder::new(limit).without_stray_cr();
                text.chunks(2).for_each(|piece| encoder.encode(piece, &mut out));
                encoder.finish(&mut out);
                assert_eq!(out, wanted, "{:?}", String::from_utf8_lossy(text));
            }
        }
    }
}
