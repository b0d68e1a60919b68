//! Things found in text for people: addresses, reply codes, status codes, hosts, commands.

use crate::Rules;
use crate::analyzer::Stage;
use crate::needle::Needle;
use memchr::memmem::Finder;
use std::borrow::Cow;
use std::sync::LazyLock;
use yamabiko_report::structure::{find_near, find_near3};
use yamabiko_status::{Class, EnhancedStatus};

/// `text` without white space at its ends, as [`str::trim`]; quick where both ends are ASCII.
#[inline]
pub(crate) fn trim(text: &str) -> &str {
    match text.as_bytes() {
        // As most are.
        [first, .., last] if first.is_ascii_graphic() && last.is_ascii_graphic() => text,
        bytes => trimmed(text, bytes),
    }
}

fn trimmed<'t>(text: &'t str, bytes: &[u8]) -> &'t str {
    let (mut start, mut end) = (0, bytes.len());
    let blank = |byte: u8| matches!(byte, b' ' | 9..=13);
    while start < end && blank(bytes[start]) {
        start += 1;
    }
    while start < end && blank(bytes[end - 1]) {
        end -= 1;
    }
    if start < end && !(bytes[start].is_ascii() && bytes[end - 1].is_ascii()) {
        return text.trim();
    }
    // Both lie beside ASCII.
    &text[start..end]
}

/// The lines of a text, as [`str::lines`] gives them.
#[derive(Clone)]
pub(crate) struct Lines<'t> {
    rest: &'t str,
}

pub(crate) fn lines(text: &str) -> Lines<'_> {
    Lines { rest: text }
}

impl<'t> Lines<'t> {
    /// What has not been read.
    pub(crate) fn rest(&self) -> &'t str {
        self.rest
    }
}

impl<'t> Iterator for Lines<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        if self.rest.is_empty() {
            return None;
        }
        let Some(end) = find_near(b'\n', self.rest.as_bytes()) else {
            return Some(std::mem::take(&mut self.rest));
        };
        let (line, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Some(line.strip_suffix('\r').unwrap_or(line))
    }
}

/// ASCII of local parts, and of domains.
const LOCAL: [bool; 128] = ascii_table(b"!#$%&'*+-/=?^_`{|}~.");
const DOMAIN: [bool; 128] = ascii_table(b"-._");
/// The same by bytes: what is no ASCII may be part of a local part, and ends what is surely a domain.
const LOCAL_BYTE: [bool; 256] = byte_table(&LOCAL, true);
const DOMAIN_BYTE: [bool; 256] = byte_table(&DOMAIN, false);

const fn byte_table(ascii: &[bool; 128], other: bool) -> [bool; 256] {
    let mut table = [other; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = ascii[byte];
        byte += 1;
    }
    table
}

/// Letters, digits, and these.
const fn ascii_table(others: &[u8]) -> [bool; 128] {
    let mut table = [false; 128];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut place = 0;
    while place < others.len() {
        table[others[place] as usize] = true;
        place += 1;
    }
    table
}

/// How many bytes at the end of `text` belong to a local part; the same for most addresses as looking at characters.
fn local_bytes(text: &[u8]) -> Option<usize> {
    let rest = &text[text.len().saturating_sub(320)..];
    let length = rest.iter().rev().position(|byte| !LOCAL_BYTE[usize::from(*byte)]).unwrap_or(rest.len());
    // Longer ones and those with other letters are counted in characters.
    (length < 320 && text[text.len() - length..].is_ascii()).then_some(length)
}

fn is_local(c: char) -> bool {
    LOCAL.get(c as usize).copied().unwrap_or_else(|| c.is_alphanumeric())
}

fn is_domain(c: char) -> bool {
    DOMAIN.get(c as usize).copied().unwrap_or_else(|| c.is_alphanumeric())
}

/// An address and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found<'t> {
    pub address: &'t str,
    pub start: usize,
    pub end: usize,
}

/// The first address of a text: what surrounds an `@`, as the world writes it (dots anywhere in the local part).
pub(crate) fn address(text: &str) -> Option<Found<'_>> {
    let mut from = 0;
    while let Some(at) = find_near(b'@', text.get(from..)?.as_bytes()).map(|n| from + n) {
        if let Some(found) = address_at(text, at, from) {
            return Some(found);
        }
        from = at + 1;
    }
    None
}

