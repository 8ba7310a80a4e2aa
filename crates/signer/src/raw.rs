//! Public keys by themselves: for documents that name keys instead of certificates.

use crate::cert::Certificate;
use crate::digest::DigestAlgorithm;
use crate::fault::Checked;
use crate::pubkey::{PublicKey, Scheme};

/// A public key that is strong enough, with its SubjectPublicKeyInfo.
pub struct VerifyingKey {
    key: PublicKey,
    spki: Vec<u8>,
}

impl VerifyingKey {
    /// Reads a SubjectPublicKeyInfo, DER.
    ///
    /// # Errors
    /// `Fault::Malformed`, `Fault::Unsupported`, `Fault::WeakAlgorithm`.
    pub fn from_spki(spki: &[u8]) -> Checked<VerifyingKey> {
        Ok(VerifyingKey { key: PublicKey::from_spki(spki, "a document")?, spki: spki.to_vec() })
    }

    /// The key of a certificate.
    ///
    /// # Errors
    /// As [`VerifyingKey::from_spki`].
    pub fn of(certificate: &Certificate) -> Checked<VerifyingKey> {
        VerifyingKey::from_spki(certificate.key())
    }

    /// How its signatures are made.
    pub fn scheme(&self) -> Scheme {
        self.key.scheme()
    }

    /// The SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Whether `signature` is this key's over `message` (not hashed yet).
    pub fn verifies(&self, digest: DigestAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        self.key.verifies(digest, &digest.digest(message), signature)
    }
}
