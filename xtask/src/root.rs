//! Where things are: the repository and the caches outside it.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn repository() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    match manifest.as_deref().and_then(Path::parent) {
        Some(root) => root.to_owned(),
        // Started without cargo: from the root, by convention.
        None => env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
    }
}

/// A folder for things that are costly to make again, outside the repository.
pub fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(env::temp_dir);
    base.join("hotgraft")
}

/// The committed fixtures: `NAME/{old,new}`.
pub fn fixtures() -> PathBuf {
    repository().join("testdata/fixtures")
}

/// The committed versions of single images: `NAME/vNN`.
pub fn series() -> PathBuf {
    repository().join("testdata/series")
}

/// The sources of the fixtures.
pub fn sources() -> PathBuf {
    repository().join("testdata/sources")
}
