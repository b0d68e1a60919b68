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

/// Can this user read it, or make it?
fn is_usable(path: &Path) -> bool {
    use nix::unistd::{AccessFlags, access};
    if path.is_dir() {
        return access(path, AccessFlags::R_OK | AccessFlags::X_OK).is_ok();
    }
    path.parent().is_some_and(|parent| access(parent, AccessFlags::W_OK | AccessFlags::X_OK).is_ok())
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
        assert!(!is_usable(Path::new("/nowhere/ledger")));
    }
}