/// The address around the `@` at `at`, beginning at `from` or later.
fn address_at(text: &str, at: usize, from: usize) -> Option<Found<'_>> {
    let before = &text[from..at];
    let mut start = at;
    if let Some(inner) = before.strip_suffix('"') {
        // A quoted local part, on one line and of a length that exists.
        let open = inner.rfind('"').filter(|open| inner.len() - open < 256 && !inner[*open..].contains('\n'))?;
        start = from + open;
    } else {
        if let Some(length) = local_bytes(before.as_bytes()) {
            start -= length;
        } else {
            for (index, c) in before.char_indices().rev().take(320) {
                if !is_local(c) {
                    break;
                }
                start = from + index;
            }
        }
        // Quotation marks and signs of lists, not of the address.
        while matches!(text.as_bytes()[start..at].first(), Some(b'\'' | b'`' | b'*')) {
            start += 1;
        }
        if text.as_bytes()[start..at].starts_with(b"3D") && from < start && text.as_bytes()[start - 1] == b'=' {
            start += 2;
        }
    }
    let after = &text[at + 1..];
    let mut end = at + 1;
    let most = &after.as_bytes()[..after.len().min(260)];
    let plain = most.iter().position(|byte| !DOMAIN_BYTE[usize::from(*byte)]).unwrap_or(most.len());
    if after.as_bytes().get(plain).is_none_or(u8::is_ascii) {
        end += plain;
    } else {
        for (index, c) in after.char_indices().take(260) {
            if !is_domain(c) {
                break;
            }
            end = at + 1 + index + c.len_utf8();
        }
    }
    while matches!(text.as_bytes()[at + 1..end].last(), Some(b'.' | b'-' | b'_')) {
        end -= 1;
    }
    if after.starts_with('[')
        && let Some(close) = after[..floor(after, 64)].find(']')
    {
        end = at + 2 + close;
    }
    let fits = start < at && end > at + 1;
    fits.then(|| Found { address: &text[start..end], start, end })
}

/// The address alone of a header value, a path or a DSN field: `"Name" <a@b>`, `rfc822;<a@b>`, `a@b (comment)`.
pub(crate) fn one_address(text: &str) -> Option<&str> {
    let text = trim(text);
    if let Some(open) = memchr::memrchr(b'<', text.as_bytes())
        && let Some(found) = address(&text[open..])
    {
        return Some(found.address);
    }
    address(text).map(|found| found.address)
}

/// Local part unquoted where it needs no quotes: `"a b"@c` stays, `"..dot."@docomo.ne.jp` is what it says.
pub(crate) fn plain_address(address: &str) -> String {
    let address = trim(address);
    if address.starts_with('"')
        && let Some((local, domain)) = address.rsplit_once('@')
        && let Some(inner) = local.strip_prefix('"').and_then(|l| l.strip_suffix('"'))
        && !inner.is_empty()
        && inner.chars().all(is_local)
    {
        return format!("{inner}@{domain}");
    }
    address.to_owned()
}

/// The domain of an address.
pub(crate) fn domain(address: &str) -> &str {
    // A few bytes: quicker than to set up a search.
    address.bytes().rposition(|byte| byte == b'@').map_or("", |at| &address[at + 1..])
}

fn is_word(byte: Option<&u8>) -> bool {
    byte.is_some_and(u8::is_ascii_alphanumeric)
}

/// The first digit 4 or 5: they differ in one bit only.
fn four_or_five(text: &[u8]) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    let (eights, rest) = text.as_chunks::<8>();
    for (number, eight) in eights.iter().enumerate() {
        let other = (u64::from_le_bytes(*eight) | LOW) ^ (LOW * u64::from(b'5'));
        let found = other.wrapping_sub(LOW) & !other & HIGH;
        if found != 0 {
            return Some(number * 8 + (found.trailing_zeros() / 8) as usize);
        }
    }
    rest.iter().position(|byte| matches!(byte, b'4' | b'5')).map(|at| eights.len() * 8 + at)
}

