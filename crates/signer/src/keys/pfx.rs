//! Keys from PKCS#12 (PFX), as Windows, OpenSSL and Java write them: PBES2 and the older SHA-1 schemes with Triple-DES or
//! RC2. The integrity check (MAC) decides whether the password is right, before anything is decrypted.

use super::pem::read_pkcs8;
use super::{PrivateKey, SigningKey};
use crate::asn1::{Reader, Tlv, tag};
use crate::cert::Certificate;
use crate::error::SignError;
use crate::fault::{Checked, Fault, Place};
use crate::oid;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit, block_padding::Pkcs7};
use const_oid::ObjectIdentifier;
use der::Decode;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// Rounds of key derivation, at most: a hostile file must not keep us busy for hours.
const MOST_ITERATIONS: u32 = 10_000_000;
/// Bags and nested bags, at most.
const MOST_BAGS: usize = 256;

impl SigningKey {
    /// Reads a private key and its certificates from a PFX file.
    ///
    /// # Errors
    /// [`SignError::Password`] for a wrong password, [`SignError::Key`] for a file without a usable key,
    /// [`SignError::Input`] for one that is malformed.
    pub fn from_pfx(pfx: &[u8], password: &str) -> Result<SigningKey, SignError> {
        let mut bags = Bags::default();
        bags.read(pfx, Password { text: password, utf16: utf16(password) })?;
        let mut keys = bags.keys.into_iter();
        match (keys.next(), keys.next()) {
            (Some(key), None) => SigningKey::new(key, bags.certificates),
            (None, _) => Err(SignError::Key("there is no private key in the file".to_owned())),
            _ => Err(SignError::Key("there is more than one private key in the file".to_owned())),
        }
    }
}

/// The password in the two encodings that schemes want.
struct Password<'a> {
    text: &'a str,
    /// UTF-16, big-endian, with a zero at the end.
    utf16: Vec<u8>,
}

#[derive(Default)]
struct Bags {
    keys: Vec<PrivateKey>,
    certificates: Vec<Certificate>,
    count: usize,
}

fn unsupported(form: String) -> SignError {
    Fault::unsupported(Place::Key, form).into()
}

impl Bags {
    fn read(&mut self, pfx: &[u8], mut password: Password<'_>) -> Result<(), SignError> {
        let mut all = Reader::new(pfx, Place::Key);
        let mut outer = all.sequence("a PFX")?;
        all.end("the PFX")?;
        if outer.small_integer("the version")? != 3 {
            return Err(unsupported("a PFX of a version other than 3".to_owned()));
        }
        let (kind, content) = content_info(&mut outer)?;
        if kind != oid::DATA {
            return Err(unsupported("a PFX that is protected by a signature".to_owned()));
        }
        let content = content.reader().take(tag::OCTET_STRING, "the content")?;
        match outer.optional(tag::SEQUENCE)? {
            Some(mac) => check_mac(&mac, content.content, &mut password)?,
            None => return Err(unsupported("a PFX without integrity protection".to_owned())),
        }
        outer.end("the PFX")?;

        let mut safes = content.reader().sequence("the safes")?;
        while !safes.is_empty() {
            let (kind, content) = content_info(&mut safes)?;
            match kind {
                oid::DATA => {
                    let plain = content.reader().take(tag::OCTET_STRING, "the safe")?;
                    self.read_safe(plain.content, &password, 0)?;
                }
                oid::ENCRYPTED_DATA => {
                    let mut data = content.reader().sequence("EncryptedData")?;
                    data.small_integer("the version")?;
                    let mut info = data.sequence("the encrypted content")?;
                    info.oid("the type of the content")?;
                    let algorithm = info.take(tag::SEQUENCE, "the encryption algorithm")?;
                    let octets = encrypted_octets(&mut info)?;
                    let plain = decrypt(&algorithm, &octets, &password)?;
                    self.read_safe(&plain, &password, 0)?;
                }
                other => return Err(unsupported(format!("a safe of kind {other}"))),
            }
        }
        Ok(())
    }

