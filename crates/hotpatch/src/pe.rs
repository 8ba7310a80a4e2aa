//! As much of a PE file as the hotpatch tables need: headers, directories, sections, bytes by RVA.
//!
//! Works on any bytes: every position is checked before it is used.

use crate::error::{Error, Result};
use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader};

/// Index of the load configuration in the data directories.
pub const DIRECTORY_LOAD_CONFIG: usize = 10;
/// Index of the export table in the data directories.
pub const DIRECTORY_EXPORT: usize = 0;
/// Index of the base relocations in the data directories.
pub const DIRECTORY_BASE_RELOCATION: usize = 5;

/// Index of the debug directory in the data directories.
pub const DIRECTORY_DEBUG: usize = 6;

/// One section header.
#[derive(Clone, Debug)]
pub struct SectionView {
    /// Name as in the header, without trailing zeros.
    pub name: String,
    /// First RVA.
    pub rva: u32,
    /// Bytes in memory.
    pub size: u32,
    /// File offset of the raw data.
    pub file_offset: u32,
    /// Bytes in the file that are mapped (at most `size` rounded up to a page is mapped; here at most `size`).
    pub file_size: u32,
    /// IMAGE_SCN_* flags.
    pub characteristics: u32,
}

/// A checked view of a PE file's headers.
#[derive(Clone, Debug)]
pub struct View<'a> {
    data: &'a [u8],
    /// IMAGE_FILE_MACHINE_*.
    pub machine: u16,
    /// True for PE32+.
    pub is_64: bool,
    /// FileHeader.TimeDateStamp.
    pub timestamp: u32,
    /// FileHeader.Characteristics.
    pub characteristics: u16,
    /// OptionalHeader.DllCharacteristics.
    pub dll_characteristics: u16,
    /// OptionalHeader.CheckSum.
    pub checksum: u32,
    /// File offset of OptionalHeader.CheckSum.
    pub checksum_offset: usize,
    /// OptionalHeader.ImageBase.
    pub image_base: u64,
    /// OptionalHeader.SizeOfImage.
    pub size_of_image: u32,
    /// OptionalHeader.SizeOfHeaders.
    pub size_of_headers: u32,
    /// Data directories: (RVA, size).
    pub directories: Vec<(u32, u32)>,
    /// Sections in file order.
    pub sections: Vec<SectionView>,
}

impl<'a> View<'a> {
    /// Parse the headers of `data`.
    pub fn parse(data: &'a [u8]) -> Result<View<'a>> {
        let dos = pe::ImageDosHeader::parse(data).map_err(|_| image(0, "a DOS header"))?;
        let at = u64::from(dos.nt_headers_offset());
        match object::read::pe::optional_header_magic(data).map_err(|_| image(at, "an NT header"))? {
            pe::IMAGE_NT_OPTIONAL_HDR64_MAGIC => Self::parse_as::<pe::ImageNtHeaders64>(data, at, true),
            pe::IMAGE_NT_OPTIONAL_HDR32_MAGIC => Self::parse_as::<pe::ImageNtHeaders32>(data, at, false),
            _ => Err(image(at + 24, "the magic of PE32 or PE32+")),
        }
    }

    fn parse_as<H: ImageNtHeaders>(data: &'a [u8], start: u64, is_64: bool) -> Result<View<'a>> {
        let mut at = start;
        let (nt, directories) = H::parse(data, &mut at).map_err(|_| image(start, "complete NT headers"))?;
        let sections = nt.sections(data, at).map_err(|_| image(at, "a complete section table"))?;
        let optional = nt.optional_header();
        let view = View {
            data,
            machine: nt.file_header().machine.get(LE).0,
            is_64,
            timestamp: nt.file_header().time_date_stamp.get(LE),
            characteristics: nt.file_header().characteristics.get(LE).0,
            dll_characteristics: optional.dll_characteristics().0,
            checksum: optional.check_sum(),
            checksum_offset: start as usize + 24 + 64,
            image_base: optional.image_base(),
            size_of_image: optional.size_of_image(),
            size_of_headers: optional.size_of_headers(),
            directories: directories.iter().map(|d| (d.virtual_address.get(LE), d.size.get(LE))).collect(),
            sections: sections
                .iter()
                .map(|s| {
                    let raw = s.size_of_raw_data.get(LE);
                    let size = if s.virtual_size.get(LE) == 0 { raw } else { s.virtual_size.get(LE) };
                    SectionView {
                        name: String::from_utf8_lossy(s.raw_name()).into_owned(),
                        rva: s.virtual_address.get(LE),
                        size,
                        file_offset: s.pointer_to_raw_data.get(LE),
                        file_size: raw.min(size),
                        characteristics: s.characteristics.get(LE).0,
                    }
                })
                .collect(),
        };
        Ok(view)
    }

    /// The whole file.
    pub fn file(&self) -> &'a [u8] {
        self.data
    }

    /// A data directory, `(0, 0)` if absent.
    pub fn directory(&self, index: usize) -> (u32, u32) {
        self.directories.get(index).copied().unwrap_or((0, 0))
    }

    /// The section that holds `rva`.
    pub fn section_at(&self, rva: u32) -> Option<&SectionView> {
        self.sections.iter().find(|s| rva.checked_sub(s.rva).is_some_and(|d| d < s.size))
    }

    /// All bytes from `rva` to the end of what the file holds of its section.
    pub fn from(&self, rva: u32) -> Option<&'a [u8]> {
        if rva < self.size_of_headers {
            return self.data.get(rva as usize..(self.size_of_headers as usize).min(self.data.len()));
        }
        let section = self.section_at(rva)?;
        let start = section.file_offset as usize;
        let raw = self.data.get(start..start.checked_add(section.file_size as usize)?.min(self.data.len()))?;
        raw.get((rva - section.rva) as usize..)
    }

