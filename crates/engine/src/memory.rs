//! A mapped image, read through an [`AddressSpace`]: its identity as memory states it.

use crate::pe::{Directory, Headers, PeError, relocations, u32_at};
use crate::space::{AddressSpace, SpaceError};

/// Largest directory that is read, bytes.
const MAX_DIRECTORY: u32 = 0x1000_0000;

/// Why an image could not be read from memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Memory does not hold a PE image.
    #[error("the image at {base:#x} in memory: {source}")]
    Image {
        /// Address (VA).
        base: u64,
        /// What is wrong.
        source: PeError,
    },
    /// Memory could not be read.
    #[error(transparent)]
    Space(#[from] SpaceError),
}

/// A mapped image.
#[derive(Clone, Debug)]
pub struct MappedImage {
    /// Address (VA).
    pub base: u64,
    /// Headers as in memory.
    pub headers: Headers,
    /// GUID and age of the RSDS record.
    pub pdb: Option<([u8; 16], u32)>,
}

/// Read `size` bytes at `address`.
pub fn read_bytes(space: &dyn AddressSpace, address: u64, size: usize) -> Result<Vec<u8>, SpaceError> {
    let mut bytes = vec![0; size];
    space.read(address, &mut bytes)?;
    Ok(bytes)
}

impl MappedImage {
    /// Read headers and debug directory of the image at `base`.
    pub fn read(space: &dyn AddressSpace, base: u64) -> Result<MappedImage, MemoryError> {
        let first = read_bytes(space, base, 0x1000)?;
        let headers = match Headers::parse(&first) {
            Ok(headers) => headers,
            Err(source) => {
                // A long section table can reach beyond the first page.
                let longer = u32_at(&first, 0x3c)
                    .and_then(|pe| u32_at(&first, (pe as usize).checked_add(24 + 60)?))
                    .filter(|&size| size > 0x1000 && size <= 0x1_0000);
                match longer {
                    Some(size) => Headers::parse(&read_bytes(space, base, size as usize)?)
                        .map_err(|source| MemoryError::Image { base, source })?,
                    None => return Err(MemoryError::Image { base, source }),
                }
            }
        };
        let mut image = MappedImage { base, headers, pdb: None };
        image.pdb = image.read_pdb(space)?;
        Ok(image)
    }

    fn read_pdb(&self, space: &dyn AddressSpace) -> Result<Option<([u8; 16], u32)>, SpaceError> {
        let Some((rva, size)) = self.headers.directory(Directory::Debug) else {
            return Ok(None);
        };
        let table = read_bytes(space, self.base + rva as u64, size.min(28 * 64) as usize)?;
        for entry in table.chunks_exact(28) {
            let field = |at| u32_at(entry, at).unwrap_or(0);
            let (kind, bytes, data) = (field(12), field(16), field(20));
            if kind != 2 || bytes < 24 || data == 0 || data as u64 + 24 > self.headers.image_size as u64 {
                continue;
            }
            let record = read_bytes(space, self.base + data as u64, 24)?;
            if record[..4] == *b"RSDS" {
                let mut guid = [0; 16];
                guid.copy_from_slice(&record[4..20]);
                return Ok(Some((guid, u32_at(&record, 20).unwrap_or(0))));
            }
        }
        Ok(None)
    }

    /// First byte behind the image (VA).
    pub fn end(&self) -> u64 {
        self.base.saturating_add(self.headers.image_size as u64)
    }

    /// Places of the base relocations, from the image's own directory in memory, sorted.
    pub fn relocations(&self, space: &dyn AddressSpace) -> Result<Vec<u32>, MemoryError> {
        match self.headers.directory(Directory::BaseRelocation) {
            Some((rva, size)) if size <= MAX_DIRECTORY => {
                let table = read_bytes(space, self.base + rva as u64, size as usize)?;
                relocations(&table, rva, self.headers.image_size)
                    .map_err(|source| MemoryError::Image { base: self.base, source })
            }
            _ => Ok(Vec::new()),
        }
    }
}