    fn read_safe(&mut self, bytes: &[u8], password: &Password<'_>, depth: usize) -> Result<(), SignError> {
        let mut reader = Reader::new(bytes, Place::Key);
        let mut bags = reader.sequence("a safe")?;
        while !bags.is_empty() {
            self.count += 1;
            if self.count > MOST_BAGS || depth > 4 {
                return Err(unsupported(format!("more than {MOST_BAGS} bags, or bags in bags in bags")));
            }
            let mut bag = bags.sequence("a bag")?;
            let kind = bag.oid("the kind of the bag")?;
            let value = bag.take(tag::context(0), "the content of the bag")?;
            match kind {
                oid::KEY_BAG => self.keys.push(read_pkcs8(value.content)?),
                oid::SHROUDED_KEY_BAG => {
                    let mut info = value.reader().sequence("an encrypted key")?;
                    let algorithm = info.take(tag::SEQUENCE, "the encryption algorithm")?;
                    let octets = info.take(tag::OCTET_STRING, "the encrypted key")?;
                    self.keys.push(read_pkcs8(&decrypt(&algorithm, octets.content, password)?)?);
                }
                oid::CERT_BAG => {
                    let mut inner = value.reader().sequence("a certificate bag")?;
                    if inner.oid("the kind of the certificate")? == oid::X509_CERTIFICATE {
                        let explicit = inner.take(tag::context(0), "a certificate")?;
                        let der = explicit.reader().take(tag::OCTET_STRING, "a certificate")?;
                        self.certificates.push(Certificate::from_der(der.content)?);
                    }
                }
                oid::SAFE_CONTENTS_BAG => self.read_safe(value.content, password, depth + 1)?,
                // Revocation lists and secrets are of no use here.
                _ => {}
            }
        }
        Ok(())
    }
}

/// A ContentInfo: its type and the element in `[0]`.
fn content_info<'a>(reader: &mut Reader<'a>) -> Checked<(ObjectIdentifier, Tlv<'a>)> {
    let mut info = reader.sequence("a ContentInfo")?;
    let kind = info.oid("the content type")?;
    let content = info.take(tag::context(0), "the content")?;
    info.end("the ContentInfo")?;
    Ok((kind, content))
}

/// `[0] IMPLICIT OCTET STRING`, in one piece or in several.
fn encrypted_octets(info: &mut Reader<'_>) -> Checked<Vec<u8>> {
    if let Some(one) = info.optional(tag::context_primitive(0))? {
        return Ok(one.content.to_vec());
    }
    let mut pieces = info.take(tag::context(0), "the encrypted octets")?.reader();
    let mut octets = Vec::new();
    while !pieces.is_empty() {
        octets.extend_from_slice(pieces.take(tag::OCTET_STRING, "encrypted octets")?.content);
    }
    Ok(octets)
}

fn iterations(reader: &mut Reader<'_>) -> Result<u32, SignError> {
    match reader.small_integer("the number of iterations")? {
        n @ 1..=MOST_ITERATIONS => Ok(n),
        n => Err(unsupported(format!("{n} rounds of key derivation"))),
    }
}

fn utf16(password: &str) -> Vec<u8> {
    password.encode_utf16().chain([0]).flat_map(u16::to_be_bytes).collect()
}

fn check_mac(mac: &Tlv<'_>, content: &[u8], password: &mut Password<'_>) -> Result<(), SignError> {
    let mut data = mac.reader();
    let mut info = data.sequence("the MAC")?;
    let algorithm = info.take(tag::SEQUENCE, "the MAC's algorithm")?;
    let stated = info.take(tag::OCTET_STRING, "the MAC")?.content;
    let salt = data.take(tag::OCTET_STRING, "the salt")?.content;
    let rounds = if data.is_empty() { 1 } else { iterations(&mut data)? };
    let digest = algorithm.reader().oid("the MAC's algorithm")?;
    if digest == oid::PBMAC1 {
        return pbmac1(&algorithm, content, stated, password.text);
    }
    Reader::new(algorithm.raw, Place::Key).plain_algorithm("the MAC's algorithm")?;
    let good = |password: &[u8]| {
        Ok(match digest {
            oid::SHA1 => hmac_matches::<Sha1, Hmac<Sha1>>(content, stated, password, salt, rounds),
            oid::SHA256 => hmac_matches::<Sha256, Hmac<Sha256>>(content, stated, password, salt, rounds),
            oid::SHA384 => hmac_matches::<Sha384, Hmac<Sha384>>(content, stated, password, salt, rounds),
            oid::SHA512 => hmac_matches::<Sha512, Hmac<Sha512>>(content, stated, password, salt, rounds),
            other => return Err(unsupported(format!("integrity protection by {other}"))),
        })
    };
    if good(&password.utf16)? {
        return Ok(());
    }
    // No password is written in two ways: as a zero character, or as nothing at all.
    if password.text.is_empty() && good(&[])? {
        password.utf16.clear();
        return Ok(());
    }
    Err(SignError::Password)
}

