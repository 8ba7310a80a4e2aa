//! The patch state, read from memory: never what a log believes.

use serde::Serialize;

use crate::error::ApplyError;
use crate::identity::{self, hex, pdb_text};
use crate::lineage::{self, Seen, describe};
use crate::memory::{MappedImage, read_bytes};
use crate::patch::PatchFile;
use crate::record::{self, Found, Record};
use crate::redirect::{self, Redirect, jump_target};
use crate::space::{AddressSpace, ThreadState};

/// State of a patch on an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The patch is for an image that is not loaded.
    Staged,
    /// Not in memory, and nothing speaks against applying it.
    Applicable,
    /// Every entry leads to this patch.
    Applied,
    /// Some entries lead to this patch, others not.
    Partial,
    /// At least one entry was changed by somebody else.
    ForeignHook,
    /// In memory, but no entry leads to it, and no later patch is active.
    Reverted,
    /// In memory, but a later patch is active.
    Superseded,
    /// It cannot be applied to what is loaded.
    NotApplicable,
}

/// State of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryState {
    /// The bytes of the base file.
    Original,
    /// Leads to this patch.
    Applied,
    /// Leads to another patch of ours.
    OtherPatch,
    /// Anything else.
    Foreign,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryStatus {
    /// Function.
    pub name: String,
    /// Entry in the base (RVA).
    pub base_rva: u32,
    /// Size of the function in the base, bytes.
    pub base_size: u32,
    /// Address of the compared bytes (VA).
    pub address: u64,
    /// State.
    pub state: EntryState,
    /// What the base file has there (hex).
    pub original: String,
    /// What leads to this patch (hex); absent if the patch is not in memory.
    pub redirect: Option<String>,
    /// What is there (hex).
    pub seen: String,
    /// Where a jump found there leads.
    pub leads_to: Option<String>,
    /// Threads (ids) that are still in the base's function though its entry leads away from it; absent if threads were
    /// not looked at.
    pub old_threads: Option<Vec<u32>>,
}

/// One patch on an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PatchStatus {
    /// Sequence.
    pub sequence: u32,
    /// State.
    pub state: State,
    /// Why it is so, where that is not plain.
    pub detail: Option<String>,
    /// KB id.
    pub kb: Option<String>,
    /// CVE ids.
    pub cves: Vec<String>,
    /// Accepted conditions.
    pub accepted: Vec<String>,
    /// Signer; absent for an unsigned patch.
    pub signer: Option<String>,
    /// SHA-256 of the patch file (hex).
    pub sha256: String,
    /// Address of the patch image (VA); absent if it is not in memory.
    pub address: Option<u64>,
    /// SizeOfImage of the patch, bytes.
    pub size: u32,
    /// Sequence that was active before.
    pub supersedes: Option<u32>,
    /// Whether it can be rolled back.
    pub revertible: bool,
    /// Why not.
    pub irrevertible: Option<String>,
    /// Entries, by RVA.
    pub entries: Vec<EntryStatus>,
    /// Threads (ids) in its code, whether entries still lead there or not; absent if threads were not looked at.
    pub threads: Option<Vec<u32>>,
}

/// Identity of an image as memory states it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageIdentity {
    /// FileHeader.TimeDateStamp.
    pub timestamp: u32,
    /// OptionalHeader.CheckSum.
    pub checksum: u32,
    /// OptionalHeader.SizeOfImage, bytes.
    pub image_size: u32,
    /// GUID and age of the PDB.
    pub pdb: Option<String>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageStatus {
    /// File name without folder.
    pub name: String,
    /// Address (VA).
    pub address: u64,
    /// Identity.
    pub identity: ImageIdentity,
    /// The sequence that is wholly active.
    pub active: Option<u32>,
    /// Worst state of its patches: `foreign_hook`, `partial`, else that of the active patch, else of the latest.
    pub state: Option<State>,
    /// Patches in memory, by sequence.
    pub patches: Vec<PatchStatus>,
}

