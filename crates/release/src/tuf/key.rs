//! Keys as root metadata names them.

use crate::canonical;
use crate::error::{Error, Result};
use base64ct::Encoding;
use hotgraft_signer::{Certificate, DigestAlgorithm, Scheme, VerifyingKey};
use serde::{Deserialize, Serialize};

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// `ecdsa` or `rsa`.
    pub keytype: String,
    /// How it signs.
    pub scheme: String,
    /// The key.
    pub keyval: KeyValue,
}

/// The key itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyValue {
    /// SubjectPublicKeyInfo, PEM.
    pub public: String,
}

/// Type, scheme and digest of the keys that there are.
const SCHEMES: [(Scheme, &str, &str, DigestAlgorithm); 3] = [
    (Scheme::EcdsaP256, "ecdsa", "ecdsa-sha2-nistp256", DigestAlgorithm::Sha256),
    (Scheme::EcdsaP384, "ecdsa", "ecdsa-sha2-nistp384", DigestAlgorithm::Sha384),
    (Scheme::Rsa, "rsa", "rsa-pkcs1v15-sha256", DigestAlgorithm::Sha256),
];

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

impl Key {
    /// The key of a certificate.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a key that is unreadable, too weak or of another kind.
    pub fn of(certificate: &Certificate) -> Result<Key> {
        let about = || certificate.subject_text();
        let key =
            VerifyingKey::of(certificate).map_err(|e| Error::malformed(about(), format!("a key for signing ({e})")))?;
        let Some((_, keytype, scheme, _)) = SCHEMES.iter().find(|(s, ..)| *s == key.scheme()) else {
            return Err(Error::malformed(about(), "an RSA key, or one on P-256 or P-384"));
        };
        let text = base64ct::Base64::encode_string(key.spki());
        let mut public = format!("{BEGIN}\n");
        for line in text.as_bytes().chunks(64) {
            public.extend(line.iter().map(|b| char::from(*b)));
            public.push('\n');
        }
        public.push_str(END);
        public.push('\n');
        Ok(Key { keytype: (*keytype).to_owned(), scheme: (*scheme).to_owned(), keyval: KeyValue { public } })
    }

    /// SHA-256 of its canonical form: its name in metadata.
    ///
    /// # Errors
    /// None for keys made of text.
    pub fn id(&self) -> Result<String> {
        Ok(canonical::sha256(&canonical::bytes(self)?))
    }

    /// With which digest it signs.
    pub fn digest(&self) -> Option<DigestAlgorithm> {
        SCHEMES.iter().find(|(_, t, s, _)| *t == self.keytype && *s == self.scheme).map(|(.., digest)| *digest)
    }

    fn verifying(&self) -> Option<VerifyingKey> {
        let body = self.keyval.public.split_once(BEGIN)?.1.split_once(END)?.0;
        let text: String = body.split_ascii_whitespace().collect();
        VerifyingKey::from_spki(&base64ct::Base64::decode_vec(&text).ok()?).ok()
    }

    /// Whether `signature` is this key's over `message`. A key of an unknown kind has made none.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let (Some(digest), Some(key)) = (self.digest(), self.verifying()) else { return false };
        let stated = SCHEMES.iter().find(|(scheme, ..)| *scheme == key.scheme()).map(|(_, t, s, _)| (*t, *s));
        stated == Some((&self.keytype, &self.scheme)) && key.verifies(digest, message, signature)
    }
}
