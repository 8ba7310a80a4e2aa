//! Policy files: a [`TrustPolicy`] in TOML or JSON, or simply the roots in PEM.

use crate::cert::{Certificate, read_pem_certificates};
use crate::crl::RevocationList;
use crate::digest::unhex;
use crate::fault::{Fault, Place};
use crate::oid;
use crate::policy::{Publisher, TrustPolicy};
use const_oid::ObjectIdentifier;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A policy file, or a file that it names, is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A file is not as it must be.
    #[error("{}: {fault}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        fault: Fault,
    },
}

/// The file as it is written. Unknown fields are errors: a misspelt demand must not be a missing one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    /// `hotgraft.policy/1`
    schema: String,
    roots: Vec<String>,
    #[serde(default)]
    timestamp_roots: Vec<String>,
    #[serde(default)]
    intermediates: Vec<String>,
    #[serde(default)]
    publisher: Vec<PublisherFile>,
    #[serde(default)]
    required_eku: Option<Vec<String>>,
    #[serde(default)]
    minimum_sequence: Option<u32>,
    #[serde(default)]
    denied_files: Vec<String>,
    #[serde(default)]
    denied_certificates: Vec<String>,
    #[serde(default)]
    revocation_lists: Vec<String>,
    #[serde(default)]
    revocation_required: bool,
    #[serde(default)]
    timestamp_required: bool,
    #[serde(default)]
    allow_unsigned: bool,
    #[serde(default)]
    checksum_required: bool,
    #[serde(default)]
    provenance_required: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublisherFile {
    common_name: Option<String>,
    organisation: Option<String>,
    thumbprint: Option<String>,
}

/// Name of the format and its version.
const SCHEMA: &str = "hotgraft.policy/1";

impl TrustPolicy {
    /// Reads a policy file: TOML, JSON, or PEM with roots alone. Files that it names are looked for beside it.
    ///
    /// # Errors
    /// [`PolicyError`], with the file that is at fault.
    pub fn load(path: &Path) -> Result<TrustPolicy, PolicyError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let read = |path: &Path| std::fs::read(path).map_err(|error| PolicyError::Io { path: path.to_owned(), error });
        let bytes = read(path)?;
        let own = |fault| PolicyError::Content { path: path.to_owned(), fault };
        if bytes.first() == Some(&0x30) {
            let roots = vec![Certificate::from_der(&bytes).map_err(own)?];
            return Ok(TrustPolicy { roots, ..TrustPolicy::default() });
        }
        if bytes.windows(11).any(|w| w == b"-----BEGIN ")
            && !bytes.windows(SCHEMA.len()).any(|w| w == SCHEMA.as_bytes())
        {
            return TrustPolicy::from_pem_roots(&bytes).map_err(own);
        }
        let file = PolicyFile::parse(&bytes).map_err(own)?;
        file.resolve(path, &|name| {
            let path = folder.join(name);
            read(&path).map(|bytes| (path, bytes))
        })
    }
}

impl TrustPolicy {
    /// Adds a deny list in text: one hash in hexadecimal to a line, `#` begins a comment. A hash of 32 bytes is that of a
    /// file (its SHA-256 or Authenticode digest) or of a certificate, one of 20 bytes of a certificate, longer ones are
    /// Authenticode digests.
    ///
    /// # Errors
    /// [`Fault::Malformed`] with the offset of the line.
    pub fn deny(&mut self, list: &str) -> Result<(), Fault> {
        let mut at = 0;
        for line in list.split_inclusive('\n') {
            let text = line.split('#').next().unwrap_or_default().trim();
            if !text.is_empty() {
                let found = hash(text, &[20, 32, 48, 64])
                    .map_err(|_| Fault::malformed(Place::Policy, at, format!("a hash in hexadecimal, not {text:?}")))?;
                if matches!(found.len(), 20 | 32) {
                    self.denied_certificates.insert(found.clone());
                }
                if found.len() != 20 {
                    self.denied_files.insert(found);
                }
            }
            at += line.len();
        }
        Ok(())
    }
}

fn wrong(expected: impl Into<String>) -> Fault {
    Fault::malformed(Place::Policy, 0u64, expected)
}

/// Reads a named file; gives its path for messages.
type Open<'a> = dyn Fn(&str) -> Result<(PathBuf, Vec<u8>), PolicyError> + 'a;

