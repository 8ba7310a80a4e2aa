//! What can go wrong, told apart by who has to act.

use std::path::Path;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{path}: {what}")]
    Io {
        /// The file.
        path: String,
        /// What was tried.
        what: &'static str,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A document is not of its form.
    #[error("{file}: expected {expected}")]
    Malformed {
        /// The document.
        file: String,
        /// What it should have been.
        expected: String,
    },
    /// A rule of the chain forbids it.
    #[error("{key}: {text}")]
    Refused {
        /// Stable key of the rule.
        key: &'static str,
        /// What is wrong.
        text: String,
    },
    /// A catalog, or a part of it, is not to be trusted.
    #[error("{key}: {file}: {text}")]
    Untrusted {
        /// Stable key: `tampered`, `stale`, `rollback`, `mixed_up`, `truncated`, `missing`, `malformed`, `unsigned`,
        /// `history`.
        key: &'static str,
        /// The part.
        file: String,
        /// What is wrong with it.
        text: String,
    },
    /// Something cannot be signed.
    #[error(transparent)]
    Sign(#[from] hotgraft_signer::SignError),
    /// The store of states.
    #[error("the store of states: {0}")]
    Store(#[from] rusqlite::Error),
}

impl Error {
    pub(crate) fn io(path: &Path, what: &'static str, source: std::io::Error) -> Error {
        Error::Io { path: path.display().to_string(), what, source }
    }

    pub(crate) fn malformed(file: impl Into<String>, expected: impl Into<String>) -> Error {
        Error::Malformed { file: file.into(), expected: expected.into() }
    }

    pub(crate) fn refused(key: &'static str, text: impl Into<String>) -> Error {
        Error::Refused { key, text: text.into() }
    }

    pub(crate) fn untrusted(key: &'static str, file: impl Into<String>, text: impl Into<String>) -> Error {
        Error::Untrusted { key, file: file.into(), text: text.into() }
    }

    /// The stable key of a refusal or of a reason not to trust.
    pub fn key(&self) -> Option<&'static str> {
        match self {
            Error::Refused { key, .. } | Error::Untrusted { key, .. } => Some(key),
            _ => None,
        }
    }
}
