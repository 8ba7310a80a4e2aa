//! The catalog: an append-only history of baselines, hotpatches and revocations of one product.
//!
//! Each entry holds the hash of the one before, so that a history can only grow: a reader who remembers the hash of the
//! last entry that it saw knows whether a newer catalog continues it. [`crate::chain`] has the rules of what may follow.

use crate::canonical;
use crate::error::{Error, Result};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Name and version of the document.
pub const SCHEMA: &str = "hotgraft.release.catalog/1";

/// Which images of a fix have to be in memory for it to work: CVE id to image names.
pub type Fixes = BTreeMap<String, BTreeSet<String>>;

/// All releases of a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// [`SCHEMA`].
    pub schema: String,
    /// Name of the product.
    pub product: String,
    /// Who releases it: an URL, for documents that name a publisher.
    pub publisher: String,
    /// When baselines are planned.
    pub calendar: Calendar,
    /// What a machine must have or be to get hotpatches: names of attributes of the machine that have to be true.
    pub requires: BTreeSet<String>,
    /// What happened, oldest first.
    pub history: Vec<Entry>,
}

/// When baselines are planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calendar {
    /// Months of planned baselines, 1 to 12; the others are those of hotpatches.
    pub baseline_months: BTreeSet<u8>,
}

impl Default for Calendar {
    /// January, April, July and October.
    fn default() -> Self {
        Calendar { baseline_months: BTreeSet::from([1, 4, 7, 10]) }
    }
}

impl Calendar {
    /// Whether a baseline is planned for that month.
    pub fn plans_baseline(&self, at: Time) -> bool {
        self.baseline_months.contains(&at.month())
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// 1, 2, 3 and so on.
    pub number: u64,
    /// SHA-256 of the canonical JSON of the entry before; absent in the first.
    pub previous: Option<String>,
    /// When it counts from.
    pub date: Time,
    /// What happened.
    pub event: Event,
}

impl Entry {
    /// SHA-256 of the canonical JSON.
    ///
    /// # Errors
    /// None for entries that were read from a document.
    pub fn hash(&self) -> Result<String> {
        Ok(canonical::sha256(&canonical::bytes(self)?))
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A release that is installed by restart.
    Baseline(Baseline),
    /// A release that takes effect without restart, on one baseline.
    Hotpatch(Hotpatch),
    /// A hotpatch is withdrawn.
    Revoke(Revoke),
}

/// A release that is installed by restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Its name.
    pub id: String,
    /// Version of the product, for people and scanners.
    pub build: String,
    /// Why a restart is asked for.
    pub cause: Cause,
    /// KB id.
    pub kb: Option<String>,
    /// What it fixes that the baseline before it did not.
    pub fixes: Fixes,
    /// The baseline before it.
    pub supersedes: Option<String>,
    /// End of support: a machine has to be on a later baseline by then.
    pub supported_until: Time,
    /// Images, by name.
    pub images: Vec<Image>,
}

/// Why a baseline asks for a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Cause {
    /// The calendar has it.
    Planned,
    /// An emergency that does not wait for the calendar.
    Emergency {
        /// What it is.
        text: String,
    },
    /// A fix that no hotpatch can carry.
    NotHotpatchable {
        /// Keys of the rules that forbid a patch, with their subjects.
        rules: Vec<String>,
    },
    /// New features, which hotpatches do not carry.
    Feature {
        /// What they are.
        text: String,
    },
}

impl Cause {
    /// In words.
    pub fn text(&self) -> String {
        match self {
            Cause::Planned => "planned".to_owned(),
            Cause::Emergency { text } => format!("emergency: {text}"),
            Cause::NotHotpatchable { rules } => format!("not hotpatchable: {}", rules.join("; ")),
            Cause::Feature { text } => format!("features: {text}"),
        }
    }
}

/// An image of a baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// File name without folder.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// How memory tells it from other builds.
    pub identity: Identity,
}

/// How a loaded image tells which build it is; as `hotgraft status` states it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// FileHeader.TimeDateStamp.
    pub timestamp: u32,
    /// OptionalHeader.CheckSum.
    pub checksum: u32,
    /// OptionalHeader.SizeOfImage, bytes.
    pub image_size: u32,
    /// GUID and age of the PDB.
    pub pdb: Option<String>,
}

/// A release that takes effect without restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hotpatch {
    /// Its name.
    pub id: String,
    /// The baseline that it is for.
    pub baseline: String,
    /// Number of the patches in it; one more than that of the hotpatch before, whatever its baseline.
    pub sequence: u32,
    /// The version that is equally secure: that of the new images.
    pub equivalent_build: String,
    /// KB id.
    pub kb: Option<String>,
    /// Everything that it fixes on its baseline.
    pub fixes: Fixes,
    /// The hotpatch of the same baseline that it takes the place of.
    pub supersedes: Option<String>,
    /// Patches, by image name.
    pub patches: Vec<Patch>,
}

/// A patch for an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// Name of the image.
    pub image: String,
    /// SHA-256 of the image that it is for.
    pub base_sha256: String,
    /// SHA-256 of the image that it is made from.
    pub new_sha256: String,
    /// File name of the patch.
    pub file: String,
    /// SHA-256 of the patch.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// Conditions that were accepted by name.
    pub accepted: Vec<String>,
    /// Who accepted them, if the patch says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_by: Option<String>,
    /// Why it cannot be rolled back; absent if it can.
    pub irrevertible: Option<String>,
    /// Replaced functions.
    pub replaced: Vec<String>,
}

/// A hotpatch is withdrawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// The hotpatch.
    pub hotpatch: String,
    /// Why.
    pub reason: String,
}

