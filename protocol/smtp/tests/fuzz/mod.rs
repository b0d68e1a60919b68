//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use yamabiko_smtp::capability::Capabilities;
use yamabiko_smtp::command::{Allowed, Bdat, MailParameters, RcptParameters, Tokens};
use yamabiko_smtp::data::{DataDecoder, DataEncoder, LineEnds, Progress};
use yamabiko_smtp::reply::{self, ReplyParser};

/// Command lines: words are pieces of the line in order, and parameters that are read are written and read again.
pub fn smtp_command(data: &[u8]) {
    let line = String::from_utf8_lossy(data);
    let mut from = 0;
    for word in Tokens::new(&line) {
        assert!(!word.text.is_empty());
        let at = line[from..].find(word.text).expect("a word is part of the line") + from;
        assert!(line[from..at].bytes().all(|b| b == b' ' || b == b'\t'));
        from = at + word.text.len();
    }
    assert!(line[from..].bytes().all(|b| b == b' ' || b == b'\t'));

    let _ = Bdat::parse(Tokens::new(&line));

    let allowed = Allowed { dsn: true, smtputf8: true, auth: true, requiretls: true, xverp: Some(("+=", "-=+")) };
    // xtext leaves these alone, and in a command line they hold words together.
    let _ = (MailParameters::parse(Tokens::new(&line), allowed), RcptParameters::parse(Tokens::new(&line), allowed));
    if line.contains(['"', '<', '[', '\\']) {
        return;
    }
    if let Ok(parameters) = MailParameters::parse(Tokens::new(&line), allowed) {
        let mut written = Vec::new();
        parameters.put(&mut written);
        let written = String::from_utf8(written).expect("parameters are text");
        assert_eq!(MailParameters::parse(Tokens::new(&written), allowed), Ok(parameters));
    }
    if let Ok(parameters) = RcptParameters::parse(Tokens::new(&line), allowed) {
        // In the variant for UTF-8 a blank cannot be written.
        if !parameters.orcpt.to_ascii_lowercase().starts_with("utf-8;") {
            let mut written = Vec::new();
            parameters.put(&mut written);
            let written = String::from_utf8(written).expect("parameters are text");
            assert_eq!(RcptParameters::parse(Tokens::new(&written), allowed), Ok(parameters));
        }
    }
}

/// Replies: the same however they are cut up, bounded, and written again they are the same.
pub fn smtp_reply(data: &[u8]) {
    let read = |step: usize| {
        let mut parser = ReplyParser::new();
        let mut found = Vec::new();
        for piece in data.chunks(step) {
            let mut rest = piece;
            while let Some(reply) = parser.parse(&mut rest) {
                found.push(reply);
            }
        }
        found
    };
    let whole = read(data.len().max(1));
    assert_eq!(whole, read(1));
    for reply in whole.into_iter().flatten() {
        let _ = (reply.status(), Capabilities::parse(&reply, &[]), reply.one_line());
        let mut wire = Vec::new();
        reply.lines().for_each(|line| reply::put(line, &mut wire));
        let again = ReplyParser::new().parse(&mut &wire[..]).expect("complete").expect("a reply");
        assert_eq!(again.code, reply.code);
    }
}

/// Content: decoding does not depend on the pieces, never makes more of it, and what is encoded decodes to itself.
pub fn smtp_data(data: &[u8]) {
    for ends in [LineEnds::Standard, LineEnds::Any] {
        let mut whole = Vec::new();
        let end = DataDecoder::new(ends).decode(data, &mut whole);
        assert!(whole.len() <= data.len());
        if ends == LineEnds::Standard
            && let Progress::End(used) = end
        {
            let ended = &data[..used];
            assert!(ended == b".\r\n" || ended.ends_with(b"\r\n.\r\n"));
        }
        let mut decoder = DataDecoder::new(ends);
        let mut pieces = Vec::new();
        let mut used = 0;
        let mut found = Progress::More;
        for (index, piece) in data.chunks(3).enumerate() {
            found = decoder.decode(piece, &mut pieces);
            if let Progress::End(in_piece) = found {
                used = index * 3 + in_piece;
                break;
            }
        }
        assert!(whole == pieces);
        assert_eq!(end, if found == Progress::More { Progress::More } else { Progress::End(used) });
    }
    let mut wire = Vec::new();
    let mut encoder = DataEncoder::new(0);
    encoder.encode(data, &mut wire);
    encoder.finish(&mut wire);
    let mut back = Vec::new();
    assert_eq!(DataDecoder::new(LineEnds::Standard).decode(&wire, &mut back), Progress::End(wire.len()));
    // CRs before a line end belong to it, and a line that was left open has been ended.
    let mut wanted = Vec::new();
    for line in data.split_inclusive(|b| *b == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let end = text.iter().rposition(|b| *b != b'\r').map_or(0, |last| last + 1);
        wanted.extend_from_slice(&text[..end]);
        wanted.push(b'\n');
    }
    if data.split(|b| *b == b'\n').all(|line| line.iter().rev().take_while(|b| **b == b'\r').count() < 1000) {
        assert!(back == wanted);
    }
    let mut folded = Vec::new();
    DataEncoder::new(10).encode(data, &mut folded);
    assert!(folded.split(|b| *b == b'\n').all(|line| line.len() <= 12));
}