/// Every image of the target that has a patch in memory, or the one at `image_base`, patched or not.
pub fn query(space: &dyn AddressSpace, image_base: Option<u64>) -> Result<Vec<ImageStatus>, ApplyError> {
    let records = record::find_all(space)?;
    let images = space.images()?;
    let mut all = Vec::new();
    for (base, name) in images {
        if image_base.is_some_and(|wanted| wanted != base) {
            continue;
        }
        if image_base.is_none() && !records.iter().any(|found| found.record.base_address == base) {
            continue;
        }
        let image = MappedImage::read(space, base)?;
        let ours: Vec<&Found> = records
            .iter()
            .filter(|found| {
                found.record.base_address == base && identity::difference(&image, &found.record.base).is_none()
            })
            .collect();
        if image_base.is_none() && ours.is_empty() {
            continue;
        }
        all.push(image_status(space, name, &image, &ours)?);
    }
    Ok(all)
}

fn identity_of(image: &MappedImage) -> ImageIdentity {
    ImageIdentity {
        timestamp: image.headers.timestamp,
        checksum: image.headers.checksum,
        image_size: image.headers.image_size,
        pdb: image.pdb.is_some().then(|| pdb_text(&image.pdb)),
    }
}

fn image_status(
    space: &dyn AddressSpace,
    name: String,
    image: &MappedImage,
    records: &[&Found],
) -> Result<ImageStatus, ApplyError> {
    let mut patches = Vec::with_capacity(records.len());
    for found in records {
        patches.push(patch_status(space, found)?);
    }
    let active = patches.iter().filter(|patch| patch.state == State::Applied).map(|patch| patch.sequence).max();
    for patch in &mut patches {
        if patch.state == State::Reverted && active.is_some_and(|active| active > patch.sequence) {
            patch.state = State::Superseded;
        }
    }
    patches.sort_by_key(|patch| (patch.sequence, patch.address));
    let state = [State::ForeignHook, State::Partial, State::Applied]
        .into_iter()
        .find(|&state| patches.iter().any(|patch| patch.state == state))
        .or_else(|| patches.last().map(|patch| patch.state));
    Ok(ImageStatus { name, address: image.base, identity: identity_of(image), active, state, patches })
}

fn entry_status(space: &dyn AddressSpace, redirect: &Redirect<'_>, placed: bool) -> Result<EntryStatus, ApplyError> {
    let (original, redirected) = lineage::site_bytes(redirect);
    let seen = read_bytes(space, redirect.site(), original.len())?;
    let entry = redirect.entry_address();
    let at = (entry - redirect.site()) as usize;
    let target = jump_target(entry, &seen[at..], &seen[..at]).filter(|_| seen != original);
    let state = match lineage::look(space, redirect)? {
        Seen::Original => EntryState::Original,
        Seen::Redirected if placed => EntryState::Applied,
        _ => {
            let found = target.map(|target| record::find_by_target(space, target)).transpose()?.flatten();
            let ours = found.is_some_and(|found| {
                let same = |r: Redirect<'_>| r.entry_address() == entry && Some(r.target()) == target;
                found.record.redirects().into_iter().any(same)
            });
            if ours { EntryState::OtherPatch } else { EntryState::Foreign }
        }
    };
    Ok(EntryStatus {
        name: redirect.entry.name.clone(),
        base_rva: redirect.entry.base_rva,
        base_size: redirect.entry.base_size,
        address: redirect.site(),
        state,
        original: hex(&original),
        redirect: placed.then(|| hex(&redirected)),
        seen: hex(&seen),
        leads_to: target.map(|target| describe(space, target)),
        old_threads: None,
    })
}

fn patch_status(space: &dyn AddressSpace, found: &Found) -> Result<PatchStatus, ApplyError> {
    let record = &found.record;
    let mut entries = Vec::with_capacity(record.entries.len());
    for redirect in record.redirects() {
        entries.push(entry_status(space, &redirect, true)?);
    }
    let count = |state| entries.iter().filter(|entry| entry.state == state).count();
    let applied = count(EntryState::Applied);
    let state = if count(EntryState::Foreign) > 0 {
        State::ForeignHook
    } else if applied == entries.len() {
        State::Applied
    } else if applied > 0 {
        State::Partial
    } else {
        State::Reverted
    };
    Ok(PatchStatus {
        sequence: record.sequence,
        state,
        detail: None,
        kb: record.kb.clone(),
        cves: record.cves.clone(),
        accepted: record.accepted.clone(),
        signer: record.signer.clone(),
        sha256: hex(&record.patch_sha256),
        address: Some(record.patch_address),
        size: record.patch_size,
        supersedes: record.previous.as_ref().map(|previous| previous.sequence),
        revertible: record.irrevertible.is_none(),
        irrevertible: record.irrevertible.clone(),
        entries,
        threads: None,
    })
}

