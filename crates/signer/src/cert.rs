//! X.509 certificates, read once: the parts that path building and identities need, and the octets they were read from.

use crate::asn1::{Reader, Tlv, tag};
use crate::digest::{DigestAlgorithm, hex, sha1};
use crate::fault::{Checked, Fault, Place};
use crate::oid;
use crate::report::Identity;
use crate::time::UnixTime;
use base64ct::Encoding;
use const_oid::ObjectIdentifier;
use der::Decode;
use std::ops::Range;

/// Certificates read from one PEM text or one signature, at most; a path needs a handful.
pub(crate) const MOST_CERTIFICATES: usize = 1024;

/// A certificate. Equal when their octets are.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    tbs: Range<usize>,
    serial: Range<usize>,
    issuer: Range<usize>,
    subject: Range<usize>,
    key: Range<usize>,
    signature: Range<usize>,
    algorithm: ObjectIdentifier,
    not_before: UnixTime,
    not_after: UnixTime,
    extensions: Extensions,
}

/// The extensions that are understood.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// basicConstraints: CA, and how many CAs may follow.
    pub(crate) basic: Option<(bool, Option<u32>)>,
    /// keyUsage, bit 0 first.
    pub(crate) key_usage: Option<u16>,
    /// extKeyUsage and whether it is critical.
    pub(crate) ekus: Option<(Vec<ObjectIdentifier>, bool)>,
    pub(crate) subject_key_id: Option<Vec<u8>>,
    pub(crate) authority_key_id: Option<Vec<u8>>,
    /// A critical extension that is not understood.
    pub(crate) unknown_critical: Option<ObjectIdentifier>,
}

/// Bits of keyUsage.
pub(crate) mod usage {
    pub(crate) const DIGITAL_SIGNATURE: u16 = 1 << 0;
    pub(crate) const CERT_SIGN: u16 = 1 << 5;
    pub(crate) const CRL_SIGN: u16 = 1 << 6;
}

impl Certificate {
    /// Reads one certificate in DER; nothing may follow it.
    ///
    /// # Errors
    /// [`Fault::Malformed`] with the offset in the certificate.
    pub fn from_der(der: &[u8]) -> Checked<Certificate> {
        let mut all = Reader::new(der, Place::Certificate);
        let whole = all.take(tag::SEQUENCE, "a certificate")?;
        all.end("the certificate")?;
        let base = der.as_ptr() as usize;
        let range = |part: &[u8]| {
            let start = part.as_ptr() as usize - base;
            start..start + part.len()
        };
        let mut outer = whole.reader();
        let tbs = outer.take(tag::SEQUENCE, "the certificate's body")?;
        let outer_algorithm = outer.take(tag::SEQUENCE, "the signature algorithm")?;
        let signature = outer.take(tag::BIT_STRING, "the signature")?.as_bits()?;
        outer.end("the certificate")?;

        let mut body = tbs.reader();
        let version = match body.optional(tag::context(0))? {
            Some(explicit) => explicit.reader().small_integer("the version")?,
            None => 0,
        };
        if version > 2 {
            return Err(tbs.fault("a certificate of version 1 to 3"));
        }
        let serial = body.take(tag::INTEGER, "the serial number")?;
        // RFC 5280 allows 20 octets; some authorities count a sign octet beside them.
        if serial.content.is_empty() || serial.content.len() > 21 {
            return Err(serial.fault("a serial number of 1 to 21 octets"));
        }
        let inner_algorithm = body.take(tag::SEQUENCE, "the signature algorithm")?;
        if inner_algorithm.raw != outer_algorithm.raw {
            return Err(inner_algorithm.fault("the same signature algorithm inside and outside"));
        }
        let algorithm = inner_algorithm.reader().oid("the signature algorithm")?;
        let issuer = body.take(tag::SEQUENCE, "the issuer")?;
        let mut validity = body.sequence("the validity")?;
        let not_before = validity.time("the start of validity")?;
        let not_after = validity.time("the end of validity")?;
        validity.end("the validity")?;
        let subject = body.take(tag::SEQUENCE, "the subject")?;
        check_name(&issuer)?;
        check_name(&subject)?;
        let key = body.take(tag::SEQUENCE, "the public key")?;
        for unique_id in [1, 2] {
            body.optional(tag::context_primitive(unique_id))?;
        }
        let extensions = match body.optional(tag::context(3))? {
            Some(explicit) if version == 2 => Extensions::read(&explicit)?,
            Some(explicit) => return Err(explicit.fault("no extensions before version 3")),
            None => Extensions::default(),
        };
        body.end("the certificate's body")?;
        Ok(Certificate {
            tbs: range(tbs.raw),
            serial: range(serial.content),
            issuer: range(issuer.raw),
            subject: range(subject.raw),
            key: range(key.raw),
            signature: range(signature),
            der: der.to_vec(),
            algorithm,
            not_before,
            not_after,
            extensions,
        })
    }

