//! Keys: what signs, and where it comes from.

pub(crate) mod pem;
pub(crate) mod pfx;
#[cfg(feature = "pkcs11")]
pub(crate) mod pkcs11;

use crate::cert::Certificate;
use crate::digest::DigestAlgorithm;
use crate::error::SignError;
use crate::pubkey::PublicKey;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use sha2::{Sha256, Sha384, Sha512};

/// What makes signatures: a key in memory, a token, a service.
///
/// The certificate says which kind of key it is; every signature is checked against it before it is used, so that a
/// wrong certificate or a faulty device never yields a file.
pub trait DigestSigner {
    /// The certificate of the key first, then its issuers; the root may be left out.
    fn certificates(&self) -> &[Certificate];

    /// Signs `message` (not hashed yet) with this digest algorithm: PKCS#1 v1.5 for RSA, `ECDSA-Sig-Value` in DER for
    /// ECDSA.
    ///
    /// # Errors
    /// [`SignError::Device`] or [`SignError::Key`].
    fn sign(&self, digest: DigestAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// A private key in memory with its certificates.
pub struct SigningKey {
    key: PrivateKey,
    certificates: Vec<Certificate>,
}

/// A private key.
pub(crate) enum PrivateKey {
    Rsa(Box<rsa::PrivateKey>),
    P256(Box<p256::ecdsa::SigningKey>),
    P384(Box<p384::ecdsa::SigningKey>),
}

impl SigningKey {
    /// Puts a key and certificates together; the certificate of the key moves to the front, whatever the order.
    pub(crate) fn new(key: PrivateKey, mut certificates: Vec<Certificate>) -> Result<SigningKey, SignError> {
        let probe = b"hotgraft";
        let signature = key.sign(DigestAlgorithm::Sha256, probe)?;
        let digest = DigestAlgorithm::Sha256.digest(probe);
        let matches = |certificate: &Certificate| {
            PublicKey::from_spki(certificate.key(), &certificate.subject_text())
                .is_ok_and(|k| k.verifies(DigestAlgorithm::Sha256, &digest, &signature))
        };
        match certificates.iter().position(matches) {
            Some(index) => certificates[..=index].rotate_right(1),
            None => {
                let first = certificates.first().ok_or_else(|| SignError::Key("there is no certificate".to_owned()))?;
                return Err(SignError::KeyMismatch { subject: first.subject_text() });
            }
        }
        Ok(SigningKey { key, certificates })
    }
}

impl DigestSigner for SigningKey {
    fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    fn sign(&self, digest: DigestAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.key.sign(digest, message)
    }
}

impl PrivateKey {
    fn sign(&self, algorithm: DigestAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let digest = algorithm.digest(message);
        let failed = |e: &dyn std::fmt::Display| SignError::Key(format!("signing failed: {e}"));
        match self {
            PrivateKey::Rsa(key) => match algorithm {
                DigestAlgorithm::Sha256 => key.pkcs1v15_sign_prehash::<Sha256>(&digest),
                DigestAlgorithm::Sha384 => key.pkcs1v15_sign_prehash::<Sha384>(&digest),
                DigestAlgorithm::Sha512 => key.pkcs1v15_sign_prehash::<Sha512>(&digest),
            }
            .map_err(|e| failed(&e)),
            // RFC 6979: the nonce comes from the key and the digest, so the same input gives the same signature.
            PrivateKey::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign_prehash(&digest).map_err(|e| failed(&e))?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
            PrivateKey::P384(key) => {
                let signature: p384::ecdsa::Signature = key.sign_prehash(&digest).map_err(|e| failed(&e))?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
        }
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}
