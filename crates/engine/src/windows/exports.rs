//! Exports of a DLL in the target, read from its memory: no lock of the target is needed for it.

use super::sys::{self, Handle};
use crate::memory::MappedImage;
use crate::pe::{Directory, ascii_at, u16_at, u32_at};

/// Largest export directory that is read, bytes.
const MAX_DIRECTORY: u32 = 0x400_0000;

/// What an export is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Export {
    /// Address (VA).
    At(u64),
    /// `DLL.name` or `DLL.#ordinal`.
    Forwarded(String),
}

/// Find `name` (`#N`: ordinal N) among the exports of the image.
pub(super) fn find(process: &Handle, image: &MappedImage, name: &str) -> Option<Export> {
    let (start, size) = image.headers.directory(Directory::Export).filter(|&(_, size)| size <= MAX_DIRECTORY)?;
    let read = |rva: u32, size: u32| {
        let mut bytes = vec![0; size as usize];
        let inside = rva as u64 + size as u64 <= image.headers.image_size as u64;
        (inside && sys::read(process, image.base + rva as u64, &mut bytes).is_ok()).then_some(bytes)
    };
    let directory = read(start, 40)?;
    let field = |at| u32_at(&directory, at);
    let (first, functions, names) = (field(16)?, field(20)?.min(0x1_0000), field(24)?.min(0x1_0000));
    let (functions_at, names_at, ordinals_at) = (field(28)?, field(32)?, field(36)?);
    let index = match name.strip_prefix('#') {
        Some(ordinal) => ordinal.parse::<u32>().ok()?.checked_sub(first)?,
        None => {
            // Names are usually inside the directory; then one read serves for all.
            let whole = read(start, size)?;
            let text = |rva: u32| match rva.checked_sub(start).and_then(|at| ascii_at(&whole, at as usize, 4096)) {
                Some(text) => Some(text.to_owned()),
                None => {
                    let near_end = image.headers.image_size.saturating_sub(rva).min(512);
                    let bytes = read(rva, near_end)?;
                    ascii_at(&bytes, 0, 512).map(str::to_owned)
                }
            };
            let pointers = read(names_at, names * 4)?;
            let ordinals = read(ordinals_at, names * 2)?;
            // Sorted by the format, but nothing enforces it.
            let position = (0..names as usize)
                .find(|&index| u32_at(&pointers, index * 4).and_then(text).as_deref() == Some(name))?;
            u16_at(&ordinals, position * 2)? as u32
        }
    };
    if index >= functions {
        return None;
    }
    let target = u32_at(&read(functions_at.checked_add(index * 4)?, 4)?, 0)?;
    if target == 0 || target >= image.headers.image_size {
        return None;
    }
    if target.checked_sub(start).is_some_and(|offset| offset < size) {
        let bytes = read(target, (start + size - target).min(512))?;
        return ascii_at(&bytes, 0, 512).map(|text| Export::Forwarded(text.to_owned()));
    }
    Some(Export::At(image.base + target as u64))
}
