//! Errors of reading an image or its PDB.

use std::path::PathBuf;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an image or PDB could not be read. Every variant names the file; malformed input also names the file offset
/// (bytes) or RVA and what was expected there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be opened or read.
    #[error("{}: cannot read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are not what the format demands.
    #[error("{file}: malformed {what} at {at:#x}: expected {expected}")]
    Malformed {
        /// File name as given by the caller.
        file: String,
        /// The structure being read.
        what: &'static str,
        /// Byte offset in the file (RVA for structures found through a directory).
        at: u64,
        /// What was expected, in words.
        expected: String,
    },
    /// A well-formed image that this tool does not handle.
    #[error("{file}: {what} is not supported")]
    Unsupported {
        /// File name as given by the caller.
        file: String,
        /// What is not supported (a machine type, a managed image, ...).
        what: String,
    },
    /// The PDB belongs to another build of the image.
    #[error("{pdb}: PDB of another build: image {image} wants {expected}, the PDB has {found}")]
    PdbMismatch {
        /// PDB file name.
        pdb: String,
        /// Image file name.
        image: String,
        /// GUID and age in the image's debug directory.
        expected: String,
        /// GUID and age in the PDB.
        found: String,
    },
    /// The PDB could not be parsed.
    #[error("{file}: malformed PDB ({stream}): {message}")]
    Pdb {
        /// PDB file name.
        file: String,
        /// Stream or record kind being read.
        stream: String,
        /// What the reader said.
        message: String,
    },
}
