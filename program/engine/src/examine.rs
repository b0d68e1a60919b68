//! A configuration looked at before it runs, for `postfix check`: what would keep the mail system from starting, and what
//! is not what it seems. Nothing is started, no port is opened, no mail is touched.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use yamabiko_checks::Checks;
use yamabiko_cleanup::Cleanup;
use yamabiko_config::{Config, ServiceType};
use yamabiko_deliver::{Protocol, Tls};
use yamabiko_deliver_local::agent::{PipeSettings, Settings as LocalSettings, VirtualSettings};
use yamabiko_envelope::{Event, EventSink, Events};
use yamabiko_lookup::{Notice, NoticeKind, TableSet};
use yamabiko_receive::{Settings, TlsSource};
use yamabiko_route::Router;
use yamabiko_tls::Disk;

/// What was found, each with file and line where there is one.
#[derive(Debug, Default)]
pub struct Findings {
    /// The mail system would not start.
    pub faults: Vec<String>,
    /// It would, and an administrator should know.
    pub warnings: Vec<String>,
}

/// Nobody listens.
struct Nobody;

impl EventSink for Nobody {
    fn emit(&self, _event: Event) {}
}

/// Who will read the tables, where root looks at a configuration for somebody else.
struct Reader {
    name: String,
    uid: u32,
    gid: u32,
}

impl Reader {
    /// `None` when whoever looks is the reader.
    fn of(mail_owner: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let user = nix::unistd::User::from_name(mail_owner).ok().flatten()?;
        Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() })
    }

    /// By the mode bits of the file and of the directories above it.
    fn may_open(&self, path: &Path) -> io::Result<()> {
        let path = path.canonicalize()?;
        for (step, place) in path.ancestors().enumerate() {
            let found = std::fs::metadata(place)?;
            let shift = match (found.uid() == self.uid, found.gid() == self.gid) {
                (true, _) => 6,
                (false, true) => 3,
                (false, false) => 0,
            };
            let wanted = if step == 0 { 0o4 } else { 0o1 };
            if found.mode() >> shift & wanted == 0 {
                let why = format!("Permission denied for user {} (by the mode of {})", self.name, place.display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
        }
        Ok(())
    }
}

/// The tables of a configuration that does not run, as its `mail_owner` may read them.
pub(crate) fn tables(config: &Config, hear: impl Fn(Notice) + Send + Sync + 'static) -> TableSet {
    let main = config.main();
    let mut aliases = main.list("alias_maps");
    aliases.extend(main.list("alias_database"));
    let reader = Reader::of(&main.text("mail_owner"));
    TableSet::new(yamabiko_lookup::Options {
        notify: Arc::new(hear),
        open_file: Arc::new(move |path| {
            let file = File::open(path)?;
            reader.as_ref().map_or(Ok(()), |reader| reader.may_open(path)).map(|()| file)
        }),
        aliases,
        extension: Some(crate::remote_tables(config)),
        socketmap_max_query: crate::size(config, "socketmap_max_query_size"),
        socketmap_max_reply: crate::size(config, "socketmap_max_reply_size"),
        ..yamabiko_lookup::Options::default()
    })
}

/// Opens every table and compiles every restriction list, as a start would.
pub fn examine(config: &Config) -> Findings {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let main = config.main();
    let hear = Arc::clone(&said);
    let tables = tables(config, move |notice| {
        if notice.kind != NoticeKind::Info {
            hear.lock().unwrap_or_else(PoisonError::into_inner).push(notice.text);
        }
    });
    let mut found = Findings::default();
    found.warnings.extend(crate::proofs::remarks(&main));
    found.warnings.extend(crate::leftovers(Path::new(&main.text("queue_directory"))));
    let aside = yamabiko_queue::set_aside_files(&Path::new(&main.text("queue_directory")).join("queue"));
    found.warnings.extend(aside.iter().map(|file| format!("queue: set aside: {file}")));
    let router = Router::new(&main, &tables);
    let events: Events = Arc::new(Nobody);
    let cleanup = Cleanup::new(&main, &tables, router.mapper().clone(), events);
    found.warnings.extend(cleanup.faults());
    for prefix in ["smtp_", "lmtp_"] {
        found.warnings.extend(Checks::outgoing(&main, &tables, prefix).faults());
    }
    found.warnings.extend(crate::bouncer(config).1);
    found.warnings.extend(crate::desk::DeskSettings::from_view(&main).1);
    found.warnings.extend(crate::reverse_path::signing(&main, &tables, false).1);
    for service in config.services() {
        let view = config.service_view(service);
        match (service.kind, service.command.as_str()) {
            (ServiceType::Inet, "smtpd") => match Settings::from(&view, &tables) {
                Ok(mut settings) => {
                    settings.open_tls(&TlsSource { files: &Disk, sni: &[], before: None });
                    found.warnings.extend(settings.policy.remarks().iter().cloned());
                    found.warnings.extend(settings.notices);
                }
                Err(error) => found.faults.push(format!("{}: service {}: {error}", service.place, service.id())),
            },
            (ServiceType::Unix, "smtp") => {
                drop(Tls::read(&view, Protocol::Smtp, &tables, &Disk, &mut found.warnings));
            }
            (ServiceType::Unix, "lmtp") => {
                drop(Tls::read(&view, Protocol::Lmtp, &tables, &Disk, &mut found.warnings));
            }
            (ServiceType::Unix, "local") => {
                found.warnings.extend(LocalSettings::from_view(&view, &tables, &service.name).remark());
            }
            (ServiceType::Unix, "virtual") => drop(VirtualSettings::from_view(&view, &tables, &service.name)),
            (ServiceType::Unix, "pipe") => found.warnings.extend(PipeSettings::from_view(&view, service).err()),
            _ => {}
        }
    }
    found.warnings.append(&mut said.lock().unwrap_or_else(PoisonError::into_inner));
    // A table over the network answers with its own time-out. What it complains of has been said when it was opened.
    if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
        found.warnings.extend(runtime.block_on(crate::postmaster::check(config, &tables, &router)));
    }
    let mut seen = std::collections::HashSet::new();
    found.warnings.retain(|text| seen.insert(text.clone()));
    found.faults.retain(|text| seen.insert(text.clone()));
    found
}

