//! Where the ledger is, for commands that work without a server too.

use std::path::{Path, PathBuf};

use crate::context::instance;

/// The ledger's directory: what was asked for (`--ledger`), else `ledger_directory` of the configuration where that is
/// there or can be made, else a place of the user's own (`$XDG_STATE_HOME`, `~/.local/state`).
pub fn ledger_directory(asked: Option<&Path>, config: Option<&str>) -> PathBuf {
    if let Some(asked) = asked {
        return asked.to_owned();
    }
    let configured = instance(config, true)
        .load()
        .ok()
        .and_then(|config| config.main().find("ledger_directory"))
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    match configured {
        // Somebody who was told a configuration is not given another place in silence.
        Some(path) if config.is_some() || is_usable(&path) => path,
        _ => own(),
    }
}

/// What root's command has written into the ledger of a configuration belongs to the mail owner, under whom the engine reads
/// and writes it.
pub fn hand_to_owner(directory: &Path, config: Option<&str>) {
    let Ok(config) = instance(config, true).load_for_command() else { return };
    let main = config.main();
    if Path::new(&main.text("ledger_directory")) != directory {
        return;
    }
    // Where there is no such user yet, the engine says what is to be done.
    if let Ok(Some(owner)) = yamabiko_sys::users::by_name(&main.text("mail_owner"))
        && let Err(error) = yamabiko_supervisor::hand_over_ledger(&config, owner.uid, owner.gid)
    {
        eprintln!("yamabiko: warning: {}: cannot be given to {}: {error}", directory.display(), owner.name);
    }
}

/// Can this user read it, or make it?
fn is_usable(path: &Path) -> bool {
    use nix::unistd::{AccessFlags, access};
    if path.is_dir() {
        return access(path, AccessFlags::R_OK | AccessFlags::X_OK).is_ok();
    }
    // Before the first start of a mail system the directories above it may be missing too.
    let there = path.ancestors().skip(1).find(|above| above.exists());
    there.is_some_and(|above| above.is_dir() && access(above, AccessFlags::W_OK | AccessFlags::X_OK).is_ok())
}

fn own() -> PathBuf {
    let some = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    some("XDG_STATE_HOME")
        .or_else(|| some("HOME").map(|home| home.join(".local/state")))
        .map_or_else(|| PathBuf::from("yamabiko-ledger"), |state| state.join("yamabiko/ledger"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_comes_first() {
        assert_eq!(ledger_directory(Some(Path::new("/x/y")), None), Path::new("/x/y"));
        // A file is in the way.
        assert!(!is_usable(Path::new("/etc/passwd/ledger")));
    }
}
