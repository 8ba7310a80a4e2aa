//! Builds Authenticode signatures and timestamp tokens piece by piece, each piece open to be wrong.

use super::der::*;
use super::pki::{Entity, Key};
use sha2::{Digest, Sha256};

pub const SPC_INDIRECT_DATA: &str = "1.3.6.1.4.1.311.2.1.4";
pub const CONTENT_TYPE: &str = "1.2.840.113549.1.9.3";
pub const MESSAGE_DIGEST: &str = "1.2.840.113549.1.9.4";
pub const OPUS_INFO: &str = "1.3.6.1.4.1.311.2.1.12";
pub const RFC3161: &str = "1.3.6.1.4.1.311.3.3.1";
pub const NESTED: &str = "1.3.6.1.4.1.311.2.4.1";
pub const SHA256: &str = "2.16.840.1.101.3.4.2.1";
pub const SHA384: &str = "2.16.840.1.101.3.4.2.2";
pub const SHA1: &str = "1.3.14.3.2.26";
pub const MD5: &str = "1.2.840.113549.2.5";

pub fn algorithm(id: &str) -> Vec<u8> {
    seq(&[oid(id), null()])
}

pub fn attribute(id: &str, values: &[Vec<u8>]) -> Vec<u8> {
    seq(&[oid(id), set(values)])
}

/// The Authenticode digest, the plain way: all but checksum, security directory and table, padded to 8.
pub fn digest(pe: &[u8]) -> Vec<u8> {
    let (checksum, security) = places(pe);
    let mut end = u32::from_le_bytes(pe[security..security + 4].try_into().unwrap()) as usize;
    if end == 0 {
        end = pe.len();
    }
    let mut hash = Sha256::new();
    hash.update(&pe[..checksum]);
    hash.update(&pe[checksum + 4..security]);
    hash.update(&pe[security + 8..end]);
    hash.update(vec![0; end.next_multiple_of(8) - end]);
    hash.finalize().to_vec()
}

/// Offsets of checksum and security directory.
fn places(pe: &[u8]) -> (usize, usize) {
    let optional = u32::from_le_bytes(pe[0x3c..0x40].try_into().unwrap()) as usize + 24;
    let plus = pe[optional..optional + 2] == [0x0b, 0x02];
    (optional + 64, optional + if plus { 112 } else { 96 } + 32)
}

/// Puts a signature into a file that has none.
pub fn embed(pe: &[u8], pkcs7: &[u8]) -> Vec<u8> {
    let (_, security) = places(pe);
    let mut out = pe.to_vec();
    out.resize(pe.len().next_multiple_of(8), 0);
    let at = out.len() as u32;
    let length = (8 + pkcs7.len()).next_multiple_of(8);
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&[0, 2, 2, 0]);
    out.extend_from_slice(pkcs7);
    out.resize(at as usize + length, 0);
    out[security..security + 4].copy_from_slice(&at.to_le_bytes());
    out[security + 4..security + 8].copy_from_slice(&(length as u32).to_le_bytes());
    super::pe::fix_checksum(&mut out);
    out
}

/// SpcIndirectDataContent without page hashes.
pub fn indirect(digest_algorithm: &str, digest: &[u8]) -> Vec<u8> {
    indirect_with(digest_algorithm, digest, tlv(0xa2, &tlv(0x80, &[])))
}

/// The same with this SpcLink.
pub fn indirect_with(digest_algorithm: &str, digest: &[u8], link: Vec<u8>) -> Vec<u8> {
    let image = seq(&[bits(&[]), tlv(0xa0, &link)]);
    seq(&[seq(&[oid("1.3.6.1.4.1.311.2.1.15"), image]), seq(&[algorithm(digest_algorithm), octets(digest)])])
}

/// SpcLink with a page hash table.
pub fn page_link(version: &str, table: &[u8]) -> Vec<u8> {
    const CLASS: [u8; 16] =
        [0xa6, 0xb5, 0x86, 0xd5, 0xb4, 0xa1, 0x24, 0x66, 0xae, 0x05, 0xa2, 0x17, 0xda, 0x8e, 0x60, 0xd6];
    let attributes = set(&[seq(&[oid(version), set(&[octets(table)])])]);
    tlv(0xa1, &[octets(&CLASS), octets(&attributes)].concat())
}

/// The pieces of a SignedData.
#[derive(Clone)]
pub struct Forge {
    pub outer_type: String,
    pub version: u64,
    pub digests: Vec<Vec<u8>>,
    pub content_type: String,
    /// The element in `[0]`.
    pub content: Vec<u8>,
    pub certificates: Vec<Vec<u8>>,
    /// Elements after the certificates.
    pub crls: Vec<u8>,
    pub signer_version: u64,
    pub sid: Vec<u8>,
    pub digest: Vec<u8>,
    /// None: no signed attributes, and the signature is over the content.
    pub attributes: Option<Vec<Vec<u8>>>,
    pub signature_algorithm: Vec<u8>,
    pub key: Key,
    pub signature: Option<Vec<u8>>,
    pub unsigned: Vec<Vec<u8>>,
    /// Signers besides the first.
    pub more_signers: Vec<Vec<u8>>,
    pub no_signer: bool,
}

pub fn sid(signer: &Entity, issuer: &Entity) -> Vec<u8> {
    seq(&[issuer.name(), int(signer.template.serial)])
}

