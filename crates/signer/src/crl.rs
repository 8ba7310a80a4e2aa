//! Certificate revocation lists, read from files that the caller gives.

use crate::asn1::{Reader, tag};
use crate::cert::{Certificate, pem_blocks, read_extension, usage};
use crate::digest::hex;
use crate::fault::{Checked, Fault, Place};
use crate::oid;
use crate::pubkey::{PublicKey, digest_of_signature};
use crate::time::UnixTime;
use const_oid::ObjectIdentifier;
use std::collections::BTreeMap;

/// A revocation list, its signature not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    tbs: Vec<u8>,
    issuer: Vec<u8>,
    algorithm: ObjectIdentifier,
    signature: Vec<u8>,
    this_update: UnixTime,
    next_update: Option<UnixTime>,
    revoked: BTreeMap<Vec<u8>, Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    since: UnixTime,
    /// Whether signatures from before `since` are void as well: the key was compromised.
    retroactive: bool,
    /// reasonCode removeFromCRL
    removed: bool,
}

/// What a list says about one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Good,
    Revoked { since: UnixTime, retroactive: bool },
}

impl RevocationList {
    /// Reads a list in DER, or in PEM (`X509 CRL`).
    ///
    /// # Errors
    /// [`Fault::Malformed`] with the offset in the list; [`Fault::Unsupported`] for delta and indirect lists.
    pub fn from_bytes(bytes: &[u8]) -> Checked<RevocationList> {
        if bytes.first() == Some(&tag::SEQUENCE) {
            return Self::from_der(bytes);
        }
        let blocks = pem_blocks(bytes)?;
        match blocks.iter().find(|b| b.label == "X509 CRL") {
            Some(block) => Self::from_der(&block.der),
            None => Err(Fault::malformed(Place::RevocationList, 0u64, "a revocation list in DER or PEM")),
        }
    }

    fn from_der(der: &[u8]) -> Checked<RevocationList> {
        let mut all = Reader::new(der, Place::RevocationList);
        let mut outer = all.sequence("a revocation list")?;
        all.end("the revocation list")?;
        let tbs = outer.take(tag::SEQUENCE, "the list's body")?;
        let algorithm = outer.take(tag::SEQUENCE, "the signature algorithm")?;
        let signature = outer.take(tag::BIT_STRING, "the signature")?.as_bits()?;
        outer.end("the revocation list")?;

        let mut body = tbs.reader();
        body.optional(tag::INTEGER)?;
        let inner_algorithm = body.take(tag::SEQUENCE, "the signature algorithm")?;
        if inner_algorithm.raw != algorithm.raw {
            return Err(inner_algorithm.fault("the same signature algorithm inside and outside"));
        }
        let issuer = body.take(tag::SEQUENCE, "the issuer")?;
        let this_update = body.time("thisUpdate")?;
        let next_update = match body.rest().first() {
            Some(&(tag::UTC_TIME | tag::GENERALIZED_TIME)) => Some(body.time("nextUpdate")?),
            _ => None,
        };
        let mut revoked = BTreeMap::new();
        if let Some(list) = body.optional(tag::SEQUENCE)? {
            let mut list = list.reader();
            while !list.is_empty() {
                let mut one = list.sequence("a revoked certificate")?;
                let serial = one.take(tag::INTEGER, "a serial number")?;
                let since = one.time("the date of the revocation")?;
                let mut entry = Entry { since, retroactive: false, removed: false };
                if let Some(extensions) = one.optional(tag::SEQUENCE)? {
                    let mut extensions = extensions.reader();
                    while !extensions.is_empty() {
                        entry.read_extension(&mut extensions)?;
                    }
                }
                one.end("the revoked certificate")?;
                revoked.insert(serial.content.to_vec(), entry);
            }
        }
        if let Some(explicit) = body.optional(tag::context(0))? {
            let mut extensions = explicit.reader().sequence("the list's extensions")?;
            while !extensions.is_empty() {
                let (id, critical, _) = read_extension(&mut extensions)?;
                let known = matches!(id, oid::AUTHORITY_KEY_ID | oid::CRL_NUMBER);
                if id == oid::DELTA_CRL || critical && !known {
                    let form = if id == oid::ISSUING_DISTRIBUTION_POINT {
                        "a partitioned or indirect list"
                    } else {
                        "a critical extension"
                    };
                    return Err(Fault::unsupported(Place::RevocationList, format!("{form} ({id})")));
                }
            }
        }
        body.end("the list's body")?;
        Ok(RevocationList {
            tbs: tbs.raw.to_vec(),
            issuer: issuer.raw.to_vec(),
            algorithm: algorithm.reader().oid("the signature algorithm")?,
            signature: signature.to_vec(),
            this_update,
            next_update,
            revoked,
        })
    }

    /// What the list says about a certificate of `issuer`: nothing unless it is signed by that issuer.
    pub(crate) fn status(&self, certificate: &Certificate, issuer: &Certificate) -> Option<Status> {
        if self.issuer != issuer.subject() || certificate.issuer() != self.issuer || !self.is_signed_by(issuer) {
            return None;
        }
        Some(match self.revoked.get(certificate.serial()) {
            Some(entry) if !entry.removed => Status::Revoked { since: entry.since, retroactive: entry.retroactive },
            _ => Status::Good,
        })
    }

    fn is_signed_by(&self, issuer: &Certificate) -> bool {
        let allowed = issuer.extensions().key_usage.is_none_or(|bits| bits & usage::CRL_SIGN != 0);
        let Ok((digest, rsa)) = digest_of_signature(self.algorithm, "a revocation list") else { return false };
        let Ok(key) = PublicKey::from_spki(issuer.key(), "the issuer of a revocation list") else { return false };
        allowed
            && matches!(key, PublicKey::Rsa(_)) == rsa
            && key.verifies(digest, &digest.digest(&self.tbs), &self.signature)
    }

    /// Whether the list speaks for this time.
    pub(crate) fn is_current(&self, now: UnixTime) -> bool {
        self.this_update <= now && self.next_update.is_some_and(|next| now <= next)
    }
}

impl Entry {
    fn read_extension(&mut self, list: &mut Reader<'_>) -> Checked<()> {
        let (id, critical, mut value) = read_extension(list)?;
        match id {
            oid::REASON_CODE => match value.take(tag::ENUMERATED, "a reason code")?.content {
                // keyCompromise, cACompromise, aACompromise: signatures with an earlier date may be forged.
                [1 | 2 | 10] => self.retroactive = true,
                [8] => self.removed = true,
                [_] => {}
                other => return Err(value.fault(format!("a reason code, not {}", hex(other)))),
            },
            oid::INVALIDITY_DATE => self.since = self.since.min(value.time("the invalidity date")?),
            _ if critical => {
                return Err(Fault::unsupported(Place::RevocationList, format!("critical entry extension {id}")));
            }
            _ => {}
        }
        Ok(())
    }
}
