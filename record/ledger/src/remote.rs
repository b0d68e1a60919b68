//! The queue ID at the next hop, out of its reply to the final dot.
//!
//! Each system writes it in its own way; what is taken must look like an ID of that system. Nothing is better than a wrong
//! word.

/// The queue ID in a reply such as `250 2.0.0 Ok: queued as 4XyZ`; empty where there is none that is known to be one.
/// The text may be the reply itself or the text in parentheses of a log line.
pub fn remote_id(text: &str) -> &str {
    let text = text.trim();
    // "host h[a] said: 250 ..." has the reply behind it.
    let text = text.rsplit_once(" said: ").map_or(text, |(_, reply)| reply);
    KNOWN.iter().find_map(|find| find(text).filter(|id| is_id(id))).unwrap_or("")
}

/// Something that can be searched for: no blanks, bounded, and not a word of the language alone.
fn is_id(id: &str) -> bool {
    (4..=200).contains(&id.len())
        && id.bytes().any(|byte| byte.is_ascii_digit())
        // The one with blanks is qmail's.
        && id.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

type Find = fn(&str) -> Option<&str>;

const KNOWN: [Find; 9] = [postfix, exchange, google, exim, sendmail, amavis, qmail, microsoft_queue, angled];

/// The word that begins behind `marker`, without quotes and full stops around it.
fn word_after<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    let at = find_no_case(text, marker)?;
    let rest = text.get(at + marker.len()..)?.trim_start();
    let end = rest.find(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | ')' | '"')).unwrap_or(rest.len());
    Some(rest.get(..end)?.trim_matches(['.', '\'', '"', '<', '>', '(', ')', '[', ']', ':']))
}

fn find_no_case(text: &str, marker: &str) -> Option<usize> {
    text.as_bytes().windows(marker.len()).position(|window| window.eq_ignore_ascii_case(marker.as_bytes()))
}

/// Postfix, Haraka, Halon, OpenSMTPD relatives, Yamabiko: `queued as ID`.
fn postfix(text: &str) -> Option<&str> {
    word_after(text, "queued as ")
}

/// Exchange: `2.6.0 <message-id> [InternalId=123, Hostname=h] ... Queued mail for delivery`
fn exchange(text: &str) -> Option<&str> {
    word_after(text, "InternalId=").map(|id| id.trim_end_matches(']'))
}

/// Gmail: `250 2.0.0 OK  1700000000 ab12-34.56 - gsmtp`
fn google(text: &str) -> Option<&str> {
    let before = text.trim_end_matches(')').trim_end();
    let before = before.strip_suffix("gsmtp")?.trim_end().strip_suffix('-')?.trim_end();
    before.rsplit(' ').next()
}

/// Exim: `250 OK id=1abcDE-0001xy-Z9`
fn exim(text: &str) -> Option<&str> {
    word_after(text, " id=")
}

/// Sendmail: `250 2.0.0 xAB12345 Message accepted for delivery`
fn sendmail(text: &str) -> Option<&str> {
    let at = find_no_case(text, " message accepted for delivery")?;
    text.get(..at)?.rsplit(' ').next().filter(|word| word.parse::<f64>().is_err() && !is_status(word))
}

/// amavis: `250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as ID` is found above; its own: `id=01234-05`.
fn amavis(text: &str) -> Option<&str> {
    text.starts_with("id=").then(|| word_after(text, "id=")).flatten()
}

/// qmail: `250 ok 1363398899 qp 16023`. Time and process together are the name.
fn qmail(text: &str) -> Option<&str> {
    let at = find_no_case(text, "ok ")? + 3;
    let rest = text.get(at..)?.trim_end_matches(')');
    let (time, number) = rest.split_once(" qp ")?;
    let digits = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    (digits(time) && digits(number)).then_some(rest)
}

