//! Rollout in rings: who gets a release when, the same answer every time for the same machine.

use crate::error::{Error, Result};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Name and version of the document.
pub const SCHEMA: &str = "hotgraft.rollout/1";

/// How a release is rolled out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// [`SCHEMA`].
    pub schema: String,
    /// The release: id of a hotpatch or baseline.
    pub release: String,
    /// When the first ring opens.
    pub start: Time,
    /// Rings, in order.
    pub rings: Vec<Ring>,
    /// What machines reported so far, by ring.
    #[serde(default)]
    pub health: BTreeMap<String, Health>,
    /// Nobody gets it any more.
    #[serde(default)]
    pub paused: bool,
}

/// A ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    /// Name.
    pub name: String,
    /// Share of all machines, in hundredths of a percent; the last ring takes the rest.
    pub basis_points: u16,
    /// Machines that belong here whatever their share.
    #[serde(default)]
    pub machines: Vec<String>,
    /// Hours after the opening of this ring until the next may open.
    #[serde(default)]
    pub pause_hours: u32,
    /// What this ring must show before the next opens.
    #[serde(default)]
    pub gate: Option<Gate>,
}

/// What a ring must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Reports at least.
    pub least_reports: u64,
    /// Failures at most, in hundredths of a percent of the reports.
    pub most_failed_basis_points: u16,
}

/// What machines of a ring reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Applied and well.
    pub ok: u64,
    /// Failed.
    pub failed: u64,
}

/// Whether a machine gets the release now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// Its ring.
    pub ring: String,
    /// Whether the ring is open.
    pub open: bool,
    /// When it opens, if time is all that it takes.
    pub opens: Option<Time>,
    /// In words.
    pub text: String,
}

impl Rollout {
    /// Checks a rollout that was read.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn check(&self) -> Result<()> {
        let bad = |text: &str| Error::malformed("the rollout", text);
        if self.schema != SCHEMA {
            return Err(bad(&format!("schema {SCHEMA}")));
        }
        if self.rings.is_empty() {
            return Err(bad("at least one ring"));
        }
        if self.rings.iter().map(|ring| u32::from(ring.basis_points)).sum::<u32>() > 10_000 {
            return Err(bad("rings of 10000 basis points together at most"));
        }
        let mut names: Vec<&str> = self.rings.iter().map(|ring| ring.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() != self.rings.len() {
            return Err(bad("another name for each ring"));
        }
        if let Some(name) = self.health.keys().find(|name| !names.contains(&name.as_str())) {
            return Err(bad(&format!("health of its own rings, not of {name}")));
        }
        Ok(())
    }

    /// Ring of a machine: by name, else by a hash of product and id, which puts it into the same place of every rollout.
    pub fn ring_of(&self, product: &str, machine: &str) -> usize {
        if let Some(index) = self.rings.iter().position(|ring| ring.machines.iter().any(|name| name == machine)) {
            return index;
        }
        let mut hash = Sha256::new();
        for part in ["hotgraft.rollout/1", product, machine] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let place = u64::from_le_bytes(digest[..8].try_into().unwrap_or_default()) % 10_000;
        let mut end = 0;
        let found = self.rings.iter().position(|ring| {
            end += u64::from(ring.basis_points);
            place < end
        });
        found.unwrap_or(self.rings.len().saturating_sub(1))
    }

    /// Whether a machine gets the release at `now`.
    pub fn turn(&self, product: &str, machine: &str, now: Time) -> Turn {
        let index = self.ring_of(product, machine);
        let ring = self.rings.get(index).map(|ring| ring.name.clone()).unwrap_or_default();
        let closed = |opens: Option<Time>, text: String| Turn { ring: ring.clone(), open: false, opens, text };
        if self.paused {
            return closed(None, "the rollout is paused".to_owned());
        }
        let mut opens = self.start;
        for before in self.rings.iter().take(index) {
            opens = opens.plus_seconds(u64::from(before.pause_hours) * 3600);
            let Some(gate) = before.gate else { continue };
            let health = self.health.get(&before.name).copied().unwrap_or_default();
            let reports = health.ok.saturating_add(health.failed);
            if reports < gate.least_reports {
                let text = format!("ring {} has {reports} of {} reports", before.name, gate.least_reports);
                return closed(None, text);
            }
            let failed = u128::from(health.failed) * 10_000;
            if failed > u128::from(gate.most_failed_basis_points) * u128::from(reports) {
                return closed(None, format!("ring {} failed on {} of {reports} machines", before.name, health.failed));
            }
        }
        if now < opens {
            return closed(Some(opens), format!("ring {ring} opens at {opens}"));
        }
        Turn { open: true, opens: Some(opens), text: format!("ring {ring} is open since {opens}"), ring }
    }
}
