//! Is anybody there to read what the postmaster is told? Looked at when a configuration is examined and when it comes into
//! force: notices that nobody gets are worth nothing, and it is found out when they are needed.

use yamabiko_address::{split_domain, split_extension};
use yamabiko_config::Config;
use yamabiko_envelope::RewriteContext;
use yamabiko_lookup::{LookupError, Maps, TableSet};
use yamabiko_route::{Class, Listing, Lists, Party, Router};

/// Parameters that name whoever is told.
const RECIPIENTS: [&str; 4] =
    ["error_notice_recipient", "bounce_notice_recipient", "2bounce_notice_recipient", "delay_notice_recipient"];
/// Aliases of aliases.
const DEPTH: usize = 10;

/// Warnings about `postmaster` and every `..._notice_recipient` whose mail would not arrive.
pub async fn check(config: &Config, tables: &TableSet, router: &Router) -> Vec<String> {
    let main = config.main();
    let mut wanted: Vec<(String, String)> = vec![("postmaster".to_owned(), String::new())];
    for parameter in RECIPIENTS {
        let address = main.text(parameter);
        match wanted.iter_mut().find(|(known, _)| *known == address) {
            Some((_, names)) if names.is_empty() => names.push_str(parameter),
            Some((_, names)) => names.push_str(&format!(", {parameter}")),
            None => wanted.push((address, parameter.to_owned())),
        }
    }
    let look = Look {
        aliases: Maps::open_aliases(tables, "alias_maps", &main.text("alias_maps")),
        virtual_aliases: Maps::open(tables, "virtual_alias_maps", &main.text("virtual_alias_maps")),
        lists: Lists::new(&main, tables, router.mapper().clone()),
        delimiters: main.text("recipient_delimiter"),
        catches_all: [
            "luser_relay",
            "fallback_transport",
            "fallback_transport_maps",
            "mailbox_transport",
            "mailbox_transport_maps",
        ]
        .iter()
        .any(|name| !main.text(name).is_empty()),
        checks_users: !main.text("local_recipient_maps").is_empty(),
        router,
    };
    let mut found = Vec::new();
    for (address, names) in wanted {
        let who = if names.is_empty() { address.clone() } else { format!("{address} ({names})") };
        match look.trouble_with(&address).await {
            Ok(None) => {}
            Ok(Some(why)) => found.push(format!("nobody gets the mail for {who}: {why}")),
            // The table has been complained of already.
            Err(_) => {}
        }
    }
    found
}

struct Look<'a> {
    aliases: Maps,
    virtual_aliases: Maps,
    lists: Lists,
    delimiters: String,
    catches_all: bool,
    checks_users: bool,
    router: &'a Router,
}

impl Look<'_> {
    /// Why mail for this address will not arrive, as far as can be seen from here.
    async fn trouble_with(&self, address: &str) -> Result<Option<String>, LookupError> {
        let full = self.router.rewriter().rewrite(RewriteContext::Local, address).into_owned();
        if self.router.mapper().find(&self.virtual_aliases, &full).await?.is_some() {
            return Ok(None);
        }
        let resolved = self.router.resolve("", &full).await?;
        if let Some(refusal) = resolved.refusal() {
            return Ok(Some(format!("{full}: {}", refusal.text)));
        }
        match resolved.class {
            Class::Local if resolved.transport == "local" => self.local(&resolved.recipient).await,
            Class::Local => Ok(None),
            Class::VirtualMailbox | Class::VirtualAlias | Class::Relay => {
                Ok(match self.lists.check(Party::Recipient, &resolved).await? {
                    Listing::Listed => None,
                    Listing::Unlisted { text, .. } => Some(format!("{full}: {text}")),
                })
            }
            // An address with a domain of its own is meant as it is.
            Class::Default if address.contains('@') => Ok(None),
            Class::Default => Ok(Some(format!(
                "it becomes {full}, which is not delivered here but sent to {}; put the domain into mydestination, or write \
                 a full address",
                resolved.nexthop
            ))),
        }
    }

    /// Through the aliases to a user or to something else that takes mail.
    async fn local(&self, recipient: &str) -> Result<Option<String>, LookupError> {
        let mut name = split_domain(recipient).0.to_owned();
        for _ in 0..DEPTH {
            let base = split_extension(&name, &self.delimiters).0.to_owned();
            let target = match self.aliases.find(&name).await? {
                Some(hit) => Some(hit),
                None => self.aliases.find(&base).await?,
            };
            let Some(target) = target else { return Ok(self.user(recipient, &base)) };
            let target = target.trim().to_owned();
            // Several addresses, a command, a file, another place: that will be somebody.
            if target.contains([',', ' ', '|', '/', ':', '"', '@']) || target.is_empty() {
                return Ok(None);
            }
            if target.trim_start_matches('\\') == base {
                return Ok(self.user(recipient, &base));
            }
            name = target;
        }
        Ok(Some(format!("the aliases of {recipient} lead in a circle")))
    }

    fn user(&self, recipient: &str, name: &str) -> Option<String> {
        if self.catches_all {
            return None;
        }
        if name == "root" {
            return Some(format!(
                "{recipient} is root in the end, and root gets no mail of its own: write an alias, root: you"
            ));
        }
        match yamabiko_sys::users::by_name(name) {
            Ok(Some(_)) => None,
            Ok(None) if self.checks_users || name == "postmaster" => {
                Some(format!("there is no alias and no user {name}; write an alias, {name}: you"))
            }
            // An account that cannot be asked for now, or users that are known elsewhere.
            Ok(None) | Err(_) => None,
        }
    }
}