fn hmac_matches<D: Digest + Block, M: Mac + KeyInit>(
    content: &[u8],
    stated: &[u8],
    password: &[u8],
    salt: &[u8],
    rounds: u32,
) -> bool {
    let key = derive::<D>(3, password, salt, rounds, <D as Digest>::output_size());
    <M as KeyInit>::new_from_slice(&key).is_ok_and(|mac| mac.chain_update(content).verify_slice(stated).is_ok())
}

/// RFC 9579: PBKDF2 and HMAC.
fn pbmac1(algorithm: &Tlv<'_>, content: &[u8], stated: &[u8], password: &str) -> Result<(), SignError> {
    let mut outer = algorithm.reader();
    outer.oid("PBMAC1")?;
    let mut parameters = outer.sequence("the parameters of PBMAC1")?;
    let kdf = parameters.take(tag::SEQUENCE, "the key derivation")?;
    let (mac, _) = parameters.algorithm("the MAC")?;
    // PBKDF2 lives in the pkcs5 crate behind a cipher; HMAC keys are derived here by the same few lines.
    let mut kdf = kdf.reader();
    if kdf.oid("the key derivation")? != oid::PBKDF2 {
        return Err(unsupported("PBMAC1 without PBKDF2".to_owned()));
    }
    let mut kdf = kdf.sequence("the parameters of PBKDF2")?;
    let salt = kdf.take(tag::OCTET_STRING, "the salt")?.content;
    let rounds = iterations(&mut kdf)?;
    let length = kdf.small_integer("the length of the key")? as usize;
    let (prf, _) = kdf.algorithm("the pseudo-random function")?;
    if length == 0 || length > 64 {
        return Err(unsupported(format!("a MAC key of {length} bytes")));
    }
    let key = match prf {
        oid::HMAC_SHA256 => pbkdf2::<Hmac<Sha256>>(password.as_bytes(), salt, rounds, length),
        oid::HMAC_SHA512 => pbkdf2::<Hmac<Sha512>>(password.as_bytes(), salt, rounds, length),
        other => return Err(unsupported(format!("PBKDF2 with {other}"))),
    };
    let good = match mac {
        oid::HMAC_SHA256 => matches_mac::<Hmac<Sha256>>(&key, content, stated),
        oid::HMAC_SHA512 => matches_mac::<Hmac<Sha512>>(&key, content, stated),
        other => return Err(unsupported(format!("PBMAC1 with {other}"))),
    };
    if good { Ok(()) } else { Err(SignError::Password) }
}

fn matches_mac<M: Mac + KeyInit>(key: &[u8], content: &[u8], stated: &[u8]) -> bool {
    <M as KeyInit>::new_from_slice(key).is_ok_and(|mac| mac.chain_update(content).verify_slice(stated).is_ok())
}

/// PBKDF2 (RFC 8018 5.2).
fn pbkdf2<M: Mac + KeyInit + Clone>(password: &[u8], salt: &[u8], rounds: u32, length: usize) -> Vec<u8> {
    let Ok(mac) = <M as KeyInit>::new_from_slice(password) else { return Vec::new() };
    let mut key = Vec::new();
    let mut index = 1u32;
    while key.len() < length {
        let first = mac.clone().chain_update(salt).chain_update(index.to_be_bytes()).finalize().into_bytes();
        let mut last = first.clone();
        let mut block = first;
        for _ in 1..rounds {
            last = mac.clone().chain_update(&last).finalize().into_bytes();
            block.iter_mut().zip(&last).for_each(|(b, l)| *b ^= l);
        }
        key.extend_from_slice(&block);
        index += 1;
    }
    key.truncate(length);
    key
}

/// Block size of a digest, which the key derivation of PKCS#12 depends on.
trait Block {
    const BLOCK: usize;
}

impl Block for Sha1 {
    const BLOCK: usize = 64;
}

impl Block for Sha256 {
    const BLOCK: usize = 64;
}

impl Block for Sha384 {
    const BLOCK: usize = 128;
}

impl Block for Sha512 {
    const BLOCK: usize = 128;
}

