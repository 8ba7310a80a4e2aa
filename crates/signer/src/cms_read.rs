//! Reads a PKCS#7/CMS SignedData with one signer, and checks that the signature is the signer's over the content.
//!
//! Two profiles: Authenticode (version 1, content as it stands) and RFC 3161 tokens (version 3, content in an OCTET
//! STRING). What is outside of them is named and refused, not guessed at.

use crate::asn1::{Reader, Tlv, tag};
use crate::cert::{Certificate, name_text};
use crate::digest::{DigestAlgorithm, hex};
use crate::fault::{Checked, Fault, Place};
use crate::oid;
use crate::pubkey::{PublicKey, Scheme, digest_of, digest_of_signature};
use const_oid::ObjectIdentifier;

/// Certificates in one signature, at most.
const MOST_CERTIFICATES: usize = 64;
/// Attributes of one signer, at most.
const MOST_ATTRIBUTES: usize = 64;

/// Which rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Authenticode,
    Timestamp,
}

impl Profile {
    fn place(self) -> Place {
        match self {
            Profile::Authenticode => Place::SignedData,
            Profile::Timestamp => Place::Timestamp,
        }
    }
}

/// Attributes: type and the SET of values.
pub(crate) type Attributes<'a> = Vec<(ObjectIdentifier, Tlv<'a>)>;

/// A SignedData with one signer.
#[derive(Debug, Clone)]
pub(crate) struct SignedData<'a> {
    profile: Profile,
    digests: Vec<ObjectIdentifier>,
    content_type: ObjectIdentifier,
    /// SpcIndirectDataContent, or the OCTET STRING of a token.
    pub(crate) content: Tlv<'a>,
    pub(crate) certificates: Vec<Certificate>,
    sid: Sid<'a>,
    digest: ObjectIdentifier,
    /// The signed attributes as received, with the tag they are signed with.
    signed_octets: Vec<u8>,
    pub(crate) signed: Attributes<'a>,
    algorithm: ObjectIdentifier,
    pub(crate) signature: &'a [u8],
    pub(crate) unsigned: Attributes<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Sid<'a> {
    IssuerAndSerial(&'a [u8], &'a [u8]),
    KeyId(&'a [u8]),
}

/// A signature that is the signer's.
pub(crate) struct Signer {
    pub(crate) certificate: Certificate,
    pub(crate) digest: DigestAlgorithm,
    pub(crate) scheme: Scheme,
}

