//! Keys from PEM: PKCS#8 (encrypted or not), PKCS#1 RSA, SEC1 EC.

use super::{PrivateKey, SigningKey};
use crate::asn1::{Reader, element, octets, oid as write_oid, sequence, tag, unsigned};
use crate::cert::{PemBlock, pem_blocks, read_pem_certificates};
use crate::error::SignError;
use crate::fault::{Checked, Place};
use crate::oid;
use const_oid::ObjectIdentifier;
use pkcs8::DecodePrivateKey;

impl SigningKey {
    /// Reads a private key and the certificates from PEM. Both may be the same text. The password is used only for
    /// an encrypted key.
    ///
    /// # Errors
    /// [`SignError::Key`] for a key that cannot be used, [`SignError::Password`] for a wrong or missing password,
    /// [`SignError::KeyMismatch`] when no certificate belongs to the key.
    pub fn from_pem(key: &[u8], certificates: &[u8], password: Option<&str>) -> Result<SigningKey, SignError> {
        let blocks = pem_blocks(key)?;
        let block = blocks.iter().find(|b| b.label.ends_with("PRIVATE KEY"));
        let block = block.ok_or_else(|| SignError::Key("there is no PRIVATE KEY block in the text".to_owned()))?;
        SigningKey::new(read_block(block, password)?, read_pem_certificates(certificates)?)
    }
}

fn read_block(block: &PemBlock, password: Option<&str>) -> Result<PrivateKey, SignError> {
    if block.der.is_empty() {
        let text = "a traditional encrypted key; convert it with `openssl pkcs8 -topk8`";
        return Err(SignError::Key(text.to_owned()));
    }
    match block.label.as_str() {
        "PRIVATE KEY" => read_pkcs8(&block.der),
        "ENCRYPTED PRIVATE KEY" => {
            let password = password.ok_or(SignError::Password)?;
            let info = pkcs8::EncryptedPrivateKeyInfoRef::try_from(block.der.as_slice())
                .map_err(|e| SignError::Key(e.to_string()))?;
            let plain = info.decrypt(password).map_err(|_| SignError::Password)?;
            read_pkcs8(plain.as_bytes()).map_err(|_| SignError::Password)
        }
        "RSA PRIVATE KEY" => read_pkcs8(&wrap(&block.der, oid::RSA, &[tag::NULL, 0])),
        "EC PRIVATE KEY" => {
            let curve = sec1_curve(&block.der)?;
            read_pkcs8(&wrap(&block.der, oid::EC_PUBLIC_KEY, &write_oid(curve)))
        }
        other => Err(SignError::Key(format!("a {other} is not supported"))),
    }
}

/// The named curve within an ECPrivateKey.
fn sec1_curve(der: &[u8]) -> Checked<ObjectIdentifier> {
    let mut key = Reader::new(der, Place::Key).sequence("an EC private key")?;
    key.small_integer("the version")?;
    key.take(tag::OCTET_STRING, "the private key")?;
    key.take(tag::context(0), "the curve's name")?.reader().oid("the curve's name")
}

/// A PrivateKeyInfo around an older form.
fn wrap(key: &[u8], algorithm: ObjectIdentifier, parameters: &[u8]) -> Vec<u8> {
    let algorithm = element(tag::SEQUENCE, &[write_oid(algorithm), parameters.to_vec()].concat());
    sequence(&[&unsigned(&[0]), &algorithm, &octets(key)])
}

/// Reads a PrivateKeyInfo.
pub(crate) fn read_pkcs8(der: &[u8]) -> Result<PrivateKey, SignError> {
    let algorithm = || -> Checked<_> {
        let mut info = Reader::new(der, Place::Key).sequence("a private key")?;
        info.small_integer("the version")?;
        let (algorithm, parameters) = info.algorithm("the key's algorithm")?;
        let curve = if algorithm == oid::EC_PUBLIC_KEY {
            Some(Reader::new(parameters, Place::Key).oid("the curve's name")?)
        } else {
            None
        };
        Ok((algorithm, curve))
    };
    let unreadable = |e: &dyn std::fmt::Display| SignError::Key(format!("not readable: {e}"));
    match algorithm()? {
        (oid::RSA, _) => {
            let key = rsa::PrivateKey::from_pkcs8_der(der).map_err(|e| unreadable(&e))?;
            Ok(PrivateKey::Rsa(Box::new(key)))
        }
        (_, Some(oid::P256)) => {
            let key = p256::ecdsa::SigningKey::from_pkcs8_der(der).map_err(|e| unreadable(&e))?;
            Ok(PrivateKey::P256(Box::new(key)))
        }
        (_, Some(oid::P384)) => {
            let key = p384::ecdsa::SigningKey::from_pkcs8_der(der).map_err(|e| unreadable(&e))?;
            Ok(PrivateKey::P384(Box::new(key)))
        }
        (_, Some(curve)) => Err(SignError::Key(format!("a key on curve {curve} is not supported"))),
        (other, None) => Err(SignError::Key(format!("a key of kind {other} is not supported"))),
    }
}
