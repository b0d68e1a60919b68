//! What root's commands have made in a place of the mail owner's.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

/// Gives a directory, and those of its plain files that are root's, to a user. Whoever that is may write there already, or is
/// about to: so names are followed nowhere, a file of several names is left alone, and so is a directory of somebody else's.
/// Nothing happens for who is not root, and where there is no such directory.
pub fn hand_over(directory: &Path, uid: u32, gid: u32) -> io::Result<()> {
    if crate::users::effective_uid() != 0 {
        return Ok(());
    }
    let how = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let place = match open(directory, how | OFlag::O_DIRECTORY, Mode::empty()) {
        Ok(place) => File::from(place),
        Err(nix::Error::ENOENT) => return Ok(()),
        Err(error) => return Err(crate::io(error)),
    };
    match place.metadata()?.uid() {
        0 => fchown(&place, Some(uid), Some(gid))?,
        owner if owner == uid => {}
        _ => return Ok(()),
    }
    for entry in std::fs::read_dir(directory)? {
        // What is no plain file may wait for somebody who never comes, and what has gone meanwhile need not be given.
        let Ok(file) = openat(&place, entry?.file_name().as_os_str(), how | OFlag::O_NONBLOCK, Mode::empty()) else {
            continue;
        };
        let file = File::from(file);
        let known = file.metadata()?;
        if known.is_file() && known.nlink() == 1 && known.uid() == 0 {
            fchown(&file, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const SOMEBODY: u32 = 12_345;

    fn owner(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().uid()
    }

    #[test]
    fn only_what_is_plainly_root_s_is_given() {
        if crate::users::effective_uid() != 0 {
            eprintln!("skipped: only root can give files away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (place, outside) = (dir.path().join("ledger"), dir.path().join("shadow"));
        std::fs::create_dir(&place).unwrap();
        std::fs::write(&outside, "secret").unwrap();
        std::fs::write(place.join("day.db"), "").unwrap();
        std::fs::write(place.join("other"), "").unwrap();
        std::os::unix::fs::chown(place.join("other"), Some(77), Some(77)).unwrap();
        symlink(&outside, place.join("link")).unwrap();
        std::fs::hard_link(&outside, place.join("name")).unwrap();
        std::fs::create_dir(place.join("inner")).unwrap();
        nix::unistd::mkfifo(&place.join("pipe"), Mode::S_IRWXU).unwrap();
        hand_over(&place, SOMEBODY, SOMEBODY).unwrap();
        let owners = ["", "day.db", "other", "link", "name", "inner", "pipe"].map(|name| owner(&place.join(name)));
        assert_eq!(owners, [SOMEBODY, SOMEBODY, 77, 0, 0, 0, 0]);
        assert_eq!(owner(&outside), 0);
        // A name in place of the directory, and a directory that belongs to a third.
        let name = dir.path().join("elsewhere");
        symlink(dir.path(), &name).unwrap();
        assert!(hand_over(&name, SOMEBODY, SOMEBODY).is_err());
        std::fs::write(place.join("new.db"), "").unwrap();
        hand_over(&place, 99, 99).unwrap();
        assert_eq!(owner(&place.join("new.db")), 0);
        hand_over(&dir.path().join("missing"), SOMEBODY, SOMEBODY).unwrap();
    }
}
