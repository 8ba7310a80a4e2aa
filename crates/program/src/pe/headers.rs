//! Headers and section table, and the mapped image made from them.

use super::bytes::Bytes;
use crate::error::{Error, Result};
use crate::image::{Architecture, Image, Section};
use object::LittleEndian as LE;
use object::pe;
use sha2::{Digest, Sha256};

/// Largest SizeOfImage accepted: RIP-relative addresses and RVAs reach no further.
const IMAGE_LIMIT: u64 = 1 << 31;

/// Checks the headers and maps the sections. Directories are not read, except to tell managed images.
pub fn map(name: &str, file: &[u8]) -> Result<Image> {
    let raw = Bytes { file: name, data: file };
    let dos: &pe::ImageDosHeader = raw.get("DOS header", 0)?;
    if dos.e_magic.get(LE) != pe::IMAGE_DOS_SIGNATURE {
        return Err(raw.malformed("DOS header", 0, "the signature MZ"));
    }
    let nt = u64::from(dos.e_lfanew.get(LE));
    if raw.bytes("PE signature", nt, 4)? != b"PE\0\0" {
        return Err(raw.malformed("PE signature", nt, "PE\\0\\0"));
    }
    let header: &pe::ImageFileHeader = raw.get("file header", nt + 4)?;
    let architecture = architecture(name, header.machine.get(LE))?;
    let optional_at = nt + 24;
    let optional: &pe::ImageOptionalHeader64 = raw.get("optional header", optional_at)?;
    if optional.magic.get(LE) != pe::IMAGE_NT_OPTIONAL_HDR64_MAGIC {
        return Err(raw.malformed("optional header", optional_at, "the magic 0x20b of PE32+"));
    }
    let optional_size = u64::from(header.size_of_optional_header.get(LE));
    let count = u64::from(optional.number_of_rva_and_sizes.get(LE)).min(16);
    let fixed = size_of::<pe::ImageOptionalHeader64>() as u64;
    if optional_size < fixed + count * 8 {
        return Err(raw.malformed("optional header", optional_at, format!("room for {count} data directories")));
    }
    let directories: Vec<(u32, u32)> = raw
        .slice::<pe::ImageDataDirectory>("data directories", optional_at + fixed, count)?
        .iter()
        .map(|d| (d.virtual_address.get(LE), d.size.get(LE)))
        .collect();
    if directories.get(pe::IMAGE_DIRECTORY_ENTRY_COM_DESCRIPTOR).is_some_and(|d| d.0 != 0) {
        return Err(Error::Unsupported { file: name.to_owned(), what: "a managed (.NET) image".to_owned() });
    }

    let sections_at = optional_at + optional_size;
    let headers: &[pe::ImageSectionHeader] =
        raw.slice("section table", sections_at, header.number_of_sections.get(LE).into())?;
    let names = StringTable::of(raw, header);
    let sections: Vec<Section> = headers
        .iter()
        .map(|h| {
            let virtual_size = h.virtual_size.get(LE);
            let file_size = h.size_of_raw_data.get(LE);
            Section {
                name: names.resolve(&h.name),
                rva: h.virtual_address.get(LE),
                size: if virtual_size == 0 { file_size } else { virtual_size },
                file_offset: h.pointer_to_raw_data.get(LE),
                file_size,
                characteristics: h.characteristics.get(LE).0,
            }
        })
        .collect();

    let size_of_image = optional.size_of_image.get(LE);
    let size_of_headers = optional.size_of_headers.get(LE);
    let section_alignment = optional.section_alignment.get(LE);
    if !section_alignment.is_power_of_two() {
        return Err(raw.malformed("optional header", optional_at + 32, "a power of two as SectionAlignment"));
    }
    check_layout(&raw, optional_at, sections_at, &sections, size_of_image, size_of_headers, section_alignment)?;
    let mapped = fill(&raw, sections_at, &sections, size_of_image, size_of_headers, section_alignment)?;

    Ok(Image {
        path: name.to_owned(),
        architecture,
        image_base: optional.image_base.get(LE),
        timestamp: header.time_date_stamp.get(LE),
        checksum: optional.check_sum.get(LE),
        size_of_image,
        size_of_headers,
        section_alignment,
        entry_point: optional.address_of_entry_point.get(LE),
        characteristics: header.characteristics.get(LE).0,
        dll_characteristics: optional.dll_characteristics.get(LE).0,
        extended_dll_characteristics: 0,
        subsystem: optional.subsystem.get(LE).0,
        directories,
        sections,
        mapped,
        file_size: file.len() as u64,
        sha256: Sha256::digest(file).into(),
        sha1: sha1::Sha1::digest(file).into(),
        base_relocations: Vec::new(),
        pdb: None,
    })
}

