//! Questions asked one after the other by somebody without a runtime of its own: commands.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

use crate::{Answer, HickoryResolver, Mx, Resolver};

/// A resolver that is waited for.
pub struct Blocking {
    runtime: Runtime,
    resolver: Arc<dyn Resolver>,
}

impl Blocking {
    /// The servers of `/etc/resolv.conf`.
    pub fn system() -> io::Result<Self> {
        Self::with(Arc::new(HickoryResolver::system()))
    }

    /// Any resolver.
    pub fn with(resolver: Arc<dyn Resolver>) -> io::Result<Self> {
        Ok(Self { runtime: Builder::new_current_thread().enable_all().build()?, resolver })
    }

    /// Mail exchangers of a domain, in the server's order.
    pub fn mx(&self, domain: &str) -> Answer<Mx> {
        self.runtime.block_on(self.resolver.mx(domain))
    }

    /// Addresses of a host: IPv4 first. Where one of the two questions was not answered, that is the answer only if the
    /// other has none either.
    pub fn addresses(&self, host: &str) -> Answer<IpAddr> {
        let four = self.runtime.block_on(self.resolver.a(host)).filter_map(|address| Some(IpAddr::V4(address)));
        if !four.records().is_empty() {
            return four;
        }
        let six = self.runtime.block_on(self.resolver.aaaa(host)).filter_map(|address| Some(IpAddr::V6(address)));
        if six.records().is_empty() && matches!(four, Answer::TryAgain(_)) { four } else { six }
    }
}
