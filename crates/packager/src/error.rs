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
    /// Correct input that cannot be put into a patch image. `key` is a stable dotted key like those of the rules;
    /// `build` reports it as a refusal.
    #[error("{key}: {text}")]
    Refused {
        /// Stable dotted key.
        key: &'static str,
        /// What cannot be done, where and why.
        text: String,
    },
    /// The tables do not fit.
    #[error(transparent)]
    Table(#[from] hotgraft_hotpatch::Error),
}
