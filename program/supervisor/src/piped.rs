//! Services of master.cf that run pipe(8): as whom. What they run is the engine's affair, who they are is not.

use nix::unistd::{Group, User};
use yamabiko_config::{Config, PipeService, ServiceType};

use crate::children::WorkerIds;
use crate::identity::Identity;

/// Who the service `name` is. Never root, never the mail owner, in no group of the mail system's.
///
/// # Errors
/// There is no such service, its attributes cannot be read, or its user is none that may run a command.
pub fn ids(config: &Config, identity: &Identity, name: &str) -> Result<WorkerIds, String> {
    let service = config
        .services()
        .iter()
        .find(|service| service.name == name && service.kind == ServiceType::Unix && service.command == "pipe")
        .ok_or_else(|| format!("there is no service {name} that runs pipe"))?;
    let pipe = PipeService::of(service)?;
    let at = |why: String| format!("{}: service {name}: {why}", service.place);
    let user =
        User::from_name(&pipe.user).map_err(|error| at(format!("cannot look up user {}: {error}", pipe.user)))?;
    let user = user.ok_or_else(|| at(format!("unknown username: {}", pipe.user)))?;
    let gid = match &pipe.group {
        None => user.gid.as_raw(),
        Some(name) => {
            let group = Group::from_name(name).map_err(|error| at(format!("cannot look up group {name}: {error}")))?;
            group.ok_or_else(|| at(format!("unknown group: {name}")))?.gid.as_raw()
        }
    };
    let uid = user.uid.as_raw();
    refused(uid, gid, identity, config).map_or(Ok(()), |why| {
        Err(at(format!("user= command-line attribute specifies {why} ({})", pipe.user_and_group())))
    })?;
    let chroot = Some(pipe.chroot).filter(|chroot| !chroot.is_empty());
    if let Some(directory) = &chroot {
        let there = std::fs::metadata(directory).map_err(|error| at(format!("chroot({directory}): {error}")))?;
        if !there.is_dir() {
            return Err(at(format!("chroot({directory}): not a directory")));
        }
    }
    Ok(WorkerIds { uid, gid, spool: None, chroot })
}

/// What is wrong with running a command under these IDs.
fn refused(uid: u32, gid: u32, identity: &Identity, config: &Config) -> Option<String> {
    let text = |name: &str| config.main().text(name);
    if uid == 0 {
        Some("root privileges".to_owned())
    } else if uid == identity.owner_uid {
        Some(format!("mail system owner {}", text("mail_owner")))
    } else if gid == 0 {
        Some("privileged group id 0".to_owned())
    } else if gid == identity.owner_gid {
        Some(format!("mail system owner {} group id {gid}", text("mail_owner")))
    } else if gid == identity.drop_gid {
        Some(format!("mail system {} group id {gid}", text("setgid_group")))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_config::Host;

    fn ids_of(line: &str) -> Result<WorkerIds, String> {
        let config = Config::from_texts(
            "compatibility_level = 3.6\n",
            &format!("{line}\n"),
            ("main.cf", "master.cf"),
            &Host::default(),
        )
        .expect("configuration");
        // `daemon` and `bin` are there on every system, with these numbers on Debian's and others by chance.
        let id = |name: &str| {
            User::from_name(name).ok().flatten().map_or((65_001, 65_001), |u| (u.uid.as_raw(), u.gid.as_raw()))
        };
        let (owner_uid, owner_gid) = id("daemon");
        let identity = Identity { privileged: true, owner_uid, owner_gid, drop_gid: id("bin").1 };
        ids(&config, &identity, "p")
    }

    #[test]
    fn never_root_nor_the_mail_system() {
        for (attributes, why) in [
            ("user=root", "root privileges"),
            ("user=nobody:root", "privileged group id 0"),
            ("user=daemon", "mail system owner"),
            ("user=nobody:daemon", "mail system owner"),
            ("user=nobody:bin", "mail system postdrop group id"),
            ("user=no-such-user-here", "unknown username"),
            ("user=nobody:no-such-group-here", "unknown group"),
            ("user=nobody chroot=/no/such/directory", "chroot(/no/such/directory): No such file"),
            ("color=blue", "unknown attribute name"),
        ] {
            let error = ids_of(&format!("p unix - n n - - pipe {attributes} argv=/bin/true")).unwrap_err();
            assert!(error.contains(why) && error.starts_with("master.cf, line 1: service p:"), "{attributes}: {error}");
        }
        for line in
            ["q unix - n n - - pipe user=nobody argv=/bin/true", "p unix - n n - - spawn user=nobody argv=/bin/true"]
        {
            assert!(ids_of(line).unwrap_err().contains("there is no service p"), "{line}");
        }
        let good = ids_of("p unix - n n - - pipe user=nobody chroot=/tmp argv=/bin/true").unwrap();
        assert!(good.uid != 0 && good.gid != 0 && good.chroot.as_deref() == Some("/tmp"));
    }
}
