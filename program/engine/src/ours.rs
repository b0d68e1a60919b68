//! Domains that a configuration takes mail for, for commands that look at addresses: DNS need not know them.

use tokio::runtime::{Builder, Runtime};
use yamabiko_config::Config;
use yamabiko_route::{Class, Router};

/// Asks a configuration that need not run.
pub struct Ours {
    router: Router,
    runtime: Runtime,
}

impl Ours {
    /// Of this configuration. `None` when nothing can be asked here.
    pub fn of(config: &Config) -> Option<Self> {
        let tables = crate::examine::tables(config, |_| {});
        let router = Router::new(&config.main(), &tables);
        Some(Self { router, runtime: Builder::new_current_thread().enable_all().build().ok()? })
    }

    /// The parameter by which mail to this address (internal form) is taken here; `None` where it goes out, or where a table
    /// gives no answer.
    pub fn taken_by(&self, address: &str) -> Option<&'static str> {
        let resolved = self.runtime.block_on(self.router.resolve("", address)).ok()?;
        (resolved.class != Class::Default && !resolved.bad_syntax).then(|| resolved.class.parameter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_config::Host;

    #[test]
    fn who_takes_mail() {
        let main = "mydestination = here.test\nvirtual_alias_domains = alias.test\nrelay_domains = relay.test\n\
                    virtual_mailbox_domains = inline:{box.test=1}\n";
        let host = Host::of_this_machine("postfix");
        let config = Config::from_texts(main, "", ("main.cf", "master.cf"), &host).unwrap();
        let ours = Ours::of(&config).unwrap();
        for (address, parameter) in [
            ("a@here.test", Some("mydestination")),
            ("a@HERE.test", Some("mydestination")),
            ("a@alias.test", Some("virtual_alias_domains")),
            ("a@box.test", Some("virtual_mailbox_domains")),
            ("a@sub.relay.test", Some("relay_domains")),
            ("a@elsewhere.test", None),
            ("a@", None),
        ] {
            assert_eq!(ours.taken_by(address), parameter, "{address}");
        }
    }
}