impl Forge {
    /// A right signature of `leaf` over `pe`.
    pub fn new(pe: &[u8], leaf: &Entity, issuers: &[&Entity]) -> Forge {
        Forge::over(indirect(SHA256, &digest(pe)), leaf, issuers)
    }

    /// A right signature of `leaf` over this content.
    pub fn over(content: Vec<u8>, leaf: &Entity, issuers: &[&Entity]) -> Forge {
        let inner = parts(&content)[0].1.clone();
        Forge {
            outer_type: "1.2.840.113549.1.7.2".to_owned(),
            version: 1,
            digests: vec![algorithm(SHA256)],
            content_type: SPC_INDIRECT_DATA.to_owned(),
            certificates: std::iter::once(&leaf.der).chain(issuers.iter().map(|i| &i.der)).cloned().collect(),
            crls: vec![],
            signer_version: 1,
            sid: sid(leaf, issuers[0]),
            digest: algorithm(SHA256),
            attributes: Some(vec![
                attribute(CONTENT_TYPE, &[oid(SPC_INDIRECT_DATA)]),
                attribute(OPUS_INFO, &[seq(&[])]),
                attribute(MESSAGE_DIGEST, &[octets(&Sha256::digest(inner))]),
            ]),
            signature_algorithm: if matches!(leaf.key, Key::Rsa(_)) {
                algorithm("1.2.840.113549.1.1.1")
            } else {
                leaf.key.algorithm()
            },
            key: leaf.key.clone(),
            signature: None,
            unsigned: vec![],
            more_signers: vec![],
            no_signer: false,
            content,
        }
    }

    /// The octets that are signed.
    pub fn signed_octets(&self) -> Vec<u8> {
        match &self.attributes {
            Some(attributes) => set(attributes),
            None => parts(&self.content)[0].1.clone(),
        }
    }

    pub fn signature(&self) -> Vec<u8> {
        self.signature.clone().unwrap_or_else(|| self.key.sign(&self.signed_octets()))
    }

    pub fn signer(&self) -> Vec<u8> {
        let mut fields = vec![int(self.signer_version), self.sid.clone(), self.digest.clone()];
        if let Some(attributes) = &self.attributes {
            fields.push(tlv(0xa0, &attributes.concat()));
        }
        fields.extend([self.signature_algorithm.clone(), octets(&self.signature())]);
        if !self.unsigned.is_empty() {
            fields.push(tlv(0xa1, &self.unsigned.concat()));
        }
        seq(&fields)
    }

    pub fn finish(&self) -> Vec<u8> {
        let mut signers = if self.no_signer { vec![] } else { vec![self.signer()] };
        signers.extend(self.more_signers.iter().cloned());
        let mut body =
            vec![int(self.version), set(&self.digests), seq(&[oid(&self.content_type), tlv(0xa0, &self.content)])];
        if !self.certificates.is_empty() {
            body.push(tlv(0xa0, &self.certificates.concat()));
        }
        body.extend([self.crls.clone(), set(&signers)]);
        seq(&[oid(&self.outer_type), tlv(0xa0, &seq(&body))])
    }
}

/// What a timestamp token says.
#[derive(Clone)]
pub struct Token {
    pub imprint_algorithm: String,
    pub imprint: Vec<u8>,
    pub time: String,
    pub version: u64,
    pub nonce: Option<Vec<u8>>,
    pub extra: Vec<u8>,
    /// signingCertificateV2's hash.
    pub certificate_hash: Option<Vec<u8>>,
}

impl Token {
    /// A right token over a signature value.
    pub fn over(stamped: &[u8], tsa: &Entity) -> Token {
        Token {
            imprint_algorithm: SHA256.to_owned(),
            imprint: Sha256::digest(stamped).to_vec(),
            time: "20260601120000Z".to_owned(),
            version: 1,
            nonce: None,
            extra: vec![],
            certificate_hash: Some(Sha256::digest(&tsa.der).to_vec()),
        }
    }

    pub fn info(&self) -> Vec<u8> {
        let mut fields = vec![
            int(self.version),
            oid("1.2.3.4.1"),
            seq(&[algorithm(&self.imprint_algorithm), octets(&self.imprint)]),
            int(77),
            tlv(0x18, self.time.as_bytes()),
        ];
        fields.extend(self.nonce.iter().map(|n| tlv(2, n)));
        fields.push(self.extra.clone());
        seq(&fields)
    }

    /// The SignedData of the token, open to changes.
    pub fn forge(&self, tsa: &Entity, issuers: &[&Entity]) -> Forge {
        const TST_INFO: &str = "1.2.840.113549.1.9.16.1.4";
        let content = octets(&self.info());
        let mut forge = Forge::over(content, tsa, issuers);
        forge.version = 3;
        forge.content_type = TST_INFO.to_owned();
        let digest = attribute(MESSAGE_DIGEST, &[octets(&Sha256::digest(self.info()))]);
        let mut attributes = vec![attribute(CONTENT_TYPE, &[oid(TST_INFO)]), digest];
        if let Some(hash) = &self.certificate_hash {
            let ids = seq(&[seq(&[seq(&[octets(hash)])])]);
            attributes.push(attribute("1.2.840.113549.1.9.16.2.47", &[ids]));
        }
        forge.attributes = Some(attributes);
        forge
    }
}

/// A response with this token.
pub fn granted(token: &[u8]) -> Vec<u8> {
    seq(&[seq(&[int(0)]), token.to_vec()])
}
