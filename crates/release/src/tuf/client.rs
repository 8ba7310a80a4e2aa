//! What a machine does with a catalog that somebody serves: the workflow of the framework's clients, section 5 of its
//! specification, and the history of releases on top.

use super::metadata::{Envelope, Meta, Metadata, Role, Root, Snapshot, Target, Targets, Timestamp};
use crate::canonical;
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::files::{Source, is_safe};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is read at most, bytes and numbers: nobody can fill a disk with a catalog.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A root.
    pub root: u64,
    /// A timestamp.
    pub timestamp: u64,
    /// Snapshot, targets, catalog: what their referrers state, and at most this.
    pub other: u64,
    /// New roots in one update.
    pub roots: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { root: 1 << 20, timestamp: 1 << 16, other: 64 << 20, roots: 256 }
    }
}

/// What a machine remembers between updates. It is written when a whole update was found in order, never otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// `hotgraft.release.trusted/1`.
    pub schema: String,
    /// The last root.
    pub root: Value,
    /// The last timestamp.
    pub timestamp: Option<Value>,
    /// The last snapshot.
    pub snapshot: Option<Value>,
    /// Version of the last targets.
    pub targets: u64,
    /// Number and hash of the last entry of the history.
    pub history: Option<(u64, String)>,
}

const REMEMBERED: &str = "hotgraft.release.trusted/1";

/// A client with its first trusted root or what it remembers.
#[derive(Clone, Debug)]
pub struct Client {
    remembered: Remembered,
    limits: Limits,
    judge_expiry: bool,
}

/// A catalog that is to be trusted.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// The catalog.
    pub catalog: Catalog,
    /// The root that counts.
    pub root: Root,
    /// The files.
    pub targets: Targets,
    /// Snapshot.
    pub snapshot: Snapshot,
    /// Timestamp.
    pub timestamp: Timestamp,
    /// What to remember from now on.
    pub remembered: Remembered,
}

/// What an update came to, in figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Update {
    /// Versions of root, targets, snapshot, timestamp.
    pub versions: [u64; 4],
    /// Until when it counts: the earliest expiry.
    pub expires: Time,
    /// Entries of the history.
    pub entries: u64,
}

impl Client {
    /// A client that was given a root by a way that it trusts.
    ///
    /// # Errors
    /// [`Error::Untrusted`].
    pub fn new(root: &[u8]) -> Result<Client> {
        let envelope = Envelope::read("root", root)?;
        let document: Root = envelope.open("root")?;
        envelope.check("root", &document, Role::Root)?;
        let root = serde_json::to_value(&envelope).map_err(|e| Error::malformed("root", e.to_string()))?;
        let remembered = Remembered {
            schema: REMEMBERED.to_owned(),
            root,
            timestamp: None,
            snapshot: None,
            targets: 0,
            history: None,
        };
        Ok(Client { remembered, limits: Limits::default(), judge_expiry: true })
    }

    /// A client that remembers.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is not what a client wrote.
    pub fn resume(bytes: &[u8]) -> Result<Client> {
        let bad = |text: String| Error::malformed("the remembered state", text);
        let remembered: Remembered =
            serde_json::from_slice(bytes).map_err(|e| bad(format!("JSON of a client ({e})")))?;
        if remembered.schema != REMEMBERED {
            return Err(bad(format!("schema {REMEMBERED}")));
        }
        Ok(Client { remembered, limits: Limits::default(), judge_expiry: true })
    }

    /// For who publishes: what has expired may be published anew.
    #[must_use]
    pub fn without_expiry(mut self) -> Client {
        self.judge_expiry = false;
        self
    }

