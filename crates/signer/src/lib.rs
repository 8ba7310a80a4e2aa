//! Authenticode: sign PE files, verify them, tell who signed.
#![forbid(unsafe_code)]

mod admit;
mod asn1;
mod cert;
mod chain;
mod cms_build;
mod cms_read;
mod crl;
mod digest;
mod error;
mod fault;
#[doc(hidden)]
pub mod fuzz;
mod http;
mod keys;
mod oid;
mod options;
mod page_hashes;
mod pe;
mod policy;
mod policy_file;
mod provenance;
mod pubkey;
mod raw;
mod report;
mod scan;
mod sign;
mod spc;
mod time;
mod timestamp;
mod token;
mod verify;

pub use admit::{Admission, Candidate, admit};
pub use cert::{Certificate, read_pem_certificates};
pub use const_oid::ObjectIdentifier;
pub use crl::RevocationList;
pub use digest::DigestAlgorithm;
pub use error::SignError;
pub use fault::{Checked, Fault, Place};
pub use http::http_transport;
#[cfg(feature = "pkcs11")]
pub use keys::pkcs11::TokenKey;
pub use keys::{DigestSigner, SigningKey};
pub use options::{Existing, SignOptions, Timestamping, Transport};
pub use pe::Source;
pub use policy::{Publisher, TrustPolicy};
pub use policy_file::PolicyError;
pub use provenance::{Artifact, Provenance, verify_provenance};
pub use pubkey::Scheme;
pub use raw::VerifyingKey;
pub use report::{Checksum, Identity, SignatureReport, TimestampReport, VerifyReport};
pub use sign::{
    ToSign, add_timestamp, attach, attach_pkcs7, extract, hash_only, remove, remove_stream, sign, sign_file,
    sign_stream,
};
pub use time::UnixTime;
pub use verify::{examine, examine_and_hash, verify};
