//! What the configuration says about local and virtual delivery.

use std::path::{Path, PathBuf};

use yamabiko_config::View;
use yamabiko_lookup::{Maps, TableSet, Usage};

use super::qmail::Style;
use crate::job::{Lock, Locking};

/// Whether aliases, `.forward` and `:include:` files may name something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// `alias`
    pub alias: bool,
    /// `forward`
    pub forward: bool,
    /// `include`
    pub include: bool,
}

impl Allowed {
    fn of(view: &View, name: &str) -> Self {
        let words = view.list(name);
        let has = |word: &str| words.iter().any(|w| w == word);
        Self { alias: has("alias"), forward: has("forward"), include: has("include") }
    }
}

/// local(8)
pub struct Settings {
    pub(crate) alias_maps: Maps,
    pub(crate) mailbox_command_maps: Maps,
    pub(crate) mailbox_transport_maps: Maps,
    pub(crate) fallback_transport_maps: Maps,
    pub(crate) mailbox_command: String,
    pub(crate) mailbox_transport: String,
    pub(crate) fallback_transport: String,
    pub(crate) luser_relay: String,
    pub(crate) home_mailbox: String,
    pub(crate) mail_spool_directory: String,
    pub(crate) forward_path: Vec<String>,
    pub(crate) recipient_delimiter: String,
    pub(crate) owner_request_special: bool,
    pub(crate) expand_owner_alias: bool,
    pub(crate) reset_owner_alias: bool,
    pub(crate) require_home_directory: bool,
    pub(crate) frozen_delivered_to: bool,
    pub(crate) directory_filter: String,
    pub(crate) commands: Allowed,
    pub(crate) files: Allowed,
    pub(crate) delivered_to: Delivered,
    pub(crate) propagate: Propagate,
    pub(crate) locking: Locking,
    pub(crate) mailbox_limit: u64,
    pub(crate) command_time_limit_s: u64,
    pub(crate) command_directory: String,
    pub(crate) queue_directory: String,
    pub(crate) shell: String,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) command_filter: String,
    pub(crate) forward_filter: String,
    pub(crate) default_privs: String,
    pub(crate) original_recipient: bool,
    pub(crate) myhostname: String,
    pub(crate) expansion_limit: usize,
    pub(crate) strict_owner: bool,
    pub(crate) transport: String,
    pub(crate) style: Style,
    pub(crate) qmail_default_delivery: String,
    pub(crate) qmail_alias_user: String,
    /// Where the commands for `.qmail` files are.
    pub(crate) program_directories: Vec<String>,
}

/// `prepend_delivered_header`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivered {
    pub command: bool,
    pub file: bool,
    pub forward: bool,
}

/// `propagate_unmatched_extensions`, as far as local delivery is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Propagate {
    pub alias: bool,
    pub forward: bool,
}

/// More destinations than this from one recipient are a mistake (Postfix bounds the nesting at 100; we bound the whole).
const EXPANSIONS: usize = 100_000;

fn locking(view: &View, name: &str) -> Locking {
    let styles = view.list(name);
    Locking {
        styles: styles
            .iter()
            .filter_map(|style| match style.as_str() {
                "fcntl" => Some(Lock::Fcntl),
                "flock" => Some(Lock::Flock),
                "dotlock" => Some(Lock::Dotlock),
                _ => None,
            })
            .collect(),
        attempts: u32::try_from(view.int("deliver_lock_attempts")).unwrap_or(20),
        delay_ms: u64::try_from(view.duration("deliver_lock_delay").as_millis()).unwrap_or(1000),
        stale_s: view.duration("stale_lock_time").as_secs(),
    }
}

/// What commands find in the environment variable of that name.
const PATH: &str = "/usr/bin:/bin";

/// Where the commands for `.qmail` files are: beside the program, or where `yamabiko install` put their names.
fn program_directories(view: &View) -> Vec<String> {
    let program = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.to_path_buf()));
    let sendmail = view.text("sendmail_path");
    let named =
        [PathBuf::from(view.text("command_directory")), Path::new(&sendmail).parent().unwrap_or(Path::new("")).into()];
    let mut found: Vec<String> = Vec::new();
    for directory in program.into_iter().chain(named) {
        if let Some(name) = directory.to_str()
            && directory.is_absolute()
            && !name.contains(':')
            && !found.iter().any(|known| known == name)
            && directory.join("bouncesaying").exists()
        {
            found.push(name.to_owned());
        }
    }
    found
}

/// What commands find in their environment whoever they are run for: `export_environment`, and a safe `PATH`, which that
/// cannot change.
pub(crate) fn exported(view: &View) -> Vec<(String, String)> {
    let words = view.list("export_environment");
    let entries = words.iter().filter_map(|entry| {
        let entry = entry.strip_prefix('{').and_then(|entry| entry.strip_suffix('}')).map_or(entry.as_str(), str::trim);
        match entry.split_once('=') {
            Some((name, value)) => Some((name.trim().to_owned(), value.trim().to_owned())),
            None => std::env::var(entry).ok().map(|value| (entry.to_owned(), value)),
        }
    });
    let path = ("PATH".to_owned(), PATH.to_owned());
    entries.filter(|(name, _)| name != "PATH" && !name.is_empty()).chain([path]).collect()
}

fn limit(view: &View, name: &str) -> u64 {
    u64::try_from(view.int(name)).unwrap_or(0)
}

