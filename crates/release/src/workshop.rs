//! The vendor's side: a folder in which releases are prepared and from which they are published.
//!
//! | in the folder | is |
//! |---|---|
//! | `draft.json` | the catalog with what is not published yet, and for how long signatures count |
//! | `root.json` | the first root: what machines are given by another way than the catalog itself |
//! | `public/` | what any static web server serves: `metadata/` and `targets/` |

use crate::canonical;
use crate::catalog::{Baseline, Catalog, Event, Hotpatch, Image, Patch, Revoke};
use crate::error::{Error, Result};
use crate::files::{Batch, Folder, Source, read_limited};
use crate::proof;
use crate::time::{DAY, Time};
use crate::tuf::{
    self, Client, Envelope, Expiry, Hashes, Key, Meta, Role, RoleKeys, Root, SPEC_VERSION, Snapshot, Target, Targets,
    Timestamp,
};
use hotgraft_engine::PatchFile;
use hotgraft_engine::identity::pdb_text;
use hotgraft_hotpatch::hex;
use hotgraft_signer::{Certificate, DigestSigner};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SCHEMA: &str = "hotgraft.release.draft/1";
/// No metadata of our own is longer, bytes.
const LIMIT: u64 = 256 << 20;

/// What is prepared.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// `hotgraft.release.draft/1`.
    pub schema: String,
    /// The catalog, what is not published yet included.
    pub catalog: Catalog,
    /// For how long signatures count.
    pub expiry: Expiry,
}

/// The keys of one role, as they are to be.
#[derive(Clone, Debug)]
pub struct RoleHolders {
    /// Certificates of the keys.
    pub certificates: Vec<Certificate>,
    /// How many must sign.
    pub threshold: u32,
}

/// The folder of a vendor.
#[derive(Debug)]
pub struct Workshop {
    folder: PathBuf,
    /// What is prepared.
    pub draft: Draft,
    stop_before: Option<usize>,
}

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

/// Path of an image in the catalog.
pub fn image_path(image: &Image) -> String {
    format!("images/{}/{}", image.sha256.get(..16).unwrap_or_default(), image.name)
}

/// Path of a patch in the catalog.
pub fn patch_path(hotpatch: &Hotpatch, patch: &Patch) -> String {
    format!("patches/{}/{}", hotpatch.id, patch.file)
}

/// Name, hash and identity of an image.
///
/// # Errors
/// [`Error::Malformed`] for what is no image.
pub fn image_of(name: &str, bytes: &[u8]) -> Result<Image> {
    let mut space = hotgraft_engine::BufferSpace::new();
    const AT: u64 = 0x7ff6_0000_0000;
    space.load(name, bytes, AT).map_err(|e| Error::malformed(name, format!("an image that can be loaded ({e})")))?;
    let image = hotgraft_engine::memory::MappedImage::read(&space, AT)
        .map_err(|e| Error::malformed(name, format!("an image that can be loaded ({e})")))?;
    let identity = crate::catalog::Identity {
        timestamp: image.headers.timestamp,
        checksum: image.headers.checksum,
        image_size: image.headers.image_size,
        pdb: image.pdb.is_some().then(|| pdb_text(&image.pdb)),
    };
    Ok(Image { name: name.to_owned(), sha256: canonical::sha256(bytes), size: bytes.len() as u64, identity })
}

/// What a patch file says of itself, as a catalog has it.
///
/// # Errors
/// [`Error::Malformed`] for what is no patch.
pub fn patch_of(image: &str, file: &str, bytes: &[u8]) -> Result<Patch> {
    let patch = PatchFile::parse(bytes).map_err(|e| Error::malformed(file, format!("a hotpatch ({e})")))?;
    let graft = patch.graft();
    Ok(Patch {
        image: image.to_owned(),
        base_sha256: hex::text(&graft.base.sha256),
        new_sha256: hex::text(&graft.new_sha256),
        file: file.to_owned(),
        sha256: hex::text(&patch.sha256()),
        size: bytes.len() as u64,
        accepted: graft.accepted.clone(),
        irrevertible: graft.irrevertible.clone(),
        replaced: graft.functions.iter().filter(|f| f.base_rva.is_some()).map(|f| f.name.clone()).collect(),
    })
}

