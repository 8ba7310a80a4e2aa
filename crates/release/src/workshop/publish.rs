//! Publishing: roots, and the roles' metadata over what is prepared.

use super::{LIMIT, RoleHolders, Workshop, image_path, patch_path};
use crate::canonical;
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::files::{Batch, Source};
use crate::time::{DAY, Time};
use crate::tuf::{
    self, Envelope, Hashes, Key, Meta, Role, RoleKeys, Root, SPEC_VERSION, Snapshot, Target, Targets, Timestamp,
};
use hotgraft_signer::DigestSigner;
use serde::Serialize;
use std::collections::BTreeMap;

/// What publishing did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Versions of root, targets, snapshot, timestamp.
    pub versions: [u64; 4],
    /// Entries of the history.
    pub entries: u64,
    /// Files that are served, without metadata.
    pub targets: usize,
    /// Roles that were signed anew.
    pub signed: Vec<&'static str>,
}

/// The document that names these keys.
pub(super) fn root_of(version: u64, expires: Time, roles: &BTreeMap<Role, RoleHolders>) -> Result<Root> {
    let (mut keys, mut by_role) = (BTreeMap::new(), BTreeMap::new());
    for role in Role::ALL {
        let holders = roles
            .get(&role)
            .ok_or_else(|| Error::malformed("the roles", format!("at least one certificate for {}", role.name())))?;
        let mut keyids = std::collections::BTreeSet::new();
        for certificate in &holders.certificates {
            let key = Key::of(certificate)?;
            keyids.insert(key.id()?);
            keys.insert(key.id()?, key);
        }
        if holders.threshold == 0 || (keyids.len() as u64) < u64::from(holders.threshold) {
            let text =
                format!("a threshold between 1 and {} for {}, not {}", keyids.len(), role.name(), holders.threshold);
            return Err(Error::malformed("the roles", text));
        }
        by_role.insert(role.name().to_owned(), RoleKeys { keyids, threshold: holders.threshold });
    }
    Ok(Root {
        kind: Role::Root.name().to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version,
        expires,
        consistent_snapshot: true,
        keys,
        roles: by_role,
    })
}

impl Workshop {
    /// The root that counts now, found by its chain.
    fn root(&self) -> Result<Root> {
        let mut root: Option<Root> = None;
        for version in 1.. {
            let file = format!("metadata/{version}.root.json");
            let Some(bytes) = self.public().read(&file, LIMIT)? else { break };
            let envelope: Envelope =
                serde_json::from_slice(&bytes).map_err(|e| Error::untrusted("malformed", &file, e.to_string()))?;
            root = Some(
                serde_json::from_value(envelope.signed)
                    .map_err(|e| Error::untrusted("malformed", &file, e.to_string()))?,
            );
        }
        root.ok_or_else(|| Error::untrusted("missing", "metadata/1.root.json", "it is not there"))
    }

    /// A document of ours with its bytes, whoever signed it.
    fn own<T: serde::de::DeserializeOwned>(&self, file: &str) -> Result<Option<(T, Envelope, Vec<u8>)>> {
        let Some(bytes) = self.public().read(file, LIMIT)? else { return Ok(None) };
        let bad = |e: serde_json::Error| Error::untrusted("malformed", file, e.to_string());
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(bad)?;
        let document = serde_json::from_value(envelope.signed.clone()).map_err(bad)?;
        Ok(Some((document, envelope, bytes)))
    }

    /// Publishes what is prepared, or the same again for a longer time. What still counts is kept, so that a machine
    /// with the key of `timestamp` alone can keep an unchanged catalog fresh.
    ///
    /// # Errors
    /// [`Error::Untrusted`] if the signers are not enough, or the draft does not continue what is published. Readers find
    /// the old state until all files are there.
    pub fn publish(&mut self, signers: &[&dyn DigestSigner], now: Time) -> Result<Published> {
        let root = self.root()?;
        self.publish_under(&root, None, signers, now)
    }