impl<'a> SignedData<'a> {
    /// Reads a ContentInfo; nothing may follow it.
    pub(crate) fn read(der: &'a [u8], profile: Profile) -> Checked<SignedData<'a>> {
        let place = profile.place();
        let unsupported = |form: &str| Fault::unsupported(place, form);
        let mut all = Reader::new(der, place);
        let mut info = all.sequence("a ContentInfo")?;
        all.end("the ContentInfo")?;
        if info.oid("the content type")? != oid::SIGNED_DATA {
            return Err(unsupported("a content type other than SignedData"));
        }
        let mut explicit = info.take(tag::context(0), "the content")?.reader();
        info.end("the ContentInfo")?;
        let mut body = explicit.sequence("SignedData")?;
        explicit.end("SignedData")?;

        let version = body.small_integer("the version")?;
        let wanted = if profile == Profile::Authenticode { 1 } else { 3 };
        if version != wanted {
            return Err(unsupported(&format!("SignedData of version {version}, not {wanted}")));
        }
        let mut digests = Vec::new();
        let mut set = body.take(tag::SET, "the digest algorithms")?.reader();
        while !set.is_empty() && digests.len() <= 8 {
            digests.push(set.plain_algorithm("a digest algorithm")?);
        }
        set.end("the digest algorithms")?;
        let (content_type, content) = read_content(&mut body, profile)?;
        let certificates = match body.optional(tag::context(0))? {
            Some(set) => read_certificates(&set, place)?,
            None => Vec::new(),
        };
        if body.optional(tag::context(1))?.is_some() && profile == Profile::Authenticode {
            return Err(unsupported("revocation lists within the signature"));
        }
        let signers = body.take(tag::SET, "the signers")?;
        body.end("SignedData")?;
        let mut signers = signers.reader();
        let mut signer = signers.sequence("one signer")?;
        if !signers.is_empty() {
            return Err(unsupported("more than one signer; further signatures are nested"));
        }

        let version = signer.small_integer("the version")?;
        let sid = match (version, signer.any("the signer's identifier")?) {
            (1, name) if name.tag == tag::SEQUENCE => {
                let mut name = name.reader();
                let issuer = name.take(tag::SEQUENCE, "the issuer")?;
                let serial = name.take(tag::INTEGER, "the serial number")?;
                name.end("the signer's identifier")?;
                Sid::IssuerAndSerial(issuer.raw, serial.content)
            }
            (3, id) if id.tag == tag::context_primitive(0) && profile == Profile::Timestamp => Sid::KeyId(id.content),
            _ => return Err(unsupported("a signer that is not named by issuer and serial number")),
        };
        let digest = signer.plain_algorithm("the digest algorithm")?;
        let signed = signer.optional(tag::context(0))?.ok_or_else(|| unsupported("no signed attributes"))?;
        let mut signed_octets = signed.raw.to_vec();
        signed_octets[0] = tag::SET;
        let algorithm = signer.plain_algorithm("the signature algorithm")?;
        let signature = signer.take(tag::OCTET_STRING, "the signature")?.content;
        let unsigned = match signer.optional(tag::context(1))? {
            Some(attributes) => read_attributes(&attributes)?,
            None => Vec::new(),
        };
        signer.end("the signer")?;
        Ok(SignedData {
            profile,
            digests,
            content_type,
            content,
            certificates,
            sid,
            digest,
            signed_octets,
            signed: read_attributes(&signed)?,
            algorithm,
            signature,
            unsigned,
        })
    }

    /// The certificates that are named as the signer's; more than one only if somebody plays tricks.
    fn named_certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.certificates.iter().filter(|c| match self.sid {
            Sid::IssuerAndSerial(issuer, serial) => c.issuer() == issuer && c.serial() == serial,
            Sid::KeyId(id) => c.extensions().subject_key_id.as_deref() == Some(id),
        })
    }

    /// The certificate that is named as the signer's, for reports about signatures that are not good.
    pub(crate) fn claimed_signer(&self) -> Option<&Certificate> {
        self.named_certificates().next()
    }

    /// Checks attributes, digest and signature.
    pub(crate) fn check(&self) -> Checked<Signer> {
        let place = self.profile.place();
        let differs = |detail: &str| Fault::AttributeMismatch { place, detail: detail.to_owned() };
        let digest = digest_of(self.digest, place, "the signature")?;
        // One algorithm in all places; a token may list more than it uses.
        let listed = match self.profile {
            Profile::Authenticode => self.digests == [self.digest],
            Profile::Timestamp => self.digests.contains(&self.digest),
        };
        if !listed {
            return Err(differs("the digest algorithms do not name that of the signer"));
        }
        let content_type = self.single(oid::CONTENT_TYPE)?.ok_or_else(|| differs("no content type"))?;
        if content_type.tag != tag::OID || content_type.as_oid()? != self.content_type {
            return Err(differs("the content type is another"));
        }
        let message_digest = self.single(oid::MESSAGE_DIGEST)?.ok_or_else(|| differs("no message digest"))?;
        if message_digest.tag != tag::OCTET_STRING || message_digest.content != digest.digest(self.content.content) {
            return Err(differs("the message digest is not that of the content"));
        }

        let mut refused = None;
        for certificate in self.named_certificates() {
            match self.check_against(certificate, digest) {
                Ok(scheme) => return Ok(Signer { certificate: certificate.clone(), digest, scheme }),
                Err(fault) => refused = Some(refused.unwrap_or(fault)),
            }
        }
        Err(refused.unwrap_or_else(|| {
            let wanted = match self.sid {
                Sid::IssuerAndSerial(issuer, serial) => format!("serial {} of {}", hex(serial), name_text(issuer)),
                Sid::KeyId(id) => format!("key identifier {}", hex(id)),
            };
            Fault::SignerMissing { place, wanted }
        }))
    }

