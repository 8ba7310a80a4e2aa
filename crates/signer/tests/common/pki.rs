//! A PKI made in memory: every field of a certificate can be wrong in the way a test wants.

use super::der::*;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey};
use sha2::{Digest, Sha256, Sha384};
use std::sync::OnceLock;

/// A key pair.
#[derive(Clone)]
pub enum Key {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    Rsa(Box<rsa::PrivateKey>),
}

/// An RSA key per size, made once per test program by openssl.
fn rsa_key(bits: u32, index: usize) -> rsa::PrivateKey {
    static KEYS: OnceLock<std::sync::Mutex<std::collections::BTreeMap<(u32, usize), rsa::PrivateKey>>> =
        OnceLock::new();
    let mut keys = KEYS.get_or_init(Default::default).lock().unwrap();
    keys.entry((bits, index))
        .or_insert_with(|| {
            let text = super::tools::must(
                "openssl",
                &["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", &format!("rsa_keygen_bits:{bits}")],
            );
            let start = text.find("-----BEGIN").unwrap();
            rsa::PrivateKey::from_pkcs8_pem(&text[start..]).unwrap()
        })
        .clone()
}

impl Key {
    /// The same seed gives the same key.
    pub fn p256(seed: u8) -> Key {
        Key::P256(p256::ecdsa::SigningKey::from_slice(&Sha256::digest([seed, 1])).unwrap())
    }

    pub fn p384(seed: u8) -> Key {
        Key::P384(p384::ecdsa::SigningKey::from_slice(&Sha384::digest([seed, 2])).unwrap())
    }

    /// `index` tells keys of one size apart.
    pub fn rsa(bits: u32, index: usize) -> Key {
        Key::Rsa(Box::new(rsa_key(bits, index)))
    }

    pub fn pkcs8(&self) -> Vec<u8> {
        match self {
            Key::P256(k) => k.to_pkcs8_der().unwrap().as_bytes().to_vec(),
            Key::P384(k) => k.to_pkcs8_der().unwrap().as_bytes().to_vec(),
            Key::Rsa(k) => k.to_pkcs8_der().unwrap().as_bytes().to_vec(),
        }
    }

    pub fn pem(&self) -> String {
        pem("PRIVATE KEY", &self.pkcs8())
    }

    pub fn spki(&self) -> Vec<u8> {
        match self {
            Key::P256(k) => k.verifying_key().to_public_key_der().unwrap().as_bytes().to_vec(),
            Key::P384(k) => k.verifying_key().to_public_key_der().unwrap().as_bytes().to_vec(),
            Key::Rsa(k) => k.to_public_key().to_public_key_der().unwrap().as_bytes().to_vec(),
        }
    }

    /// The signature algorithm with SHA-256.
    pub fn algorithm(&self) -> Vec<u8> {
        match self {
            Key::Rsa(_) => seq(&[oid("1.2.840.113549.1.1.11"), null()]),
            _ => seq(&[oid("1.2.840.10045.4.3.2")]),
        }
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let digest = Sha256::digest(message);
        match self {
            Key::P256(k) => {
                let s: p256::ecdsa::Signature = k.sign_prehash(&digest).unwrap();
                s.to_der().as_bytes().to_vec()
            }
            Key::P384(k) => {
                let s: p384::ecdsa::Signature = k.sign_prehash(&digest).unwrap();
                s.to_der().as_bytes().to_vec()
            }
            Key::Rsa(k) => k.pkcs1v15_sign_prehash::<Sha256>(&digest).unwrap(),
        }
    }
}

/// What a certificate says. Start from [`Template::root`] and so on, change what the test is about.
#[derive(Clone)]
pub struct Template {
    pub subject: String,
    pub organisation: Option<String>,
    pub serial: u64,
    pub not_before: String,
    pub not_after: String,
    pub version: u8,
    /// basicConstraints: CA and path length.
    pub basic: Option<(bool, Option<u64>)>,
    /// keyUsage as the octets of the BIT STRING.
    pub usage: Option<Vec<u8>>,
    pub ekus: Vec<&'static str>,
    pub eku_critical: bool,
    pub key_ids: bool,
    /// Further extensions, encoded.
    pub extra: Vec<Vec<u8>>,
    /// Signature algorithm other than the key's own.
    pub algorithm: Option<Vec<u8>>,
}

pub const CODE_SIGNING: &str = "1.3.6.1.5.5.7.3.3";
pub const TIME_STAMPING: &str = "1.3.6.1.5.5.7.3.8";
pub const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";