    /// The octets.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub(crate) fn tbs(&self) -> &[u8] {
        &self.der[self.tbs.clone()]
    }

    /// Content octets of the serial number.
    pub(crate) fn serial(&self) -> &[u8] {
        &self.der[self.serial.clone()]
    }

    pub(crate) fn issuer(&self) -> &[u8] {
        &self.der[self.issuer.clone()]
    }

    pub(crate) fn subject(&self) -> &[u8] {
        &self.der[self.subject.clone()]
    }

    /// SubjectPublicKeyInfo.
    pub(crate) fn key(&self) -> &[u8] {
        &self.der[self.key.clone()]
    }

    pub(crate) fn signature(&self) -> &[u8] {
        &self.der[self.signature.clone()]
    }

    pub(crate) fn algorithm(&self) -> ObjectIdentifier {
        self.algorithm
    }

    pub(crate) fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    pub(crate) fn not_before(&self) -> UnixTime {
        self.not_before
    }

    pub(crate) fn not_after(&self) -> UnixTime {
        self.not_after
    }

    pub(crate) fn is_self_issued(&self) -> bool {
        self.issuer() == self.subject()
    }

    /// SHA-256 of the octets.
    pub fn sha256(&self) -> Vec<u8> {
        DigestAlgorithm::Sha256.digest(&self.der)
    }

    /// SHA-1 of the octets: the thumbprint that Windows shows.
    pub fn sha1(&self) -> Vec<u8> {
        sha1(&self.der)
    }

    /// Subject as RFC 4514 text.
    pub fn subject_text(&self) -> String {
        name_text(self.subject())
    }

    /// The names people know it by.
    pub fn identity(&self) -> Identity {
        Identity {
            subject: self.subject_text(),
            issuer: name_text(self.issuer()),
            serial: hex(self.serial()),
            sha1: hex(&self.sha1()),
            sha256: hex(&self.sha256()),
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }

    /// Values of one kind in the subject, in order; those that are not text are left out.
    pub(crate) fn subject_values(&self, kind: ObjectIdentifier) -> Vec<String> {
        let mut values = Vec::new();
        let mut walk = || -> Checked<()> {
            let mut name = Reader::new(self.subject(), Place::Certificate).sequence("a name")?;
            while !name.is_empty() {
                let mut rdn = name.take(tag::SET, "a relative name")?.reader();
                while !rdn.is_empty() {
                    let mut pair = rdn.sequence("a type and value")?;
                    if pair.oid("a type")? == kind {
                        values.extend(text_of(&pair.any("a value")?));
                    }
                }
            }
            Ok(())
        };
        // The form of the subject was checked when the certificate was read.
        let _ = walk();
        values
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({}, serial {})", self.subject_text(), hex(self.serial()))
    }
}

impl Extensions {
    fn read(explicit: &Tlv<'_>) -> Checked<Extensions> {
        let mut found = Extensions::default();
        let mut seen = Vec::new();
        let mut outer = explicit.reader();
        let mut list = outer.sequence("the extensions")?;
        outer.end("the extensions")?;
        while !list.is_empty() {
            let at = list.clone();
            let (id, critical, value) = read_extension(&mut list)?;
            if seen.contains(&id) {
                return Err(at.fault(format!("one extension {id}, not two")));
            }
            seen.push(id);
            found.read_one(id, critical, value)?;
        }
        Ok(found)
    }