    /// Other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Client {
        self.limits = limits;
        self
    }

    /// Reads what `source` serves and judges it at `now`. Nothing is changed; what to remember is in the result.
    ///
    /// # Errors
    /// [`Error::Untrusted`]: the catalog is not to be used.
    pub fn update(&self, source: &dyn Source, now: Time) -> Result<Trusted> {
        let before = &self.remembered;
        let (root, root_value) = self.update_root(source, now)?;
        let old_root: Root = reopen("root", &before.root)?;
        // Keys of these roles were replaced, perhaps because they were stolen: what they signed says nothing any more, as
        // a thief may have signed versions beyond all others.
        let replaced = [Role::Timestamp, Role::Snapshot]
            .iter()
            .any(|role| old_root.roles.get(role.name()) != root.roles.get(role.name()));

        let file = "metadata/timestamp.json";
        let envelope = Envelope::read(file, &self.fetch(source, file, self.limits.timestamp)?)?;
        envelope.check(file, &root, Role::Timestamp)?;
        let timestamp: Timestamp = envelope.open(file)?;
        let timestamp_value = value(file, &envelope)?;
        let stated = meta(file, &timestamp.meta, "snapshot.json")?;
        if let (Some(old), false) = (&before.timestamp, replaced) {
            let old: Timestamp = reopen("timestamp", old)?;
            not_below(file, timestamp.version, old.version)?;
            not_below(file, stated.version, meta("timestamp", &old.meta, "snapshot.json")?.version)?;
        }
        self.in_time(file, timestamp.expires, now)?;

        let file = format!("metadata/{}.snapshot.json", stated.version);
        let envelope = Envelope::read(&file, &self.fetch_stated(source, &file, stated)?)?;
        envelope.check(&file, &root, Role::Snapshot)?;
        let snapshot: Snapshot = envelope.open(&file)?;
        let snapshot_value = value(&file, &envelope)?;
        same_version(&file, snapshot.version, stated.version)?;
        let stated = meta(&file, &snapshot.meta, "targets.json")?;
        if let (Some(old), false) = (&before.snapshot, replaced) {
            let old: Snapshot = reopen("snapshot", old)?;
            let old = old
                .meta
                .get("targets.json")
                .ok_or_else(|| Error::untrusted("malformed", "the remembered snapshot", "it names no targets.json"))?;
            not_below(&file, stated.version, old.version)?;
        }
        self.in_time(&file, snapshot.expires, now)?;

        let file = format!("metadata/{}.targets.json", stated.version);
        let envelope = Envelope::read(&file, &self.fetch_stated(source, &file, stated)?)?;
        envelope.check(&file, &root, Role::Targets)?;
        let targets: Targets = envelope.open(&file)?;
        same_version(&file, targets.version, stated.version)?;
        self.in_time(&file, targets.expires, now)?;

        let bytes = fetch_target(source, &targets, "catalog.json")?;
        let catalog = Catalog::read(&bytes).map_err(|e| Error::untrusted("history", "catalog.json", e.to_string()))?;
        // As above: whoever had stolen the keys of `targets` could write history. With new keys the vendor's counts.
        let targets_replaced = old_root.roles.get(Role::Targets.name()) != root.roles.get(Role::Targets.name());
        if let Some((number, hash)) = &before.history
            && !targets_replaced
            && !catalog.continues(*number, hash)?
        {
            let text = format!("it does not continue the history that was seen before (entry {number})");
            return Err(Error::untrusted("history", "catalog.json", text));
        }
        let remembered = Remembered {
            schema: REMEMBERED.to_owned(),
            root: root_value,
            timestamp: Some(timestamp_value),
            snapshot: Some(snapshot_value),
            targets: targets.version,
            history: catalog.head()?,
        };
        Ok(Trusted { catalog, root, targets, snapshot, timestamp, remembered })
    }

    /// The chain of roots: each new one is signed by enough keys of the one before, and of its own.
    fn update_root(&self, source: &dyn Source, now: Time) -> Result<(Root, Value)> {
        let mut current: Root = reopen("root", &self.remembered.root)?;
        let mut current_value = self.remembered.root.clone();
        for _ in 0..self.limits.roots {
            let next = current.version + 1;
            let file = format!("metadata/{next}.root.json");
            let Some(bytes) = source.read(&file, self.limits.root)? else {
                self.in_time(&format!("metadata/{}.root.json", current.version), current.expires, now)?;
                return Ok((current, current_value));
            };
            if bytes.len() as u64 > self.limits.root {
                return Err(Error::untrusted(
                    "malformed",
                    file,
                    format!("it is longer than {} bytes", self.limits.root),
                ));
            }
            let envelope = Envelope::read(&file, &bytes)?;
            envelope.check(&file, &current, Role::Root)?;
            let root: Root = envelope.open(&file)?;
            envelope.check(&file, &root, Role::Root)?;
            same_version(&file, root.version, next)?;
            if !root.consistent_snapshot {
                return Err(Error::untrusted(
                    "malformed",
                    file,
                    "it is not for files that carry version or hash in their names",
                ));
            }
            current_value = value(&file, &envelope)?;
            current = root;
        }
        Err(Error::untrusted("malformed", "metadata", format!("more than {} new roots", self.limits.roots)))
    }

    fn in_time(&self, file: &str, expires: Time, now: Time) -> Result<()> {
        if self.judge_expiry && now >= expires {
            return Err(Error::untrusted("stale", file, format!("it counted until {expires}; it is {now}")));
        }
        Ok(())
    }

    fn fetch(&self, source: &dyn Source, file: &str, limit: u64) -> Result<Vec<u8>> {
        let bytes = source.read(file, limit)?.ok_or_else(|| Error::untrusted("missing", file, "it is not there"))?;
        if bytes.len() as u64 > limit {
            return Err(Error::untrusted("malformed", file, format!("it is longer than {limit} bytes")));
        }
        Ok(bytes)
    }

    fn fetch_stated(&self, source: &dyn Source, file: &str, stated: &Meta) -> Result<Vec<u8>> {
        let limit = stated.length.min(self.limits.other);
        let bytes = source.read(file, limit)?.ok_or_else(|| Error::untrusted("missing", file, "it is not there"))?;
        same_bytes(file, &bytes, stated.length, &stated.hashes.sha256)?;
        Ok(bytes)
    }
}