/// All reply codes from 400 to 599 (and 2xx where a text begins with it), in their order.
pub(crate) fn reply_codes(text: &str) -> impl Iterator<Item = u16> + '_ {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at + 3 <= bytes.len() {
            let here = if at == 0 && bytes[0] == b'2' { 0 } else { at + four_or_five(&bytes[at..])? };
            at = here + 1;
            if here + 3 > bytes.len() {
                return None;
            }
            let first = bytes[here];
            let (b, c) = (bytes[here + 1], bytes[here + 2]);
            if !(b'0'..=b'7').contains(&b) || !c.is_ascii_digit() {
                continue;
            }
            let before = here.checked_sub(1).map(|n| bytes[n]);
            let after = bytes.get(here + 3).copied();
            let open = matches!(
                before,
                None | Some(
                    b' ' | b'#' | b'\n' | b'\t' | b'(' | b'[' | b'<' | b':' | b'\'' | b'"' | b'=' | b'-' | b';' | b','
                )
            );
            // 550-5.1.1, 550:, 550), but neither 550.1 nor 4-421-x.
            let closed = matches!(
                after,
                None | Some(
                    b' ' | b'\n'
                        | b'\t'
                        | b'-'
                        | b':'
                        | b')'
                        | b']'
                        | b'>'
                        | b'\''
                        | b'"'
                        | b','
                        | b'<'
                        | b';'
                        | b'_'
                        | b'#'
                )
            ) || (after == Some(b'.') && !bytes.get(here + 4).is_some_and(u8::is_ascii_digit));
            // A number within a name: 4-421-x, id-550-9.
            let hyphened = before == Some(b'-') && here >= 2 && is_word(bytes.get(here - 2));
            if open && closed && !hyphened {
                at = here + 3;
                // Three digits fit.
                return Some(u16::from(first - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'));
            }
        }
        None
    })
}

/// The reply code that belongs to a failure of this class: the first of the class, else the first of all.
pub(crate) fn reply_code(text: &str, class: Option<u8>) -> Option<u16> {
    let mut first = None;
    for code in reply_codes(text).take(16) {
        if class.is_none_or(|class| code / 100 == u16::from(class)) {
            return Some(code);
        }
        first = first.or(Some(code));
    }
    first
}

/// All enhanced status codes in a text, in their order: not parts of addresses of hosts nor of version numbers.
pub(crate) fn statuses(text: &str) -> impl Iterator<Item = EnhancedStatus> + '_ {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(next) = find_near3(*b"245", bytes.get(at..)?) {
            let here = at + next;
            at = here + 1;
            if here + 5 > bytes.len() {
                return None;
            }
            let class = match bytes[here] {
                b'4' => Class::Transient,
                b'5' => Class::Permanent,
                b'2' => Class::Success,
                _ => continue,
            };
            if bytes[here + 1] != b'.' || !(b'0'..=b'7').contains(&bytes[here + 2]) || bytes[here + 3] != b'.' {
                continue;
            }
            let before = here.checked_sub(1).map(|n| bytes[n]);
            if before.is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/')) {
                continue;
            }
            let digits = bytes[here + 4..].iter().take(4).take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 || digits > 3 {
                continue;
            }
            let after = bytes.get(here + 4 + digits);
            let more = after == Some(&b'.') && bytes.get(here + 5 + digits).is_some_and(u8::is_ascii_digit);
            if more || after.is_some_and(u8::is_ascii_alphanumeric) {
                continue;
            }
            let detail = bytes[here + 4..here + 4 + digits].iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
            at = here + 4 + digits;
            return Some(EnhancedStatus { class, subject: u16::from(bytes[here + 2] - b'0'), detail });
        }
        None
    })
}

