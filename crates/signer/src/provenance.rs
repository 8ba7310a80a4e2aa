//! Provenance: where a patch comes from, as an in-toto statement with a SLSA predicate in a DSSE envelope, signed by the
//! key that signed the patch.
//!
//! The statement names the patch by the SHA-256 of its file and by its Authenticode digest: the latter stays the same
//! when the file is signed, so the statement may be made before or after.

use crate::cert::Certificate;
use crate::cms_read::{Profile, SignedData};
use crate::digest::{DigestAlgorithm, hex};
use crate::error::SignError;
use crate::fault::{Checked, Fault, Place};
use crate::keys::DigestSigner;
use crate::oid;
use crate::pe::{Layout, TABLE_ALIGNMENT};
use crate::policy::TrustPolicy;
use crate::pubkey::PublicKey;
use crate::report::VerifyReport;
use crate::scan::{Orders, scan};
use crate::time::UnixTime;
use crate::verify::verify;
use base64ct::Encoding;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
const BUILD_TYPE: &str = "urn:hotgraft:build:1";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const AUTHENTICODE: &str = "authenticode-sha256";
/// An envelope larger than this is not read, bytes.
const LARGEST_ENVELOPE: usize = 4 << 20;

/// A file by name and digests: algorithm (`sha256`, `authenticode-sha256`) to hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Name of the file, without folders.
    pub name: String,
    /// Digests.
    pub digest: BTreeMap<String, String>,
}

impl Artifact {
    /// A file by the SHA-256 of its bytes.
    pub fn of_file(name: &str, bytes: &[u8]) -> Artifact {
        let sha256 = hex(&DigestAlgorithm::Sha256.digest(bytes));
        Artifact { name: name.to_owned(), digest: BTreeMap::from([("sha256".to_owned(), sha256)]) }
    }

    /// A PE file by the SHA-256 of its bytes and by its Authenticode digest.
    ///
    /// # Errors
    /// [`Fault::Malformed`] for what is not a PE file that can be signed.
    pub fn of_image(name: &str, pe: &[u8]) -> Checked<Artifact> {
        let mut artifact = Artifact::of_file(name, pe);
        artifact.digest.insert(AUTHENTICODE.to_owned(), authenticode_digest(pe)?);
        Ok(artifact)
    }

    fn names(&self, algorithm: &str, digest: &str) -> bool {
        self.digest.get(algorithm).is_some_and(|stated| stated.eq_ignore_ascii_case(digest))
    }
}

/// The Authenticode digest that a file has or will have when it is signed.
fn authenticode_digest(pe: &[u8]) -> Checked<String> {
    let layout = Layout::read(pe)?;
    if !layout.is_unsigned() {
        layout.read_table(pe)?;
    }
    let end = layout.hashed_end();
    let padding = (end.next_multiple_of(TABLE_ALIGNMENT) - end) as usize;
    let orders = Orders { padding, algorithms: &[DigestAlgorithm::Sha256], ..Orders::default() };
    let scanned = scan(pe, &layout, orders)
        .map_err(|e| Fault::malformed(Place::Headers, 0u64, format!("a file that can be read to its end ({e})")))?;
    Ok(hex(scanned.digest(DigestAlgorithm::Sha256)))
}

