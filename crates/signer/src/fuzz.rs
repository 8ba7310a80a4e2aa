//! What the fuzz targets call: each takes any bytes and must return.

use crate::cert::{Certificate, read_pem_certificates};
use crate::crl::RevocationList;
use crate::keys::SigningKey;
use crate::policy::TrustPolicy;
use crate::time::UnixTime;
use crate::{SignError, cms_read, options, provenance, spc, timestamp, token, verify};

const NOW: UnixTime = UnixTime(1_800_000_000);

/// A whole file.
pub fn file(bytes: &[u8]) {
    let report = verify::examine(bytes, &TrustPolicy::default(), NOW);
    assert!(report.fault.is_some(), "a policy without roots accepts nothing");
    if let Ok(removed) = crate::remove(bytes) {
        assert!(removed.len() < bytes.len());
    }
}

/// A PKCS#7 of either profile.
pub fn signed_data(bytes: &[u8]) {
    if let Ok(found) = cms_read::SignedData::read(bytes, cms_read::Profile::Authenticode) {
        let _ = found.check();
        let _ = spc::IndirectData::read(&found.content);
    }
    let _ = token::judge(bytes, b"signature", &TrustPolicy::default(), NOW);
    let _ = crate::attach_pkcs7(bytes, bytes, options::Existing::Append, &mut Vec::new());
}

/// A certificate, alone or in PEM.
pub fn certificate(bytes: &[u8]) {
    if let Ok(certificate) = Certificate::from_der(bytes) {
        let _ = certificate.identity();
    }
    let _ = read_pem_certificates(bytes);
}

/// A revocation list.
pub fn revocation_list(bytes: &[u8]) {
    let _ = RevocationList::from_bytes(bytes);
}

/// A PFX file; those that ask for many rounds of key derivation are slow by their nature.
pub fn pfx(bytes: &[u8]) -> Option<SignError> {
    SigningKey::from_pfx(bytes, "pw").err()
}

/// A response of a timestamp authority.
pub fn timestamp_response(bytes: &[u8]) {
    timestamp::fuzz_response(bytes);
}

/// A provenance envelope.
pub fn envelope(bytes: &[u8]) {
    let _ = provenance::Envelope::read(bytes);
    let _ = provenance::Provenance::from_statement(bytes);
}