/// Words that tell at which command a reply was heard, in lower case ([`Rules::stage`]).
pub(crate) const COMMANDS: &[(&str, Stage)] = &[
    ("after rcpt to", Stage::Rcpt),
    ("in reply to rcpt to", Stage::Rcpt),
    ("our rcpt to", Stage::Rcpt),
    ("rcpt to command", Stage::Rcpt),
    ("after rcpt command", Stage::Rcpt),
    ("while sending rcpt to", Stage::Rcpt),
    ("(rcpt to)", Stage::Rcpt),
    ("[rcpt_to]", Stage::Rcpt),
    ("smtp:rcpt", Stage::Rcpt),
    (">>> rcpt to", Stage::Rcpt),
    ("<<< rcpt to", Stage::Rcpt),
    ("sent <<< rcpt", Stage::Rcpt),
    ("rcpt to:", Stage::Rcpt),
    ("does not like recipient", Stage::Rcpt),
    ("rcpt_to", Stage::Rcpt),
    ("following rcpt command", Stage::Rcpt),
    // Google's numbers of the steps of a dialogue.
    ("(state 14)", Stage::Rcpt),
    ("(state 15)", Stage::Data),
    ("(state 17)", Stage::Data),
    ("(state 18)", Stage::Data),
    ("(state 6)", Stage::Mail),
    ("following mail command", Stage::Mail),
    ("following data command", Stage::Data),
    ("after mail from", Stage::Mail),
    ("in reply to mail from", Stage::Mail),
    ("our mail from", Stage::Mail),
    ("mail from command", Stage::Mail),
    ("after mail command", Stage::Mail),
    ("while sending mail from", Stage::Mail),
    ("[mail_from]", Stage::Mail),
    ("smtp:mail", Stage::Mail),
    (">>> mail from", Stage::Mail),
    ("sender was rejected", Stage::Mail),
    ("rejected mail from address", Stage::Mail),
    ("after end of data", Stage::Data),
    ("after data", Stage::Data),
    ("end of data command", Stage::Data),
    ("in reply to data", Stage::Data),
    ("in reply to end of data", Stage::Data),
    ("our data", Stage::Data),
    ("our final data", Stage::Data),
    ("data command", Stage::Data),
    ("after sending data block", Stage::Data),
    ("while sending end of data", Stage::Data),
    ("while sending message body", Stage::Data),
    ("while sending data command", Stage::Data),
    ("failed after i sent the message", Stage::Data),
    ("failed on data command", Stage::Data),
    ("after i sent the message", Stage::Data),
    ("smtp:data", Stage::Data),
    ("smtp:eom", Stage::Data),
    (">>> data", Stage::Data),
    (">>> .", Stage::Data),
    ("bdat command", Stage::Data),
    ("in reply to ehlo", Stage::Ehlo),
    ("in reply to helo", Stage::Ehlo),
    ("after ehlo", Stage::Ehlo),
    ("after helo", Stage::Ehlo),
    ("our ehlo", Stage::Ehlo),
    ("our helo", Stage::Ehlo),
    (">>> ehlo", Stage::Ehlo),
    (">>> helo", Stage::Ehlo),
    ("refused to talk to me", Stage::Conn),
    ("greeting failed", Stage::Conn),
    ("most progress was rcpt to response", Stage::Rcpt),
    ("most progress was mail from response", Stage::Mail),
    ("[rcpt_to]", Stage::Rcpt),
    ("[mail_from]", Stage::Mail),
    ("after initial connection", Stage::Conn),
    ("initial server greeting", Stage::Conn),
    ("initial connection", Stage::Conn),
    ("smtp:connect", Stage::Conn),
    ("starttls command", Stage::StartTls),
    ("after starttls", Stage::StartTls),
    (">>> starttls", Stage::StartTls),
    ("in reply to starttls", Stage::StartTls),
    ("after auth", Stage::Auth),
    ("after authentication", Stage::Auth),
    ("in reply to auth", Stage::Auth),
];

/// What follows this text at the beginning of another one, however often it stands there.
pub(crate) fn without<'t>(prefix: &str, mut text: &'t str) -> &'t str {
    while let Some(rest) = text.strip_prefix(prefix) {
        text = rest;
    }
    text
}

/// The command that a text says was answered "in reply to" it, or names below a heading of its own (`SMTP command`): words that
/// are about a dialogue wherever they stand.
pub(crate) fn stage_of_dialogue(rules: &Rules, text: &str) -> Option<Stage> {
    static IN_REPLY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"(in reply to "));
    static HEADING: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"-SMTP command\n"));
    // At the end of the line with the reply: `550 5.1.1 no such user  in RCPT TO`.
    static AT_END: LazyLock<[(Finder<'static>, Stage); 2]> = LazyLock::new(|| {
        [(Finder::new(b" in RCPT TO\n"), Stage::Rcpt), (Finder::new(b" in MAIL FROM\n"), Stage::Mail)]
    });
    let bytes = text.as_bytes();
    if let Some(at) = IN_REPLY.find(bytes) {
        return rules.stage(&rules.scan(&text[at..floor(text, at + 60)], usize::MAX));
    }
    if let Some((_, stage)) = AT_END.iter().find(|(finder, _)| finder.find(bytes).is_some()) {
        return Some(*stage);
    }
    let below = HEADING.find(bytes)? + HEADING.needle().len();
    text[below..].split_whitespace().next().and_then(Stage::named)
}

