//! The patch image as it will lie in the target: laid out, relocated, imports and references to the base resolved.
//! It is built in our own memory; the target sees it in one write.

use hotgraft_hotpatch::ChunkKind;

use crate::error::ApplyError;
use crate::memory::{MappedImage, read_bytes};
use crate::patch::{PatchError, PatchFile};
use crate::pe::{self, Import, SCN_EXECUTE, SCN_WRITE};
use crate::space::{AddressSpace, PAGE, Protection};

/// How far a 4-byte relative field reaches, less room for the instruction's end and an object's end.
const REACH: u64 = 0x7fff_0000;

/// Bounds (inclusive) of addresses within reach of all of the base, and of which the base is within reach.
pub(crate) fn reach(base: &MappedImage) -> (u64, u64) {
    (base.end().saturating_sub(REACH).max(0x1_0000), base.base.saturating_add(REACH) - 1)
}

/// An import with its resolved address.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub import: Import,
    pub address: u64,
}

/// Resolve the patch's own imports in the target. This can load DLLs: it is done before anything else is touched.
pub(crate) fn resolve_imports(
    space: &mut dyn AddressSpace,
    patch: &PatchFile,
    image: &[u8],
) -> Result<Vec<Resolved>, ApplyError> {
    let imports = pe::imports(image, patch.headers()).map_err(PatchError::Image)?;
    imports
        .into_iter()
        .map(|import| match space.import(&import.dll, &import.name) {
            Ok(address) => Ok(Resolved { import, address }),
            Err(source) => Err(ApplyError::Import { dll: import.dll, name: import.name, source }),
        })
        .collect()
}

fn put(image: &mut [u8], at: u32, bytes: &[u8]) {
    // `PatchFile::parse` has checked every place against SizeOfImage.
    image[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
}

/// Finish a laid-out image (`pe::expand` of the patch) for address `at`.
pub(crate) fn finish(
    space: &dyn AddressSpace,
    patch: &PatchFile,
    base: &MappedImage,
    imports: &[Resolved],
    image: &mut [u8],
    at: u64,
) -> Result<(), ApplyError> {
    let headers = patch.headers();
    pe::relocate(image, headers, at.wrapping_sub(headers.image_base)).map_err(PatchError::Image)?;
    for resolved in imports {
        put(image, resolved.import.slot, &resolved.address.to_le_bytes());
    }
    for chunk in patch.info().bases.iter().flat_map(|base| &base.chunks).filter(|chunk| chunk.inverse) {
        for record in &chunk.records {
            let target = base.base + record.target as u64;
            match chunk.kind {
                ChunkKind::Absolute => put(image, record.place, &target.to_le_bytes()),
                ChunkKind::Indirect => {
                    let value = read_bytes(space, target, 8)?;
                    put(image, record.place, &value);
                }
                _ => {}
            }
        }
    }
    for near in &patch.graft().near {
        let value = (base.base + near.target as u64).wrapping_sub(at + near.origin as u64) as i64;
        let Ok(value) = i32::try_from(value) else {
            return Err(ApplyError::TooFar { base: base.base, size: headers.image_size as u64 });
        };
        put(image, near.site, &value.to_le_bytes());
    }
    // The header in memory states where the image lies, as the Windows loader does it.
    let image_base = pe::u32_at(image, 0x3c).map(|offset| offset as usize + 24 + 24);
    if let Some(field) = image_base.and_then(|field| image.get_mut(field..field + 8)) {
        field.copy_from_slice(&at.to_le_bytes());
    }
    Ok(())
}

/// Runs of pages of the image with their protection: (RVA, bytes, protection), covering it wholly.
pub(crate) fn protections(patch: &PatchFile) -> Vec<(u32, u32, Protection)> {
    let headers = patch.headers();
    let whole = |size: u32| size.next_multiple_of(PAGE as u32);
    let mut runs: Vec<(u32, u32, Protection)> = Vec::new();
    let mut push = |rva: u32, size: u32, protection| {
        if size == 0 {
            return;
        }
        match runs.last_mut() {
            Some(last) if last.2 == protection && last.0 + last.1 == rva => last.1 += size,
            _ => runs.push((rva, size, protection)),
        }
    };
    let mut end = 0;
    for section in &headers.sections {
        push(end, section.rva - end, Protection::Read);
        let protection = match (section.characteristics & SCN_EXECUTE != 0, section.characteristics & SCN_WRITE != 0) {
            (true, _) => Protection::ReadExecute,
            (false, true) => Protection::ReadWrite,
            (false, false) => Protection::Read,
        };
        push(section.rva, whole(section.size), protection);
        end = section.rva + whole(section.size);
    }
    push(end, whole(headers.image_size).saturating_sub(end), Protection::Read);
    runs
}