    /// Gives roles other keys: a new root, signed by the old and the new keys of the root, and everything published anew
    /// as far as its keys changed.
    ///
    /// # Errors
    /// As [`Workshop::publish`].
    pub fn rotate(
        &mut self,
        changes: &BTreeMap<Role, RoleHolders>,
        signers: &[&dyn DigestSigner],
        now: Time,
    ) -> Result<Published> {
        let old = self.root()?;
        let mut new =
            Root { version: old.version + 1, expires: now.plus_days(self.draft.expiry.of(Role::Root)), ..old.clone() };
        for (role, holders) in changes {
            let all: BTreeMap<Role, RoleHolders> = Role::ALL.into_iter().map(|r| (r, holders.clone())).collect();
            let made = root_of(new.version, new.expires, &all)?;
            new.keys.extend(made.keys);
            let keys = made.roles.get(role.name()).cloned();
            new.roles.extend(keys.map(|keys| (role.name().to_owned(), keys)));
        }
        let used: Vec<&String> = new.roles.values().flat_map(|role| &role.keyids).collect();
        let kept = new.keys.iter().filter(|(id, _)| used.contains(id));
        new.keys = kept.map(|(id, key)| (id.clone(), key.clone())).collect();
        let file = format!("{}.root.json", new.version);
        let bytes = tuf::sign(&file, &new, &[&old, &new], Role::Root, signers)?;
        self.publish_under(&new, Some(bytes), signers, now)
    }

    fn targets(&self) -> Result<(BTreeMap<String, Target>, Vec<u8>)> {
        let catalog = &self.draft.catalog;
        let bytes = canonical::pretty(catalog)?;
        let target = |length: u64, sha256: &str| Target { length, hashes: Hashes { sha256: sha256.to_owned() } };
        let mut targets = BTreeMap::new();
        targets.insert("catalog.json".to_owned(), target(bytes.len() as u64, &canonical::sha256(&bytes)));
        for (_, baseline) in catalog.baselines() {
            targets.extend(baseline.images.iter().map(|i| (image_path(i), target(i.size, &i.sha256))));
        }
        for (_, hotpatch) in catalog.hotpatches() {
            targets.extend(hotpatch.patches.iter().map(|p| (patch_path(hotpatch, p), target(p.size, &p.sha256))));
        }
        Ok((targets, bytes))
    }

