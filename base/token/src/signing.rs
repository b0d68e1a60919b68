//! The settings of signed reverse-paths: whose mail gets one, and with what keys.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use yamabiko_address::split_domain;
use yamabiko_config::View;
use yamabiko_envelope::Timestamp;
use yamabiko_lookup::matchlist::StringList;
use yamabiko_lookup::{LookupError, TableSet};

use crate::{Claim, Keys, Reading};

/// `signed_sender_domains` and what belongs to it.
pub struct Signing {
    keys: Keys,
    domains: StringList,
    delimiter: char,
    delimiters: String,
    lifetime: Duration,
    each: bool,
}

impl Signing {
    /// From a view; `None` while `signed_sender_domains` is empty. `keys` reads the key file.
    ///
    /// # Errors
    /// A line for the administrator: keys that cannot be read or used. No reverse-path is signed then.
    pub fn from_view(
        view: &View,
        tables: &TableSet,
        keys: &dyn Fn(&Path) -> std::io::Result<String>,
    ) -> Result<Option<Self>, String> {
        const DOMAINS: &str = "signed_sender_domains";
        let listed = view.text(DOMAINS);
        if listed.trim().is_empty() {
            return Ok(None);
        }
        let file = view.text("signed_sender_key_file");
        let text = keys(Path::new(&file)).map_err(|error| format!("open signed_sender_key_file {file}: {error}"))?;
        let keys = Keys::parse(&text).map_err(|error| format!("signed_sender_key_file {file}: {error}"))?;
        let mut delimiters = view.text("recipient_delimiter");
        if delimiters.is_empty() {
            delimiters.push('+');
        }
        Ok(Some(Self {
            keys,
            domains: StringList::new(tables, DOMAINS, &listed, false),
            // It has just been filled.
            delimiter: delimiters.chars().next().unwrap_or('+'),
            delimiters,
            lifetime: view.duration("signed_sender_lifetime"),
            each: view.bool("signed_sender_per_recipient"),
        }))
    }

    /// Every recipient has a reverse-path of its own (`signed_sender_per_recipient`).
    pub fn is_per_recipient(&self) -> bool {
        self.each
    }

    /// Mail from addresses like this one is signed, and bounces to it have to have a token.
    ///
    /// # Errors
    /// A table that cannot be asked.
    pub async fn covers(&self, address: &str) -> Result<bool, LookupError> {
        match split_domain(address).1 {
            Some(domain) => self.domains.contains(domain).await,
            None => Ok(false),
        }
    }

    /// The reverse-path with a token; `None` where it has no place in it.
    pub fn sign(&self, sender: &str, claim: Claim) -> Option<String> {
        self.keys.sign(sender, self.delimiter, claim)
    }

    /// What an address is.
    pub fn read(&self, address: &str, now: Timestamp) -> Reading {
        self.keys.read(address, &self.delimiters, now, self.lifetime)
    }
}

/// Writes a key file with one new key, readable for its owner only. Nothing is overwritten.
///
/// # Errors
/// Those of the file system, and of the source of random numbers.
pub fn make_key_file(path: &Path) -> std::io::Result<()> {
    let mut secret = [0u8; 24];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| std::io::Error::other("no random numbers"))?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(
        file,
        "# Keys of signed reverse-paths. The first one signs, all of them verify.\n1 {}",
        crate::base32(&secret)
    )?;
    file.sync_all()
}
