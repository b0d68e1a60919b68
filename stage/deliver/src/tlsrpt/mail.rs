//! The mail that brings a report (RFC 8460 section 5.3).

use super::{DAY, Reporter, report_id};

/// Header and body, LF line ends. `to` are addresses of the record, `date` is the `Date:` field's value, `report` the
/// compressed report.
pub fn message(day: u64, domain: &str, reporter: &Reporter, to: &[String], date: &str, report: &[u8]) -> Vec<u8> {
    let id = report_id(day, domain, reporter);
    let name = format!(
        "{}!{domain}!{}!{}!{}.json.gz",
        reporter.domain,
        day * DAY,
        (day + 1) * DAY - 1,
        super::date_of(day).replace('-', "")
    );
    let boundary = format!("tlsrpt-{}-{}", day, report.len());
    let mut text = format!(
        "From: {contact}\n\
         To: {to}\n\
         Subject: Report Domain: {domain} Submitter: {submitter} Report-ID: <{id}>\n\
         Date: {date}\n\
         Message-ID: <{id}>\n\
         TLS-Report-Domain: {domain}\n\
         TLS-Report-Submitter: {submitter}\n\
         TLS-Required: No\n\
         Auto-Submitted: auto-generated\n\
         MIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=\"tlsrpt\";\n\
         \tboundary=\"{boundary}\"\n\
         \n\
         --{boundary}\n\
         Content-Type: text/plain; charset=us-ascii\n\
         \n\
         This is a report about TLS connections to the mail servers of {domain}\n\
         on {date_of} (UTC), in the format of RFC 8460. It is attached.\n\
         \n\
         --{boundary}\n\
         Content-Type: application/tlsrpt+gzip\n\
         Content-Transfer-Encoding: base64\n\
         Content-Disposition: attachment;\n\
         \tfilename=\"{name}\"\n\
         \n",
        contact = reporter.contact,
        to = to.join(", "),
        submitter = reporter.domain,
        date_of = super::date_of(day),
    );
    let encoded = base64(report);
    for line in encoded.as_bytes().chunks(76) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("\n--{boundary}--\n"));
    text.into_bytes()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let all = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            if at <= chunk.len() {
                // Six bits are an index below 64.
                let digit = DIGITS.get(((all >> (18 - 6 * at)) & 63) as usize).copied().unwrap_or(b'A');
                text.push(char::from(digit));
            } else {
                text.push('=');
            }
        }
    }
    text
}
