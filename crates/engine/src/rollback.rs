//! Taking a patch back.

use std::time::Duration;

use hotgraft_hotpatch::HookPoint;

use crate::apply::Phase;
use crate::error::ApplyError;
use crate::hooks;
use crate::lineage;
use crate::memory::MappedImage;
use crate::record::Found;
use crate::space::AddressSpace;
use crate::transition::Transition;

/// How to roll back.
pub struct RollbackOptions<'a> {
    /// Only if this sequence is the active one, and only one step: what it superseded becomes active again. `None`:
    /// whatever is active goes, and the base is as it was loaded.
    pub sequence: Option<u32>,
    /// How long to wait for a moment at which no thread is in the way.
    pub time_limit: Duration,
    /// Asked before each phase; false stops there, and nothing is changed.
    pub hook: &'a dyn Fn(Phase) -> bool,
}

impl Default for RollbackOptions<'_> {
    /// Back to the base; five seconds.
    fn default() -> Self {
        RollbackOptions { sequence: None, time_limit: Duration::from_secs(5), hook: &|_| true }
    }
}

/// A patch is no longer active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// What was active.
    pub sequence: u32,
    /// What is active now.
    pub active: Option<u32>,
    /// Restored or changed entries.
    pub entries: usize,
    /// For how long the threads stood still.
    pub pause: Duration,
    /// Attempts to find a safe moment.
    pub attempts: u32,
    /// Why the hook that runs after it did not do its work.
    pub repair: Option<String>,
}

/// Roll back what is active on the image at `image_base`. The code of the base is then byte for byte what it was before.
///
/// The patch image stays mapped: frames may return into it, and pointers to its constants may be anywhere. It is used
/// again when the same patch is applied again.
pub fn rollback(
    space: &mut dyn AddressSpace,
    image_base: u64,
    options: &RollbackOptions<'_>,
) -> Result<RolledBack, ApplyError> {
    Phase::CheckIdentity.ask(options.hook)?;
    let base = MappedImage::read(space, image_base)?;
    Phase::CheckSequence.ask(options.hook)?;
    let records = lineage::records(space, &base)?;
    let active = lineage::active(space, &records)?
        .ok_or_else(|| ApplyError::NotApplied(format!("no patch is active on the image at {image_base:#x}")))?;
    let sequence = active.record.sequence;
    if let Some(wanted) = options.sequence.filter(|&wanted| wanted != sequence) {
        return Err(ApplyError::NotApplied(format!("sequence {wanted} is not active, {sequence} is")));
    }
    let previous = match options.sequence {
        Some(_) => previous(&records, &active)?,
        None => None,
    };
    // Back to the base undoes everything that the active one superseded as well.
    let mut undone = Some(&active);
    while let Some(found) = undone {
        if let Some(reason) = &found.record.irrevertible {
            return Err(ApplyError::Irrevertible { sequence: found.record.sequence, reason: reason.clone() });
        }
        undone = match options.sequence {
            Some(_) => None,
            None => find_previous(&records, found),
        };
    }
    let transition = Transition {
        from: active.record.redirects(),
        to: previous.map(|found| found.record.redirects()).unwrap_or_default(),
    };
    Phase::CheckMemory.ask(options.hook)?;
    transition.check_sites(space)?;
    let (patch, hooks) = (active.record.patch_address, &active.record.hooks);
    hooks::run(space, patch, hooks, HookPoint::PreRollback)?;
    let pause = transition.run(space, options.time_limit, options.hook)?;
    let repair = hooks::run(space, patch, hooks, HookPoint::PostRollback).err().map(|error| error.to_string());
    Ok(RolledBack {
        sequence,
        active: previous.map(|found| found.record.sequence),
        entries: active.record.entries.len(),
        pause: pause.pause,
        attempts: pause.attempts,
        repair,
    })
}

fn find_previous<'a>(records: &'a [Found], of: &Found) -> Option<&'a Found> {
    let previous = of.record.previous.as_ref()?;
    records.iter().find(|found| {
        // A record of a lower sequence only, so that hostile records cannot form a ring.
        found.address == previous.record
            && found.record.sequence == previous.sequence
            && previous.sequence < of.record.sequence
    })
}

fn previous<'a>(records: &'a [Found], active: &Found) -> Result<Option<&'a Found>, ApplyError> {
    match &active.record.previous {
        None => Ok(None),
        Some(previous) => find_previous(records, active).map(Some).ok_or_else(|| {
            ApplyError::NotApplied(format!("the record of sequence {} is no longer in memory", previous.sequence))
        }),
    }
}
