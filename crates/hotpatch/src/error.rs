//! Errors of reading or writing hotpatch tables.

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why bytes are not a hotpatch, or tables cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a PE image, or its headers are damaged.
    #[error("malformed image at file offset {at:#x}: {expected}")]
    Image {
        /// File offset, bytes.
        at: u64,
        /// What was expected.
        expected: String,
    },
    /// A valid PE image without hotpatch information.
    #[error("the image has no hotpatch information")]
    NotAHotpatch,
    /// Hotpatch tables that break the format.
    #[error("malformed hotpatch table: {what} at RVA {at:#x}: expected {expected}")]
    Table {
        /// Structure.
        what: &'static str,
        /// RVA, bytes.
        at: u32,
        /// What was expected.
        expected: String,
    },
    /// The `.hgraft` section breaks the format.
    #[error("malformed .hgraft section: {what} at offset {at:#x}: expected {expected}")]
    Graft {
        /// Structure.
        what: &'static str,
        /// Offset in the section, bytes.
        at: u32,
        /// What was expected.
        expected: String,
    },
    /// A value that does not fit the field it is for.
    #[error("cannot write {what}: {why}")]
    Write {
        /// Structure.
        what: &'static str,
        /// Why.
        why: String,
    },
}
