//! What can be wrong with a signed file: one reason per fault, each with a stable name.
//!
//! A fault says what a file is lacking, in words an operator can act on. The serialised form is
//! `{"reason": "digest_mismatch", ...}`; the names never change once shipped. A fault is an answer ("no"), while
//! [`crate::SignError`] is for work that could not be done.

use crate::time::UnixTime;
use serde::Serialize;

/// A result whose error is a fault found in what was read.
pub type Checked<T> = Result<T, Fault>;

/// Which part of a signed file a fault is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Place {
    /// DOS, COFF, optional header or section table.
    Headers,
    /// The security entry of the data directory.
    SecurityDirectory,
    /// The attribute certificate table (`WIN_CERTIFICATE`).
    CertificateTable,
    /// The PKCS#7 SignedData.
    SignedData,
    /// The SpcIndirectDataContent: what is signed about the file.
    IndirectData,
    /// The page hash table.
    PageHashes,
    /// A certificate.
    Certificate,
    /// A certificate revocation list.
    RevocationList,
    /// A timestamp token, request or response.
    Timestamp,
    /// A key file.
    Key,
    /// A policy file.
    Policy,
    /// A provenance statement or its envelope.
    Provenance,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Place::Headers => "PE headers",
            Place::SecurityDirectory => "security directory",
            Place::CertificateTable => "certificate table",
            Place::SignedData => "signed data",
            Place::IndirectData => "indirect data",
            Place::PageHashes => "page hashes",
            Place::Certificate => "certificate",
            Place::RevocationList => "revocation list",
            Place::Timestamp => "timestamp",
            Place::Key => "key",
            Place::Policy => "policy",
            Place::Provenance => "provenance",
        })
    }
}

/// Why a file is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// There is no certificate table at all. A damaged table is [`Fault::Malformed`], never this.
    #[error("the file carries no signature")]
    Unsigned,
    /// The bytes do not have the form they must have.
    #[error("{place} at {at:#x}: expected {expected}")]
    Malformed {
        /// Which structure.
        place: Place,
        /// Offset in bytes: in the file for PE structures, from the start of the structure for others.
        at: u64,
        /// What should have been there.
        expected: String,
    },
    /// Well formed, known elsewhere, and outside of what is accepted here.
    #[error("{place}: unsupported form: {form}")]
    Unsupported {
        /// Which structure.
        place: Place,
        /// The form that was found.
        form: String,
    },
    /// The raw sections leave gaps or overlap: verifiers disagree about the digest of such a file.
    #[error("the file layout at {at:#x} is ambiguous for signatures: expected {expected}")]
    AmbiguousLayout {
        /// File offset, bytes.
        at: u64,
        /// What should have been there.
        expected: String,
    },
    /// The file is not the one that was signed.
    #[error("the file's digest is {computed}, the signature states {stated}")]
    DigestMismatch {
        /// Digest in the signature, hexadecimal.
        stated: String,
        /// Digest of the file, hexadecimal.
        computed: String,
    },
    /// One page of the file is not the one that was signed.
    #[error("the page at file offset {offset:#x} does not have the signed hash")]
    PageHashMismatch {
        /// File offset of the page, bytes.
        offset: u64,
    },
    /// The signed attributes do not belong to the signed content.
    #[error("{place}: the signed attributes do not match the content: {detail}")]
    AttributeMismatch {
        /// Which signature.
        place: Place,
        /// What differs.
        detail: String,
    },
    /// The signature value is not one of the signer's key over the signed attributes.
    #[error("{place}: the signature of {signer} does not verify")]
    BadSignature {
        /// Which signature.
        place: Place,
        /// Subject of the certificate.
        signer: String,
    },
    /// No certificate in the file belongs to the signer.
    #[error("{place}: the signer's certificate ({wanted}) is not in the signature")]
    SignerMissing {
        /// Which signature.
        place: Place,
        /// Issuer and serial number looked for.
        wanted: String,
    },
    /// MD5, SHA-1, short RSA keys, unknown curves.
    #[error("{what} uses {algorithm}, which is too weak")]
    WeakAlgorithm {
        /// Where it is used.
        what: String,
        /// Name of the algorithm.
        algorithm: String,
    },
    /// There is no path from the signer to a trusted root.
    #[error("{subject} does not lead to a trusted root: {detail}")]
    Untrusted {
        /// Subject of the certificate.
        subject: String,
        /// Where the search ended.
        detail: String,
    },
    /// A certificate in the path breaks a rule of RFC 5280.
    #[error("certificate {subject} may not stand where it does: {detail}")]
    BadPath {
        /// Subject of the certificate.
        subject: String,
        /// The rule.
        detail: String,
    },
    /// A certificate in the path had expired at the time that counts.
    #[error("certificate {subject} expired at {not_after}, needed at {needed}")]
    Expired {
        /// Subject of the certificate.
        subject: String,
        /// End of validity.
        not_after: UnixTime,
        /// The time that counts: of the timestamp, or now.
        needed: UnixTime,
    },
    /// A certificate in the path was not valid yet at the time that counts.
    #[error("certificate {subject} begins at {not_before}, needed at {needed}")]
    NotYetValid {
        /// Subject of the certificate.
        subject: String,
        /// Start of validity.
        not_before: UnixTime,
        /// The time that counts: of the timestamp, or now.
        needed: UnixTime,
    },
    /// The path does not allow the purpose that is asked for.
    #[error("certificate {subject} is not meant for {purpose}")]
    WrongPurpose {
        /// Subject of the certificate.
        subject: String,
        /// Object identifier of the purpose, or the key usage.
        purpose: String,
    },
    /// A revocation list names a certificate of the path.
    #[error("certificate {subject} (serial {serial}) was revoked at {since}")]
    Revoked {
        /// Subject of the certificate.
        subject: String,
        /// Serial number, hexadecimal.
        serial: String,
        /// Date of the revocation.
        since: UnixTime,
    },
    /// The policy asks for revocation information and there is none that is current.
    #[error("nothing current is known about the revocation of {subject}: {detail}")]
    RevocationUnknown {
        /// Subject of the certificate.
        subject: String,
        /// What is missing.
        detail: String,
    },
    /// A certificate of the path is on the deny list.
    #[error("certificate {subject} ({sha256}) is on the deny list")]
    DeniedCertificate {
        /// Subject of the certificate.
        subject: String,
        /// SHA-256 of the certificate, hexadecimal.
        sha256: String,
    },
    /// The file is on the deny list, by its SHA-256 or its Authenticode digest.
    #[error("the file ({hash}) is on the deny list")]
    DeniedFile {
        /// The hash that is on the list, hexadecimal.
        hash: String,
    },
    /// Signed and trusted, and not by the publisher that the policy demands.
    #[error("signed by {subject}, the policy wants {required}")]
    WrongPublisher {
        /// Subject of the signer.
        subject: String,
        /// What the policy wants.
        required: String,
    },
    /// The policy wants a timestamp and there is none that counts.
    #[error("no trusted timestamp: {detail}")]
    TimestampMissing {
        /// Why none counts.
        detail: String,
    },
    /// There is a timestamp and it is wrong.
    #[error("the timestamp is not good: {cause}")]
    BadTimestamp {
        /// What is wrong with it.
        cause: Box<Fault>,
    },
    /// The sequence number of the patch is below the policy's minimum.
    #[error("sequence {found} is below the minimum of {minimum}")]
    SequenceTooLow {
        /// Sequence number of the patch.
        found: u32,
        /// Minimum of the policy.
        minimum: u32,
    },
    /// The header's checksum is wrong (only where the caller asks for it).
    #[error("the header's checksum is {stated:#010x}, the file's is {computed:#010x}")]
    ChecksumMismatch {
        /// In the header.
        stated: u32,
        /// Of the file.
        computed: u32,
    },
    /// The provenance statement does not speak about this file, or is missing although wanted.
    #[error("provenance: {detail}")]
    ProvenanceMismatch {
        /// What does not agree.
        detail: String,
    },
}