impl Catalog {
    /// A catalog without history.
    pub fn new(product: &str, publisher: &str) -> Catalog {
        Catalog {
            schema: SCHEMA.to_owned(),
            product: product.to_owned(),
            publisher: publisher.to_owned(),
            calendar: Calendar::default(),
            requires: BTreeSet::new(),
            history: Vec::new(),
        }
    }

    /// Reads a catalog and checks its history by all rules of the chain.
    ///
    /// # Errors
    /// [`Error::Malformed`] and [`Error::Refused`].
    pub fn read(bytes: &[u8]) -> Result<Catalog> {
        let catalog: Catalog =
            serde_json::from_slice(bytes).map_err(|e| Error::malformed("catalog.json", format!("a catalog ({e})")))?;
        if catalog.schema != SCHEMA {
            return Err(Error::malformed("catalog.json", format!("schema {SCHEMA}, not {}", catalog.schema)));
        }
        let mut before = Catalog { history: Vec::new(), ..catalog.clone() };
        for entry in &catalog.history {
            before.append(entry.date, entry.event.clone())?;
            if before.history.last() != Some(entry) {
                return Err(Error::untrusted(
                    "history",
                    "catalog.json",
                    format!("entry {} does not follow the one before it", entry.number),
                ));
            }
        }
        Ok(catalog)
    }

    /// Adds an entry, if the rules of the chain allow it.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn append(&mut self, date: Time, event: Event) -> Result<()> {
        crate::chain::check(self, date, &event)?;
        let previous = self.history.last().map(Entry::hash).transpose()?;
        self.history.push(Entry { number: self.history.len() as u64 + 1, previous, date, event });
        Ok(())
    }

    /// Number and hash of the last entry.
    ///
    /// # Errors
    /// None for catalogs that were read.
    pub fn head(&self) -> Result<Option<(u64, String)>> {
        self.history.last().map(|entry| Ok((entry.number, entry.hash()?))).transpose()
    }

    /// Whether the history continues one that ended with this entry.
    ///
    /// # Errors
    /// None for catalogs that were read.
    pub fn continues(&self, number: u64, hash: &str) -> Result<bool> {
        let index = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
        match index.and_then(|index| self.history.get(index)) {
            Some(entry) => Ok(entry.hash()? == hash),
            None => Ok(false),
        }
    }

    /// Baselines with their dates, oldest first.
    pub fn baselines(&self) -> impl DoubleEndedIterator<Item = (Time, &Baseline)> {
        self.history.iter().filter_map(|entry| match &entry.event {
            Event::Baseline(baseline) => Some((entry.date, baseline)),
            _ => None,
        })
    }

    /// Hotpatches with their dates, oldest first, the revoked ones too.
    pub fn hotpatches(&self) -> impl DoubleEndedIterator<Item = (Time, &Hotpatch)> {
        self.history.iter().filter_map(|entry| match &entry.event {
            Event::Hotpatch(hotpatch) => Some((entry.date, hotpatch)),
            _ => None,
        })
    }

    /// Why a hotpatch was withdrawn, if it was.
    pub fn revoked(&self, id: &str) -> Option<&str> {
        self.history.iter().find_map(|entry| match &entry.event {
            Event::Revoke(revoke) if revoke.hotpatch == id => Some(revoke.reason.as_str()),
            _ => None,
        })
    }

    /// A baseline by name.
    pub fn baseline(&self, id: &str) -> Option<&Baseline> {
        self.baselines().map(|(_, baseline)| baseline).find(|baseline| baseline.id == id)
    }

    /// The latest baseline.
    pub fn latest_baseline(&self) -> Option<&Baseline> {
        self.baselines().next_back().map(|(_, baseline)| baseline)
    }

    /// The latest hotpatch of a baseline that is not revoked.
    pub fn latest_hotpatch(&self, baseline: &str) -> Option<&Hotpatch> {
        let of = |hotpatch: &&Hotpatch| hotpatch.baseline == baseline && self.revoked(&hotpatch.id).is_none();
        self.hotpatches().rev().map(|(_, hotpatch)| hotpatch).find(of)
    }

    /// The hotpatch that has this patch, by the SHA-256 of the patch.
    pub fn hotpatch_of(&self, patch_sha256: &str) -> Option<(&Hotpatch, &Patch)> {
        self.hotpatches()
            .find_map(|(_, hotpatch)| hotpatch.patches.iter().find(|p| p.sha256 == patch_sha256).map(|p| (hotpatch, p)))
    }

    /// Everything that is fixed in the files of a baseline, its predecessors' fixes included.
    pub fn fixed_in_files(&self, baseline: &str) -> BTreeSet<&str> {
        let mut fixed = BTreeSet::new();
        for (_, one) in self.baselines() {
            fixed.extend(one.fixes.keys().map(String::as_str));
            if one.id == baseline {
                return fixed;
            }
        }
        BTreeSet::new()
    }

    /// Every CVE that any release fixes, with the images that it needs; what releases say of one CVE is put together.
    pub fn known_fixes(&self) -> Fixes {
        let mut all = Fixes::new();
        for entry in &self.history {
            let fixes = match &entry.event {
                Event::Baseline(baseline) => &baseline.fixes,
                Event::Hotpatch(hotpatch) => &hotpatch.fixes,
                Event::Revoke(_) => continue,
            };
            for (cve, images) in fixes {
                all.entry(cve.clone()).or_default().extend(images.iter().cloned());
            }
        }
        all
    }

    /// The catalog as it was at a time: entries of later dates are left out.
    pub fn at(&self, time: Time) -> Catalog {
        let history = self.history.iter().take_while(|entry| entry.date <= time).cloned().collect();
        Catalog { history, ..self.clone() }
    }
}
