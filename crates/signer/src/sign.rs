//! Signing: whole, in two halves, and the removal of signatures.

use crate::error::SignError;
use crate::keys::DigestSigner;
use crate::options::SignOptions;

/// Signs a PE file; returns the signed file.
///
/// # Errors
/// See [`SignError`].
pub fn sign(pe: &[u8], key: &dyn DigestSigner, options: &SignOptions<'_>) -> Result<Vec<u8>, SignError> {
    let _ = (pe, key, options);
    Err(SignError::Device("not built yet".to_owned()))
}

/// Removes the certificate table with every signature in it, and sets the header's checksum to that of the result.
///
/// # Errors
/// [`SignError::Input`]; with [`crate::Fault::Unsigned`] when there is nothing to remove.
pub fn remove(pe: &[u8]) -> Result<Vec<u8>, SignError> {
    let _ = pe;
    Err(SignError::Device("not built yet".to_owned()))
}
