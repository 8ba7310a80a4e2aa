//! Whether a patch, applied after a predecessor, leaves the process as if the predecessor had never been there: shown on
//! a process in a buffer, byte for byte.

use crate::error::{Error, Result};
use hotgraft_engine::{ApplyOptions, BufferSpace, PatchFile, RollbackOptions, Trust, apply, query, rollback};

/// Where the base is loaded; not the preferred address of any usual image.
const BASE: u64 = 0x0000_7ff6_1234_0000;

fn fails(text: impl std::fmt::Display) -> Error {
    Error::refused("chain.not_equal", text.to_string())
}

fn options() -> ApplyOptions<'static> {
    // Who signed is asked before a patch enters a catalog, and again on every machine; here its effect counts.
    ApplyOptions { trust: Trust::trial(), ..ApplyOptions::default() }
}

fn loaded(name: &str, base: &[u8]) -> Result<BufferSpace> {
    let mut space = BufferSpace::new();
    space.load(name, base, BASE).map_err(fails)?;
    Ok(space)
}

/// Memory, without the allocations that begin at one of `without`.
fn memory(space: &BufferSpace, without: &[u64]) -> Vec<(u64, Vec<u8>, String)> {
    let all = space.snapshot().into_iter().filter(|(at, ..)| !without.contains(at));
    all.map(|(at, bytes, protections)| (at, bytes, format!("{protections:?}"))).collect()
}

/// What a patch does to its base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Redirected entries.
    pub entries: usize,
    /// Predecessors after which it was tried.
    pub predecessors: usize,
    /// Compared bytes.
    pub bytes: u64,
}

/// Applies `patch` alone, and after each predecessor (any order), and compares; then takes it out again and looks
/// whether the base is as it was.
///
/// # Errors
/// [`Error::Refused`] with `chain.not_equal` or `chain.needs_predecessor`.
pub fn equal_alone_and_after(name: &str, base: &[u8], patch: &[u8], predecessors: &[(u32, Vec<u8>)]) -> Result<Effect> {
    let patch = PatchFile::parse(patch).map_err(fails)?;
    if patch.info().min_sequence > 0 {
        let text = format!("the patch for {name} needs sequence {}: it is not cumulative", patch.info().min_sequence);
        return Err(Error::refused("chain.needs_predecessor", text));
    }
    let untouched = memory(&loaded(name, base)?, &[]);
    let mut effect = Effect { entries: 0, predecessors: predecessors.len(), bytes: 0 };
    let mut first = loaded(name, base)?;
    effect.entries = apply(&mut first, BASE, &patch, &options()).map_err(fails)?.entries;
    check_rollback(name, &mut first, &untouched)?;

    for (sequence, bytes) in predecessors {
        let about = |error: &dyn std::fmt::Display| fails(format!("{name}, after sequence {sequence}: {error}"));
        let before = PatchFile::parse(bytes).map_err(|e| about(&e))?;
        let mut after = loaded(name, base)?;
        let old = apply(&mut after, BASE, &before, &options()).map_err(|e| about(&e))?;
        let done = apply(&mut after, BASE, &patch, &options()).map_err(|e| about(&e))?;
        // The same process without the predecessor: the successor is placed in the same room, so that every byte compares.
        let mut alone = loaded(name, base)?;
        let taken = old.patch_address + u64::from(before.headers().image_size) - old.record_address;
        alone.reserve(old.record_address, taken);
        let once = apply(&mut alone, BASE, &patch, &options()).map_err(|e| about(&e))?;
        if once.patch_address != done.patch_address {
            return Err(about(&"the successor was placed elsewhere, so that nothing can be compared"));
        }
        // The records differ: one of them names the predecessor.
        let aside = [old.record_address, done.record_address];
        let (left, right) = (memory(&after, &aside), memory(&alone, &aside));
        if left != right {
            return Err(about(&first_difference(&left, &right)));
        }
        let image = |space: &BufferSpace, at: u64| -> Result<Vec<u8>> {
            let mut bytes = vec![0; patch.headers().image_size as usize];
            hotgraft_engine::AddressSpace::read(space, at, &mut bytes).map_err(|e| about(&e))?;
            Ok(bytes)
        };
        let (left_image, right_image) = (image(&after, done.patch_address)?, image(&alone, once.patch_address)?);
        if left_image != right_image {
            return Err(about(&"the placed patches differ"));
        }
        effect.bytes += left.iter().map(|(_, bytes, _)| bytes.len() as u64).sum::<u64>() + left_image.len() as u64;
        let states = |space: &BufferSpace| -> Result<Vec<(Option<u32>, Option<hotgraft_engine::State>)>> {
            Ok(query(space, Some(BASE)).map_err(|e| about(&e))?.iter().map(|i| (i.active, i.state)).collect())
        };
        if states(&after)? != states(&alone)? {
            return Err(about(&"the patch state differs"));
        }
        check_rollback(name, &mut after, &untouched)?;
    }
    Ok(effect)
}

/// Takes out what is active and looks whether the base is as it was. What must stay for ever says so itself.
fn check_rollback(name: &str, space: &mut BufferSpace, untouched: &[(u64, Vec<u8>, String)]) -> Result<()> {
    let active = query(space, Some(BASE)).map_err(fails)?;
    let stays = active.iter().flat_map(|image| &image.patches).any(|patch| !patch.revertible);
    if stays {
        return Ok(());
    }
    rollback(space, BASE, &RollbackOptions::default()).map_err(fails)?;
    let now: Vec<_> = memory(space, &[]).into_iter().filter(|(at, ..)| *at == BASE).collect();
    if now != untouched {
        return Err(fails(format!(
            "{name} is not as it was when the patch is taken out: {}",
            first_difference(&now, untouched)
        )));
    }
    Ok(())
}

fn first_difference(left: &[(u64, Vec<u8>, String)], right: &[(u64, Vec<u8>, String)]) -> String {
    for (a, b) in left.iter().zip(right) {
        if a.0 != b.0 {
            return format!("memory at {:#x} against memory at {:#x}", a.0, b.0);
        }
        if let Some(at) = a.1.iter().zip(&b.1).position(|(x, y)| x != y) {
            return format!("the byte at {:#x} differs", a.0 + at as u64);
        }
        if a.2 != b.2 {
            return format!("the protections of the pages at {:#x} differ", a.0);
        }
    }
    "the number of allocations differs".to_owned()
}
