//! Digests and byte strings as lower-case hexadecimal text in JSON.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

/// Write a digest.
pub fn serialize<const N: usize, S: Serializer>(value: &[u8; N], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&text(value))
}

/// Read a digest.
pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(d: D) -> Result<[u8; N], D::Error> {
    bytes::deserialize(d)?.try_into().map_err(|_| D::Error::custom(format!("expected {N} bytes in hexadecimal")))
}

/// The same for byte strings of any length.
pub mod bytes {
    use super::*;

    /// Write a byte string.
    pub fn serialize<S: Serializer>(value: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&text(value))
    }

    /// Read a byte string.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(d)?;
        parse(&text).ok_or_else(|| D::Error::custom("expected hexadecimal digits"))
    }
}

/// Lower-case hexadecimal text.
pub fn text(value: &[u8]) -> String {
    value.iter().map(|b| format!("{b:02x}")).collect()
}

fn parse(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |c: u8| (c as char).to_digit(16);
    digits.chunks_exact(2).map(|p| Some((digit(p[0])? * 16 + digit(p[1])?) as u8)).collect()
}