    fn read_one(&mut self, id: ObjectIdentifier, critical: bool, mut value: Reader<'_>) -> Checked<()> {
        match id {
            oid::BASIC_CONSTRAINTS => {
                let mut inner = value.sequence("basicConstraints")?;
                let ca = match inner.optional(tag::BOOLEAN)? {
                    Some(boolean) => boolean_of(&boolean)?,
                    None => false,
                };
                let path = if inner.is_empty() { None } else { Some(inner.small_integer("pathLenConstraint")?) };
                inner.end("basicConstraints")?;
                self.basic = Some((ca, path));
            }
            oid::KEY_USAGE => {
                let bits = value.take(tag::BIT_STRING, "keyUsage")?;
                let [unused @ 0..=7, octets @ ..] = bits.content else { return Err(bits.fault("keyUsage")) };
                if octets.is_empty() || octets.len() > 2 {
                    return Err(bits.fault("a keyUsage of one or two octets"));
                }
                let all = octets.iter().enumerate().fold(0u16, |n, (i, b)| n | u16::from(b.reverse_bits()) << (8 * i));
                let used = 8 * octets.len() as u32 - u32::from(*unused);
                self.key_usage = Some(all & ((1u32 << used) - 1) as u16);
            }
            oid::EXTENDED_KEY_USAGE => {
                let mut inner = value.sequence("extKeyUsage")?;
                let mut ekus = Vec::new();
                while !inner.is_empty() {
                    ekus.push(inner.oid("a purpose")?);
                }
                self.ekus = Some((ekus, critical));
            }
            oid::SUBJECT_KEY_ID => {
                self.subject_key_id = Some(value.take(tag::OCTET_STRING, "a key identifier")?.content.to_vec());
            }
            oid::AUTHORITY_KEY_ID => {
                let mut inner = value.sequence("authorityKeyIdentifier")?;
                self.authority_key_id = inner.optional(tag::context_primitive(0))?.map(|id| id.content.to_vec());
                return Ok(());
            }
            // These say nothing that a path to a configured root depends on.
            oid::SUBJECT_ALT_NAME
            | oid::ISSUER_ALT_NAME
            | oid::CERTIFICATE_POLICIES
            | oid::CRL_DISTRIBUTION_POINTS
            | oid::AUTHORITY_INFO_ACCESS => return Ok(()),
            _ => {
                // Name constraints that are passed over would widen what an authority may vouch for.
                if critical || id == oid::NAME_CONSTRAINTS {
                    self.unknown_critical = Some(id);
                }
                return Ok(());
            }
        }
        value.end("the extension")
    }
}

/// One Extension: identifier, criticality, value. Shared with revocation lists.
pub(crate) fn read_extension<'a>(list: &mut Reader<'a>) -> Checked<(ObjectIdentifier, bool, Reader<'a>)> {
    let mut one = list.sequence("an extension")?;
    let id = one.oid("the extension's identifier")?;
    let critical = match one.optional(tag::BOOLEAN)? {
        Some(boolean) => boolean_of(&boolean)?,
        None => false,
    };
    let value = one.take(tag::OCTET_STRING, "the extension's value")?;
    one.end("the extension")?;
    Ok((id, critical, value.reader()))
}

fn boolean_of(tlv: &Tlv<'_>) -> Checked<bool> {
    match tlv.content {
        [0] => Ok(false),
        [0xff] => Ok(true),
        _ => Err(tlv.fault("a boolean of 00 or ff")),
    }
}

fn check_name(name: &Tlv<'_>) -> Checked<()> {
    let mut rdns = name.reader();
    while !rdns.is_empty() {
        let mut rdn = rdns.take(tag::SET, "a relative name")?.reader();
        if rdn.is_empty() {
            return Err(rdn.fault("a type and value"));
        }
        while !rdn.is_empty() {
            let mut pair = rdn.sequence("a type and value")?;
            pair.oid("a type")?;
            pair.any("a value")?;
            pair.end("a type and value")?;
        }
    }
    Ok(())
}

