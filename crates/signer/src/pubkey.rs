//! Public keys: which there are, which are strong enough, and whether a signature is theirs.

use crate::asn1::{Reader, tag};
use crate::digest::DigestAlgorithm;
use crate::fault::{Checked, Fault, Place};
use crate::oid;
use const_oid::ObjectIdentifier;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use rsa::pkcs8::DecodePublicKey;
use sha2::{Sha256, Sha384, Sha512};

/// How a signature is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// RSA with PKCS#1 v1.5 padding.
    Rsa,
    /// ECDSA on NIST P-256.
    EcdsaP256,
    /// ECDSA on NIST P-384.
    EcdsaP384,
}

impl Scheme {
    /// The name shown in reports.
    pub(crate) fn name(self, digest: DigestAlgorithm) -> String {
        let scheme = match self {
            Scheme::Rsa => "RSA PKCS#1 v1.5",
            Scheme::EcdsaP256 => "ECDSA P-256",
            Scheme::EcdsaP384 => "ECDSA P-384",
        };
        format!("{scheme} with {}", digest.name())
    }
}

/// A public key that is strong enough.
pub(crate) enum PublicKey {
    Rsa(Box<rsa::PublicKey>),
    P256(Box<p256::ecdsa::VerifyingKey>),
    P384(Box<p384::ecdsa::VerifyingKey>),
}

/// RSA keys of fewer bits are refused.
const LEAST_RSA_BITS: u32 = 2048;
/// RSA keys of more bits cost too much to check.
const MOST_RSA_BITS: u32 = 4096;

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo.
    pub(crate) fn from_spki(spki: &[u8], whose: &str) -> Checked<PublicKey> {
        let mut outer = Reader::new(spki, Place::Certificate).sequence("a public key")?;
        let (algorithm, parameters) = outer.algorithm("the key's algorithm")?;
        let bits = outer.take(tag::BIT_STRING, "the key's bits")?;
        let unreadable = |what: &str| Fault::malformed(Place::Certificate, bits.at, what);
        match algorithm {
            oid::RSA => {
                check_rsa_size(bits.as_bits()?, whose)?;
                let key = rsa::PublicKey::from_public_key_der(spki).map_err(|_| unreadable("an RSA key"))?;
                Ok(PublicKey::Rsa(Box::new(key)))
            }
            oid::EC_PUBLIC_KEY => {
                let curve = Reader::new(parameters, Place::Certificate).oid("a named curve")?;
                let point = bits.as_bits()?;
                match curve {
                    oid::P256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(point)
                        .map(|k| PublicKey::P256(Box::new(k)))
                        .map_err(|_| unreadable("a point on P-256")),
                    oid::P384 => p384::ecdsa::VerifyingKey::from_sec1_bytes(point)
                        .map(|k| PublicKey::P384(Box::new(k)))
                        .map_err(|_| unreadable("a point on P-384")),
                    other => Err(Fault::unsupported(Place::Certificate, format!("key of {whose} on curve {other}"))),
                }
            }
            other => Err(Fault::unsupported(Place::Certificate, format!("key of {whose} of kind {other}"))),
        }
    }

    pub(crate) fn scheme(&self) -> Scheme {
        match self {
            PublicKey::Rsa(_) => Scheme::Rsa,
            PublicKey::P256(_) => Scheme::EcdsaP256,
            PublicKey::P384(_) => Scheme::EcdsaP384,
        }
    }

    /// Whether `signature` is this key's over bytes that have this digest.
    pub(crate) fn verifies(&self, algorithm: DigestAlgorithm, digest: &[u8], signature: &[u8]) -> bool {
        match self {
            PublicKey::Rsa(key) => match algorithm {
                DigestAlgorithm::Sha256 => key.pkcs1v15_verify_prehash::<Sha256>(digest, signature).is_ok(),
                DigestAlgorithm::Sha384 => key.pkcs1v15_verify_prehash::<Sha384>(digest, signature).is_ok(),
                DigestAlgorithm::Sha512 => key.pkcs1v15_verify_prehash::<Sha512>(digest, signature).is_ok(),
            },
            PublicKey::P256(key) => {
                p256::ecdsa::Signature::from_der(signature).is_ok_and(|s| key.verify_prehash(digest, &s).is_ok())
            }
            PublicKey::P384(key) => {
                p384::ecdsa::Signature::from_der(signature).is_ok_and(|s| key.verify_prehash(digest, &s).is_ok())
            }
        }
    }
}

/// Looks at the modulus before any arithmetic is done with it.
fn check_rsa_size(key: &[u8], whose: &str) -> Checked<()> {
    let mut inner = Reader::new(key, Place::Certificate).sequence("an RSA key")?;
    let modulus = inner.take(tag::INTEGER, "the modulus")?;
    let significant = match modulus.content {
        [0, rest @ ..] => rest,
        all => all,
    };
    let bits = match significant.first() {
        Some(first) => 8 * significant.len() as u64 - u64::from(first.leading_zeros()),
        None => 0,
    };
    if bits < u64::from(LEAST_RSA_BITS) {
        return Err(Fault::WeakAlgorithm { what: format!("the key of {whose}"), algorithm: format!("RSA-{bits}") });
    }
    if bits > u64::from(MOST_RSA_BITS) {
        return Err(Fault::unsupported(Place::Certificate, format!("key of {whose}: RSA-{bits}")));
    }
    Ok(())
}

/// The digest within a signature algorithm such as sha256WithRSAEncryption.
pub(crate) fn digest_of_signature(algorithm: ObjectIdentifier, what: &str) -> Checked<(DigestAlgorithm, bool)> {
    let weak = |name: &str| Fault::WeakAlgorithm { what: what.to_owned(), algorithm: name.to_owned() };
    match algorithm {
        oid::SHA256_RSA => Ok((DigestAlgorithm::Sha256, true)),
        oid::SHA384_RSA => Ok((DigestAlgorithm::Sha384, true)),
        oid::SHA512_RSA => Ok((DigestAlgorithm::Sha512, true)),
        oid::SHA256_ECDSA => Ok((DigestAlgorithm::Sha256, false)),
        oid::SHA384_ECDSA => Ok((DigestAlgorithm::Sha384, false)),
        oid::SHA512_ECDSA => Ok((DigestAlgorithm::Sha512, false)),
        oid::SHA1_RSA | oid::SHA1_ECDSA => Err(weak("SHA-1")),
        oid::MD5_RSA => Err(weak("MD5")),
        oid::RSA_PSS => Err(Fault::unsupported(Place::Certificate, format!("{what}: RSA-PSS"))),
        other => Err(Fault::unsupported(Place::Certificate, format!("{what}: signature algorithm {other}"))),
    }
}

/// The digest of a digestAlgorithm field.
pub(crate) fn digest_of(algorithm: ObjectIdentifier, place: Place, what: &str) -> Checked<DigestAlgorithm> {
    let weak = |name: &str| Fault::WeakAlgorithm { what: what.to_owned(), algorithm: name.to_owned() };
    match algorithm {
        oid::SHA1 => Err(weak("SHA-1")),
        oid::MD5 => Err(weak("MD5")),
        other => DigestAlgorithm::from_oid(other)
            .ok_or_else(|| Fault::unsupported(place, format!("{what}: digest algorithm {other}"))),
    }
}
