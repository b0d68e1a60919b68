//! What the clients know beyond one configuration: policies of secure transport that were fetched, sessions that were counted,
//! connections that are idle.

use std::path::Path;

use yamabiko_envelope::Timestamp;

use crate::pool::Pools;
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
    /// Idle connections of all transports.
    pub(crate) pools: Pools,
}

impl Memory {
    /// Without files.
    pub fn in_memory() -> Self {
        Self { sts: Sts::in_memory(), reports: Collector::in_memory(), pools: Pools::default() }
    }

    /// With its files below `data_directory`: `mta-sts/` and `tls-reports/`.
    pub fn open(data_directory: &Path) -> Self {
        let now = Timestamp::now().seconds();
        Self {
            sts: Sts::open(&data_directory.join("mta-sts"), now),
            reports: Collector::open(&data_directory.join("tls-reports")),
            pools: Pools::default(),
        }
    }
}