/// The name of a command as Sisimai has it, by the words that tell it: what refused "to talk" is `HELO` there, whether it was the
/// greeting or the answer to it, the older greeting keeps its own name, and Google's state 13 is `EHLO` (too little to decide by).
pub(crate) fn command_name(stage: Option<Stage>, words: [&str; 2]) -> &'static str {
    let said = |what: &str| words.iter().any(|words| contains(words, what));
    match stage {
        Some(Stage::Conn) if said("refused to talk to me") => "HELO",
        Some(Stage::Ehlo) if said("helo") && !said("ehlo") => "HELO",
        Some(other) => other.name(),
        None if said("(state 13)") => "EHLO",
        None => "",
    }
}

/// The reply that sendmail passes on behind a code of its own: `554 <a@b>... 550 Host unknown`.
pub(crate) fn passed_on(text: &str) -> Option<&str> {
    static DOTS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"... "));
    let code = |word: &[u8]| matches!(word, [b'4' | b'5', b, c] if b.is_ascii_digit() && c.is_ascii_digit());
    let bytes = text.as_bytes();
    // Not farther than an address is long.
    let dots = DOTS.find(&bytes[..bytes.len().min(340)])?;
    let reply = text.get(dots + DOTS.needle().len()..)?;
    let named = memchr::memchr(b'@', &bytes[..dots]).is_some();
    (named && code(bytes.get(..3)?) && bytes.get(3) == Some(&b' ') && code(reply.as_bytes().get(..3)?)).then_some(reply)
}

/// An address of the Internet, version 4 or 6.
pub(crate) fn is_ip(host: &str) -> bool {
    // Names begin with other letters, mostly.
    let like =
        host.as_bytes().first().is_some_and(u8::is_ascii_digit) || memchr::memchr(b':', host.as_bytes()).is_some();
    like && host.parse::<std::net::IpAddr>().is_ok()
}

/// True for something that can be the name or the address of a host.
pub(crate) fn is_host(name: &str) -> bool {
    let fits = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'));
    fits && name.len() >= 4 && name.len() <= 255 && name.contains('.') && !name.ends_with(".eml")
}

/// A host as DSN fields and notices write it: `dns; mx.example.jp (TCP|...)`, `[192.0.2.1]`, `mx.example.jp[192.0.2.1]:25`.
pub(crate) fn host(text: &str) -> &str {
    let text = trim(text);
    let text = match find_near(b';', text.as_bytes()).map(|at| (&text[..at], &text[at + 1..])) {
        Some((kind, rest)) if !kind.contains('.') || kind.len() < 5 => trim(rest),
        _ => text,
    };
    // The first word: these end one, and all of them are ASCII.
    const ENDS: [u8; 6] = *b" \t\n(,;";
    let start = text.bytes().position(|byte| !ENDS.contains(&byte)).unwrap_or(text.len());
    let text = &text[start..];
    let text = &text[..text.bytes().position(|byte| ENDS.contains(&byte)).unwrap_or(text.len())];
    if let Some(inner) = text.strip_prefix('[') {
        return without("IPv6:", inner.split(']').next().unwrap_or(""));
    }
    let end = find_near(b'[', text.as_bytes()).unwrap_or(text.len());
    let mut bare = &text.as_bytes()[..end];
    let mark = |byte: u8| matches!(byte, b'<' | b'>' | b'"' | b'\'' | b'.' | b':');
    while let [rest @ .., last] = bare
        && mark(*last)
    {
        bare = rest;
    }
    let kept = bare.len();
    while let [first, rest @ ..] = bare
        && mark(*first)
    {
        bare = rest;
    }
    &text[kept - bare.len()..kept]
}

/// Words before a host's name; the name ends at a blank, bracket or colon. Earlier ones are surer.
const BEFORE_HOST: [&str; 18] = [
    "host ",
    "Host ",
    "Server ",
    "server ",
    "connect to ",
    "Connected to ",
    "conversation with ",
    "lost connection with ",
    "while talking to ",
    "relay=",
    "Remote Server ",
    "remote server ",
    "Giving up on ",
    "said by ",
    "by ",
    "Remote system: dns;",
    "Remote host ",
    "host: ",
];

