//! Asking for RFC 3161 timestamps: the request, the response, and putting the token into a signature.

use crate::asn1::{Reader, algorithm, element, octets, sequence, tag, unsigned};
use crate::cms_build::add_unsigned;
use crate::cms_read::{Profile, SignedData};
use crate::digest::DigestAlgorithm;
use crate::error::SignError;
use crate::fault::{Checked, Fault, Place};
use crate::oid;
use crate::options::Timestamping;
use crate::token::check_fresh;

/// A response larger than this is not read, bytes.
pub(crate) const LARGEST_RESPONSE: usize = 1 << 20;

/// Puts a timestamp on the signer of a PKCS#7.
pub(crate) fn stamp(pkcs7: &[u8], how: &Timestamping<'_>) -> Result<Vec<u8>, SignError> {
    let signed = SignedData::read(pkcs7, Profile::Authenticode)?;
    if !signed.unsigned_values(oid::SPC_RFC3161)?.is_empty() {
        return Err(SignError::Timestamp("the signature has a timestamp already".to_owned()));
    }
    let nonce = nonce(signed.signature);
    let response = (how.transport)(&request(signed.signature, how.digest, &nonce)).map_err(SignError::Timestamp)?;
    let token = read_response(&response)?;
    let failed = |fault: Fault| SignError::Timestamp(format!("the response is not good: {fault}"));
    check_fresh(token, signed.signature, &nonce).map_err(failed)?;
    Ok(add_unsigned(pkcs7, oid::SPC_RFC3161, token)?)
}

/// A number that belongs to this signature alone, so that a response to another request does not pass. It need not be
/// secret: a replayed token of the same signature states an earlier time, which is as true.
fn nonce(signature: &[u8]) -> Vec<u8> {
    let digest = DigestAlgorithm::Sha256.digest_parts([&b"hotgraft timestamp nonce"[..], signature]);
    unsigned(&digest[..8])
}

/// TimeStampReq for these octets; the certificate of the authority is asked for.
fn request(stamped: &[u8], digest: DigestAlgorithm, nonce: &[u8]) -> Vec<u8> {
    let imprint = sequence(&[&algorithm(digest.oid(), true), &octets(&digest.digest(stamped))]);
    sequence(&[&unsigned(&[1]), &imprint, nonce, &element(tag::BOOLEAN, &[0xff])])
}

/// The token within a TimeStampResp.
fn read_response(response: &[u8]) -> Result<&[u8], SignError> {
    type Parts<'a> = (u32, Option<String>, Option<&'a [u8]>);
    let read = || -> Checked<Parts<'_>> {
        if response.len() > LARGEST_RESPONSE {
            return Err(Fault::malformed(Place::Timestamp, 0u64, "a response of at most 1 MiB"));
        }
        let mut all = Reader::new(response, Place::Timestamp);
        let mut outer = all.sequence("a timestamp response")?;
        all.end("the timestamp response")?;
        let mut info = outer.sequence("the status")?;
        let status = info.small_integer("the status")?;
        let text = match info.optional(tag::SEQUENCE)? {
            Some(texts) => {
                let first = texts.reader().any("a text")?;
                Some(String::from_utf8_lossy(first.content).into_owned())
            }
            None => None,
        };
        Ok((status, text, outer.optional(tag::SEQUENCE)?.map(|t| t.raw)))
    };
    let failed = |fault: Fault| SignError::Timestamp(format!("the response cannot be read: {fault}"));
    match read().map_err(failed)? {
        // granted, grantedWithMods
        (0 | 1, _, Some(token)) => Ok(token),
        (status, text, _) => {
            let text = text.unwrap_or_else(|| "no reason given".to_owned());
            // What a server says ends on a terminal: printable characters only.
            let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
            Err(SignError::Timestamp(format!("the authority refused: status {status}, {text}")))
        }
    }
}

/// Reads any response; for fuzzing.
pub(crate) fn fuzz_response(bytes: &[u8]) {
    if let Ok(token) = read_response(bytes) {
        let _ = check_fresh(token, b"signature", &nonce(b"signature"));
    }
}
