//! What is active on an image, judged by its entries in memory.

use crate::error::ApplyError;
use crate::identity;
use crate::memory::{MappedImage, read_bytes};
use crate::record::{self, Found};
use crate::redirect::Redirect;
use crate::space::{AddressSpace, SpaceError};

/// What the bytes of an entry are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// As in the base file.
    Original,
    /// The redirect of this record.
    Redirected,
    /// Anything else.
    Other(Vec<u8>),
}

/// Bytes of a redirect's site: (as the base file has them, with the redirect).
pub(crate) fn site_bytes(redirect: &Redirect<'_>) -> (Vec<u8>, Vec<u8>) {
    let original = redirect.entry.expected.clone();
    let mut redirected = original.clone();
    for write in redirect.writes() {
        let at = (write.address - redirect.site()) as usize;
        redirected[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    }
    (original, redirected)
}

/// Look at one entry.
pub(crate) fn look(space: &dyn AddressSpace, redirect: &Redirect<'_>) -> Result<Seen, SpaceError> {
    let (original, redirected) = site_bytes(redirect);
    let seen = read_bytes(space, redirect.site(), original.len())?;
    Ok(if seen == original {
        Seen::Original
    } else if seen == redirected {
        Seen::Redirected
    } else {
        Seen::Other(seen)
    })
}

/// The records of patches on `image`, by address.
pub(crate) fn records(space: &dyn AddressSpace, image: &MappedImage) -> Result<Vec<Found>, SpaceError> {
    let mut all = record::find_all(space)?;
    all.retain(|found| {
        found.record.base_address == image.base && identity::difference(image, &found.record.base).is_none()
    });
    Ok(all)
}

/// The one patch that is wholly active among `records`.
///
/// An error if one is active in part, or two are: only a person can tell what was meant.
pub(crate) fn active(space: &dyn AddressSpace, records: &[Found]) -> Result<Option<Found>, ApplyError> {
    let mut active: Option<&Found> = None;
    for found in records {
        let mut not_ours = Vec::new();
        let mut ours = 0;
        for redirect in found.record.redirects() {
            match look(space, &redirect)? {
                Seen::Redirected => ours += 1,
                Seen::Original => not_ours.push(format!("{} is not redirected", redirect.entry.name)),
                Seen::Other(bytes) => {
                    not_ours.push(format!("{} holds {}", redirect.entry.name, identity::hex(&bytes)));
                }
            }
        }
        if ours == 0 {
            continue;
        }
        let sequence = found.record.sequence;
        if !not_ours.is_empty() {
            return Err(ApplyError::Partial { sequence, detail: not_ours.join(", ") });
        }
        if let Some(other) = active {
            let detail = format!("sequence {} is active too", other.record.sequence);
            return Err(ApplyError::Partial { sequence, detail });
        }
        active = Some(found);
    }
    Ok(active.cloned())
}

/// What an address is, for people: `module+0xoffset`, a patch, or the bare address.
pub(crate) fn describe(space: &dyn AddressSpace, address: u64) -> String {
    if let Ok(Some(found)) = record::find_by_target(space, address)
        && found.record.holds(address)
    {
        return format!("{address:#x} in patch sequence {}", found.record.sequence);
    }
    let images = space.images().unwrap_or_default();
    let below = images.iter().rev().find(|(base, _)| *base <= address);
    if let Some((base, name)) = below
        && MappedImage::read(space, *base).is_ok_and(|image| address < image.end())
    {
        return format!("{name}+{:#x}", address - base);
    }
    format!("{address:#x}")
}