static HOST_FINDERS: LazyLock<Vec<Finder<'static>>> = LazyLock::new(|| BEFORE_HOST.iter().map(Finder::new).collect());

/// The highest bits of those of eight bytes that are this one (ASCII).
fn equal(eight: u64, byte: u8) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    // No sum reaches into the next byte.
    let other = (eight & !HIGH) ^ (LOW * u64::from(byte));
    !((other + LOW * 0x7f) | eight) & HIGH
}

/// Which of [`BEFORE_HOST`] may be in a text, as bits: all of them end in a blank or a mark, and what stands before that is
/// looked at.
fn host_words(text: &[u8]) -> u32 {
    /// By the two bytes before the last one, the nearer one first.
    const LAST: [[u32; 256]; 2] = {
        let mut table = [[0; 256]; 2];
        let mut number = 0;
        while number < BEFORE_HOST.len() {
            let words = BEFORE_HOST[number].as_bytes();
            table[0][words[words.len() - 2] as usize] |= 1 << number;
            table[1][words[words.len() - 3] as usize] |= 1 << number;
            number += 1;
        }
        table
    };
    let mut found = 0;
    let mut look = |at: usize| {
        // All of the words have so many bytes.
        let Some([second, first]) = at.checked_sub(2).and_then(|from| text[from..].first_chunk()) else { return };
        let mut may = LAST[0][usize::from(*first)] & LAST[1][usize::from(*second)] & !found;
        while may != 0 {
            let number = may.trailing_zeros();
            may &= may - 1;
            if text[..=at].ends_with(BEFORE_HOST[number as usize].as_bytes()) {
                found |= 1 << number;
            }
        }
    };
    let (eights, rest) = text.as_chunks::<8>();
    for (number, eight) in eights.iter().enumerate() {
        let bits = u64::from_le_bytes(*eight);
        let mut ends = equal(bits, b' ') | equal(bits, b'=') | equal(bits, b';');
        while ends != 0 {
            look(number * 8 + (ends.trailing_zeros() / 8) as usize);
            ends &= ends - 1;
        }
    }
    for (at, byte) in (eights.len() * 8..).zip(rest) {
        if matches!(byte, b' ' | b'=' | b';') {
            look(at);
        }
    }
    found
}

/// The host that a diagnostic names as the one that refused.
pub(crate) fn remote_host(text: &str) -> Option<&str> {
    if text.is_empty() {
        return None;
    }
    let mut words = host_words(text.as_bytes());
    while let Some(finder) = HOST_FINDERS.get(words.trailing_zeros() as usize) {
        words &= words - 1;
        let mut rest = text;
        // A few places at most, so that a long text is not searched again and again.
        for _ in 0..4 {
            let Some(at) = finder.find(rest.as_bytes()) else { break };
            // What is searched for is ASCII, so the rest begins at a boundary of characters.
            let tail = &rest[at + finder.needle().len()..];
            // "Client host x blocked", "no access from mail server [x]" speak of the sender's side.
            let before = &rest[..at];
            let client = ["lient ", "from mail ", "from ", "sending ", "connecting ", "your ", "Your "]
                .iter()
                .any(|words| before.ends_with(words));
            let ends = |byte| matches!(byte, b' ' | b'\n' | b'\t' | b',' | b')' | b'(' | b'[');
            let word = &tail[..tail.bytes().position(ends).unwrap_or(tail.len())];
            let word = word.trim_end_matches([':', '.', ';']).trim_start_matches('<').trim_end_matches('>');
            let word = word.strip_suffix(":25").unwrap_or(word);
            let word = word.trim_end_matches('.');
            if is_host(word) && !word.contains('@') && !client {
                return Some(word);
            }
            if let Some(inner) = tail.strip_prefix('[') {
                let inner = inner.split(']').next().unwrap_or("");
                if is_host(inner) && !client {
                    return Some(inner);
                }
            }
            rest = tail;
        }
    }
    // SurfControl: the address of the host between recipient and reply, `a@b: [192.0.2.5], 550 no`.
    static ADDRESS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b": ["));
    if let Some(at) = ADDRESS.find(text.as_bytes())
        && let Some((inner, rest)) = text[at + 3..].split_once(']')
        && inner.parse::<std::net::IpAddr>().is_ok()
        && reply_codes(&rest[..floor(rest, 6)]).next().is_some()
    {
        return Some(inner);
    }
    // qmail: the address of the host begins the text.
    let first = text.split_whitespace().next().unwrap_or("");
    // An address ends in a digit or a letter of a hexadecimal number, and has marks in it.
    let like_address = first.contains(['.', ':']) && first.as_bytes()[0] != b'<';
    let is_address = like_address && first.parse::<std::net::IpAddr>().is_ok();
    let named = is_host(first) && (text.contains(" does not like recipient") || text.contains(" did not like our"));
    (is_address || named).then_some(first)
}

