//! Base relocations: which fields of the image hold addresses.

use super::bytes::Bytes;
use crate::error::{Error, Result};
use crate::image::Image;
use object::LittleEndian as LE;
use object::pe;

/// RVAs of all 8-byte fields under a base relocation, sorted, each once.
pub fn read(image: &Image) -> Result<Vec<u32>> {
    const WHAT: &str = "base relocation block";
    let Some(&(start, size)) = image.directories.get(pe::IMAGE_DIRECTORY_ENTRY_BASERELOC) else {
        return Ok(Vec::new());
    };
    let bytes = Bytes::mapped(image);
    if start == 0 || size == 0 {
        return Ok(Vec::new());
    }
    bytes.bytes("base relocations", start.into(), size.into())?;
    let (mut at, end) = (u64::from(start), u64::from(start) + u64::from(size));
    let mut sites = Vec::with_capacity(size as usize / 2);
    while at + 8 <= end {
        let block: &pe::ImageBaseRelocation = bytes.get(WHAT, at)?;
        let len = u64::from(block.size_of_block.get(LE));
        if len == 0 && block.virtual_address.get(LE) == 0 {
            break;
        }
        if len < 8 || at + len > end {
            return Err(bytes.malformed(WHAT, at, format!("a block size from 8 to {}", end - at)));
        }
        let page = u64::from(block.virtual_address.get(LE));
        let entries: &[object::U16<LE>] = bytes.slice(WHAT, at + 8, (len - 8) / 2)?;
        for (i, entry) in entries.iter().enumerate() {
            let entry = entry.get(LE);
            match pe::BaseRelocationType(entry >> 12) {
                pe::IMAGE_REL_BASED_ABSOLUTE => {}
                pe::IMAGE_REL_BASED_DIR64 => {
                    let site = page + u64::from(entry & 0xfff);
                    bytes.bytes("field under a base relocation", site, 8)?;
                    sites.push(site as u32);
                }
                other => {
                    return Err(Error::Unsupported {
                        file: image.path.clone(),
                        what: format!("base relocation type {} (at RVA {:#x})", other.0, at + 8 + 2 * i as u64),
                    });
                }
            }
        }
        at += len.next_multiple_of(4);
    }
    sites.sort_unstable();
    sites.dedup();
    Ok(sites)
}