    fn check_against(&self, certificate: &Certificate, digest: DigestAlgorithm) -> Checked<Scheme> {
        let place = self.profile.place();
        let subject = certificate.subject_text();
        let key = PublicKey::from_spki(certificate.key(), &subject)?;
        let scheme = key.scheme();
        let fits = match self.algorithm {
            oid::RSA => scheme == Scheme::Rsa,
            oid::EC_PUBLIC_KEY => scheme != Scheme::Rsa,
            other => {
                let (with, rsa) = digest_of_signature(other, "the signature")?;
                with == digest && rsa == (scheme == Scheme::Rsa)
            }
        };
        if !fits {
            let detail = "the signature algorithm does not fit the key or the digest".to_owned();
            return Err(Fault::AttributeMismatch { place, detail });
        }
        if !key.verifies(digest, &digest.digest(&self.signed_octets), self.signature) {
            return Err(Fault::BadSignature { place, signer: subject });
        }
        Ok(scheme)
    }

    /// The only value of a signed attribute.
    pub(crate) fn single(&self, id: ObjectIdentifier) -> Checked<Option<Tlv<'a>>> {
        match self.signed.iter().find(|(found, _)| *found == id) {
            Some((_, set)) => {
                let mut values = set.reader();
                let value = values.any("one value of the attribute")?;
                values.end("the attribute with one value")?;
                Ok(Some(value))
            }
            None => Ok(None),
        }
    }

    /// The values of an unsigned attribute.
    pub(crate) fn unsigned_values(&self, id: ObjectIdentifier) -> Checked<Vec<Tlv<'a>>> {
        let mut values = Vec::new();
        for (_, set) in self.unsigned.iter().filter(|(found, _)| *found == id) {
            let mut set = set.reader();
            while !set.is_empty() {
                values.push(set.any("a value of the attribute")?);
            }
        }
        Ok(values)
    }
}

fn read_content<'a>(body: &mut Reader<'a>, profile: Profile) -> Checked<(ObjectIdentifier, Tlv<'a>)> {
    let place = profile.place();
    let mut content_info = body.sequence("the signed content")?;
    let content_type = content_info.oid("the type of the content")?;
    let (wanted, form) = match profile {
        Profile::Authenticode => (oid::SPC_INDIRECT_DATA, tag::SEQUENCE),
        Profile::Timestamp => (oid::TST_INFO, tag::OCTET_STRING),
    };
    if content_type != wanted {
        return Err(Fault::unsupported(place, format!("content of type {content_type}")));
    }
    let mut explicit = content_info.take(tag::context(0), "the content")?.reader();
    content_info.end("the signed content")?;
    let content = explicit.any("the content")?;
    explicit.end("the content")?;
    if content.tag == form {
        return Ok((content_type, content));
    }
    let form = if content.tag == tag::OCTET_STRING { "content in an OCTET STRING" } else { "content of another form" };
    Err(Fault::unsupported(place, form))
}

fn read_certificates(set: &Tlv<'_>, place: Place) -> Checked<Vec<Certificate>> {
    let mut certificates = Vec::new();
    let mut reader = set.reader();
    while !reader.is_empty() {
        let one = reader.any("a certificate")?;
        if one.tag != tag::SEQUENCE {
            return Err(Fault::unsupported(place, "certificates other than X.509"));
        }
        if certificates.len() == MOST_CERTIFICATES {
            return Err(Fault::unsupported(place, format!("more than {MOST_CERTIFICATES} certificates")));
        }
        // The offset of a fault shall count from the start of the signature, as all others do.
        certificates.push(Certificate::from_der(one.raw).map_err(|fault| match fault {
            Fault::Malformed { place, at, expected } => Fault::Malformed { place, at: at + one.at as u64, expected },
            other => other,
        })?);
    }
    Ok(certificates)
}

fn read_attributes<'a>(set: &Tlv<'a>) -> Checked<Attributes<'a>> {
    let mut attributes: Attributes<'a> = Vec::new();
    let mut reader = set.reader();
    while !reader.is_empty() {
        let mut one = reader.sequence("an attribute")?;
        let id = one.oid("the attribute's type")?;
        let values = one.take(tag::SET, "the attribute's values")?;
        one.end("the attribute")?;
        if attributes.iter().any(|(other, _)| *other == id) {
            return Err(values.fault(format!("one attribute {id}, not two")));
        }
        if attributes.len() == MOST_ATTRIBUTES {
            return Err(values.fault(format!("at most {MOST_ATTRIBUTES} attributes")));
        }
        attributes.push((id, values));
    }
    Ok(attributes)
}