impl Fault {
    /// The stable name of the reason, as in the serialised form.
    pub fn reason(&self) -> &'static str {
        match self {
            Fault::Unsigned => "unsigned",
            Fault::Malformed { .. } => "malformed",
            Fault::Unsupported { .. } => "unsupported",
            Fault::AmbiguousLayout { .. } => "ambiguous_layout",
            Fault::DigestMismatch { .. } => "digest_mismatch",
            Fault::PageHashMismatch { .. } => "page_hash_mismatch",
            Fault::AttributeMismatch { .. } => "attribute_mismatch",
            Fault::BadSignature { .. } => "bad_signature",
            Fault::SignerMissing { .. } => "signer_missing",
            Fault::WeakAlgorithm { .. } => "weak_algorithm",
            Fault::Untrusted { .. } => "untrusted",
            Fault::BadPath { .. } => "bad_path",
            Fault::Expired { .. } => "expired",
            Fault::NotYetValid { .. } => "not_yet_valid",
            Fault::WrongPurpose { .. } => "wrong_purpose",
            Fault::Revoked { .. } => "revoked",
            Fault::RevocationUnknown { .. } => "revocation_unknown",
            Fault::DeniedCertificate { .. } => "denied_certificate",
            Fault::DeniedFile { .. } => "denied_file",
            Fault::WrongPublisher { .. } => "wrong_publisher",
            Fault::TimestampMissing { .. } => "timestamp_missing",
            Fault::BadTimestamp { .. } => "bad_timestamp",
            Fault::SequenceTooLow { .. } => "sequence_too_low",
            Fault::ChecksumMismatch { .. } => "checksum_mismatch",
            Fault::ProvenanceMismatch { .. } => "provenance_mismatch",
        }
    }

    pub(crate) fn malformed(place: Place, at: impl TryInto<u64>, expected: impl Into<String>) -> Fault {
        Fault::Malformed { place, at: at.try_into().unwrap_or(u64::MAX), expected: expected.into() }
    }

    pub(crate) fn unsupported(place: Place, form: impl Into<String>) -> Fault {
        Fault::Unsupported { place, form: form.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_the_serialised_tag() {
        let faults = [
            Fault::Unsigned,
            Fault::malformed(Place::Headers, 1u64, "x"),
            Fault::BadTimestamp { cause: Box::new(Fault::Unsigned) },
            Fault::SequenceTooLow { found: 1, minimum: 2 },
        ];
        for fault in faults {
            let json = serde_json::to_value(&fault).unwrap();
            assert_eq!(json["reason"], fault.reason());
        }
    }
}