impl Settings {
    /// For the service of this name in master.cf, by its view of the configuration.
    pub fn from_view(view: &View, tables: &TableSet, transport: &str) -> Self {
        let open = |name: &str| Maps::open(tables, name, &view.text(name));
        let delivered = view.list("prepend_delivered_header");
        let propagate = view.list("propagate_unmatched_extensions");
        let has = |words: &[String], word: &str| words.iter().any(|w| w == word);
        Self {
            alias_maps: Maps::open_aliases(tables, "alias_maps", &view.text("alias_maps")),
            mailbox_command_maps: open("mailbox_command_maps"),
            mailbox_transport_maps: open("mailbox_transport_maps"),
            fallback_transport_maps: open("fallback_transport_maps"),
            mailbox_command: view.raw("mailbox_command"),
            mailbox_transport: view.text("mailbox_transport"),
            fallback_transport: view.text("fallback_transport"),
            luser_relay: view.raw("luser_relay"),
            home_mailbox: view.text("home_mailbox"),
            mail_spool_directory: view.text("mail_spool_directory"),
            forward_path: view
                .raw("forward_path")
                .split([',', ' ', '\t', '\n'])
                .filter(|p| !p.is_empty())
                .map(str::to_owned)
                .collect(),
            recipient_delimiter: view.text("recipient_delimiter"),
            owner_request_special: view.bool("owner_request_special"),
            expand_owner_alias: view.bool("expand_owner_alias"),
            reset_owner_alias: view.bool("reset_owner_alias"),
            require_home_directory: view.bool("require_home_directory"),
            frozen_delivered_to: view.bool("frozen_delivered_to"),
            directory_filter: view.text("execution_directory_expansion_filter"),
            commands: Allowed::of(view, "allow_mail_to_commands"),
            files: Allowed::of(view, "allow_mail_to_files"),
            delivered_to: Delivered {
                command: has(&delivered, "command"),
                file: has(&delivered, "file"),
                forward: has(&delivered, "forward"),
            },
            propagate: Propagate { alias: has(&propagate, "alias"), forward: has(&propagate, "forward") },
            locking: locking(view, "mailbox_delivery_lock"),
            mailbox_limit: limit(view, "mailbox_size_limit"),
            command_time_limit_s: view.duration("command_time_limit").as_secs(),
            command_directory: view.raw("command_execution_directory"),
            queue_directory: view.text("queue_directory"),
            shell: view.text("local_command_shell"),
            environment: exported(view),
            command_filter: view.text("command_expansion_filter"),
            forward_filter: view.text("forward_expansion_filter"),
            default_privs: view.text("default_privs"),
            original_recipient: view.bool("enable_original_recipient"),
            myhostname: view.text("myhostname"),
            expansion_limit: EXPANSIONS,
            strict_owner: view.bool("strict_mailbox_ownership"),
            transport: transport.to_owned(),
            style: Style::of(&view.text("local_delivery_style")),
            qmail_default_delivery: view.raw("qmail_default_delivery"),
            qmail_alias_user: view.text("qmail_alias_user"),
            program_directories: program_directories(view),
        }
    }

    /// What an administrator should know: commands of `.qmail` files that will not find bouncesaying and its kin.
    pub fn remark(&self) -> Option<String> {
        let found = !self.program_directories.is_empty()
            || PATH.split(':').any(|directory| Path::new(directory).join("bouncesaying").exists());
        (self.style != Style::Postfix && !found).then(|| {
            "local_delivery_style: bouncesaying and the other commands for .qmail files are neither in command_directory nor beside \
             the program: set command_directory to the directory that \"yamabiko install\" put them into"
                .to_owned()
        })
    }

    /// The owner of an alias table's file decides who runs what it says; tables without a file are the system's.
    pub(crate) fn table_file(name: &str) -> Option<&Path> {
        let name = name.strip_prefix("proxy:").unwrap_or(name);
        let (kind, file) = name.split_once(':')?;
        ["hash", "btree", "cdb", "lmdb", "dbm", "sdbm", "texthash"].contains(&kind).then(|| Path::new(file))
    }
}

/// virtual(8)
pub struct VirtualSettings {
    pub(crate) mailbox_maps: Maps,
    pub(crate) uid_maps: Maps,
    pub(crate) gid_maps: Maps,
    pub(crate) base: String,
    pub(crate) minimum_uid: u32,
    pub(crate) locking: Locking,
    pub(crate) limit: u64,
    pub(crate) recipient_delimiter: String,
    pub(crate) original_recipient: bool,
    pub(crate) strict_owner: bool,
    pub(crate) transport: String,
}

impl VirtualSettings {
    /// For the service of this name in master.cf, by its view of the configuration.
    pub fn from_view(view: &View, tables: &TableSet, transport: &str) -> Self {
        // No `$1` of a pattern decides whose file is written.
        let open = |name: &str| Maps::open_as(tables, name, &view.text(name), Usage::SENSITIVE);
        Self {
            mailbox_maps: open("virtual_mailbox_maps"),
            uid_maps: open("virtual_uid_maps"),
            gid_maps: open("virtual_gid_maps"),
            base: view.text("virtual_mailbox_base"),
            minimum_uid: u32::try_from(view.int("virtual_minimum_uid")).unwrap_or(100),
            locking: locking(view, "virtual_mailbox_lock"),
            limit: limit(view, "virtual_mailbox_limit"),
            recipient_delimiter: view.text("recipient_delimiter"),
            original_recipient: view.bool("enable_original_recipient"),
            strict_owner: view.bool("strict_mailbox_ownership"),
            transport: transport.to_owned(),
        }
    }
}
