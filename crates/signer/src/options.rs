//! How to sign.

use crate::digest::DigestAlgorithm;
use crate::time::UnixTime;

/// Sends an RFC 3161 request (DER) to a timestamp authority and returns its response (DER), or why it could not.
pub type Transport<'a> = dyn Fn(&[u8]) -> Result<Vec<u8>, String> + 'a;

/// How to sign. [`SignOptions::default`]: SHA-256, no description, no page hashes, no time, no timestamp, and a file that
/// is signed already is refused.
#[derive(Clone, Default)]
pub struct SignOptions<'a> {
    /// Digest of the file and of the signed attributes.
    pub digest: DigestAlgorithm,
    /// Description of the program, shown by Windows.
    pub description: Option<String>,
    /// Where to find more about the program.
    pub url: Option<String>,
    /// State a hash for each page.
    pub page_hashes: bool,
    /// What to do with a signature that the file has already.
    pub existing: Existing,
    /// Time of signing, as an attribute that nobody checks. None keeps the output the same for the same input.
    pub signing_time: Option<UnixTime>,
    /// Ask for a timestamp. If none can be had, signing fails.
    pub timestamp: Option<Timestamping<'a>>,
    /// Sign a file whose raw sections leave gaps or overlap, although verifiers disagree about its digest.
    pub ambiguous_layout: bool,
}

/// What to do with a signature that the file has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Fail with [`crate::SignError::AlreadySigned`].
    #[default]
    Refuse,
    /// Put the new signature in its place.
    Replace,
    /// Keep it, and nest the new signature in it.
    Append,
}

/// How to get a timestamp.
#[derive(Clone)]
pub struct Timestamping<'a> {
    /// The way to the authority; see [`crate::http_transport`].
    pub transport: &'a Transport<'a>,
    /// Digest of the message imprint.
    pub digest: DigestAlgorithm,
}

impl std::fmt::Debug for Timestamping<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timestamping").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SignOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignOptions")
            .field("digest", &self.digest)
            .field("description", &self.description)
            .field("url", &self.url)
            .field("page_hashes", &self.page_hashes)
            .field("existing", &self.existing)
            .field("signing_time", &self.signing_time)
            .field("timestamp", &self.timestamp)
            .field("ambiguous_layout", &self.ambiguous_layout)
            .finish()
    }
}
