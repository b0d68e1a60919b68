//! Under whose IDs the parts run, and the configuration that is used where there is none.

use std::path::Path;

use nix::unistd::{Group, User};
use yamabiko_config::Config;

use crate::layout::StartError;

/// User and group IDs of an instance.
#[derive(Clone, Debug)]
pub struct Identity {
    /// We are root: the engine runs as the mail owner, workers as their users. Otherwise all share our own ID.
    pub privileged: bool,
    /// `mail_owner`
    pub owner_uid: u32,
    /// The mail owner's group.
    pub owner_gid: u32,
    /// `setgid_group`
    pub drop_gid: u32,
}

impl Identity {
    /// By `mail_owner` and `setgid_group`, which must exist, as must `default_privs`; the mail owner must not be root.
    pub fn of(config: &Config) -> Result<Self, StartError> {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        if !uid.is_root() {
            return Ok(Self {
                privileged: false,
                owner_uid: uid.as_raw(),
                owner_gid: gid.as_raw(),
                drop_gid: gid.as_raw(),
            });
        }
        let main = config.main();
        let (owner, group) = (main.text("mail_owner"), main.text("setgid_group"));
        let user = User::from_name(&owner)
            .map_err(|error| StartError(format!("cannot look up mail_owner {owner}: {error}")))?
            .ok_or_else(|| {
                StartError(format!("mail_owner: unknown user: {owner}; make it, or set mail_owner in main.cf"))
            })?;
        let group = Group::from_name(&group)
            .map_err(|error| StartError(format!("cannot look up setgid_group {group}: {error}")))?
            .ok_or_else(|| {
                StartError(format!("setgid_group: unknown group: {group}; make it, or set setgid_group in main.cf"))
            })?;
        let default = main.text("default_privs");
        if User::from_name(&default)
            .map_err(|error| StartError(format!("cannot look up default_privs {default}: {error}")))?
            .is_none()
        {
            return Err(StartError(format!(
                "default_privs: unknown user: {default}; make it, or set default_privs in main.cf"
            )));
        }
        if user.uid.is_root() || user.gid.as_raw() == 0 {
            return Err(StartError(format!("mail_owner {owner} must not be root nor in root's group")));
        }
        Ok(Self {
            privileged: true,
            owner_uid: user.uid.as_raw(),
            owner_gid: user.gid.as_raw(),
            drop_gid: group.gid.as_raw(),
        })
    }
}

/// The texts of an embedded configuration.
pub struct Embedded {
    /// main.cf
    pub main: String,
    /// master.cf
    pub master: String,
}

const MAIN: &str = include_str!("../../../conf/embedded/main.cf");
const MASTER: &str = include_str!("../../../conf/embedded/master.cf");

/// The configuration of `yamabiko start` without any: every path below `data`, owned by whoever runs it.
pub fn embedded(data: &Path) -> Result<Embedded, StartError> {
    let data = std::path::absolute(data).map_err(|error| StartError(format!("{}: {error}", data.display())))?;
    let directory = data.to_str().ok_or_else(|| StartError(format!("{}: not a UTF-8 path", data.display())))?;
    if directory.contains(['$', '\n']) {
        return Err(StartError(format!("{directory}: a data directory cannot have `$` or a line break in its name")));
    }
    let name_of = |uid| User::from_uid(uid).ok().flatten().map_or_else(|| "nobody".to_owned(), |user| user.name);
    let uid = nix::unistd::geteuid();
    // Root gets no mail and owns no queue: started by root, the one without rights stands in.
    let user = if uid.is_root() { "nobody".to_owned() } else { name_of(uid) };
    let group = User::from_name(&user).ok().flatten().and_then(|user| Group::from_gid(user.gid).ok().flatten());
    let group = group.map_or_else(|| "nogroup".to_owned(), |group| group.name);
    let fill = |text: &str| {
        let text = text.replace("@DATA@", directory).replace("@USER@", &user);
        text.replace("@OWNER@", &user).replace("@GROUP@", &group)
    };
    Ok(Embedded { main: fill(MAIN), master: fill(MASTER) })
}
