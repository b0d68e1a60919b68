//! Accounts and groups, by the C library (so that NSS modules count).

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Full name and more, as written.
    pub gecos: String,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
    /// The password field, `x` nearly always.
    pub password: String,
}

impl User {
    /// The line of passwd(5).
    pub fn passwd_line(&self) -> String {
        let (home, shell) = (self.home.as_os_str().as_bytes(), self.shell.as_os_str().as_bytes());
        let (home, shell) = (String::from_utf8_lossy(home), String::from_utf8_lossy(shell));
        let Self { name, password, uid, gid, gecos, .. } = self;
        format!("{name}:{password}:{uid}:{gid}:{gecos}:{home}:{shell}")
    }
}

impl From<nix::unistd::User> for User {
    fn from(user: nix::unistd::User) -> Self {
        Self {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            gecos: user.gecos.to_string_lossy().into_owned(),
            home: user.dir,
            shell: user.shell,
            password: user.passwd.to_string_lossy().into_owned(),
        }
    }
}

/// The account of that name; `None` when there is none. An error means "ask again later".
pub fn by_name(name: &str) -> io::Result<Option<User>> {
    if name.contains('\0') {
        return Ok(None);
    }
    found(nix::unistd::User::from_name(name)).map(|user| user.map(User::from))
}

/// The account of that user id.
pub fn by_uid(uid: u32) -> io::Result<Option<User>> {
    found(nix::unistd::User::from_uid(uid.into())).map(|user| user.map(User::from))
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Group id.
    pub gid: u32,
    /// Members other than those whose primary group it is.
    pub members: Vec<String>,
    /// The password field.
    pub password: String,
}

impl Group {
    /// The line of group(5).
    pub fn group_line(&self) -> String {
        format!("{}:{}:{}:{}", self.name, self.password, self.gid, self.members.join(","))
    }
}

impl From<nix::unistd::Group> for Group {
    fn from(group: nix::unistd::Group) -> Self {
        let password = group.passwd.to_string_lossy().into_owned();
        Self { name: group.name, gid: group.gid.as_raw(), members: group.mem, password }
    }
}

/// The group of that name.
pub fn group_by_name(name: &str) -> io::Result<Option<Group>> {
    if name.contains('\0') {
        return Ok(None);
    }
    found(nix::unistd::Group::from_name(name)).map(|group| group.map(Group::from))
}

/// The group of that id.
pub fn group_by_gid(gid: u32) -> io::Result<Option<Group>> {
    found(nix::unistd::Group::from_gid(gid.into())).map(|group| group.map(Group::from))
}

/// getpwnam(3): "not found" may also be said by one of these error numbers.
fn found<T>(result: nix::Result<Option<T>>) -> io::Result<Option<T>> {
    use nix::errno::Errno;
    match result {
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        other => other.map_err(crate::io),
    }
}

/// Effective user id of this process.
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Real user id of this process.
pub fn real_uid() -> u32 {
    nix::unistd::getuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_there_and_nobody_else() {
        let root = by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.passwd_line().starts_with("root:"));
        assert_eq!(by_uid(0).unwrap().unwrap().name, "root");
        assert_eq!(by_name("no such user").unwrap(), None);
        assert_eq!(by_name("ro\0ot").unwrap(), None);
        assert_eq!(group_by_gid(0).unwrap().unwrap().name, "root");
        assert_eq!(group_by_name("").unwrap(), None);
    }
}
