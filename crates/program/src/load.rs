//! From files to a [`Program`].

use crate::assemble;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::pdb::{self, Pdb};
use crate::pe;
use crate::program::Program;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Which PDB to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PdbChoice {
    /// The one that the debug directory names, looked for beside the image and then at the path in the record; an
    /// image whose PDB is not found is read without one.
    #[default]
    Auto,
    /// This one; it must belong to the image.
    Path(PathBuf),
    /// None.
    None,
}

/// A file in memory, read where it is looked at.
pub struct Mapped(Option<memmap2::Mmap>);

impl Mapped {
    /// Maps a file.
    ///
    /// Fails with [`Error::Io`] if it cannot be read or is no regular file.
    #[expect(unsafe_code, reason = "a mapping avoids copying images and PDBs of hundreds of megabytes")]
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            return Err(fail(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")));
        }
        // An empty file cannot be mapped on every system.
        if metadata.len() == 0 {
            return Ok(Mapped(None));
        }
        // SAFETY: the mapping is read-only and private to this process. A file that another process shortens while it
        // is read ends this process with a bus error instead of an error message; it cannot make it read other memory.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(fail)?;
        Ok(Mapped(Some(map)))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Program {
    /// Reads an image and its PDB.
    ///
    /// Fails with [`Error::Io`] if a file cannot be read, [`Error::PdbMismatch`] if the PDB belongs to another build,
    /// [`Error::Unsupported`] for machines other than x86-64 and managed images, and [`Error::Malformed`] or
    /// [`Error::Pdb`] for damaged files.
    pub fn load(path: &Path, choice: PdbChoice) -> Result<Program> {
        let file = Mapped::open(path)?;
        let image = pe::image(&path.to_string_lossy(), file.bytes())?;
        let pdb = match choice {
            PdbChoice::None => None,
            PdbChoice::Path(pdb) => Some(read_pdb(&pdb, &image)?),
            PdbChoice::Auto => find_pdb(path, &image)?,
        };
        assemble::program(image, pdb)
    }

    /// Reads an image and its PDB from memory. `name` and the PDB's name are used in messages only.
    ///
    /// Fails like [`Program::load`], but never with [`Error::Io`].
    pub fn from_bytes(name: &str, image: &[u8], pdb: Option<(&str, &[u8])>) -> Result<Program> {
        let image = pe::image(name, image)?;
        let pdb = pdb.map(|(name, bytes)| pdb::read(name, bytes, &image)).transpose()?;
        assemble::program(image, pdb)
    }
}

fn read_pdb(path: &Path, image: &Image) -> Result<Pdb> {
    pdb::read(&path.to_string_lossy(), Mapped::open(path)?.bytes(), image)
}

/// The PDB named by the image. If several candidates exist, the first that belongs to the image is taken; if none
/// does, the first one's error stands.
fn find_pdb(path: &Path, image: &Image) -> Result<Option<Pdb>> {
    let Some(identity) = &image.pdb else { return Ok(None) };
    // The record was written on Windows or on a host with its separators, whatever this host uses.
    let named = identity.path.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut candidates = Vec::new();
    if !named.is_empty() {
        candidates.push(path.with_file_name(named));
    }
    candidates.push(path.with_extension("pdb"));
    candidates.push(PathBuf::from(&identity.path));
    let mut first_error = None;
    for candidate in candidates.iter().filter(|c| c.is_file()) {
        match read_pdb(candidate, image) {
            Ok(pdb) => return Ok(Some(pdb)),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(None), Err)
}