fn architecture(name: &str, machine: pe::Machine) -> Result<Architecture> {
    let what = match machine {
        pe::IMAGE_FILE_MACHINE_AMD64 => return Ok(Architecture::X64),
        pe::IMAGE_FILE_MACHINE_ARM64 => "machine ARM64 (0xaa64)".to_owned(),
        pe::IMAGE_FILE_MACHINE_I386 => "machine x86 (0x14c)".to_owned(),
        pe::IMAGE_FILE_MACHINE_ARMNT => "machine ARM Thumb-2 (0x1c4)".to_owned(),
        other => format!("machine {:#06x}", other.0),
    };
    Err(Error::Unsupported { file: name.to_owned(), what })
}

fn align_up(value: u64, alignment: u32) -> u64 {
    value.next_multiple_of(u64::from(alignment))
}

/// Sections ascend, do not overlap, and fill SizeOfImage: what the loader demands too.
fn check_layout(
    raw: &Bytes<'_>,
    optional_at: u64,
    sections_at: u64,
    sections: &[Section],
    size_of_image: u32,
    size_of_headers: u32,
    section_alignment: u32,
) -> Result<()> {
    let size_at = optional_at + 56;
    if u64::from(size_of_image) > IMAGE_LIMIT {
        return Err(raw.malformed("optional header", size_at, "SizeOfImage of at most 2 GiB"));
    }
    let mut end = u64::from(size_of_headers);
    for (i, s) in sections.iter().enumerate() {
        let at = sections_at + 40 * i as u64;
        if u64::from(s.rva) < end {
            return Err(raw.malformed("section header", at, format!("a section behind RVA {end:#x}")));
        }
        end = u64::from(s.rva) + u64::from(s.size);
        if end > u64::from(size_of_image) {
            return Err(raw.malformed("section header", at, format!("an end within SizeOfImage {size_of_image:#x}")));
        }
    }
    if u64::from(size_of_image) > align_up(end, section_alignment) {
        let most = align_up(end, section_alignment);
        return Err(raw.malformed("optional header", size_at, format!("SizeOfImage of at most {most:#x}")));
    }
    Ok(())
}

fn fill(
    raw: &Bytes<'_>,
    sections_at: u64,
    sections: &[Section],
    size_of_image: u32,
    size_of_headers: u32,
    section_alignment: u32,
) -> Result<Vec<u8>> {
    let headers = raw.bytes("headers", 0, u64::from(size_of_headers).min(raw.data.len() as u64))?;
    if headers.len() > size_of_image as usize {
        return Err(raw.malformed("headers", 0, "SizeOfHeaders within SizeOfImage"));
    }
    for (i, s) in sections.iter().enumerate() {
        if s.file_size != 0 && s.file_offset != 0 {
            raw.bytes("raw data of a section", s.file_offset.into(), s.file_size.into()).map_err(|_| {
                let at = sections_at + 40 * i as u64;
                raw.malformed("section header", at, format!("raw data of {} inside the file", s.name))
            })?;
        }
    }
    // Large and mostly untouched where sections are zero filled: the allocator hands out zero pages lazily.
    let mut mapped = vec![0; size_of_image as usize];
    mapped[..headers.len()].copy_from_slice(headers);
    for (i, s) in sections.iter().enumerate() {
        if s.file_offset == 0 {
            continue;
        }
        let start = s.rva as usize;
        // The loader maps whole pages of the file, so bytes behind VirtualSize are seen up to the page's end.
        let room = align_up(u64::from(s.rva) + u64::from(s.size), section_alignment);
        let next = sections.get(i + 1).map_or(size_of_image, |n| n.rva);
        let end = (room.min(next.into()) as usize).min(start + s.file_size as usize).max(start);
        let data = raw.bytes("raw data of a section", s.file_offset.into(), (end - start) as u64)?;
        mapped[start..end].copy_from_slice(data);
    }
    Ok(mapped)
}

/// The COFF string table, in which section names longer than eight bytes are kept.
struct StringTable<'a>(&'a [u8]);

impl<'a> StringTable<'a> {
    fn of(raw: Bytes<'a>, header: &pe::ImageFileHeader) -> Self {
        let symbols = u64::from(header.pointer_to_symbol_table.get(LE));
        let at = symbols + 18 * u64::from(header.number_of_symbols.get(LE));
        let table = if symbols == 0 { None } else { usize::try_from(at).ok().and_then(|at| raw.data.get(at..)) };
        StringTable(table.unwrap_or_default())
    }

    /// A name that refers to nothing stays as it is: the loader does not look at it.
    fn resolve(&self, name: &[u8; 8]) -> String {
        let end = name.iter().position(|&b| b == 0).unwrap_or(8);
        let short = String::from_utf8_lossy(&name[..end]).into_owned();
        short
            .strip_prefix('/')
            .and_then(|digits| digits.parse::<usize>().ok())
            .and_then(|at| self.0.get(at..))
            .and_then(|rest| rest.get(..rest.iter().take(256).position(|&b| b == 0)?))
            .map_or(short, |long| String::from_utf8_lossy(long).into_owned())
    }
}
