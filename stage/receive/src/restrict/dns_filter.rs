//! `smtpd_dns_reply_filter`: what the log hears of records that count for nothing.

use std::sync::{Mutex, PoisonError};

use yamabiko_dns::Told;

use super::Record;

/// Lines for the log of one check.
const TOLD: usize = 100;

/// Lines of one check, in the order in which they came.
#[derive(Default)]
pub(super) struct Ear(Mutex<Vec<Record>>);

impl Ear {
    pub(super) fn hear(&self, told: Told) {
        // Only ever added to: it is whole whatever happened elsewhere.
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.len() < TOLD {
            heard.push(match told {
                Told::Ignored(line) => Record::Info(line),
                Told::Unknown(line) => Record::Warning(line),
            });
        }
    }

    pub(super) fn into_told(self) -> Vec<Record> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
