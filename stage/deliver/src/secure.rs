//! What the clients know of secure transport beyond one configuration: policies that were fetched, sessions that were counted.

use std::path::Path;

use yamabiko_envelope::Timestamp;

use crate::sts::Sts;
use crate::tlsrpt::Collector;

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    Timestamp::now().seconds()
}

/// Made once when the program starts, and shared by all clients.
pub struct Memory {
    /// Policies of MTA-STS.
    pub sts: Sts,
    /// Counts for TLS reports.
    pub reports: Collector,
}

impl Memory {
    /// Without files.
    pub fn in_memory() -> Self {
        Self { sts: Sts::in_memory(), reports: Collector::in_memory() }
    }

    /// With its files below `data_directory`: `mta-sts/` and `tls-reports/`.
    pub fn open(data_directory: &Path) -> Self {
        let now = Timestamp::now().seconds();
        Self {
            sts: Sts::open(&data_directory.join("mta-sts"), now),
            reports: Collector::open(&data_directory.join("tls-reports")),
        }
    }
}
