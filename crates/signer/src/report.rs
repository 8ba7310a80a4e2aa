//! What verification found, as plain data that serialises with stable names.

use crate::fault::Fault;
use crate::time::UnixTime;
use serde::Serialize;

/// The result of examining a file: every signature, what was checked and what was not.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Index in `signatures` of the one that satisfies the policy.
    pub accepted: Option<usize>,
    /// Why the file is not accepted; absent when it is.
    pub fault: Option<Fault>,
    /// Primary signature first, nested ones after it in the order of the file.
    pub signatures: Vec<SignatureReport>,
    /// The checksum of the optional header.
    pub checksum: Option<Checksum>,
    /// Size of the file, bytes.
    pub size: u64,
    /// SHA-256 of the whole file, hexadecimal; only where it was asked for, or a deny list had to be asked.
    pub sha256: Option<String>,
    /// Bytes behind the last section and before the certificate table. Signatures cover them; programs may read them.
    pub overlay: u64,
    /// What was checked and is in order, in words.
    pub checked: Vec<String>,
    /// What was not checked, and why.
    pub not_checked: Vec<String>,
}

impl VerifyReport {
    /// The signature that satisfies the policy.
    pub fn signer(&self) -> Option<&SignatureReport> {
        self.signatures.get(self.accepted?)
    }
}

/// One signature in the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SignatureReport {
    /// Whether it is nested in the primary one.
    pub nested: bool,
    /// Who signed, as far as the signature tells.
    pub signer: Option<Identity>,
    /// From the signer to the root; empty when no path was found.
    pub chain: Vec<Identity>,
    /// Name of the digest algorithm.
    pub digest_algorithm: String,
    /// The Authenticode digest of the file, hexadecimal.
    pub digest: String,
    /// Name of the signature algorithm.
    pub signature_algorithm: String,
    /// Whether the signature states a hash for each page; they were checked then.
    pub page_hashes: bool,
    /// Whether current revocation lists cover the path.
    pub revocation_checked: bool,
    /// Description of the program, as the signer states it.
    pub description: Option<String>,
    /// Where to find more, as the signer states it.
    pub url: Option<String>,
    /// Time of signing, as the signer states it. Nothing is decided by it.
    pub claimed_time: Option<UnixTime>,
    /// RFC 3161 timestamp.
    pub timestamp: Option<TimestampReport>,
    /// Why this signature does not satisfy the policy.
    pub fault: Option<Fault>,
}

/// A certificate, by the names that people know it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Identity {
    /// Subject, RFC 4514.
    pub subject: String,
    /// Issuer, RFC 4514.
    pub issuer: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// SHA-1 thumbprint, hexadecimal.
    pub sha1: String,
    /// SHA-256 thumbprint, hexadecimal.
    pub sha256: String,
    /// Start of validity.
    pub not_before: UnixTime,
    /// End of validity.
    pub not_after: UnixTime,
}

/// An RFC 3161 timestamp.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TimestampReport {
    /// The time it states.
    pub time: UnixTime,
    /// The authority.
    pub signer: Identity,
    /// From the authority to the root; empty when no path was found.
    pub chain: Vec<Identity>,
    /// Why it does not count.
    pub fault: Option<Fault>,
}

/// The checksum of the optional header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Checksum {
    /// In the header; 0 means "none".
    pub stated: u32,
    /// Of the file.
    pub computed: u32,
}
