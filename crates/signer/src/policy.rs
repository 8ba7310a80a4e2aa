//! What a caller trusts. One policy, read once, used by `verify`, `apply` and `run` alike.

use crate::cert::{Certificate, read_pem_certificates};
use crate::crl::RevocationList;
use crate::digest::hex;
use crate::fault::{Checked, Fault, Place};
use crate::oid;
use const_oid::ObjectIdentifier;
use std::collections::BTreeSet;

/// Whom to trust, and for what. [`TrustPolicy::default`] trusts nobody.
#[derive(Debug, Clone)]
pub struct TrustPolicy {
    /// Certificates at which a path may end.
    pub roots: Vec<Certificate>,
    /// Roots for timestamp authorities; empty means that `roots` serve for both.
    pub timestamp_roots: Vec<Certificate>,
    /// Certificates that may stand within a path although the file does not carry them.
    pub intermediates: Vec<Certificate>,
    /// Accepted publishers: one of them must match the signer. Empty: any signer under a root.
    pub publishers: Vec<Publisher>,
    /// Purposes that the signer's certificate must all name, and that no issuer may exclude. Default: code signing.
    pub required_ekus: Vec<ObjectIdentifier>,
    /// Lowest sequence number of a patch that may be applied.
    pub minimum_sequence: Option<u32>,
    /// SHA-256 of files that are refused, or their Authenticode digests of any algorithm.
    pub denied_files: BTreeSet<Vec<u8>>,
    /// SHA-256 (or SHA-1) thumbprints of certificates that no path may contain.
    pub denied_certificates: BTreeSet<Vec<u8>>,
    /// Revocation lists; each counts for the certificates of its issuer.
    pub revocation_lists: Vec<RevocationList>,
    /// Refuse when no current revocation list covers a certificate below the root.
    pub revocation_required: bool,
    /// A trusted timestamp is demanded.
    pub timestamp_required: bool,
    /// Whether a caller may pass over a missing signature when told to (`--allow-unsigned`).
    pub unsigned_permitted: bool,
    /// Whether a wrong checksum in the header is a fault. (It has no meaning for security; kernel images need it right.)
    pub checksum_required: bool,
    /// Whether a provenance statement must accompany the patch; checked by [`crate::verify_provenance`], which callers that
    /// find this set must call.
    pub provenance_required: bool,
}

impl Default for TrustPolicy {
    fn default() -> Self {
        TrustPolicy {
            roots: Vec::new(),
            timestamp_roots: Vec::new(),
            intermediates: Vec::new(),
            publishers: Vec::new(),
            required_ekus: vec![oid::CODE_SIGNING],
            minimum_sequence: None,
            denied_files: BTreeSet::new(),
            denied_certificates: BTreeSet::new(),
            revocation_lists: Vec::new(),
            revocation_required: false,
            timestamp_required: false,
            unsigned_permitted: true,
            checksum_required: false,
            provenance_required: false,
        }
    }
}

impl TrustPolicy {
    /// Trusts every signer under these roots: PEM text with one or more certificates.
    ///
    /// # Errors
    /// [`Fault::Malformed`] when a certificate cannot be read or there is none.
    pub fn from_pem_roots(pem: &[u8]) -> Checked<TrustPolicy> {
        let roots = read_pem_certificates(pem)?;
        if roots.is_empty() {
            return Err(Fault::malformed(Place::Policy, 0u64, "at least one certificate in PEM"));
        }
        Ok(TrustPolicy { roots, ..TrustPolicy::default() })
    }

    /// Whether a patch of this sequence number may be applied.
    ///
    /// # Errors
    /// [`Fault::SequenceTooLow`].
    pub fn check_sequence(&self, found: u32) -> Checked<()> {
        match self.minimum_sequence {
            Some(minimum) if found < minimum => Err(Fault::SequenceTooLow { found, minimum }),
            _ => Ok(()),
        }
    }

    /// Whether an unsigned file may pass when the caller was told to allow it.
    ///
    /// # Errors
    /// [`Fault::Unsigned`] when the policy forbids it.
    pub fn check_unsigned(&self, allow_unsigned: bool) -> Checked<()> {
        if allow_unsigned && self.unsigned_permitted { Ok(()) } else { Err(Fault::Unsigned) }
    }

    /// Whether a file with this hash is refused by name.
    pub(crate) fn check_file(&self, hash: &[u8]) -> Checked<()> {
        if self.denied_files.contains(hash) { Err(Fault::DeniedFile { hash: hex(hash) }) } else { Ok(()) }
    }

    pub(crate) fn check_certificate(&self, certificate: &Certificate) -> Checked<()> {
        let (sha256, sha1) = (certificate.sha256(), certificate.sha1());
        if self.denied_certificates.contains(&sha256) || self.denied_certificates.contains(&sha1) {
            return Err(Fault::DeniedCertificate { subject: certificate.subject_text(), sha256: hex(&sha256) });
        }
        Ok(())
    }

    pub(crate) fn check_publisher(&self, signer: &Certificate) -> Checked<()> {
        if self.publishers.is_empty() || self.publishers.iter().any(|p| p.matches(signer)) {
            return Ok(());
        }
        let required: Vec<String> = self.publishers.iter().map(Publisher::to_string).collect();
        Err(Fault::WrongPublisher { subject: signer.subject_text(), required: required.join(" or ") })
    }

    pub(crate) fn timestamp_roots(&self) -> &[Certificate] {
        if self.timestamp_roots.is_empty() { &self.roots } else { &self.timestamp_roots }
    }
}

/// A publisher: every field that is given must match the signer's certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publisher {
    /// Common name of the subject, exactly.
    pub common_name: Option<String>,
    /// Organisation of the subject, exactly.
    pub organisation: Option<String>,
    /// SHA-256 or SHA-1 of the certificate.
    pub thumbprint: Option<Vec<u8>>,
}

impl Publisher {
    fn matches(&self, signer: &Certificate) -> bool {
        let named = |wanted: &Option<String>, kind| {
            wanted.as_ref().is_none_or(|w| {
                let found = signer.subject_values(kind);
                // Two common names in one subject could satisfy two different policies: exactly one counts.
                found.len() == 1 && found[0] == *w
            })
        };
        let printed = self.thumbprint.as_ref().is_none_or(|t| *t == signer.sha256() || *t == signer.sha1());
        let given = self.common_name.is_some() || self.organisation.is_some() || self.thumbprint.is_some();
        given && printed && named(&self.common_name, oid::COMMON_NAME) && named(&self.organisation, oid::ORGANISATION)
    }
}

impl std::fmt::Display for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let thumbprint = self.thumbprint.as_deref().map(hex);
        let parts: Vec<String> = [("CN", &self.common_name), ("O", &self.organisation), ("thumbprint", &thumbprint)]
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().map(|v| format!("{name}={v}")))
            .collect();
        f.write_str(&parts.join(", "))
    }
}