/// A name as RFC 4514 text.
pub(crate) fn name_text(name: &[u8]) -> String {
    match x509_cert::name::Name::from_der(name) {
        Ok(name) => name.to_string(),
        Err(_) => format!("#{}", hex(name)),
    }
}

/// Text of a directory string.
pub(crate) fn text_of(value: &Tlv<'_>) -> Option<String> {
    match value.tag {
        0x0c | 0x13 | 0x16 => std::str::from_utf8(value.content).ok().map(str::to_owned),
        0x14 => Some(value.content.iter().map(|b| char::from(*b)).collect()),
        0x1e => bmp_text(value.content),
        _ => None,
    }
}

/// Text of a BMPString's content; none if its length is odd or it has lone surrogates.
pub(crate) fn bmp_text(content: &[u8]) -> Option<String> {
    if !content.len().is_multiple_of(2) {
        return None;
    }
    let units: Vec<u16> = content.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect();
    String::from_utf16(&units).ok()
}

/// Every `CERTIFICATE` block of a PEM text, in order; other blocks and text between are passed over.
///
/// # Errors
/// [`Fault::Malformed`] when a block cannot be read.
pub fn read_pem_certificates(pem: &[u8]) -> Checked<Vec<Certificate>> {
    let blocks = pem_blocks(pem)?;
    let certificates = blocks.iter().filter(|b| matches!(b.label.as_str(), "CERTIFICATE" | "X509 CERTIFICATE"));
    certificates.take(MOST_CERTIFICATES).map(|b| Certificate::from_der(&b.der)).collect()
}

/// One block of a PEM text.
pub(crate) struct PemBlock {
    pub(crate) label: String,
    pub(crate) der: Vec<u8>,
}

/// Blocks of a PEM text. Text around them, as `openssl x509 -text` writes it, is passed over.
pub(crate) fn pem_blocks(pem: &[u8]) -> Checked<Vec<PemBlock>> {
    const BEGIN: &str = "-----BEGIN ";
    let malformed = |at: usize, what: &str| Fault::malformed(Place::Certificate, at, what);
    let text = std::str::from_utf8(pem).map_err(|e| malformed(e.valid_up_to(), "PEM text"))?;
    let mut blocks = Vec::new();
    let mut from = 0;
    while let Some(found) = text[from..].find(BEGIN) {
        let start = from + found;
        let rest = &text[start + BEGIN.len()..];
        let (label, rest) = rest.split_once("-----").ok_or_else(|| malformed(start, "dashes behind the label"))?;
        let end_line = format!("-----END {label}-----");
        // Behind the BEGIN line: its own dashes are not those of the END line.
        let (body, rest) =
            rest.split_once(&end_line).ok_or_else(|| malformed(start, "an END line for the BEGIN line"))?;
        let (body, end) = (body.trim(), text.len() - rest.len());
        // Encrypted traditional keys carry header lines; their DER cannot be used as it stands, so leave it empty.
        let der =
            if body.contains(':') { Vec::new() } else { base64(body).ok_or_else(|| malformed(start, "base64"))? };
        blocks.push(PemBlock { label: label.to_owned(), der });
        from = end;
    }
    Ok(blocks)
}

fn base64(body: &str) -> Option<Vec<u8>> {
    let packed: String = body.split_ascii_whitespace().collect();
    base64ct::Base64::decode_vec(&packed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_that_overlap_are_no_block() {
        for bad in [
            "-----BEGIN CERTIFICATE------END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE----------END -----",
            "-----BEGIN ",
            "-----BEGIN A-----",
            "-----BEGIN A-----\n-----END B-----",
        ] {
            assert!(pem_blocks(bad.as_bytes()).is_err(), "{bad}");
        }
        let blocks =
            pem_blocks(b"x\n-----BEGIN A-----\nAAEC\n-----END A-----\n-----BEGIN B----------END B-----").unwrap();
        let found: Vec<_> = blocks.iter().map(|b| (b.label.as_str(), b.der.as_slice())).collect();
        assert_eq!(found, [("A", &[0, 1, 2][..]), ("B", &[])]);
    }
}
