//! The documents of the four roles, and their signatures.

use super::key::Key;
use crate::canonical;
use crate::error::{Error, Result};
use crate::time::Time;
use hotgraft_hotpatch::hex;
use hotgraft_signer::DigestSigner;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Version of the framework's specification that is followed.
pub(crate) const SPEC_VERSION: &str = "1.0.31";

/// The four roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Says which keys count.
    Root,
    /// Says which files there are.
    Targets,
    /// Says which versions belong together.
    Snapshot,
    /// Says what is newest.
    Timestamp,
}

impl Role {
    /// All.
    pub const ALL: [Role; 4] = [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp];

    /// Its name in metadata.
    pub fn name(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Targets => "targets",
            Role::Snapshot => "snapshot",
            Role::Timestamp => "timestamp",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        let found = Role::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| format!("{text}: expected root, targets, snapshot or timestamp"))
    }
}

/// For how long what a role signs counts, days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expiry {
    /// Root.
    pub root: u32,
    /// Targets.
    pub targets: u32,
    /// Snapshot.
    pub snapshot: u32,
    /// Timestamp.
    pub timestamp: u32,
}

impl Default for Expiry {
    /// Two years, four months, a month, a week.
    fn default() -> Self {
        Expiry { root: 730, targets: 120, snapshot: 30, timestamp: 7 }
    }
}

impl Expiry {
    /// Days of a role.
    pub fn of(self, role: Role) -> u64 {
        u64::from(match role {
            Role::Root => self.root,
            Role::Targets => self.targets,
            Role::Snapshot => self.snapshot,
            Role::Timestamp => self.timestamp,
        })
    }
}

/// Keys of a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// Ids of keys.
    pub keyids: BTreeSet<String>,
    /// How many of them must sign.
    pub threshold: u32,
}

/// Root metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// `root`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification.
    pub spec_version: String,
    /// Version.
    pub version: u64,
    /// Until when it counts.
    pub expires: Time,
    /// Whether files carry their version or hash in their names.
    pub consistent_snapshot: bool,
    /// Keys by id.
    pub keys: BTreeMap<String, Key>,
    /// Keys of each role.
    pub roles: BTreeMap<String, RoleKeys>,
}

/// Hashes of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes {
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Bytes.
    pub length: u64,
    /// Hashes.
    pub hashes: Hashes,
}

/// A metadata file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Version.
    pub version: u64,
    /// Bytes.
    pub length: u64,
    /// Hashes.
    pub hashes: Hashes,
}

/// Targets metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// `targets`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification.
    pub spec_version: String,
    /// Version.
    pub version: u64,
    /// Until when it counts.
    pub expires: Time,
    /// Files by path.
    pub targets: BTreeMap<String, Target>,
}

/// Snapshot metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `snapshot`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification.
    pub spec_version: String,
    /// Version.
    pub version: u64,
    /// Until when it counts.
    pub expires: Time,
    /// `targets.json`.
    pub meta: BTreeMap<String, Meta>,
}

/// Timestamp metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// `timestamp`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification.
    pub spec_version: String,
    /// Version.
    pub version: u64,
    /// Until when it counts.
    pub expires: Time,
    /// `snapshot.json`.
    pub meta: BTreeMap<String, Meta>,
}

/// What all four say.
pub(super) trait Metadata: Serialize + DeserializeOwned {
    /// Which role signs it.
    const ROLE: Role;
    /// Type, version of the specification, version, expiry.
    fn common(&self) -> (&str, &str, u64, Time);
}

macro_rules! metadata {
    ($($kind:ident),*) => {$(
        impl Metadata for $kind {
            const ROLE: Role = Role::$kind;
            fn common(&self) -> (&str, &str, u64, Time) {
                (&self.kind, &self.spec_version, self.version, self.expires)
            }
        }
    )*};
}
metadata!(Root, Targets, Snapshot, Timestamp);

