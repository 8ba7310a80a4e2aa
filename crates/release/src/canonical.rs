//! Canonical JSON, as The Update Framework signs it: keys sorted, no white space, whole numbers only, and in strings
//! nothing escaped but quotation mark and backslash.

use crate::error::{Error, Result};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The canonical bytes of a document.
///
/// # Errors
/// [`Error::Malformed`] for numbers that are not whole.
pub fn bytes(document: &impl Serialize) -> Result<Vec<u8>> {
    let value = serde_json::to_value(document).map_err(|e| Error::malformed("a document", format!("JSON ({e})")))?;
    let mut out = Vec::new();
    write(&value, &mut out)?;
    Ok(out)
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::Null => out.extend(b"null"),
        Value::Bool(true) => out.extend(b"true"),
        Value::Bool(false) => out.extend(b"false"),
        Value::Number(number) if number.is_i64() || number.is_u64() => out.extend(number.to_string().bytes()),
        Value::Number(number) => return Err(Error::malformed("a document", format!("a whole number, not {number}"))),
        Value::String(text) => string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(map) => {
            let mut fields: Vec<(&String, &Value)> = map.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            out.push(b'{');
            for (index, (key, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                string(key, out);
                out.push(b':');
                write(value, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' || byte == b'\\' {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// SHA-256 as lower-case hexadecimal text.
pub fn sha256(bytes: &[u8]) -> String {
    hotgraft_hotpatch::hex::text(&Sha256::digest(bytes))
}

/// A document as it is written to a file: sorted keys, indented, a final newline. The same document gives the same bytes.
///
/// # Errors
/// [`Error::Malformed`] if it is no JSON.
pub fn pretty(document: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes =
        serde_json::to_vec_pretty(document).map_err(|e| Error::malformed("a document", format!("JSON ({e})")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sorted_without_space_and_hardly_escaped() {
        let text = bytes(&json!({"b": [1, -2, null, true], "a": "q\"\\\nü", "": {}})).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "{\"\":{},\"a\":\"q\\\"\\\\\nü\",\"b\":[1,-2,null,true]}");
        assert!(bytes(&json!(1.5)).is_err());
    }
}