    /// `len` bytes at `rva` if the file holds them all in one section.
    pub fn bytes(&self, rva: u32, len: usize) -> Option<&'a [u8]> {
        self.from(rva)?.get(..len)
    }

    /// Little-endian u32 at `rva`.
    pub fn u32(&self, rva: u32) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(rva, 4)?.try_into().ok()?))
    }

    /// Pointer-sized value at `rva`.
    pub fn pointer(&self, rva: u32) -> Option<u64> {
        if self.is_64 {
            Some(u64::from_le_bytes(self.bytes(rva, 8)?.try_into().ok()?))
        } else {
            self.u32(rva).map(u64::from)
        }
    }

    /// Bytes of a pointer.
    pub fn pointer_size(&self) -> u32 {
        if self.is_64 { 8 } else { 4 }
    }

    /// RVA and declared bytes of a section by name.
    pub fn section(&self, name: &str) -> Option<&SectionView> {
        self.sections.iter().find(|s| s.name == name)
    }

    /// RVAs of the fields under base relocations, in file order. `None` if the blocks are malformed.
    pub fn base_relocations(&self) -> Option<Vec<u32>> {
        let (rva, size) = self.directory(DIRECTORY_BASE_RELOCATION);
        let mut out = Vec::new();
        if size == 0 {
            return Some(out);
        }
        let mut rest = self.bytes(rva, size as usize)?;
        while rest.len() >= 8 {
            let page = u32::from_le_bytes(rest[..4].try_into().ok()?);
            let len = u32::from_le_bytes(rest[4..8].try_into().ok()?) as usize;
            if len < 8 {
                return None;
            }
            for entry in rest.get(8..len)?.chunks_exact(2) {
                let entry = u16::from_le_bytes([entry[0], entry[1]]);
                if entry >> 12 != 0 {
                    out.push(page.checked_add(u32::from(entry & 0xFFF))?);
                }
            }
            rest = &rest[len..];
        }
        Some(out)
    }

    /// `len` bytes at `rva` as mapped: what the file does not hold of a section is zero. `None` if they do not lie in
    /// one section (or in the headers).
    pub fn mapped(&self, rva: u32, len: u32) -> Option<Vec<u8>> {
        let held = if let Some(section) = self.section_at(rva) {
            (rva - section.rva).checked_add(len).filter(|end| *end <= section.size)?;
            self.from(rva).unwrap_or(&[])
        } else {
            self.bytes(rva, len as usize)?
        };
        // A section may claim 4 GB of zeros; ask for no more than an image can have for real.
        let limit = self.size_of_image.min(1 << 30);
        if len > limit {
            return None;
        }
        let mut out = held[..held.len().min(len as usize)].to_vec();
        out.resize(len as usize, 0);
        Some(out)
    }

    /// GUID and age of the first RSDS record of the debug directory.
    pub fn pdb_identity(&self) -> Option<([u8; 16], u32)> {
        let (rva, size) = self.directory(DIRECTORY_DEBUG);
        for entry in self.bytes(rva, size as usize)?.chunks_exact(28) {
            let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
            if word(12) != 2 {
                continue;
            }
            let start = word(24) as usize;
            let record = self.data.get(start..start.checked_add(word(16) as usize)?)?;
            if record.len() >= 24 && record.starts_with(b"RSDS") {
                let age = u32::from_le_bytes(record[20..24].try_into().ok()?);
                return Some((record[4..20].try_into().ok()?, age));
            }
        }
        None
    }

    /// The checksum that the optional header should hold.
    pub fn computed_checksum(&self) -> u32 {
        checksum(self.data, self.checksum_offset)
    }
}

/// The PE checksum of `data` whose CheckSum field lies at file offset `field`.
pub fn checksum(data: &[u8], field: usize) -> u32 {
    let mut sum: u64 = 0;
    for (i, word) in data.chunks(2).enumerate() {
        let at = i * 2;
        // The field itself counts as zero. It is 4-aligned in every image whose NT headers are (others cannot load).
        if at + 2 > field && at < field + 4 {
            continue;
        }
        sum += u64::from(u16::from_le_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    (sum as u32).wrapping_add(data.len() as u32)
}

fn image(at: u64, expected: &str) -> Error {
    Error::Image { at, expected: expected.to_owned() }
}
