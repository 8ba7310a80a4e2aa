//! Are two images the same program? Asked of the files alone, to see that "nothing to patch" is true.
//!
//! Where a fix is not compiled in, or compiles to what was there before, a linker writes the same bytes at the same
//! places: nothing has to be understood of them. What may differ is what says when and from what a file was made: the
//! time stamp, the checksum, and what the debug directory leads to.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile64};

/// Every section of one image, and where its debug directory and what that leads to lie in the file.
struct Parts {
    sections: Vec<(u32, Vec<u8>)>,
    debug: Vec<Range<u32>>,
    entry: u32,
    directories: Vec<(u32, u32)>,
}

/// Compares two images byte for byte.
///
/// # Errors
/// If they differ in anything but the time stamp, the checksum, and the debug directory with its records; or if one is no image.
pub fn check(old: &Path, new: &Path) -> Result<()> {
    let [old, new] = [old, new].map(|path| {
        let bytes = std::fs::read(path)?;
        parts(&bytes).with_context(|| format!("cannot read {}", path.display()))
    });
    compare(&old?, &new?)
}

fn compare(old: &Parts, new: &Parts) -> Result<()> {
    ensure!(old.entry == new.entry, "the entry points differ");
    ensure!(old.directories == new.directories, "the data directories differ");
    ensure!(old.debug == new.debug, "the debug directories differ in place or size");
    ensure!(old.sections.len() == new.sections.len(), "the sections differ in number");
    for ((rva, a), (other, b)) in old.sections.iter().zip(&new.sections) {
        ensure!(rva == other && a.len() == b.len(), "the sections differ in place or size");
        let at = |i: usize| rva + i as u32;
        let differs = |&i: &usize| a[i] != b[i] && !old.debug.iter().any(|range| range.contains(&at(i)));
        if let Some(first) = (0..a.len()).find(differs) {
            bail!("{} bytes of a section differ, the first at {:#x}", (0..a.len()).filter(differs).count(), at(first));
        }
    }
    Ok(())
}

fn parts(bytes: &[u8]) -> Result<Parts> {
    let file = PeFile64::parse(bytes)?;
    let sections = file.section_table();
    let mut debug = Vec::new();
    if let Some(directory) = file.data_directory(pe::IMAGE_DIRECTORY_ENTRY_DEBUG) {
        let start = directory.virtual_address.get(LE);
        debug.push(start..start.saturating_add(directory.size.get(LE)));
        let entries = directory.data(bytes, &sections)?;
        for entry in entries.chunks_exact(size_of::<pe::ImageDebugDirectory>()) {
            let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
            // IMAGE_DEBUG_DIRECTORY: SizeOfData at 16, AddressOfRawData at 20.
            debug.push(word(20)..word(20).saturating_add(word(16)));
        }
    }
    let contents = sections.iter().map(|section| {
        let held = section.pe_data(bytes).unwrap_or_default();
        let size = (section.virtual_size.get(LE) as usize).min(held.len());
        (section.virtual_address.get(LE), held[..size].to_vec())
    });
    let header = file.nt_headers().optional_header();
    Ok(Parts {
        sections: contents.collect(),
        debug,
        entry: header.address_of_entry_point(),
        directories: file
            .data_directories()
            .iter()
            .map(|directory| (directory.virtual_address.get(LE), directory.size.get(LE)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Parts, compare};

    fn parts(code: &[u8]) -> Parts {
        let debug = std::iter::once(0x2004..0x2008).collect();
        Parts {
            sections: vec![(0x1000, code.to_vec()), (0x2000, vec![1; 16])],
            debug,
            entry: 0x1000,
            directories: vec![],
        }
    }

    #[test]
    fn one_byte_of_code_is_a_difference_and_the_build_id_is_none() {
        assert!(compare(&parts(&[0x90, 0xC3]), &parts(&[0x90, 0xC3])).is_ok());
        assert!(compare(&parts(&[0x90, 0xC3]), &parts(&[0x91, 0xC3])).is_err());
        let mut other = parts(&[0x90, 0xC3]);
        other.sections[1].1[5] = 2;
        assert!(compare(&parts(&[0x90, 0xC3]), &other).is_ok());
        other.sections[1].1[8] = 2;
        assert!(compare(&parts(&[0x90, 0xC3]), &other).is_err());
    }
}
