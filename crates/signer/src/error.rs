//! Why a file could not be signed, a key not read, a timestamp not fetched.

use crate::fault::Fault;

/// Why the work could not be done. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The file (or a key, certificate or signature given to us) is not as it must be.
    #[error(transparent)]
    Input(#[from] Fault),
    /// The file is signed already, and the options say neither replace nor append.
    #[error("the file is signed already: choose whether to replace the signature or to append to it")]
    AlreadySigned,
    /// The key cannot be used.
    #[error("key: {0}")]
    Key(String),
    /// The password is wrong or missing.
    #[error("the password does not open the key")]
    Password,
    /// The certificate does not belong to the key.
    #[error("the certificate of {subject} does not belong to the key")]
    KeyMismatch {
        /// Subject of the certificate.
        subject: String,
    },
    /// The signing device or service failed.
    #[error("the signing device failed: {0}")]
    Device(String),
    /// No timestamp could be had although one was asked for.
    #[error("no timestamp: {0}")]
    Timestamp(String),
    /// The result would not fit the format (a file of 4 GiB or more).
    #[error("too large: {0}")]
    TooLarge(String),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