impl Template {
    pub fn leaf(subject: &str) -> Template {
        Template {
            subject: subject.to_owned(),
            organisation: Some("Example Org".to_owned()),
            serial: u64::from_be_bytes(Sha256::digest(subject)[..8].try_into().unwrap()) >> 2,
            not_before: "200101000000Z".to_owned(),
            not_after: "400101000000Z".to_owned(),
            version: 2,
            basic: Some((false, None)),
            usage: Some(vec![7, 0x80]),
            ekus: vec![CODE_SIGNING],
            eku_critical: false,
            key_ids: true,
            extra: vec![],
            algorithm: None,
        }
    }

    pub fn root(subject: &str) -> Template {
        Template { basic: Some((true, None)), usage: Some(vec![1, 0x06]), ekus: vec![], ..Template::leaf(subject) }
    }

    pub fn tsa(subject: &str) -> Template {
        Template { ekus: vec![TIME_STAMPING], eku_critical: true, ..Template::leaf(subject) }
    }
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Entity {
    pub key: Key,
    pub template: Template,
    pub der: Vec<u8>,
}

pub fn extension(id: &str, critical: bool, value: Vec<u8>) -> Vec<u8> {
    let mut parts = vec![oid(id)];
    if critical {
        parts.push(vec![1, 1, 0xff]);
    }
    parts.push(octets(&value));
    seq(&parts)
}

fn name(template: &Template) -> Vec<u8> {
    let mut rdns = vec![];
    if let Some(o) = &template.organisation {
        rdns.push(set(&[seq(&[oid("2.5.4.10"), tlv(0x0c, o.as_bytes())])]));
    }
    rdns.push(set(&[seq(&[oid("2.5.4.3"), tlv(0x0c, template.subject.as_bytes())])]));
    seq(&rdns)
}

pub fn time(text: &str) -> Vec<u8> {
    tlv(if text.len() == 13 { 0x17 } else { 0x18 }, text.as_bytes())
}

impl Entity {
    pub fn issue(template: Template, key: Key, issuer: Option<&Entity>) -> Entity {
        let issuer_name = name(issuer.map_or(&template, |i| &i.template));
        let issuer_key = issuer.map_or(&key, |i| &i.key);
        let algorithm = template.algorithm.clone().unwrap_or_else(|| issuer_key.algorithm());
        let mut extensions = vec![];
        if let Some((ca, path)) = template.basic {
            let mut parts = vec![];
            if ca {
                parts.push(vec![1, 1, 0xff]);
            }
            parts.extend(path.map(int));
            extensions.push(extension("2.5.29.19", true, seq(&parts)));
        }
        if let Some(usage) = &template.usage {
            extensions.push(extension("2.5.29.15", true, tlv(3, usage)));
        }
        if !template.ekus.is_empty() {
            let ekus: Vec<Vec<u8>> = template.ekus.iter().map(|e| oid(e)).collect();
            extensions.push(extension("2.5.29.37", template.eku_critical, seq(&ekus)));
        }
        if template.key_ids {
            let id = |key: &Key| Sha256::digest(key.spki())[..20].to_vec();
            extensions.push(extension("2.5.29.14", false, octets(&id(&key))));
            extensions.push(extension("2.5.29.35", false, seq(&[tlv(0x80, &id(issuer_key))])));
        }
        extensions.extend(template.extra.iter().cloned());
        let mut body = vec![];
        if template.version > 0 {
            body.push(tlv(0xa0, &int(template.version.into())));
        }
        body.extend([
            int(template.serial),
            algorithm.clone(),
            issuer_name,
            seq(&[time(&template.not_before), time(&template.not_after)]),
            name(&template),
            key.spki(),
        ]);
        if template.version == 2 && !extensions.is_empty() {
            body.push(tlv(0xa3, &seq(&extensions)));
        }
        let tbs = seq(&body);
        let signature = bits(&issuer_key.sign(&tbs));
        let der = seq(&[tbs, algorithm, signature]);
        Entity { key, template, der }
    }

    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// Issuer name and serial number as a SignerInfo has them.
    pub fn name(&self) -> Vec<u8> {
        name(&self.template)
    }

    /// A revocation list: (serial, date, reason).
    pub fn crl(&self, this: &str, next: &str, revoked: &[(u64, &str, Option<u8>)]) -> Vec<u8> {
        let entries: Vec<Vec<u8>> = revoked
            .iter()
            .map(|(serial, date, reason)| {
                let mut parts = vec![int(*serial), time(date)];
                if let Some(reason) = reason {
                    parts.push(seq(&[extension("2.5.29.21", false, vec![0x0a, 1, *reason])]));
                }
                seq(&parts)
            })
            .collect();
        let mut body = vec![int(1), self.key.algorithm(), self.name(), time(this), time(next)];
        if !entries.is_empty() {
            body.push(seq(&entries));
        }
        body.push(tlv(0xa0, &seq(&[extension("2.5.29.20", false, int(7))])));
        let tbs = seq(&body);
        let signature = bits(&self.key.sign(&tbs));
        seq(&[tbs, self.key.algorithm(), signature])
    }
}
