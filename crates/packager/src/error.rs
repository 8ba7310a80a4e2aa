//! Errors of making a hotpatch image from an accepted verdict.

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a plan or an image could not be made. A change that must not be patched is not an error but a verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something in the plan contradicts itself; a defect of this tool, never of the input.
    #[error("internal: {0}")]
    Internal(String),
    /// The tables do not fit.
    #[error(transparent)]
    Table(#[from] hotgraft_hotpatch::Error),
}