fn root_of(version: u64, expires: Time, roles: &BTreeMap<Role, RoleHolders>) -> Result<Root> {
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
    /// Makes a new folder: an empty catalog, published. It appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if there is something already; [`Error::Untrusted`] if the signers are not enough.
    pub fn init(
        folder: &Path,
        catalog: Catalog,
        expiry: Expiry,
        roles: &BTreeMap<Role, RoleHolders>,
        signers: &[&dyn DigestSigner],
        now: Time,
    ) -> Result<Workshop> {
        let failed = |e| Error::io(folder, "cannot be made", e);
        if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(failed(std::io::Error::new(std::io::ErrorKind::AlreadyExists, "it is not empty")));
        }
        let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let aside = tempfile::Builder::new().prefix(".hotgraft-").tempdir_in(parent).map_err(failed)?;
        let root = root_of(1, now.plus_days(expiry.of(Role::Root)), roles)?;
        let bytes = tuf::sign("1.root.json", &root, &[&root], Role::Root, signers)?;
        let draft = Draft { schema: SCHEMA.to_owned(), catalog, expiry };
        let mut batch = Batch::new();
        batch.put(aside.path().join("root.json"), bytes.clone());
        batch.put(aside.path().join("public/metadata/1.root.json"), bytes);
        batch.put(aside.path().join("draft.json"), canonical::pretty(&draft)?);
        batch.commit()?;
        let mut workshop = Workshop { folder: aside.path().to_owned(), draft, stop_before: None };
        workshop.publish(signers, now)?;
        if folder.exists() {
            std::fs::remove_dir(folder).map_err(failed)?;
        }
        std::fs::rename(aside.path(), folder).map_err(failed)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
        }
        workshop.folder = folder.to_owned();
        Ok(workshop)
    }

    /// Opens a folder.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is not one of a vendor, [`Error::Refused`] if its history breaks a rule.
    pub fn open(folder: &Path) -> Result<Workshop> {
        let path = folder.join("draft.json");
        let about = path.display().to_string();
        let bytes = read_limited(&path, LIMIT)?
            .ok_or_else(|| Error::malformed(&about, "a folder that `hotgraft release init` made"))?;
        let draft: Draft =
            serde_json::from_slice(&bytes).map_err(|e| Error::malformed(&about, format!("a draft ({e})")))?;
        if draft.schema != SCHEMA {
            return Err(Error::malformed(about, format!("schema {SCHEMA}")));
        }
        Catalog::read(&canonical::bytes(&draft.catalog)?)?;
        Ok(Workshop { folder: folder.to_owned(), draft, stop_before: None })
    }

    /// What is served.
    pub fn public(&self) -> Folder {
        Folder(self.folder.join("public"))
    }

    /// The first root.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn first_root(&self) -> Result<Vec<u8>> {
        read_limited(&self.folder.join("root.json"), LIMIT)?
            .ok_or_else(|| Error::malformed(self.folder.join("root.json").display().to_string(), "the first root"))
    }

    /// Makes the next writing stop after that many files have appeared, to try what an interruption leaves.
    pub fn stop_before(&mut self, index: Option<usize>) {
        self.stop_before = index;
    }

    /// Adds a baseline with its images (by name, the file's bytes).
    ///
    /// # Errors
    /// [`Error::Refused`]; nothing is written then.
    pub fn add_baseline(&mut self, date: Time, baseline: Baseline, images: &BTreeMap<String, Vec<u8>>) -> Result<()> {
        let mut files = Vec::new();
        for image in &baseline.images {
            let bytes = images
                .get(&image.name)
                .filter(|bytes| canonical::sha256(bytes) == image.sha256)
                .ok_or_else(|| Error::malformed(&image.name, "the bytes of the image that is listed"))?;
            files.push((image_path(image), image.sha256.clone(), bytes.clone()));
        }
        self.append(date, Event::Baseline(baseline), files)
    }

    /// Adds a hotpatch with its patches (by image name, the file's bytes), once it is shown that each is what the release
    /// says and that it can take the place of every earlier one on the baseline.
    ///
    /// # Errors
    /// [`Error::Refused`]; nothing is written then.
    pub fn add_hotpatch(
        &mut self,
        date: Time,
        hotpatch: Hotpatch,
        patches: &BTreeMap<String, Vec<u8>>,
    ) -> Result<BTreeMap<String, proof::Effect>> {
        crate::chain::check(&self.draft.catalog, date, &Event::Hotpatch(hotpatch.clone()))?;
        let (mut files, mut effects) = (Vec::new(), BTreeMap::new());
        for patch in &hotpatch.patches {
            let other = |text: String| Error::refused("chain.patch.other", format!("{}: {text}", patch.file));
            let bytes = patches
                .get(&patch.image)
                .filter(|bytes| canonical::sha256(bytes) == patch.sha256)
                .ok_or_else(|| Error::malformed(&patch.file, "the bytes of the patch that is listed"))?;
            if let Some(violation) = hotgraft_hotpatch::check::check(bytes).first() {
                return Err(other(format!("{}: {}", violation.rule, violation.text)));
            }
            if patch_of(&patch.image, &patch.file, bytes)? != *patch {
                return Err(other("it does not say what the release says of it".to_owned()));
            }
            let file = PatchFile::parse(bytes).map_err(|e| other(e.to_string()))?;
            let graft = file.graft();
            let here: Vec<&String> =
                hotpatch.fixes.iter().filter(|(_, images)| images.contains(&patch.image)).map(|(cve, _)| cve).collect();
            if graft.sequence != hotpatch.sequence
                || graft.kb != hotpatch.kb
                || graft.cves.iter().collect::<Vec<_>>() != here
            {
                return Err(other(format!(
                    "it has sequence {}, KB {:?}, fixes {:?}; the release has {}, {:?}, {here:?}",
                    graft.sequence, graft.kb, graft.cves, hotpatch.sequence, hotpatch.kb
                )));
            }
            if !graft.base.file_name.eq_ignore_ascii_case(&patch.image) {
                return Err(other(format!("it is for {}", graft.base.file_name)));
            }
            let effect = self.prove(&hotpatch, patch, bytes)?;
            effects.insert(patch.image.clone(), effect);
            files.push((patch_path(&hotpatch, patch), patch.sha256.clone(), bytes.clone()));
        }
        self.append(date, Event::Hotpatch(hotpatch), files)?;
        Ok(effects)
    }

    /// Successor after each predecessor equals successor alone: revoked ones too, since machines have them.
    fn prove(&self, hotpatch: &Hotpatch, patch: &Patch, bytes: &[u8]) -> Result<proof::Effect> {
        let catalog = &self.draft.catalog;
        let base = catalog
            .baseline(&hotpatch.baseline)
            .and_then(|baseline| baseline.images.iter().find(|image| image.name == patch.image))
            .ok_or_else(|| {
                Error::refused("chain.base.wrong", format!("{} has no {}", hotpatch.baseline, patch.image))
            })?;
        let base_bytes = self.target(&image_path(base), &base.sha256)?;
        let mut predecessors = Vec::new();
        // Baselines may share an image: what was ever applied to it may be there.
        for (_, before) in catalog.hotpatches() {
            for old in
                before.patches.iter().filter(|old| old.image == patch.image && old.base_sha256 == patch.base_sha256)
            {
                predecessors.push((before.sequence, self.target(&patch_path(before, old), &old.sha256)?));
            }
        }
        proof::equal_alone_and_after(&patch.image, &base_bytes, bytes, &predecessors)
    }

    /// Withdraws a hotpatch.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn revoke(&mut self, date: Time, revoke: Revoke) -> Result<()> {
        self.append(date, Event::Revoke(revoke), Vec::new())
    }

    fn target(&self, path: &str, sha256: &str) -> Result<Vec<u8>> {
        let file = tuf::target_file(path, sha256).ok_or_else(|| Error::malformed(path, "a safe name"))?;
        let bytes = self.public().read(&file, u64::MAX - 1)?.filter(|bytes| canonical::sha256(bytes) == sha256);
        bytes.ok_or_else(|| Error::untrusted("tampered", file, "it is missing, or not what was added"))
    }

    fn append(&mut self, date: Time, event: Event, files: Vec<(String, String, Vec<u8>)>) -> Result<()> {
        let mut draft = self.draft.clone();
        draft.catalog.append(date, event)?;
        let mut batch = Batch::new();
        for (path, sha256, bytes) in files {
            let file = tuf::target_file(&path, &sha256).ok_or_else(|| Error::malformed(&path, "a safe name"))?;
            batch.put(self.public().0.join(file), bytes);
        }
        // Last: until the draft names them, the files do not count.
        batch.put(self.folder.join("draft.json"), canonical::pretty(&draft)?);
        if let Some(index) = self.stop_before {
            batch.stop_before(index);
        }
        batch.commit()?;
        self.draft = draft;
        Ok(())
    }

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

    /// A client that trusts the first root of this folder.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.first_root()?)
    }
}
