//! Where a catalog lies: read with limits, written whole or not at all.

use crate::error::{Error, Result};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// What serves the files of a published catalog: a folder, a web server.
pub trait Source {
    /// The file of that relative name (`/` between its parts), or `None` if there is none. What is longer than `limit`
    /// bytes is cut off behind `limit + 1`, for the caller to refuse.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>>;
}

/// A folder.
#[derive(Clone, Debug)]
pub struct Folder(pub PathBuf);

/// A relative name that stays within its folder, on every system.
pub fn is_safe(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.ends_with(['.', ' '])
            && part.chars().all(|c| !c.is_control() && !"<>:\"|?*\\/".contains(c))
    };
    name.len() <= 1024 && name.split('/').all(part)
}

impl Source for Folder {
    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        if !is_safe(name) {
            return Err(Error::malformed(
                name.escape_debug().to_string(),
                "a relative name without special characters",
            ));
        }
        read_limited(&self.0.join(name), limit)
    }
}

/// A file up to `limit + 1` bytes; `None` if there is none.
///
/// # Errors
/// [`Error::Io`].
pub fn read_limited(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, "cannot be read", error)),
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::io(path, "cannot be read", e))?;
    Ok(Some(bytes))
}

/// Files that appear together: written under other names first, renamed in the order in which they were put.
///
/// Whoever reads the folder in between finds the old state as long as the last file has not appeared; so the file that
/// makes the others count goes last.
#[derive(Debug, Default)]
pub struct Batch {
    files: Vec<(PathBuf, Vec<u8>)>,
    /// Fails in place of the rename of this index, in tests of interruptions.
    stop_before: Option<usize>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds a file.
    pub fn put(&mut self, path: PathBuf, bytes: Vec<u8>) {
        self.files.push((path, bytes));
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Makes [`Batch::commit`] fail when that many files have appeared.
    pub fn stop_before(&mut self, index: usize) {
        self.stop_before = Some(index);
    }

    /// Writes all of them, then lets them appear.
    ///
    /// # Errors
    /// [`Error::Io`]; before the first rename nothing has changed.
    pub fn commit(self) -> Result<()> {
        let mut ready = Vec::with_capacity(self.files.len());
        for (path, bytes) in &self.files {
            let failed = |e| Error::io(path, "cannot be written", e);
            let folder = path.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(folder).map_err(failed)?;
            let mut file = tempfile::Builder::new().prefix(".hotgraft-").tempfile_in(folder).map_err(failed)?;
            file.write_all(bytes).map_err(failed)?;
            file.as_file().sync_data().map_err(failed)?;
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
            }
            ready.push((file, path));
        }
        for (index, (file, path)) in ready.into_iter().enumerate() {
            if self.stop_before == Some(index) {
                return Err(Error::io(path, "cannot be written", std::io::Error::other("made to fail")));
            }
            file.persist(path).map_err(|e| Error::io(path, "cannot be written", e.error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_folder() {
        for good in ["a", "metadata/1.root.json", "targets/baseline/2026-01/ab.service.exe"] {
            assert!(is_safe(good), "{good}");
        }
        for bad in ["", "/a", "a/", "../a", "a/../b", "a\\b", "c:a", "a/./b", "nul\0", "a//b", "a.", ".hidden"] {
            assert!(!is_safe(bad), "{bad:?}");
        }
    }
}