/// A document with its signatures. The signed part is kept as it was read, fields of later versions included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Signatures.
    pub signatures: Vec<Signature>,
    /// What is signed.
    pub signed: Value,
}

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Id of the key.
    pub keyid: String,
    /// The signature, hexadecimal.
    pub sig: String,
}

/// Signs a document with those of `signers` whose keys belong to one of `roles` (keys by id), and checks that enough did.
pub(crate) fn sign(
    file: &str,
    document: &impl Serialize,
    roots: &[&Root],
    role: Role,
    signers: &[&dyn DigestSigner],
) -> Result<Vec<u8>> {
    let signed = serde_json::to_value(document).map_err(|e| Error::malformed(file, format!("JSON ({e})")))?;
    let message = canonical::bytes(&signed)?;
    let mut signatures = BTreeMap::new();
    for signer in signers {
        let Some(certificate) = signer.certificates().first() else { continue };
        let key = Key::of(certificate)?;
        let id = key.id()?;
        let counts = roots.iter().any(|root| root.roles.get(role.name()).is_some_and(|r| r.keyids.contains(&id)));
        if let Some(digest) = key.digest().filter(|_| counts) {
            let signature = signer.sign(digest, &message)?;
            if !key.verifies(&message, &signature) {
                return Err(Error::malformed(
                    file,
                    format!("a signature by the key of {}", certificate.subject_text()),
                ));
            }
            signatures.insert(id, hex::text(&signature));
        }
    }
    let signatures = signatures.into_iter().map(|(keyid, sig)| Signature { keyid, sig }).collect();
    let envelope = Envelope { signatures, signed };
    for root in roots {
        envelope.check(file, root, role)?;
    }
    canonical::pretty(&envelope)
}

impl Envelope {
    /// Reads a file.
    pub(super) fn read(file: &str, bytes: &[u8]) -> Result<Envelope> {
        serde_json::from_slice(bytes)
            .map_err(|e| Error::untrusted(if e.is_eof() { "truncated" } else { "malformed" }, file, e.to_string()))
    }

    /// Whether enough keys of the role have signed.
    pub(crate) fn check(&self, file: &str, root: &Root, role: Role) -> Result<()> {
        let message = canonical::bytes(&self.signed)?;
        let Some(keys) = root.roles.get(role.name()) else {
            return Err(Error::untrusted("malformed", file, format!("the root names no keys for {}", role.name())));
        };
        let mut good = BTreeSet::new();
        // Each key counts once, however often it signed, and under whatever id it is listed twice.
        for signature in self.signatures.iter().take(64).filter(|s| keys.keyids.contains(&s.keyid)) {
            let Some(key) = root.keys.get(&signature.keyid) else { continue };
            let value = decode(&signature.sig);
            if key.id()? == signature.keyid && value.is_some_and(|value| key.verifies(&message, &value)) {
                good.insert(&key.keyval.public);
            }
        }
        let (good, needed) = (good.len(), keys.threshold.max(1) as usize);
        if good < needed {
            let text = format!("{good} of {needed} signatures by keys of {} that the root names", role.name());
            return Err(Error::untrusted(if self.signatures.is_empty() { "unsigned" } else { "tampered" }, file, text));
        }
        Ok(())
    }

    /// The document, once its signatures are checked.
    pub(super) fn open<T: Metadata>(&self, file: &str) -> Result<T> {
        let malformed = |text: String| Error::untrusted("malformed", file, text);
        let document: T = serde_json::from_value(self.signed.clone()).map_err(|e| malformed(e.to_string()))?;
        let (kind, spec, version, _) = document.common();
        if kind != T::ROLE.name() {
            return Err(Error::untrusted("mixed_up", file, format!("it is of type {kind}, not {}", T::ROLE.name())));
        }
        if !spec.starts_with("1.") || version == 0 {
            return Err(malformed(format!("specification {spec}, version {version}")));
        }
        Ok(document)
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || digits.len() > 4096 {
        return None;
    }
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    digits.chunks_exact(2).map(|p| Some(digit(p[0])? * 16 + digit(p[1])?)).collect()
}
