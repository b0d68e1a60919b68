//! The sheet for people who send: addresses that are dead, addresses in trouble, and why, in plain words.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use jiff::tz::TimeZone;
use yamabiko_analyze::Reason;
use yamabiko_envelope::Timestamp;
use yamabiko_ledger::{Error, Ledger, ReportAction, What, is_doubtful};

use super::words::{Language, plain};

/// A message may have been queued so long before it failed.
const BEFORE: u64 = 6 * 86_400;
/// Rows of the sheet, at most; the rest is counted.
const ROWS: usize = 200_000;

/// An address that failed.
#[derive(Clone, Debug, Default)]
struct Row {
    reason: String,
    status: String,
    text: String,
    times: u64,
    first: Timestamp,
    last: Timestamp,
    /// It was delivered to after its last failure.
    well_since: bool,
    /// Trying again is pointless.
    dead: bool,
}

/// The sheet: by sender and recipient.
#[derive(Debug, Default)]
pub struct Sheet {
    rows: BTreeMap<(String, String), Row>,
    left_out: u64,
}

/// Gathers failures since a time, of one sender (an address or a domain) or of all.
pub fn gather(ledger: &mut Ledger, since: Timestamp, sender: Option<&str>) -> Result<Sheet, Error> {
    let mut sheet = Sheet::default();
    let mut senders: HashMap<u64, String> = HashMap::new();
    let earlier = Timestamp::from_seconds(since.seconds().saturating_sub(BEFORE));
    let wanted = |address: &str| {
        sender.is_none_or(|wanted| {
            let wanted = wanted.trim_start_matches('@');
            address.eq_ignore_ascii_case(wanted)
                || address.rsplit_once('@').is_some_and(|(_, domain)| domain.eq_ignore_ascii_case(wanted))
        })
    };
    ledger.each(Some(earlier), None, |entry| {
        let key = crate::import::source::hash(format!("{}\0{}", entry.host, entry.queue_id).as_bytes());
        if let Some(sender) = &entry.sender
            && !entry.queue_id.is_empty()
        {
            senders.entry(key).or_insert_with(|| sender.clone());
        }
        if entry.at < since || entry.recipient.is_empty() {
            return true;
        }
        let from = entry.sender.clone().or_else(|| senders.get(&key).cloned()).unwrap_or_default();
        // What comes back to a notice is nobody's mailing.
        if from.is_empty() || !wanted(&from) {
            return true;
        }
        let name = (from, entry.recipient.to_lowercase());
        let failed = match entry.what {
            // What anybody could have written is no ground to take an address off a list.
            _ if is_doubtful(&entry) => false,
            What::Bounced | What::Expired | What::Complaint => true,
            What::Report => entry.action == Some(ReportAction::Failed),
            What::Sent | What::Delivered | What::Relayed => {
                if let Some(row) = sheet.rows.get_mut(&name)
                    && row.last < entry.at
                {
                    row.well_since = true;
                }
                return true;
            }
            _ => false,
        };
        if !failed {
            return true;
        }
        if sheet.rows.len() >= ROWS && !sheet.rows.contains_key(&name) {
            sheet.left_out += 1;
            return true;
        }
        let reason = if entry.what == What::Complaint { "feedback".to_owned() } else { entry.reason.clone() };
        let class = entry.status.map_or(5, |status| status.class.digit());
        let row = sheet.rows.entry(name).or_insert_with(|| Row { first: entry.at, ..Row::default() });
        row.times += 1;
        row.well_since = false;
        row.last = row.last.max(entry.at);
        row.dead = reason.parse::<Reason>().is_ok_and(|reason| reason.is_hard(class) || reason == Reason::Feedback);
        row.status = entry.status.map(|status| status.to_string()).unwrap_or_default();
        row.reason = reason;
        row.text = entry.text;
        true
    })?;
    Ok(sheet)
}

impl Sheet {
    /// For reading.
    pub fn text(&self, language: Language, zone: &TimeZone, since: Timestamp, now: Timestamp) -> String {
        let mut out = String::new();
        let title = language.pick("Addresses that could not be reached", "届かなかった宛先");
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{title}: {} - {}\n", day(since, zone), day(now, zone));
        if self.rows.is_empty() {
            let _ = writeln!(out, "{}", language.pick("None.", "ありません。"));
        }
        let mut senders: Vec<&str> = self.rows.keys().map(|(sender, _)| sender.as_str()).collect();
        senders.dedup();
        for sender in senders {
            let of_sender: Vec<_> = self.rows.iter().filter(|((from, _), _)| from == sender).collect();
            let _ = writeln!(out, "{} {sender}", language.pick("Sender", "差出人"));
            let groups = [
                (true, language.pick("Dead: take these off your list", "届かない宛先（名簿から外してください）")),
                (
                    false,
                    language.pick("In trouble: keep these for now", "一時的な問題のある宛先（まだ外さないでください）"),
                ),
            ];
            for (dead, words) in groups {
                let rows: Vec<_> = of_sender.iter().filter(|(_, row)| (row.dead && !row.well_since) == dead).collect();
                if rows.is_empty() {
                    continue;
                }
                let _ = writeln!(out, "\n  {words}: {}", rows.len());
                for ((_, recipient), row) in rows {
                    let (meaning, advice) = plain(&row.reason, language);
                    let _ = writeln!(out, "    {recipient}");
                    let _ = writeln!(out, "        {meaning}; {advice}");
                    if row.well_since {
                        let words = language.pick("It was delivered to since then", "その後は届いています");
                        let _ = writeln!(out, "        {words}");
                    }
                    let times = match language {
                        Language::En if row.times == 1 => format!("on {}", day(row.last, zone)),
                        Language::En => format!("{} times, last on {}", row.times, day(row.last, zone)),
                        Language::Ja => format!("{} 回、最後は {}", row.times, day(row.last, zone)),
                    };
                    let said = crate::analyze::width::visible(&row.text);
                    let _ = writeln!(out, "        {times}: {said}");
                }
            }
            out.push('\n');
        }
        if self.left_out > 0 {
            let _ = writeln!(
                out,
                "{} {}",
                self.left_out,
                language.pick("more failures are not listed", "件は省略しました")
            );
        }
        out
    }

    /// For spreadsheets (RFC 4180).
    pub fn csv(&self, language: Language, zone: &TimeZone) -> String {
        let mut out =
            b"sender,recipient,dead,reason,meaning,advice,status,times,first,last,delivered_since,said\r\n".to_vec();
        for ((sender, recipient), row) in &self.rows {
            let (meaning, advice) = plain(&row.reason, language);
            let yes = |flag: bool| if flag { "yes" } else { "no" };
            let fields = [
                sender,
                recipient,
                yes(row.dead && !row.well_since),
                &row.reason,
                meaning,
                advice,
                &row.status,
                &row.times.to_string(),
                &day(row.first, zone),
                &day(row.last, zone),
                yes(row.well_since),
                &row.text,
            ];
            for (at, field) in fields.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                crate::analyze::record::csv_value(&mut out, field);
            }
            out.extend_from_slice(b"\r\n");
        }
        String::from_utf8_lossy(&out).into_owned()
    }
}

fn day(at: Timestamp, zone: &TimeZone) -> String {
    let at = jiff::Timestamp::from_second(i64::try_from(at.seconds()).unwrap_or(0)).unwrap_or_default();
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d").to_string()
}
