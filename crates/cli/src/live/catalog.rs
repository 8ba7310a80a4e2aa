//! The patches of `watch`: a folder of them, or what a published catalog lists.

use crate::args::WatchArgs;
use crate::output;
use crate::release::args::CatalogArgs;
use crate::release::machines;
use anyhow::{Context, Result};
use hotgraft_engine::PatchFile;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A patch and where it comes from.
#[cfg_attr(not(windows), allow(dead_code, reason = "applied by the Windows build alone"))]
#[derive(Debug)]
pub struct Found {
    /// File, or name in the catalog.
    pub path: PathBuf,
    /// The patch, with its provenance.
    pub patch: PatchFile,
}

/// Where the patches are.
pub struct Patches {
    folder: PathBuf,
    catalog: Option<CatalogArgs>,
}

/// What the files of a folder look like from outside: name, size, time of change.
#[cfg_attr(not(windows), allow(dead_code, reason = "watched by the Windows build alone"))]
pub type Signs = Vec<(PathBuf, u64, Option<SystemTime>)>;

impl Patches {
    /// As the options say.
    pub fn new(args: &WatchArgs) -> Patches {
        let signed = args.root.is_some() || args.state.is_some();
        let catalog = signed.then(|| CatalogArgs {
            catalog: args.catalog.clone(),
            root: args.root.clone(),
            state: args.state.clone(),
            now: None,
        });
        Patches { folder: args.catalog.clone(), catalog }
    }

    /// Read them all.
    ///
    /// # Errors
    /// If the folder cannot be read, one of its `.dll` files is no sound hotpatch, or the catalog is not to be trusted.
    pub fn read(&self) -> Result<Vec<Found>> {
        match &self.catalog {
            Some(catalog) => machines::current_patches(catalog)?
                .into_iter()
                .map(|(name, bytes, provenance)| {
                    let patch = PatchFile::parse(&bytes).with_context(|| name.clone())?;
                    Ok(Found { path: PathBuf::from(name), patch: patch.with_provenance(provenance) })
                })
                .collect(),
            None => self.files()?.iter().map(|path| read(path)).collect(),
        }
    }

    /// The patches of the folder, by name.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let about = || format!("{}: cannot read the folder", self.folder.display());
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.folder).with_context(about)? {
            let path = entry.with_context(about)?.path();
            if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("dll")) && path.is_file() {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// What tells whether they have changed.
    #[cfg_attr(not(windows), allow(dead_code, reason = "watched by the Windows build alone"))]
    pub fn signs(&self) -> Signs {
        let mut signs = Signs::new();
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
                let Ok(about) = entry.metadata() else {
                    continue;
                };
                if about.is_dir() {
                    folders.push(entry.path());
                } else {
                    signs.push((entry.path(), about.len(), about.modified().ok()));
                }
            }
        }
        signs.sort();
        signs
    }
}

fn read(path: &Path) -> Result<Found> {
    let patch = PatchFile::parse(&output::read(path)?).with_context(|| path.display().to_string())?;
    Ok(Found { path: path.to_owned(), patch: patch.with_provenance(crate::trust::provenance_beside(path)?) })
}