/// Exchange says in its section for administrators which server wrote the notice.
pub(crate) fn generating_server(human: &str) -> Option<&str> {
    const WORDS: &str = "Generating server: ";
    static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(WORDS));
    let at = FINDER.find(human.as_bytes())?;
    let name = human[at + WORDS.len()..].split_whitespace().next()?;
    is_host(name).then_some(name)
}

/// The host in the line that begins with these words.
pub(crate) fn after_heading<'t>(text: &'t str, heading: &str) -> Option<&'t str> {
    let at = memchr::memmem::find(text.as_bytes(), heading.as_bytes())?;
    let named = host(text[at + heading.len()..].lines().next()?);
    is_host(named).then_some(named)
}

/// The largest boundary of characters up to `limit`.
pub(crate) fn floor(text: &str, limit: usize) -> usize {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

/// How many bytes at the beginning of `text`, by the eight, are ASCII without control characters and without two blanks side
/// by side. A blank before the text does not count.
pub(crate) fn squeezed(text: &[u8]) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    let (eights, _) = text.as_chunks::<8>();
    let mut blank_before = 0;
    for (number, eight) in eights.iter().enumerate() {
        let bits = u64::from_le_bytes(*eight);
        // For bytes below 128 no difference and no sum reaches into the next byte.
        let control = !((bits & !HIGH) + LOW * 0x60) & HIGH;
        let blank = !(((bits & !HIGH) ^ (LOW * 0x20)) + LOW * 0x7f) & HIGH;
        if (bits & HIGH) | control | (blank & (blank << 8 | blank_before)) != 0 {
            return number * 8;
        }
        blank_before = blank >> 56;
    }
    eights.len() * 8
}

/// White space squeezed to single blanks, none at the ends, at most `limit` bytes.
pub(crate) fn squeeze(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    if text.len() <= limit && text.is_ascii() {
        let mut rest = trim(text);
        // As it is, up to where blanks are to be left out: mostly to the end.
        let run = squeezed(rest.as_bytes());
        if rest.len() - run < 8 && rest.as_bytes()[run..].iter().all(|byte| !matches!(byte, b' ' | 9..=13)) {
            out.push_str(rest);
            return out;
        }
        while let Some(end) = rest.as_bytes().iter().position(|b| matches!(b, b' ' | 9..=13)) {
            out.push_str(&rest[..end]);
            out.push(' ');
            let after = &rest.as_bytes()[end + 1..];
            // One blank is the rule; there is a word after the blanks.
            let more = after.iter().take_while(|b| matches!(b, b' ' | 9..=13)).count();
            rest = &rest[end + 1 + more..];
        }
        out.push_str(rest);
        return out;
    }
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        if out.len() + word.len() > limit {
            let room = limit.saturating_sub(out.len());
            out.extend(word.chars().take(room / 4));
            break;
        }
        out.push_str(word);
    }
    out
}

/// `text` begins with the ASCII text `prefix` in any case of letters; what follows it.
pub(crate) fn after_prefix<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let head = text.as_bytes().get(..prefix.len())?;
    let differs = |at| head.get(at).zip(prefix.as_bytes().get(at)).is_some_and(|(a, b)| (a ^ b) & !0x20 != 0);
    if differs(0) || differs(1) {
        // Not even the first letters.
        return None;
    }
    // The prefix is ASCII, so what equals it ends at a boundary of characters.
    head.eq_ignore_ascii_case(prefix.as_bytes()).then(|| &text[prefix.len()..])
}

/// `needle` (ASCII, lower case) is somewhere in `text`, in any case of letters.
pub(crate) fn contains(text: &str, needle: &str) -> bool {
    Needle::of(needle).is_in(text)
}

