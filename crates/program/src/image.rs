//! The PE file itself: headers, sections, directories, imports, exports, base relocations, identity.

use serde::Serialize;

/// Instruction set of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Architecture {
    /// IMAGE_FILE_MACHINE_AMD64 (0x8664).
    X64,
    /// IMAGE_FILE_MACHINE_ARM64 (0xAA64).
    Arm64,
    /// IMAGE_FILE_MACHINE_I386 (0x14C).
    X86,
}

/// One section header.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// Name as in the header, long names resolved where the file has a string table.
    pub name: String,
    /// First byte.
    pub rva: u32,
    /// Bytes in memory (VirtualSize, or SizeOfRawData where that is 0).
    pub size: u32,
    /// File offset of the raw data.
    pub file_offset: u32,
    /// Bytes in the file.
    pub file_size: u32,
    /// IMAGE_SCN_* flags.
    pub characteristics: u32,
}

impl Section {
    /// IMAGE_SCN_MEM_EXECUTE.
    pub fn is_executable(&self) -> bool {
        self.characteristics & 0x2000_0000 != 0
    }
    /// IMAGE_SCN_MEM_WRITE.
    pub fn is_writable(&self) -> bool {
        self.characteristics & 0x8000_0000 != 0
    }
    /// True if `rva` lies in the section's memory extent.
    pub fn contains(&self, rva: u32) -> bool {
        rva.checked_sub(self.rva).is_some_and(|d| d < self.size)
    }
}

/// GUID and age of a PDB, from the RSDS record of the debug directory, and the path it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PdbIdentity {
    /// GUID bytes as stored (little-endian fields).
    pub guid: [u8; 16],
    /// Age.
    pub age: u32,
    /// Path in the record.
    pub path: String,
}

impl std::fmt::Display for PdbIdentity {
    /// `{GUID}/age` in the usual registry form of a GUID, without braces.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let g = &self.guid;
        write!(
            f,
            "{:08X}-{:04X}-{:04X}-{:02X}{:02X}-{:02X}{:02X}{:02X}{:02X}{:02X}{:02X}/{:x}",
            u32::from_le_bytes([g[0], g[1], g[2], g[3]]),
            u16::from_le_bytes([g[4], g[5]]),
            u16::from_le_bytes([g[6], g[7]]),
            g[8],
            g[9],
            g[10],
            g[11],
            g[12],
            g[13],
            g[14],
            g[15],
            self.age
        )
    }
}

/// What is imported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportName {
    /// By name (the hint is not part of the identity).
    Name(String),
    /// By ordinal.
    Ordinal(u16),
}

impl std::fmt::Display for ImportName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ImportName::Name(name) => f.write_str(name),
            ImportName::Ordinal(n) => write!(f, "#{n}"),
        }
    }
}

/// One slot of an import address table.
#[derive(Clone, Debug, Serialize)]
pub struct Import {
    /// DLL name as written in the file.
    pub dll: String,
    /// Name or ordinal.
    pub name: ImportName,
    /// The slot in the import address table; 8 bytes on 64-bit machines.
    pub slot: u32,
    /// True for a delay-loaded import.
    pub delayed: bool,
}

/// Where an export leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportTarget {
    /// An RVA in this image.
    Rva(u32),
    /// `DLL.Name` in another image.
    Forwarder(String),
}

/// One entry of the export address table.
#[derive(Clone, Debug, Serialize)]
pub struct Export {
    /// Biased ordinal.
    pub ordinal: u32,
    /// Name, if exported by name. An address exported under several names gives several entries.
    pub name: Option<String>,
    /// Where it leads.
    pub target: ExportTarget,
}

/// A PE image as the loader would map it at its preferred base, before base relocations and imports.
#[derive(Clone, Debug)]
pub struct Image {
    /// File name as given by the caller; used in messages only.
    pub path: String,
    /// Instruction set.
    pub architecture: Architecture,
    /// Preferred load address (VA).
    pub image_base: u64,
    /// FileHeader.TimeDateStamp.
    pub timestamp: u32,
    /// OptionalHeader.CheckSum.
    pub checksum: u32,
    /// OptionalHeader.SizeOfImage, bytes.
    pub size_of_image: u32,
    /// OptionalHeader.SizeOfHeaders, bytes.
    pub size_of_headers: u32,
    /// OptionalHeader.SectionAlignment, bytes.
    pub section_alignment: u32,
    /// AddressOfEntryPoint, 0 if none.
    pub entry_point: u32,
    /// FileHeader.Characteristics.
    pub characteristics: u16,
    /// OptionalHeader.DllCharacteristics.
    pub dll_characteristics: u16,
    /// IMAGE_DLLCHARACTERISTICS_EX_* from debug directory type 20, 0 if absent.
    pub extended_dll_characteristics: u32,
    /// OptionalHeader.Subsystem.
    pub subsystem: u16,
    /// Data directories: (RVA, size); the certificate table's first field is a file offset.
    pub directories: Vec<(u32, u32)>,
    /// Section headers in file order.
    pub sections: Vec<Section>,
    /// The mapped image: `size_of_image` bytes, headers and sections at their RVAs.
    pub mapped: Vec<u8>,
    /// Size of the file, bytes.
    pub file_size: u64,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// SHA-1 of the file; IMAGE_HOT_PATCH_HASHES wants it.
    pub sha1: [u8; 20],
    /// RVAs of the fields that base relocations cover, sorted; width by architecture (DIR64: 8, HIGHLOW: 4).
    pub base_relocations: Vec<u32>,
    /// RSDS record of the debug directory.
    pub pdb: Option<PdbIdentity>,
}

impl Image {
    /// `len` bytes at `rva`, or `None` if they do not all lie inside the image.
    pub fn bytes(&self, rva: u32, len: usize) -> Option<&[u8]> {
        let start = rva as usize;
        self.mapped.get(start..start.checked_add(len)?)
    }

    /// Little-endian u32 at `rva`.
    pub fn u32(&self, rva: u32) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(rva, 4)?.try_into().ok()?))
    }

    /// Little-endian u64 at `rva`.
    pub fn u64(&self, rva: u32) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(rva, 8)?.try_into().ok()?))
    }

    /// The section that `rva` lies in.
    pub fn section_at(&self, rva: u32) -> Option<&Section> {
        self.sections.iter().find(|s| s.contains(rva))
    }

    /// A field of the load configuration of an x64 image: `width` 4 or 8 bytes at `offset` from its start. `None` if
    /// there is no such structure, or it is too short for the field.
    pub fn load_config_field(&self, offset: u32, width: u32) -> Option<u64> {
        let (rva, size) = self.directories.get(10).copied()?;
        let declared = self.u32(rva).filter(|_| rva != 0 && size != 0)?;
        if offset.checked_add(width)? > declared {
            return None;
        }
        let at = rva.checked_add(offset)?;
        if width == 8 { self.u64(at) } else { self.u32(at).map(u64::from) }
    }

    /// True for IMAGE_FILE_DLL.
    pub fn is_dll(&self) -> bool {
        self.characteristics & 0x2000 != 0
    }
}