/// Whose mail nobody will get, for whoever starts the mail system and looks on: what its log says too.
pub fn unheard(config: &Config) -> Vec<String> {
    let tables = tables(config, |_| {});
    let router = Router::new(&config.main(), &tables);
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    runtime.block_on(crate::postmaster::check(config, &tables, &router))
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_config::Host;

    #[test]
    fn who_may_read() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (open, closed) = (dir.path().join("open"), dir.path().join("closed"));
        for (path, mode) in [(&open, 0o644), (&closed, 0o600)] {
            std::fs::write(path, "").unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let owner = std::fs::metadata(&open).unwrap();
        let myself = Reader { name: "me".to_owned(), uid: owner.uid(), gid: owner.gid() };
        let stranger = Reader { name: "x".to_owned(), uid: owner.uid() + 1, gid: owner.gid() + 1 };
        assert!(myself.may_open(&open).is_ok() && myself.may_open(&closed).is_ok());
        assert!(stranger.may_open(&closed).is_err());
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(stranger.may_open(&open).is_err());
    }

    #[test]
    fn what_an_administrator_hears() {
        let smtpd = "smtp inet n - n - - smtpd\n";
        let relay = "smtpd_relay_restrictions = reject_unauth_destination\n";
        for (main, master, faults, warnings) in [
            (relay, smtpd, &[][..], &[][..]),
            (
                "smtpd_relay_restrictions =\n",
                smtpd,
                &["master.cf, line 1: service smtp/inet: in parameter smtpd_relay_restrictions or"][..],
                &[],
            ),
            (
                "smtpd_relay_restrictions = permit_mynetwork, reject\n",
                smtpd,
                &[],
                &[
                    "main.cf, line 1: smtpd_relay_restrictions: unknown smtpd restriction: \"permit_mynetwork\"; clients",
                ],
            ),
            (
                "virtual_alias_maps = hash:/no/such/file\n",
                "",
                &[],
                &["open database /no/such/file.db: No such file or directory"],
            ),
            (
                "body_checks = regexp:{{/spam/ REJEC}, {/ham/ OK}, {/egg/REJECT}}\n",
                "",
                &[],
                &[
                    "regexp:{{/spam/ REJEC}, {/ham/ OK}, {/egg/REJECT}}: unknown command in body_checks map: REJEC: the rule does nothing",
                    "regexp map {{/spam/ REJEC}, {/ham/ OK}, {/egg/REJECT}}, line 3: unknown regexp option \"R\": skipping this rule",
                ],
            ),
            (
                "2bounce_notice_recipient = nobodyhere\n",
                "",
                &[],
                &["nobody gets the mail for nobodyhere (2bounce_notice_recipient): there is no alias and no user"],
            ),
            (
                "local_delivery_style = qmail\ncommand_directory = /no/such\nsendmail_path = /no/such/sendmail\n",
                "local unix - n n - - local\n",
                &[],
                &["local_delivery_style: bouncesaying and the other commands for .qmail files are neither in"],
            ),
            (
                "",
                "x unix - n n - - pipe\n",
                &[],
                &["master.cf, line 1: service x: missing user= command-line attribute"],
            ),
        ] {
            let main = format!(
                "{main}alias_maps = inline:{{postmaster=nobody}}\nalias_database =\nmyorigin = $myhostname\n\
                 mydestination = $myhostname\ncompatibility_level = 3.6\n"
            );
            let host = Host::of_this_machine("postfix");
            let config = Config::from_texts(&main, master, ("main.cf", "master.cf"), &host).unwrap();
            let found = examine(&config);
            let begin = |found: &[String], expected: &[&str]| {
                found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e))
            };
            assert!(begin(&found.faults, faults) && begin(&found.warnings, warnings), "{main:?}: {found:?}");
        }
    }
}