/// Bytes as text, what is no UTF-8 replaced.
pub(crate) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("<kim@example.com>: no", Some("kim@example.com")),
            ("..da.me.@docomo.ne.jp", Some("..da.me.@docomo.ne.jp")),
            ("\"..dot.\"@docomo.ne.jp", Some("\"..dot.\"@docomo.ne.jp")),
            ("to a..b@ezweb.ne.jp.", Some("a..b@ezweb.ne.jp")),
            ("@ x@", None),
            ("rfc822;kim+tag@example.com", Some("kim+tag@example.com")),
            ("'kim@example.com'", Some("kim@example.com")),
            ("kim@[192.0.2.1]", Some("kim@[192.0.2.1]")),
            ("猫@例え.jp", Some("猫@例え.jp")),
        ] {
            assert_eq!(address(text).map(|f| f.address), expected, "{text}");
        }
        assert_eq!(plain_address("\"..dot.\"@docomo.ne.jp"), "..dot.@docomo.ne.jp");
        assert_eq!(plain_address("\"a b\"@c.jp"), "\"a b\"@c.jp");
    }

    #[test]
    fn codes() {
        for (text, code, status) in [
            ("550 5.1.1 <a@b>... User unknown", Some(550), Some("5.1.1")),
            ("550-5.1.1 no", Some(550), Some("5.1.1")),
            ("said: 554 554 5.7.1 no", Some(554), Some("5.7.1")),
            ("192.0.2.1 5.1.1.1 4.500", None, None),
            ("Exim 4.72, sendmail 8.14.4/8.14.4", None, None),
            ("#5.2.2 smtp;552", Some(552), Some("5.2.2")),
            ("(#4.4.3)I'm", None, Some("4.4.3")),
            ("4.16.55.1; id 0-421-1", None, None),
        ] {
            assert_eq!(reply_code(text, None), code, "{text}");
            assert_eq!(statuses(text).next().map(|s| s.to_string()).as_deref(), status, "{text}");
        }
        assert_eq!(reply_code("554 4.4.7 expired <421 4.4.2 timeout>", Some(4)), Some(421));
    }

    #[test]
    fn what_is_passed_on() {
        for (text, reply) in [
            ("554 <a@b>... 550 Host unknown", Some("550 Host unknown")),
            ("554 a@b... 421 later", Some("421 later")),
            ("550 5.1.1 <a@b>... User unknown", None),
            ("550 <a@b>... 5", None),
            ("no <a@b>... 550 Host unknown", None),
            ("554 well... 550 Host unknown", None),
            ("554", None),
            ("", None),
        ] {
            assert_eq!(passed_on(text), reply, "{text}");
        }
        for (host, ip) in
            [("192.0.2.1", true), ("fe80::1", true), ("::1", true), ("a.example", false), ("1.example", false)]
        {
            assert_eq!(is_ip(host), ip, "{host}");
        }
    }

    #[test]
    fn stages() {
        let rules = Rules::default();
        for (text, expected) in [
            ("(in reply to RCPT TO command)", Some(Stage::Rcpt)),
            ("(in reply to end of DATA command)", Some(Stage::Data)),
            ("SMTP error from remote mail server after MAIL FROM:<a@b>:", Some(Stage::Mail)),
            ("192.0.2.1 failed after I sent the message.", Some(Stage::Data)),
            ("told at DATA Command: end of data command", Some(Stage::Data)),
            ("[RCPT_TO] after mail from", Some(Stage::Rcpt)),
            ("in reply to\n RCPT TO", Some(Stage::Rcpt)),
            ("error while your data was looked after: database", None),
            ("nothing", None),
        ] {
            assert_eq!(rules.stage(&rules.scan(text, usize::MAX)), expected, "{text}");
        }
    }

    #[test]
    fn hosts() {
        for (text, expected) in [
            ("host mx.example.jp[192.0.2.1] said: 550", Some("mx.example.jp")),
            ("connect to mx.example.jp[192.0.2.1]:25: Connection refused", Some("mx.example.jp")),
            ("host [192.0.2.1] said", Some("192.0.2.1")),
            ("192.0.2.153 does not like recipient.", Some("192.0.2.153")),
            ("no such user", None),
        ] {
            assert_eq!(remote_host(text), expected, "{text}");
        }
        assert_eq!(host("dns;lsean.ezweb.ne.jp (TCP|192.0.2.1|31066)"), "lsean.ezweb.ne.jp");
        assert_eq!(host("DNS; [192.0.2.1]"), "192.0.2.1");
    }
}