/// A file that `targets` names, checked.
fn fetch_target(source: &dyn Source, targets: &Targets, path: &str) -> Result<Vec<u8>> {
    let target =
        targets.targets.get(path).ok_or_else(|| Error::untrusted("missing", path, "no target has this name"))?;
    read_target(source, path, target)
}

fn read_target(source: &dyn Source, path: &str, target: &Target) -> Result<Vec<u8>> {
    let file = target_file(path, &target.hashes.sha256)
        .ok_or_else(|| Error::untrusted("malformed", path.escape_debug().to_string(), "not a safe name"))?;
    let bytes =
        source.read(&file, target.length)?.ok_or_else(|| Error::untrusted("missing", &file, "it is not there"))?;
    same_bytes(&file, &bytes, target.length, &target.hashes.sha256)?;
    Ok(bytes)
}

/// Where a target lies: its hash is in its name, so that two states of a catalog never share a name.
pub(crate) fn target_file(path: &str, sha256: &str) -> Option<String> {
    let is_hash = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !is_safe(path) || !is_hash {
        return None;
    }
    Some(match path.rsplit_once('/') {
        Some((folder, name)) => format!("targets/{folder}/{sha256}.{name}"),
        None => format!("targets/{sha256}.{path}"),
    })
}

impl Trusted {
    /// The bytes of a file of the catalog, checked against its hash.
    ///
    /// # Errors
    /// [`Error::Untrusted`].
    pub fn target(&self, source: &dyn Source, path: &str) -> Result<Vec<u8>> {
        fetch_target(source, &self.targets, path)
    }

    /// Reads every file of the catalog and checks it; returns number and bytes.
    ///
    /// # Errors
    /// [`Error::Untrusted`] for the first that is not in order.
    pub fn check_files(&self, source: &dyn Source) -> Result<(usize, u64)> {
        let mut bytes = 0;
        for (path, target) in &self.targets.targets {
            bytes += read_target(source, path, target)?.len() as u64;
        }
        Ok((self.targets.targets.len(), bytes))
    }

    /// The update in figures.
    pub fn figures(&self) -> Update {
        let expiries = [self.root.expires, self.targets.expires, self.snapshot.expires, self.timestamp.expires];
        Update {
            versions: [self.root.version, self.targets.version, self.snapshot.version, self.timestamp.version],
            expires: expiries.into_iter().min().unwrap_or(self.timestamp.expires),
            entries: self.catalog.history.len() as u64,
        }
    }
}

fn value(file: &str, envelope: &Envelope) -> Result<Value> {
    serde_json::to_value(envelope).map_err(|e| Error::malformed(file, e.to_string()))
}

/// A document that was checked when it was remembered.
fn reopen<T: Metadata>(file: &str, value: &Value) -> Result<T> {
    let envelope: Envelope = serde_json::from_value(value.clone())
        .map_err(|e| Error::malformed(format!("the remembered {file}"), e.to_string()))?;
    envelope.open(file)
}

fn meta<'a>(file: &str, all: &'a std::collections::BTreeMap<String, Meta>, name: &str) -> Result<&'a Meta> {
    all.get(name).ok_or_else(|| Error::untrusted("malformed", file, format!("it does not name {name}")))
}

fn not_below(file: &str, version: u64, seen: u64) -> Result<()> {
    if version < seen {
        return Err(Error::untrusted("rollback", file, format!("version {version}, after version {seen} was seen")));
    }
    Ok(())
}

fn same_version(file: &str, version: u64, stated: u64) -> Result<()> {
    if version != stated {
        return Err(Error::untrusted("mixed_up", file, format!("it is version {version}, not {stated}")));
    }
    Ok(())
}

fn same_bytes(file: &str, bytes: &[u8], length: u64, sha256: &str) -> Result<()> {
    if (bytes.len() as u64) < length {
        return Err(Error::untrusted("truncated", file, format!("{} bytes of {length}", bytes.len())));
    }
    let found = canonical::sha256(bytes);
    if bytes.len() as u64 != length || found != sha256 {
        return Err(Error::untrusted("mixed_up", file, format!("its SHA-256 is {found}, not {sha256}")));
    }
    Ok(())
}
