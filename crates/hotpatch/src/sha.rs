//! The two digests of IMAGE_HOT_PATCH_HASHES.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// SHA-256 and SHA-1 of a file.
pub fn both(bytes: &[u8]) -> ([u8; 32], [u8; 20]) {
    (Sha256::digest(bytes).into(), Sha1::digest(bytes).into())
}