/// Which of `threads` are in the code of which patch, and which in functions of the base that were replaced: sets
/// `threads` of every patch in memory and `old_threads` of its entries. The threads must have been suspended when they
/// were looked at; they may run again.
///
/// A thread counts that will come back there as well as one that stands there. What looks like a return address counts as
/// one, so there may be fewer than are named, never more.
pub fn count_threads(images: &mut [ImageStatus], threads: &[ThreadState]) {
    let holding = |start: u64, size: u32| {
        let end = start + u64::from(size);
        // At its first byte a thread is led away, and a pointer to a function may be on any stack. A call that is the last
        // instruction returns to one past the end.
        let returns = |&address: &u64| address > start && address <= end;
        let holds =
            |thread: &&ThreadState| thread.ip > start && thread.ip < end || thread.return_addresses.iter().any(returns);
        Some(threads.iter().filter(holds).map(|thread| thread.id).collect())
    };
    for image in images {
        for patch in &mut image.patches {
            patch.threads = patch.address.and_then(|start| holding(start, patch.size));
            let led_away =
                |entry: &&mut EntryStatus| matches!(entry.state, EntryState::Applied | EntryState::OtherPatch);
            for entry in patch.entries.iter_mut().filter(led_away) {
                entry.old_threads = holding(image.address + u64::from(entry.base_rva), entry.base_size);
            }
        }
    }
}

/// What would come of applying `patch`: `Staged`, `Applicable`, `NotApplicable` or `ForeignHook`, or the state that it
/// has in memory already.
pub fn assess(space: &dyn AddressSpace, patch: &PatchFile) -> Result<PatchStatus, ApplyError> {
    let graft = patch.graft();
    let record: Record = Record::new(patch, 0, 0, None, None);
    let mut status = PatchStatus {
        sequence: graft.sequence,
        state: State::Applicable,
        detail: None,
        kb: graft.kb.clone(),
        cves: graft.cves.clone(),
        accepted: graft.accepted.clone(),
        signer: None,
        sha256: hex(&patch.sha256()),
        address: None,
        size: patch.headers().image_size,
        supersedes: None,
        revertible: graft.irrevertible.is_none(),
        irrevertible: graft.irrevertible.clone(),
        entries: Vec::new(),
        threads: None,
    };
    let base = match identity::find_base(space, graft) {
        Ok(base) => base,
        Err(ApplyError::NoBase { .. }) => {
            status.state = State::Staged;
            return Ok(status);
        }
        Err(error @ ApplyError::WrongBase { .. }) => {
            status.state = State::NotApplicable;
            status.detail = Some(error.to_string());
            return Ok(status);
        }
        Err(error) => return Err(error),
    };
    let images = query(space, Some(base))?;
    let known = images.iter().flat_map(|image| &image.patches).filter(|known| known.sha256 == status.sha256);
    // The same patch may lie in memory twice; the one in use counts.
    if let Some(known) = known.max_by_key(|known| known.state == State::Applied) {
        return Ok(known.clone());
    }
    let image = MappedImage::read(space, base)?;
    for entry in &record.entries {
        status.entries.push(entry_status(space, &redirect::of_entry(entry, base, base), false)?);
    }
    if status.entries.iter().any(|entry| entry.state == EntryState::Foreign) {
        status.state = State::ForeignHook;
        return Ok(status);
    }
    let active = images.first().and_then(|image| image.active);
    status.supersedes = active;
    let speaks_against = if active.is_some_and(|active| active >= status.sequence) {
        Some(format!("sequence {} is applied", active.unwrap_or_default()))
    } else if images.iter().any(|image| matches!(image.state, Some(State::Partial | State::ForeignHook))) {
        Some("an earlier patch is active in part".into())
    } else {
        let mut originals = identity::Overlay::new();
        for found in lineage::records(space, &image)? {
            found.record.redirects().iter().for_each(|redirect| redirect.put_original(&mut originals));
        }
        match identity::check_guarded(space, &image, graft, &originals) {
            Ok(()) => None,
            Err(error) => Some(error.to_string()),
        }
    };
    if let Some(detail) = speaks_against {
        status.state = State::NotApplicable;
        status.detail = Some(detail);
    }
    Ok(status)
}
