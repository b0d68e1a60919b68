//! What a message's sender can prove: SPF, DKIM, DMARC and ARC (RFC 7208, 6376, 7489, 8617); and signatures of our own.
//!
//! * [`Authenticator`] asks DNS and says what came of it: [`Authenticator::spf`] while the conversation goes on,
//!   [`Authenticator::verify`] at the end of the message. [`Findings`] has the results and the text of the
//!   `Authentication-Results:` field (RFC 8601); [`without_our_results`] takes fields out that claim to be ours.
//! * [`Key`], [`Signer`] and [`Sealer`] make `DKIM-Signature:` fields and ARC sets; [`generate`] makes keys and
//!   [`Key::record`] says what DNS must say of them; [`published`] asks whether it does.
//!
//! What can be relied on: trouble with DNS is *temperror* and never a failure; all of it together takes no longer than
//! [`PATIENCE`]; nothing that a message says leads to a panic or to work without bound.
//!
//! Messages are given with CRLF line ends; fields come back with LF.

mod keys;
mod record;
mod sign;
mod verify;

pub use keys::{Algorithm, Key, generate};
pub use record::{Published, published};
pub use sign::{Identity, Sealer, Signer, parse_identities};
pub use verify::{Authenticator, Client, Dmarc, Findings, PATIENCE, Policy, Spf, Verdict, Wants, without_our_results};

/// A message with CRLF line ends, from one with LF.
pub fn with_crlf(parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + length / 32);
    for part in parts {
        for line in part.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(line) => {
                    out.extend_from_slice(line);
                    out.extend_from_slice(b"\r\n");
                }
                None => out.extend_from_slice(line),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn line_ends() {
        assert_eq!(super::with_crlf(&[b"a\n\n", b"b\rc\nd"]), b"a\r\n\r\nb\rc\r\nd");
    }
}
