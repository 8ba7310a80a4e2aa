//! Assembles the PKCS#7 SignedData of an Authenticode signature.
//!
//! Version 1 throughout, as PKCS#7 1.5 has it: builders for CMS choose version 3 for this content type, which Windows
//! does not write and some verifiers refuse.

use crate::asn1::{Reader, algorithm, attribute, element, octets, oid as write_oid, sequence, set_of, tag, unsigned};
use crate::cert::Certificate;
use crate::digest::DigestAlgorithm;
use crate::error::SignError;
use crate::fault::{Checked, Place};
use crate::oid;
use crate::pubkey::Scheme;
use crate::spc::{OpusInfo, statement_type};
use crate::time::UnixTime;
use const_oid::ObjectIdentifier;

/// Everything that is signed, ready for a signature.
pub(crate) struct ToBeSigned {
    digest: DigestAlgorithm,
    /// SpcIndirectDataContent.
    content: Vec<u8>,
    /// The signed attributes as a SET: the octets that are signed.
    pub(crate) attributes: Vec<u8>,
}

impl ToBeSigned {
    pub(crate) fn new(
        digest: DigestAlgorithm,
        content: Vec<u8>,
        opus: &OpusInfo,
        time: Option<UnixTime>,
    ) -> Result<ToBeSigned, SignError> {
        let inner = Reader::new(&content, Place::IndirectData).any("SpcIndirectDataContent")?.content;
        let mut attributes = vec![
            attribute(oid::CONTENT_TYPE, &write_oid(oid::SPC_INDIRECT_DATA)),
            attribute(oid::SPC_STATEMENT_TYPE, &statement_type()),
            attribute(oid::SPC_SP_OPUS_INFO, &opus.encode()),
            // PKCS#7: the digest is over the content octets alone, without tag and length.
            attribute(oid::MESSAGE_DIGEST, &octets(&digest.digest(inner))),
        ];
        if let Some(time) = time {
            attributes.push(attribute(oid::SIGNING_TIME, &encode_time(time)?));
        }
        let attributes = set_of(tag::SET, attributes);
        Ok(ToBeSigned { digest, content, attributes })
    }

    /// The PKCS#7 ContentInfo with this signature.
    pub(crate) fn finish(&self, certificates: &[Certificate], scheme: Scheme, signature: &[u8]) -> Vec<u8> {
        let digest = algorithm(self.digest.oid(), true);
        let leaf = &certificates[0];
        let signature_algorithm = match scheme {
            Scheme::Rsa => algorithm(oid::RSA, true),
            Scheme::EcdsaP256 | Scheme::EcdsaP384 => algorithm(ecdsa_with(self.digest), false),
        };
        let mut signed_attributes = self.attributes.clone();
        signed_attributes[0] = tag::context(0);
        let signer = sequence(&[
            &unsigned(&[1]),
            &sequence(&[leaf.issuer(), &element(tag::INTEGER, leaf.serial())]),
            &digest,
            &signed_attributes,
            &signature_algorithm,
            &octets(signature),
        ]);
        let content = element(tag::context(0), &self.content);
        let mut set: Vec<Vec<u8>> = certificates.iter().map(|c| c.der().to_vec()).collect();
        set.sort();
        set.dedup();
        let signed_data = sequence(&[
            &unsigned(&[1]),
            &element(tag::SET, &digest),
            &sequence(&[&write_oid(oid::SPC_INDIRECT_DATA), &content]),
            &set_of(tag::context(0), set),
            &element(tag::SET, &signer),
        ]);
        sequence(&[&write_oid(oid::SIGNED_DATA), &element(tag::context(0), &signed_data)])
    }
}

fn ecdsa_with(digest: DigestAlgorithm) -> ObjectIdentifier {
    match digest {
        DigestAlgorithm::Sha256 => oid::SHA256_ECDSA,
        DigestAlgorithm::Sha384 => oid::SHA384_ECDSA,
        DigestAlgorithm::Sha512 => oid::SHA512_ECDSA,
    }
}

fn encode_time(time: UnixTime) -> Result<Vec<u8>, SignError> {
    let date = time.date_time().ok_or_else(|| SignError::TooLarge(format!("the time {time}")))?;
    let rest =
        format!("{:02}{:02}{:02}{:02}{:02}Z", date.month(), date.day(), date.hour(), date.minutes(), date.seconds());
    // RFC 5652 11.3: UTCTime until 2049.
    Ok(if (1950..2050).contains(&date.year()) {
        element(tag::UTC_TIME, format!("{:02}{rest}", date.year() % 100).as_bytes())
    } else {
        element(tag::GENERALIZED_TIME, format!("{:04}{rest}", date.year()).as_bytes())
    })
}

/// Adds a value to an unsigned attribute of the first signer of a PKCS#7, and leaves every other octet as it is.
pub(crate) fn add_unsigned(pkcs7: &[u8], id: ObjectIdentifier, value: &[u8]) -> Checked<Vec<u8>> {
    let mut outer = Reader::new(pkcs7, Place::SignedData).sequence("a ContentInfo")?;
    let kind = outer.take(tag::OID, "the content type")?;
    let mut signed_data = outer.take(tag::context(0), "the content")?.reader().sequence("SignedData")?;
    let before_signers = signed_data.clone();
    let mut last = signed_data.any("SignedData")?;
    while !signed_data.is_empty() {
        last = signed_data.any("SignedData")?;
    }
    if last.tag != tag::SET {
        return Err(last.fault("the signers"));
    }
    let head = &before_signers.rest()[..before_signers.rest().len() - last.raw.len()];

    let mut signers = last.reader();
    let first = signers.take(tag::SEQUENCE, "a signer")?;
    let mut fields = Vec::new();
    let mut attributes = Vec::new();
    let mut values = vec![value.to_vec()];
    let mut signer = first.reader();
    while !signer.is_empty() {
        let field = signer.any("a field of the signer")?;
        if field.tag != tag::context(1) {
            fields.extend_from_slice(field.raw);
            continue;
        }
        let mut list = field.reader();
        while !list.is_empty() {
            let one = list.take(tag::SEQUENCE, "an attribute")?;
            let mut parts = one.reader();
            if parts.oid("an attribute's type")? != id {
                attributes.push(one.raw.to_vec());
                continue;
            }
            let mut old = parts.take(tag::SET, "an attribute's values")?.reader();
            while !old.is_empty() {
                values.push(old.any("an attribute's value")?.raw.to_vec());
            }
        }
    }
    attributes.push(sequence(&[&write_oid(id), &set_of(tag::SET, values)]));
    fields.extend(set_of(tag::context(1), attributes));
    let signers = element(tag::SET, &[&element(tag::SEQUENCE, &fields)[..], signers.rest()].concat());
    let signed_data = sequence(&[head, &signers]);
    Ok(sequence(&[kind.raw, &element(tag::context(0), &signed_data)]))
}
