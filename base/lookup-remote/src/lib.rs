//! Lookup tables in databases and directories: `mysql`, `pgsql`, `ldap`, `sqlite`, `memcache`.
//!
//! * [`extension`] is what a `yamabiko_lookup::TableSet` is given to know these types. Which ones there are is decided by
//!   the cargo features `mysql`, `pgsql`, `ldap`, `sqlite`; [`types`] lists them.
//! * Each table has its settings ([`settings`]) in a file of its own or, in the old manner, in main.cf with a prefix; its
//!   question and its answer are templates ([`template`]).
//! * [`pool`] keeps a bounded number of connections, knows which servers are down, and tries them again.
//!
//! What can be relied on: trouble is an error and never "not found"; every step has a time limit; a server that is down
//! is not asked for a while (longer each time, up to `retry_interval`); what comes from a key is quoted; passwords are in
//! no message. The work is done on a thread of its own with an event loop of its own: who asks only waits for a channel,
//! whatever runtime that is in, or none.

// A build without some of the types needs only a part of what they share.
#![cfg_attr(not(all(feature = "ldap", feature = "mysql", feature = "pgsql", feature = "sqlite")), allow(dead_code))]

#[cfg(feature = "ldap")]
mod ldap;
#[cfg(feature = "ldap")]
mod ldap_url;
mod memcache;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "pgsql")]
mod pgsql;
mod pool;
mod settings;
#[cfg(any(feature = "mysql", feature = "pgsql", feature = "sqlite"))]
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;
mod template;
#[cfg(any(feature = "mysql", feature = "pgsql", feature = "ldap"))]
mod tls;

use std::future::Future;
use std::sync::{Arc, OnceLock};

use tokio::runtime::{Builder, Runtime};
use yamabiko_lookup::Extension;

pub use settings::Parameter;

/// The types that are there, sorted.
pub fn types() -> &'static [&'static str] {
    &[
        #[cfg(feature = "ldap")]
        "ldap",
        "memcache",
        #[cfg(feature = "mysql")]
        "mysql",
        #[cfg(feature = "pgsql")]
        "pgsql",
        #[cfg(feature = "sqlite")]
        "sqlite",
    ]
}

/// Knows the types of this crate. `parameter` gives the value of a main.cf parameter, for tables whose settings are there.
pub fn extension(parameter: Parameter) -> Extension {
    Arc::new(move |wanted| {
        Some(match wanted.kind {
            #[cfg(feature = "ldap")]
            "ldap" => ldap::open(wanted, &parameter),
            "memcache" => memcache::open(wanted, &parameter),
            #[cfg(feature = "mysql")]
            "mysql" => mysql::open(wanted, &parameter),
            #[cfg(feature = "pgsql")]
            "pgsql" => pgsql::open(wanted, &parameter),
            #[cfg(feature = "sqlite")]
            "sqlite" => sqlite::open(wanted, &parameter),
            _ => return None,
        })
    })
}

/// Where conversations with servers go on.
fn runtime() -> Result<&'static Runtime, String> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(4)
            .thread_name("tables")
            .enable_all()
            .build()
            .map_err(|error| format!("no thread for lookups: {error}"))
    });
    made.as_ref().map_err(String::clone)
}

/// Runs `work` there; who waits may be in any runtime or in none.
async fn elsewhere<T: Send + 'static>(
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Result<T, String> {
    match runtime()?.spawn(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err("the client of this table failed on what the server said".to_owned()),
        Err(_) => Err("the program ends".to_owned()),
    }
}
