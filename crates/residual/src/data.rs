//! Comparing one object.

use crate::walk::{Context, Found, is_structural};
use hotgraft_program::{Form, ObjectId, ObjectKind, Reference};

/// The address that a reference's field holds in patched memory, when the field's holder starts at `va` there and at
/// `start` in the new image.
pub(crate) fn held_address(context: &Context<'_>, reference: &Reference, va: u64, start: u32) -> Option<u64> {
    let at = va + u64::from(reference.site - start);
    let bytes = context.world.bytes(at, u32::from(reference.width))?;
    let mut raw = [0u8; 8];
    raw[..bytes.len()].copy_from_slice(bytes);
    let unsigned = u64::from_le_bytes(raw);
    let shift = 64 - 8 * u32::from(reference.width);
    let signed = (unsigned << shift).cast_signed() >> shift;
    let origin = match reference.form {
        Form::Absolute => return Some(unsigned),
        Form::ImageRelative | Form::ImageRelativeDisplacement => context.world.image_of(va)?,
        Form::Branch | Form::RipRelative => va.wrapping_add_signed(i64::from(reference.origin) - i64::from(start)),
        // Tables relative to themselves, and fields relative to themselves, move with their holder.
        Form::Relative => va.wrapping_add_signed(i64::from(reference.origin) - i64::from(start)),
    };
    Some(origin.wrapping_add_signed(signed))
}

/// Compare bytes outside of the references' fields; the offset of the first difference.
pub(crate) fn first_difference(ours: &[u8], theirs: &[u8], start: u32, references: &[Reference]) -> Option<u32> {
    let mut from = 0usize;
    for reference in references {
        let site = (reference.site - start) as usize;
        if site > from
            && let Some(i) = (from..site.min(ours.len())).find(|&i| ours[i] != theirs[i])
        {
            return Some(i as u32);
        }
        from = from.max(site + usize::from(reference.width));
    }
    (from..ours.len()).find(|&i| ours[i] != theirs[i]).map(|i| i as u32)
}

/// Compare the object at `va` in patched memory with `object` of the new image.
pub(crate) fn compare(context: &Context<'_>, va: u64, id: ObjectId) -> Found {
    let mut found = Found::default();
    let new = context.new;
    let object = &new.objects[id.index()];
    if is_structural(object.kind) || object.size == 0 {
        return found;
    }
    let subject = object.name.clone().unwrap_or_else(|| format!("data at {:#x}", object.rva));
    let (Some(ours), Some(theirs)) =
        (context.world.bytes(va, object.size), new.image.bytes(object.rva, object.size as usize))
    else {
        found.remain("residual.data", subject, object.rva, format!("{va:#x} is not {} bytes of an image", object.size));
        return found;
    };
    let named = matches!(object.kind, ObjectKind::Unwind | ObjectKind::Rtti);
    let called = if named { Called::ThroughThunks } else { Called::ByIdentity };
    if let Err(why) = same(context, va, object.rva, (ours, theirs), called, &mut found) {
        found.remain("residual.data", subject, object.rva, why);
    }
    found
}

/// `size` bytes at `va` in patched memory are what the new image has at `rva`, addresses related.
pub(crate) fn same_bytes(context: &Context<'_>, va: u64, rva: u32, size: u32, found: &mut Found) -> Result<(), String> {
    let ours = context.world.bytes(va, size).ok_or("the place lies outside of both images")?;
    let theirs = context.new.image.bytes(rva, size as usize).ok_or("the new image has no such bytes")?;
    same(context, va, rva, (ours, theirs), Called::ByIdentity, found)
}

/// What the image-relative address of a function in data is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Called {
    /// A value like any other: the function's identity.
    ByIdentity,
    /// The run-time calls it, and nobody compares it. It must lie in the image that names it, so that a thunk of the patch
    /// may stand for a function of the base.
    ThroughThunks,
}

fn same(
    context: &Context<'_>,
    va: u64,
    rva: u32,
    (ours, theirs): (&[u8], &[u8]),
    called: Called,
    found: &mut Found,
) -> Result<(), String> {
    let end = rva + theirs.len() as u32;
    let references = context.new.references_in(rva, end);
    if let Some(cut) = references.iter().find(|r| r.site + u32::from(r.width) > end) {
        return Err(format!("the field at new RVA {:#x} is cut", cut.site));
    }
    if let Some(offset) = first_difference(ours, theirs, rva, references) {
        let (a, b) = (ours[offset as usize], theirs[offset as usize]);
        return Err(format!("byte {offset:#x} at {va:#x} is {a:#04x}, new has {b:#04x}"));
    }
    for reference in references {
        let held = held_address(context, reference, va, rva).ok_or("a field lies outside of both images")?;
        let outcome = if called == Called::ThroughThunks && reference.form == Form::ImageRelative {
            context.relate_called(held, reference.target, reference.form, found)
        } else {
            context.relate(held, reference.target, reference.form, found)
        };
        outcome.map_err(|why| format!("field at +{:#x}: {why}", reference.site - rva))?;
    }
    Ok(())
}
