//! The vendor's side: a folder in which releases are prepared and from which they are published.
//!
//! | in the folder | is |
//! |---|---|
//! | `draft.json` | the catalog with what is not published yet, and for how long signatures count |
//! | `root.json` | the first root: what machines are given by another way than the catalog itself |
//! | `public/` | what any static web server serves: `metadata/` and `targets/` |

mod publish;
pub use publish::Published;

use crate::canonical;
use crate::catalog::{Baseline, Catalog, Event, Hotpatch, Image, Patch, Revoke};
use crate::error::{Error, Result};
use crate::files::{Batch, Folder, Source, read_limited};
use crate::proof;
use crate::time::Time;
use crate::tuf::{self, Client, Expiry, Role};
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
        accepted_by: graft.accepted_by.clone(),
        irrevertible: graft.irrevertible.clone(),
        replaced: graft.functions.iter().filter(|f| f.base_rva.is_some()).map(|f| f.name.clone()).collect(),
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
        let root = publish::root_of(1, now.plus_days(expiry.of(Role::Root)), roles)?;
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

    /// A client that trusts the first root of this folder.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.first_root()?)
    }
}