/// Key derivation of PKCS#12 (RFC 7292 B.2). `purpose`: 1 a key, 2 an initial vector, 3 a MAC key.
fn derive<D: Digest + Block>(purpose: u8, password: &[u8], salt: &[u8], rounds: u32, length: usize) -> Vec<u8> {
    let fill = |bytes: &[u8]| -> Vec<u8> {
        let length = bytes.len().next_multiple_of(D::BLOCK);
        bytes.iter().copied().cycle().take(length).collect()
    };
    let mut input = [fill(salt), fill(password)].concat();
    let mut out = Vec::new();
    loop {
        let mut a = D::new().chain_update(vec![purpose; D::BLOCK]).chain_update(&input).finalize();
        for _ in 1..rounds {
            a = D::digest(&a);
        }
        out.extend_from_slice(&a);
        if out.len() >= length {
            out.truncate(length);
            return out;
        }
        let b: Vec<u8> = a.iter().copied().cycle().take(D::BLOCK).collect();
        for block in input.chunks_exact_mut(D::BLOCK) {
            // block = block + b + 1, as a big-endian number.
            let mut carry = 1u16;
            for (x, y) in block.iter_mut().zip(&b).rev() {
                carry += u16::from(*x) + u16::from(*y);
                *x = carry as u8;
                carry >>= 8;
            }
        }
    }
}

fn decrypt(algorithm: &Tlv<'_>, octets: &[u8], password: &Password<'_>) -> Result<Vec<u8>, SignError> {
    let mut reader = algorithm.reader();
    let id = reader.oid("the encryption algorithm")?;
    if id == oid::PBES2 {
        check_pbes2_rounds(algorithm)?;
        let scheme = pkcs5::EncryptionScheme::from_der(algorithm.raw)
            .map_err(|e| unsupported(format!("PBES2 with these parameters: {e}")))?;
        return scheme.decrypt(password.text, octets).map_err(|_| SignError::Password);
    }
    let mut parameters = reader.sequence("salt and iterations")?;
    let salt = parameters.take(tag::OCTET_STRING, "the salt")?.content;
    let rounds = iterations(&mut parameters)?;
    let key = |length| derive::<Sha1>(1, &password.utf16, salt, rounds, length);
    let vector = derive::<Sha1>(2, &password.utf16, salt, rounds, 8);
    let plain = match id {
        oid::PBE_SHA1_3DES => cbc_decrypt::<cbc::Decryptor<des::TdesEde3>>(&key(24), &vector, octets),
        oid::PBE_SHA1_2DES => cbc_decrypt::<cbc::Decryptor<des::TdesEde2>>(&key(16), &vector, octets),
        oid::PBE_SHA1_RC2_128 => rc2_decrypt(&key(16), &vector, octets),
        oid::PBE_SHA1_RC2_40 => rc2_decrypt(&key(5), &vector, octets),
        other => return Err(unsupported(format!("encryption by {other}"))),
    };
    plain.ok_or(SignError::Password)
}

/// The pkcs5 crate derives keys with as many rounds as the file asks for: look first.
fn check_pbes2_rounds(algorithm: &Tlv<'_>) -> Result<(), SignError> {
    let mut outer = algorithm.reader();
    outer.oid("PBES2")?;
    let mut kdf = outer.sequence("the parameters of PBES2")?.sequence("the key derivation")?;
    match kdf.oid("the key derivation")? {
        oid::PBKDF2 => {
            let mut parameters = kdf.sequence("the parameters of PBKDF2")?;
            parameters.any("the salt")?;
            iterations(&mut parameters).map(|_| ())
        }
        other => Err(unsupported(format!("PBES2 with {other}"))),
    }
}

fn cbc_decrypt<C: KeyIvInit + BlockModeDecrypt>(key: &[u8], vector: &[u8], octets: &[u8]) -> Option<Vec<u8>> {
    C::new_from_slices(key, vector).ok()?.decrypt_padded_vec::<Pkcs7>(octets).ok()
}

/// RC2 takes the effective key length from the length of the key: 40 bits must not be read as 64.
fn rc2_decrypt(key: &[u8], vector: &[u8], octets: &[u8]) -> Option<Vec<u8>> {
    use cbc::cipher::InnerIvInit;
    let cipher = rc2::Rc2::new_with_eff_key_len(key, key.len() * 8);
    let mode = cbc::Decryptor::<rc2::Rc2>::inner_iv_slice_init(cipher, vector).ok()?;
    mode.decrypt_padded_vec::<Pkcs7>(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_bytes_give_a_key_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = SigningKey::from_pfx(&bytes, "pw");
        }
    }
}