/// Where a patch comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// The patch.
    pub patch: Artifact,
    /// The image it is for.
    pub old: Artifact,
    /// The image it was made from.
    pub new: Artifact,
    /// Name and version of the tool.
    pub tool: String,
    /// Options of the build, as given.
    pub options: BTreeMap<String, String>,
    /// The verdict.
    pub verdict: String,
    /// Conditions that were accepted by name.
    pub accepted: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Artifact>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Predicate {
    build_definition: BuildDefinition,
    run_details: RunDetails,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition {
    build_type: String,
    external_parameters: ExternalParameters,
    internal_parameters: InternalParameters,
    resolved_dependencies: Vec<Artifact>,
}

#[derive(Serialize, Deserialize)]
struct ExternalParameters {
    options: BTreeMap<String, String>,
    accepted: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct InternalParameters {
    verdict: String,
}

#[derive(Serialize, Deserialize)]
struct RunDetails {
    builder: Builder,
}

#[derive(Serialize, Deserialize)]
struct Builder {
    id: String,
}

/// DSSE. Other fields are allowed and passed over, as the format wants.
#[derive(Serialize, Deserialize)]
pub(crate) struct Envelope {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: String,
    signatures: Vec<Signature>,
}

#[derive(Serialize, Deserialize)]
struct Signature {
    /// SHA-256 of the signer's certificate, hexadecimal.
    #[serde(default)]
    keyid: String,
    sig: String,
}

fn wrong(expected: impl Into<String>) -> Fault {
    Fault::malformed(Place::Provenance, 0u64, expected)
}

fn differs(detail: impl Into<String>) -> Fault {
    Fault::ProvenanceMismatch { detail: detail.into() }
}

impl Provenance {
    /// The in-toto statement, JSON. The same provenance gives the same bytes.
    pub fn statement(&self) -> Vec<u8> {
        let statement = Statement {
            kind: STATEMENT_TYPE.to_owned(),
            subject: vec![self.patch.clone()],
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: Predicate {
                build_definition: BuildDefinition {
                    build_type: BUILD_TYPE.to_owned(),
                    external_parameters: ExternalParameters {
                        options: self.options.clone(),
                        accepted: self.accepted.clone(),
                    },
                    internal_parameters: InternalParameters { verdict: self.verdict.clone() },
                    resolved_dependencies: vec![self.old.clone(), self.new.clone()],
                },
                run_details: RunDetails { builder: Builder { id: self.tool.clone() } },
            },
        };
        // Plain data with string keys always serialises.
        serde_json::to_vec(&statement).unwrap_or_default()
    }

    /// Reads a statement that [`Provenance::statement`] made.
    ///
    /// # Errors
    /// [`Fault::Malformed`] and [`Fault::Unsupported`].
    pub fn from_statement(bytes: &[u8]) -> Checked<Provenance> {
        let statement: Statement =
            serde_json::from_slice(bytes).map_err(|e| wrong(format!("an in-toto statement of a build ({e})")))?;
        if statement.kind != STATEMENT_TYPE || statement.predicate_type != PREDICATE_TYPE {
            let form = format!("{} with {}", statement.kind, statement.predicate_type);
            return Err(Fault::unsupported(Place::Provenance, form));
        }
        let build = statement.predicate.build_definition;
        if build.build_type != BUILD_TYPE {
            return Err(Fault::unsupported(Place::Provenance, format!("a build of type {}", build.build_type)));
        }
        let one: Result<[Artifact; 1], _> = statement.subject.try_into();
        let two: Result<[Artifact; 2], _> = build.resolved_dependencies.try_into();
        let (Ok([patch]), Ok([old, new])) = (one, two) else {
            return Err(wrong("one patch made from two images"));
        };
        Ok(Provenance {
            patch,
            old,
            new,
            tool: statement.predicate.run_details.builder.id,
            options: build.external_parameters.options,
            verdict: build.internal_parameters.verdict,
            accepted: build.external_parameters.accepted,
        })
    }

    /// Signs the statement; returns the DSSE envelope, JSON.
    ///
    /// # Errors
    /// See [`SignError`]; [`Fault::BadSignature`] when the key is not that of the certificate.
    pub fn sign(&self, key: &dyn DigestSigner) -> Result<Vec<u8>, SignError> {
        let leaf = key.certificates().first();
        let leaf = leaf.ok_or_else(|| SignError::Key("there is no certificate".to_owned()))?;
        let payload = self.statement();
        let message = pre_authentication(PAYLOAD_TYPE, &payload);
        let signature = key.sign(DigestAlgorithm::Sha256, &message)?;
        check_signature(leaf, &message, &signature)?;
        let envelope = Envelope {
            payload_type: PAYLOAD_TYPE.to_owned(),
            payload: base64ct::Base64::encode_string(&payload),
            signatures: vec![Signature {
                keyid: hex(&leaf.sha256()),
                sig: base64ct::Base64::encode_string(&signature),
            }],
        };
        serde_json::to_vec_pretty(&envelope).map_err(|e| SignError::Io(e.into()))
    }

    /// Whether the statement speaks of this patch, signed or not.
    ///
    /// # Errors
    /// [`Fault::ProvenanceMismatch`]; [`Fault::Malformed`] for what is no PE file.
    pub fn check_patch(&self, pe: &[u8]) -> Checked<()> {
        let this = Artifact::of_image("", pe)?;
        let same = this.digest.iter().any(|(algorithm, digest)| self.patch.names(algorithm, digest));
        if same { Ok(()) } else { Err(differs("it speaks of another patch")) }
    }

    /// Whether the statement speaks of these images, where they are given.
    ///
    /// # Errors
    /// [`Fault::ProvenanceMismatch`].
    pub fn check_images(&self, old: Option<&[u8]>, new: Option<&[u8]>) -> Checked<()> {
        for (what, bytes, stated) in [("old", old, &self.old), ("new", new, &self.new)] {
            let Some(bytes) = bytes else { continue };
            if !stated.names("sha256", &hex(&DigestAlgorithm::Sha256.digest(bytes))) {
                return Err(differs(format!("the {what} image is not the one the patch was made from")));
            }
        }
        Ok(())
    }
}

impl Envelope {
    pub(crate) fn read(bytes: &[u8]) -> Checked<Envelope> {
        if bytes.len() > LARGEST_ENVELOPE {
            return Err(wrong("an envelope of at most 4 MiB"));
        }
        serde_json::from_slice(bytes).map_err(|e| wrong(format!("a DSSE envelope ({e})")))
    }

    /// The statement, if the certificate's key signed it.
    fn open(&self, signer: &Certificate) -> Checked<Provenance> {
        if self.payload_type != PAYLOAD_TYPE {
            return Err(Fault::unsupported(Place::Provenance, format!("a payload of type {}", self.payload_type)));
        }
        let payload = base64(&self.payload).ok_or_else(|| wrong("a payload in base64"))?;
        let message = pre_authentication(&self.payload_type, &payload);
        let keyid = hex(&signer.sha256());
        let own = self.signatures.iter().filter(|s| s.keyid.is_empty() || s.keyid == keyid).take(8);
        let mut result = Err(differs("it is not signed by the signer of the patch"));
        for signature in own {
            let value = base64(&signature.sig).ok_or_else(|| wrong("a signature in base64"))?;
            result = check_signature(signer, &message, &value);
            if result.is_ok() {
                break;
            }
        }
        result.and_then(|()| Provenance::from_statement(&payload))
    }
}

/// What DSSE signs: type and payload with their lengths, so that neither can be taken for the other.
fn pre_authentication(kind: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

fn check_signature(signer: &Certificate, message: &[u8], signature: &[u8]) -> Checked<()> {
    let subject = signer.subject_text();
    let key = PublicKey::from_spki(signer.key(), &subject)?;
    let digest = DigestAlgorithm::Sha256.digest(message);
    if key.verifies(DigestAlgorithm::Sha256, &digest, signature) {
        Ok(())
    } else {
        Err(Fault::BadSignature { place: Place::Provenance, signer: subject })
    }
}

fn base64(text: &str) -> Option<Vec<u8>> {
    // DSSE allows either alphabet.
    base64ct::Base64::decode_vec(text).or_else(|_| base64ct::Base64Url::decode_vec(text)).ok()
}

/// Verifies a patch and the provenance beside it: the patch as [`verify`] does, then that its signer signed the envelope
/// and that the statement speaks of this patch.
///
/// # Errors
/// As [`verify`]; [`Fault::ProvenanceMismatch`] and [`Fault::BadSignature`] for the envelope.
pub fn verify_provenance(pe: &[u8], envelope: &[u8], trust: &TrustPolicy, now: UnixTime) -> Checked<Provenance> {
    provenance_of(pe, &verify(pe, trust, now)?, envelope)
}

/// The statement in the envelope, if the signer that this report accepts signed it, and it speaks of this file.
pub(crate) fn provenance_of(pe: &[u8], report: &VerifyReport, envelope: &[u8]) -> Checked<Provenance> {
    let wanted = report.publisher().ok_or_else(|| differs("the patch has no signer whose word would count"))?;
    let table = Layout::read(pe)?.read_table(pe)?;
    let primary = SignedData::read(&table.der, Profile::Authenticode)?;
    let mut certificates = primary.certificates.clone();
    for nested in primary.unsigned_values(oid::SPC_NESTED_SIGNATURE)? {
        certificates.extend(SignedData::read(nested.raw, Profile::Authenticode)?.certificates);
    }
    let signer = certificates.into_iter().find(|c| hex(&c.sha256()) == wanted.sha256);
    let signer = signer.ok_or_else(|| differs("the signer's certificate is not in the patch"))?;
    let provenance = Envelope::read(envelope)?.open(&signer)?;
    provenance.check_patch(pe)?;
    Ok(provenance)
}
