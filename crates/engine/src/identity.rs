//! Is the image in memory the base of the patch, and unchanged where the patch relies on it?

use std::collections::BTreeMap;

use hotgraft_hotpatch::graft::guarded_digest;
use hotgraft_hotpatch::{BaseIdentity, Graft};

use crate::error::ApplyError;
use crate::memory::{MappedImage, read_bytes};
use crate::space::AddressSpace;

pub(crate) use hotgraft_hotpatch::hex::text as hex;

/// GUID in its usual form, without braces, and behind a slash the age in hexadecimal digits.
pub fn pdb_text(pdb: &Option<([u8; 16], u32)>) -> String {
    match pdb {
        None => "none".into(),
        Some((g, age)) => {
            let part = |bytes: &[u8]| hex(bytes).to_uppercase();
            let (first, second, third) = ([g[3], g[2], g[1], g[0]], [g[5], g[4]], [g[7], g[6]]);
            format!(
                "{}-{}-{}-{}-{}/{age:x}",
                part(&first),
                part(&second),
                part(&third),
                part(&g[8..10]),
                part(&g[10..])
            )
        }
    }
}

/// The first header field that differs: (field, expected, found).
pub(crate) fn difference(image: &MappedImage, identity: &BaseIdentity) -> Option<(&'static str, String, String)> {
    let headers = &image.headers;
    let number = |field, expected: u32, found: u32| {
        (expected != found).then(|| (field, format!("{expected:#010x}"), format!("{found:#010x}")))
    };
    number("machine", identity.machine as u32, headers.machine as u32)
        .or_else(|| number("TimeDateStamp", identity.timestamp, headers.timestamp))
        .or_else(|| number("CheckSum", identity.checksum, headers.checksum))
        .or_else(|| number("SizeOfImage", identity.image_size, headers.image_size))
        .or_else(|| {
            (identity.pdb != image.pdb).then(|| ("PDB identity", pdb_text(&identity.pdb), pdb_text(&image.pdb)))
        })
}

/// Compare the headers in memory with the identity in the patch.
pub(crate) fn check_headers(image: &MappedImage, identity: &BaseIdentity) -> Result<(), ApplyError> {
    match difference(image, identity) {
        None => Ok(()),
        Some((field, expected, found)) => Err(ApplyError::WrongBase {
            file_name: identity.file_name.clone(),
            base: image.base,
            field,
            expected,
            found,
        }),
    }
}

/// Address of the loaded image that is the base of `graft`.
///
/// The file name must match (without regard to case) and the headers in memory must be the base's. If an image of that
/// name is another build, the error says which field differs.
pub fn find_base(space: &dyn AddressSpace, graft: &Graft) -> Result<u64, ApplyError> {
    let wanted = &graft.base;
    let mut other = None;
    for (base, name) in space.images()? {
        if !name.eq_ignore_ascii_case(&wanted.file_name) {
            continue;
        }
        match MappedImage::read(space, base).map_err(ApplyError::from).and_then(|image| check_headers(&image, wanted)) {
            Ok(()) => return Ok(base),
            Err(error) => other = Some(error),
        }
    }
    Err(other.unwrap_or_else(|| ApplyError::NoBase {
        file_name: wanted.file_name.clone(),
        reason: "no image of this name is loaded".into(),
    }))
}

/// Bytes that the redirects of an applied patch cover: address to original byte.
pub(crate) type Overlay = BTreeMap<u64, u8>;

/// Compare every guarded range with memory.
pub(crate) fn check_guarded(
    space: &dyn AddressSpace,
    image: &MappedImage,
    graft: &Graft,
    originals: &Overlay,
) -> Result<(), ApplyError> {
    let relocations = image.relocations(space)?;
    for function in graft.functions.iter().filter(|function| function.method.is_some()) {
        let end = function.site as u64 + function.expected.len() as u64;
        let first = relocations.partition_point(|&place| place as u64 + 8 <= function.site as u64);
        if relocations.get(first).is_some_and(|&place| (place as u64) < end) {
            return Err(crate::patch::PatchError::Unsound(format!(
                "a base relocation lies inside the redirect of {}",
                function.name
            ))
            .into());
        }
    }
    for range in &graft.guarded {
        let start = image.base + range.rva as u64;
        let mut bytes = read_bytes(space, start, range.size as usize)?;
        for (&address, &byte) in originals.range(start..start + range.size as u64) {
            bytes[(address - start) as usize] = byte;
        }
        let Some(digest) = guarded_digest(&bytes, range.rva, &relocations, image.base, 8) else {
            let text = format!("a base relocation lies half inside the guarded range {}", range.name);
            return Err(crate::patch::PatchError::Unsound(text).into());
        };
        if digest != range.digest {
            return Err(ApplyError::Modified {
                name: range.name.clone(),
                base: image.base,
                rva: range.rva,
                size: range.size,
            });
        }
    }
    Ok(())
}
