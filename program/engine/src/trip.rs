//! Where tests make this program fail, in debug builds only: a panic is a bug, and a bug must cost nobody's mail.
//!
//! `YAMABIKO_TRIP` names a directory. A file in it with the name of a place is removed by the first who comes by that
//! place, and makes it panic. In release builds there is nothing of this.

/// Panics where a test wants it, and says so as its caller.
#[cfg(debug_assertions)]
#[track_caller]
pub fn trip(place: &str) {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| std::env::var_os("YAMABIKO_TRIP").map(PathBuf::from));
    if let Some(directory) = directory
        && std::fs::remove_file(directory.join(place)).is_ok()
    {
        // The purpose of this file.
        panic!("a test wanted a panic in the {place}");
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn trip(_place: &str) {}