/// Others that say `queue id`, `message id`, `Message queued`, `accepted`, `MessageID=`.
fn microsoft_queue(text: &str) -> Option<&str> {
    const MARKERS: [&str; 12] = [
        "queued with id ",
        "queue id ",
        "queue-id ",
        "queueid=",
        "message accepted ",
        "mail accepted ",
        "accepted message ",
        "queued mail ",
        "ok queued ",
        "ok dirdel ",
        "ok: queued ",
        "messageid=",
    ];
    MARKERS.iter().find_map(|marker| word_after(text, marker).filter(|word| is_id(word)))
}

/// A lone word behind code and status, as Amazon SES and many appliances answer: `250 Ok 0101018abc-1234-000000`.
fn angled(text: &str) -> Option<&str> {
    let text = text.trim_end_matches(')');
    let mut words = text.split_ascii_whitespace();
    let code = words.next()?;
    if code.len() != 3 || !code.starts_with('2') || !code.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut rest: Vec<&str> = words.collect();
    if rest.first().is_some_and(|word| is_status(word)) {
        rest.remove(0);
    }
    let ok = rest.first().is_some_and(|word| word.trim_end_matches([':', ',', '.']).eq_ignore_ascii_case("ok"));
    match rest.as_slice() {
        [_, id] if ok => Some(id.trim_matches(['<', '>', '[', ']', '(', ')'])),
        _ => None,
    }
    .filter(|id| id.len() >= 10)
}

fn is_status(word: &str) -> bool {
    word.parse::<yamabiko_status::EnhancedStatus>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_systems() {
        for (reply, id) in [
            ("250 2.0.0 Ok: queued as 4XyZ1234abcz1", "4XyZ1234abcz1"),
            ("250 Ok: queued as 9C5269BCFE4", "9C5269BCFE4"),
            ("250 2.0.0 Ok: queued as 9C5269BCFE4)", "9C5269BCFE4"),
            ("250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 8A1B2C3D4E", "8A1B2C3D4E"),
            ("250 OK id=1abcDE-0001xy-Z9", "1abcDE-0001xy-Z9"),
            ("250 OK id=1rXyZ1-00000001abc-2DeF", "1rXyZ1-00000001abc-2DeF"),
            ("250 2.0.0 4ALDvXyz012345 Message accepted for delivery", "4ALDvXyz012345"),
            ("250 2.0.0 xAB0Cd12 Message accepted for delivery", "xAB0Cd12"),
            ("250 ok 1363398899 qp 16023", "1363398899 qp 16023"),
            (
                "250 2.0.0 OK  1700000000 d9443c01a7336-1c9d8a7b2fasi1234567.89 - gsmtp",
                "d9443c01a7336-1c9d8a7b2fasi1234567.89",
            ),
            (
                "250 2.6.0 <m@x.test> [InternalId=12345678901234, Hostname=A1.prod.outlook.com] 9876 bytes in 0.2, 50 KB/sec Queued mail for delivery",
                "12345678901234",
            ),
            (
                "250 Ok 0101018abcdef123-12345678-aaaa-bbbb-cccc-1234567890ab-000000",
                "0101018abcdef123-12345678-aaaa-bbbb-cccc-1234567890ab-000000",
            ),
            ("250 ok queued as abc12345.m", "abc12345.m"),
            ("host h[1.2.3.4] said: 250 2.0.0 Ok: queued as ABC123", "ABC123"),
            ("250 2.0.0: a1b2c3d4 Message accepted for delivery", "a1b2c3d4"),
            ("250 2.1.5 Ok", ""),
            ("250 OK", ""),
            ("250 Message accepted for delivery", ""),
            ("250 2.0.0 Message accepted for delivery", ""),
            ("250 2.0.0 Ok: queued as", ""),
            ("550 5.1.1 no such user", ""),
            ("delivered to maildir", ""),
            ("delivered to mailbox", ""),
            ("", ""),
            ("queued as \u{3042}\u{3044}\u{3046}1", ""),
        ] {
            assert_eq!(remote_id(reply), id, "{reply}");
        }
    }
}