impl PolicyFile {
    fn parse(bytes: &[u8]) -> Result<PolicyFile, Fault> {
        let text = std::str::from_utf8(bytes)
            .map_err(|e| Fault::malformed(Place::Policy, e.valid_up_to(), "text in UTF-8"))?;
        let file: PolicyFile = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|e| wrong(format!("a policy in JSON ({e})")))?
        } else {
            toml::from_str(text).map_err(|e| {
                let at = e.span().map_or(0, |s| s.start);
                Fault::malformed(Place::Policy, at, format!("a policy in TOML ({})", e.message()))
            })?
        };
        if file.schema == SCHEMA { Ok(file) } else { Err(wrong(format!("schema = \"{SCHEMA}\""))) }
    }

    fn resolve(self, own: &Path, open: &Open<'_>) -> Result<TrustPolicy, PolicyError> {
        let content = |fault| PolicyError::Content { path: own.to_owned(), fault };
        let roots = certificates(&self.roots, open)?;
        if roots.is_empty() {
            return Err(content(wrong("at least one root")));
        }
        let mut revocation_lists = Vec::new();
        for name in &self.revocation_lists {
            let (path, bytes) = open(name)?;
            let list = RevocationList::from_bytes(&bytes).map_err(|fault| PolicyError::Content { path, fault })?;
            revocation_lists.push(list);
        }
        let mut publishers = Vec::new();
        for one in self.publisher {
            publishers.push(one.resolve().map_err(content)?);
        }
        let required_ekus = match self.required_eku {
            Some(names) => names.iter().map(|n| eku(n)).collect::<Result<_, _>>().map_err(content)?,
            None => vec![oid::CODE_SIGNING],
        };
        Ok(TrustPolicy {
            roots,
            timestamp_roots: certificates(&self.timestamp_roots, open)?,
            intermediates: certificates(&self.intermediates, open)?,
            publishers,
            required_ekus,
            minimum_sequence: self.minimum_sequence,
            denied_files: hashes(&self.denied_files, &[32, 48, 64]).map_err(content)?,
            denied_certificates: hashes(&self.denied_certificates, &[20, 32]).map_err(content)?,
            revocation_lists,
            revocation_required: self.revocation_required,
            timestamp_required: self.timestamp_required,
            unsigned_permitted: self.allow_unsigned,
            checksum_required: self.checksum_required,
            provenance_required: self.provenance_required,
        })
    }
}

impl PublisherFile {
    fn resolve(self) -> Result<Publisher, Fault> {
        let thumbprint = match &self.thumbprint {
            Some(text) => Some(hash(text, &[20, 32])?),
            None => None,
        };
        let publisher = Publisher { common_name: self.common_name, organisation: self.organisation, thumbprint };
        if publisher == Publisher::default() {
            return Err(wrong("a publisher with a common_name, an organisation or a thumbprint"));
        }
        Ok(publisher)
    }
}

/// Certificates in files, or in PEM right here.
fn certificates(names: &[String], open: &Open<'_>) -> Result<Vec<Certificate>, PolicyError> {
    let mut all = Vec::new();
    for name in names {
        let (path, bytes) = if name.contains("-----BEGIN ") {
            (PathBuf::from("policy"), name.clone().into_bytes())
        } else {
            open(name)?
        };
        let content = |fault| PolicyError::Content { path: path.clone(), fault };
        let found = if bytes.first() == Some(&0x30) {
            vec![Certificate::from_der(&bytes).map_err(content)?]
        } else {
            read_pem_certificates(&bytes).map_err(content)?
        };
        if found.is_empty() {
            return Err(content(wrong("at least one certificate in PEM or DER")));
        }
        all.extend(found);
    }
    Ok(all)
}

fn hash(text: &str, sizes: &[usize]) -> Result<Vec<u8>, Fault> {
    unhex(text)
        .filter(|h| sizes.contains(&h.len()))
        .ok_or_else(|| wrong(format!("a hash of {sizes:?} bytes in hexadecimal, not {text:?}")))
}

fn hashes(texts: &[String], sizes: &[usize]) -> Result<BTreeSet<Vec<u8>>, Fault> {
    texts.iter().map(|t| hash(t, sizes)).collect()
}

/// A purpose by name or by object identifier.
fn eku(name: &str) -> Result<ObjectIdentifier, Fault> {
    match name {
        "codeSigning" => Ok(oid::CODE_SIGNING),
        other => ObjectIdentifier::new(other)
            .map_err(|_| wrong(format!("codeSigning or an object identifier, not {other:?}"))),
    }
}