    fn publish_under(
        &mut self,
        root: &Root,
        new_root: Option<Vec<u8>>,
        signers: &[&dyn DigestSigner],
        now: Time,
    ) -> Result<Published> {
        let expiry = self.draft.expiry;
        // Half of its time left: what is signed now need not be signed again.
        let fresh = |role: Role, expires: Time| expires >= now.plus_seconds(expiry.of(role) * DAY / 2);
        let still = |role: Role, file: &str, envelope: &Envelope, expires: Time| {
            fresh(role, expires) && envelope.check(file, root, role).is_ok()
        };
        let until = |role: Role| now.plus_days(expiry.of(role));
        let common = |role: Role| (role.name().to_owned(), SPEC_VERSION.to_owned());
        let mut signed = Vec::new();
        let mut batch = Batch::new();
        let metadata = self.public().0.join("metadata");

        let old_timestamp = self.own::<Timestamp>("metadata/timestamp.json")?;
        let version_of = |meta: Option<&Meta>| meta.map_or(0, |meta| meta.version);
        let snapshot_version = version_of(old_timestamp.as_ref().and_then(|(t, ..)| t.meta.get("snapshot.json")));
        let old_snapshot = self.own::<Snapshot>(&format!("metadata/{snapshot_version}.snapshot.json"))?;
        let targets_version = version_of(old_snapshot.as_ref().and_then(|(s, ..)| s.meta.get("targets.json")));
        let old_targets = self.own::<Targets>(&format!("metadata/{targets_version}.targets.json"))?;

        let (targets, catalog_bytes) = self.targets()?;
        if let Some((old, ..)) = &old_targets
            && let Some(target) = old.targets.get("catalog.json")
        {
            let published = Catalog::read(&self.target("catalog.json", &target.hashes.sha256)?)?;
            if let Some((number, hash)) = published.head()?
                && !self.draft.catalog.continues(number, &hash)?
            {
                let text = format!("it does not continue what is published (entry {number})");
                return Err(Error::untrusted("history", "draft.json", text));
            }
        }
        // Everything that is about to be named is there.
        for (path, target) in targets.iter().filter(|(path, _)| path.as_str() != "catalog.json") {
            let known = old_targets.as_ref().is_some_and(|(old, ..)| old.targets.get(path) == Some(target));
            if !known {
                self.target(path, &target.hashes.sha256)?;
            }
        }
        let kept = old_targets.filter(|(old, envelope, _)| {
            old.targets == targets && still(Role::Targets, "targets.json", envelope, old.expires)
        });
        let (targets_version, targets_bytes) = match kept {
            Some((old, _, bytes)) => (old.version, bytes),
            None => {
                let version = targets_version + 1;
                let (kind, spec_version) = common(Role::Targets);
                let document =
                    Targets { kind, spec_version, version, expires: until(Role::Targets), targets: targets.clone() };
                let file = format!("{version}.targets.json");
                let bytes = tuf::sign(&file, &document, &[root], Role::Targets, signers)?;
                let catalog = tuf::target_file("catalog.json", &canonical::sha256(&catalog_bytes));
                let catalog = catalog.ok_or_else(|| Error::malformed("catalog.json", "a safe name"))?;
                batch.put(self.public().0.join(catalog), catalog_bytes);
                batch.put(metadata.join(file), bytes.clone());
                signed.push(Role::Targets.name());
                (version, bytes)
            }
        };
        let meta = |version: u64, bytes: &[u8]| Meta {
            version,
            length: bytes.len() as u64,
            hashes: Hashes { sha256: canonical::sha256(bytes) },
        };
        let wanted = BTreeMap::from([("targets.json".to_owned(), meta(targets_version, &targets_bytes))]);
        let kept = old_snapshot.filter(|(old, envelope, _)| {
            old.meta == wanted && still(Role::Snapshot, "snapshot.json", envelope, old.expires)
        });
        let (snapshot_version, snapshot_bytes) = match kept {
            Some((old, _, bytes)) => (old.version, bytes),
            None => {
                let version = snapshot_version + 1;
                let (kind, spec_version) = common(Role::Snapshot);
                let document = Snapshot { kind, spec_version, version, expires: until(Role::Snapshot), meta: wanted };
                let file = format!("{version}.snapshot.json");
                let bytes = tuf::sign(&file, &document, &[root], Role::Snapshot, signers)?;
                batch.put(metadata.join(file), bytes.clone());
                signed.push(Role::Snapshot.name());
                (version, bytes)
            }
        };
        let version = old_timestamp.map_or(0, |(old, ..)| old.version) + 1;
        let (kind, spec_version) = common(Role::Timestamp);
        let named = BTreeMap::from([("snapshot.json".to_owned(), meta(snapshot_version, &snapshot_bytes))]);
        let document = Timestamp { kind, spec_version, version, expires: until(Role::Timestamp), meta: named };
        let bytes = tuf::sign("timestamp.json", &document, &[root], Role::Timestamp, signers)?;
        signed.push(Role::Timestamp.name());
        if let Some(bytes) = new_root {
            batch.put(metadata.join(format!("{}.root.json", root.version)), bytes);
            signed.insert(0, Role::Root.name());
        }
        // Last: it makes all the others count.
        batch.put(metadata.join("timestamp.json"), bytes);
        if let Some(index) = self.stop_before {
            batch.stop_before(index);
        }
        batch.commit()?;
        let entries = self.draft.catalog.history.len() as u64;
        let versions = [root.version, targets_version, snapshot_version, version];
        Ok(Published { versions, entries, targets: targets.len(), signed })
    }
}
