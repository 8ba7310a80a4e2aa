//! The PE file around the contents: headers, import tables, load configuration, base relocations, checksum.

use super::layout::{Extent, Layout, SectionId};
use super::pieces::Parts;
use super::{Input, internal};
use crate::error::Result;
use hotgraft_hotpatch::pe::checksum;
use hotgraft_program::{Image, ImportName};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Bytes of the load configuration: IMAGE_LOAD_CONFIG_DIRECTORY64 up to HotPatchTableOffset and the word behind it.
const LOAD_CONFIG_SIZE: u32 = 0xF8;
/// Offset of GuardCFFunctionTable in the load configuration.
pub(crate) const GUARD_TABLE_FIELD: u32 = 0x80;
const GUARD_COUNT_FIELD: usize = 0x88;
const GUARD_FLAGS_FIELD: usize = 0x90;
const HOT_PATCH_FIELD: usize = 0xF0;
/// IMAGE_GUARD_CF_INSTRUMENTED and IMAGE_GUARD_CF_FUNCTION_TABLE_PRESENT.
const GUARD_FLAGS: u32 = 0x500;
const DLL_GUARD_CF: u16 = 0x4000;
const DLL_HIGH_ENTROPY: u16 = 0x20;
const DLL_DYNAMIC_BASE: u16 = 0x40;
const DLL_NX_COMPAT: u16 = 0x100;

const FILE_ALIGNMENT: usize = 0x200;
const PAGE: u32 = 0x1000;
/// As many as three sections need.
const HEADERS: usize = 0x200;
const NT: usize = 0x80;
const OPTIONAL: usize = NT + 24;
const OPTIONAL_SIZE: usize = 240;
const DIRECTORIES: usize = OPTIONAL + 112;
const TIMESTAMP: usize = NT + 8;
const CHECKSUM: usize = OPTIONAL + 64;

/// True if the image has a guard function table that calls are checked against.
pub(crate) fn is_guarded(image: &Image) -> bool {
    image.dll_characteristics & DLL_GUARD_CF != 0
        && image.load_config_field(GUARD_FLAGS_FIELD as u32, 4).is_some_and(|f| f & 0x400 != 0)
}

/// The import section.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    pub(crate) bytes: Vec<u8>,
    /// RVA of the slot of each of [`Parts::imports`].
    pub(crate) slots: Vec<u32>,
    /// Import descriptors.
    pub(crate) directory: Extent,
    /// Import address table.
    pub(crate) table: Extent,
}

/// Build the import section at `rva`: address tables first (8-aligned), then descriptors, look-up tables and names.
pub(crate) fn imports(input: &Input<'_>, parts: &Parts, rva: u32) -> Result<Imports> {
    let mut out = Imports { slots: vec![0; parts.imports.len()], ..Imports::default() };
    if parts.imports.is_empty() {
        return Ok(out);
    }
    // DLL names are the same in any case of letters.
    let mut dlls: BTreeMap<String, Vec<(ImportName, usize)>> = BTreeMap::new();
    for (i, id) in parts.imports.iter().enumerate() {
        let import =
            input.new.imports.get(id.index()).ok_or_else(|| internal(format!("there is no import {}", id.0)))?;
        dlls.entry(import.dll.to_ascii_lowercase()).or_default().push((import.name.clone(), i));
    }
    let entries: usize = dlls.values().map(|names| names.len() + 1).sum();
    let descriptors = 20 * (dlls.len() + 1);
    let (lookup_at, names_at) =
        (8 * entries + descriptors.next_multiple_of(8), 16 * entries + descriptors.next_multiple_of(8));
    let mut bytes = vec![0; names_at];
    let (mut entry, mut descriptor) = (0, 8 * entries);
    let put = |bytes: &mut Vec<u8>, at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    for (dll, mut names) in dlls {
        names.sort();
        let (first, thunk) = (lookup_at + 8 * entry, 8 * entry);
        for (name, index) in names {
            let value = match name {
                ImportName::Ordinal(n) => 1 << 63 | u64::from(n),
                ImportName::Name(name) => {
                    let at = u64::from(rva) + bytes.len() as u64;
                    bytes.extend_from_slice(&[0, 0]);
                    text(&mut bytes, &name)?;
                    at
                }
            };
            put(&mut bytes, 8 * entry, &value.to_le_bytes());
            put(&mut bytes, lookup_at + 8 * entry, &value.to_le_bytes());
            out.slots[index] = rva + 8 * entry as u32;
            entry += 1;
        }
        entry += 1;
        let name = rva + bytes.len() as u32;
        text(&mut bytes, &dll)?;
        put(&mut bytes, descriptor, &(rva + first as u32).to_le_bytes());
        put(&mut bytes, descriptor + 12, &name.to_le_bytes());
        put(&mut bytes, descriptor + 16, &(rva + thunk as u32).to_le_bytes());
        descriptor += 20;
    }
    out.directory = Extent { rva: rva + 8 * entries as u32, size: descriptors as u32 };
    out.table = Extent { rva, size: 8 * entries as u32 };
    out.bytes = bytes;
    Ok(out)
}

/// A zero-terminated name, padded to an even length.
fn text(bytes: &mut Vec<u8>, name: &str) -> Result<()> {
    if name.is_empty() || name.bytes().any(|b| b == 0) {
        return Err(internal(format!("{name:?} is no name of an import")));
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    if !bytes.len().is_multiple_of(2) {
        bytes.push(0);
    }
    Ok(())
}

/// Bytes of the load configuration.
pub(crate) fn load_config_size(_: &Input<'_>) -> u32 {
    LOAD_CONFIG_SIZE
}

/// The load configuration.
pub(crate) fn load_config(input: &Input<'_>, parts: &Parts, layout: &Layout) -> Vec<u8> {
    let mut out = vec![0; LOAD_CONFIG_SIZE as usize];
    out[..4].copy_from_slice(&LOAD_CONFIG_SIZE.to_le_bytes());
    if is_guarded(&input.old.image) {
        if !parts.call_targets.is_empty() {
            let at = GUARD_TABLE_FIELD as usize;
            let table = layout.image_base + u64::from(layout.guard_table);
            out[at..at + 8].copy_from_slice(&table.to_le_bytes());
            out[GUARD_COUNT_FIELD..][..8].copy_from_slice(&(parts.call_targets.len() as u64).to_le_bytes());
        }
        out[GUARD_FLAGS_FIELD..][..4].copy_from_slice(&GUARD_FLAGS.to_le_bytes());
    }
    out[HOT_PATCH_FIELD..][..4].copy_from_slice(&layout.hot_patch.to_le_bytes());
    out
}

/// Base relocation blocks for sorted RVAs of 8-byte fields (IMAGE_REL_BASED_DIR64).
pub(crate) fn relocations(sites: &[u32]) -> Vec<u8> {
    let mut out = Vec::new();
    for block in sites.chunk_by(|a, b| a / PAGE == b / PAGE) {
        let size = 8 + 2 * block.len().next_multiple_of(2);
        out.extend_from_slice(&(block[0] / PAGE * PAGE).to_le_bytes());
        out.extend_from_slice(&(size as u32).to_le_bytes());
        for site in block {
            out.extend_from_slice(&(0xA000 | (site % PAGE) as u16).to_le_bytes());
        }
        if !block.len().is_multiple_of(2) {
            out.extend_from_slice(&[0, 0]);
        }
    }
    if out.is_empty() {
        // No table would mean that the image cannot be moved, and readers reject an empty block: two entries of padding.
        out.extend_from_slice(&PAGE.to_le_bytes());
        out.extend_from_slice(&[12, 0, 0, 0, 0, 0, 0, 0]);
    }
    out
}

/// One section to be written.
pub(crate) struct Section {
    pub(crate) id: SectionId,
    pub(crate) rva: u32,
    /// Bytes in memory; at least as many as `bytes`.
    pub(crate) size: u32,
    pub(crate) bytes: Vec<u8>,
}

impl SectionId {
    fn name(self) -> &'static str {
        match self {
            SectionId::Text => ".text",
            SectionId::Data => ".data",
            SectionId::Graft => hotgraft_hotpatch::read::SECTION,
        }
    }

    fn characteristics(self) -> u32 {
        match self {
            SectionId::Text => 0x6000_0020,
            SectionId::Data => 0xC000_0040,
            SectionId::Graft => 0x4000_0040,
        }
    }
}

/// Data directories by index: (RVA, size).
pub(crate) type Directories = BTreeMap<usize, Extent>;

/// Write the file. Sections come in ascending order, none of them empty.
pub(crate) fn write(base: &Image, image_base: u64, sections: &[Section], directories: &Directories) -> Result<Vec<u8>> {
    let mut out = vec![0; HEADERS];
    if OPTIONAL + OPTIONAL_SIZE + 40 * sections.len() > HEADERS {
        return Err(internal(format!("{} sections do not fit into the headers", sections.len())));
    }
    let put = |out: &mut Vec<u8>, at: usize, value: &[u8]| out[at..at + value.len()].copy_from_slice(value);
    dos(&mut out);
    let rounded = |size: u32| u64::from(size).next_multiple_of(u64::from(PAGE));
    let end = sections.iter().map(|s| u64::from(s.rva) + rounded(s.size)).max().unwrap_or(u64::from(PAGE));
    let end = u32::try_from(end).map_err(|_| internal("the patch is larger than 4 GB"))?;
    let total = |code: bool| -> u32 {
        let wanted = sections.iter().filter(|s| (s.id == SectionId::Text) == code);
        wanted.map(|s| s.bytes.len().next_multiple_of(FILE_ALIGNMENT) as u32).sum()
    };
    put(&mut out, NT, b"PE\0\0");
    put(&mut out, NT + 4, &0x8664u16.to_le_bytes());
    put(&mut out, NT + 6, &(sections.len() as u16).to_le_bytes());
    put(&mut out, NT + 20, &(OPTIONAL_SIZE as u16).to_le_bytes());
    // EXECUTABLE_IMAGE, LARGE_ADDRESS_AWARE, DLL.
    put(&mut out, NT + 22, &0x2022u16.to_le_bytes());
    put(&mut out, OPTIONAL, &0x20Bu16.to_le_bytes());
    put(&mut out, OPTIONAL + 2, &[14, 0]);
    put(&mut out, OPTIONAL + 4, &total(true).to_le_bytes());
    put(&mut out, OPTIONAL + 8, &total(false).to_le_bytes());
    let code = sections.iter().find(|s| s.id == SectionId::Text).map_or(0, |s| s.rva);
    put(&mut out, OPTIONAL + 20, &code.to_le_bytes());
    put(&mut out, OPTIONAL + 24, &image_base.to_le_bytes());
    put(&mut out, OPTIONAL + 32, &PAGE.to_le_bytes());
    put(&mut out, OPTIONAL + 36, &(FILE_ALIGNMENT as u32).to_le_bytes());
    // Operating system and subsystem version 6.0.
    put(&mut out, OPTIONAL + 40, &[6, 0, 0, 0]);
    put(&mut out, OPTIONAL + 48, &[6, 0, 0, 0]);
    put(&mut out, OPTIONAL + 56, &end.to_le_bytes());
    put(&mut out, OPTIONAL + 60, &(HEADERS as u32).to_le_bytes());
    put(&mut out, OPTIONAL + 68, &base.subsystem.to_le_bytes());
    let guard = if is_guarded(base) { DLL_GUARD_CF } else { 0 };
    let flags = DLL_DYNAMIC_BASE | DLL_NX_COMPAT | base.dll_characteristics & DLL_HIGH_ENTROPY | guard;
    put(&mut out, OPTIONAL + 70, &flags.to_le_bytes());
    // Stack and heap of a DLL are not used; these are the usual numbers.
    for (at, value) in [(72, 0x10_0000u64), (80, 0x1000), (88, 0x10_0000), (96, 0x1000)] {
        put(&mut out, OPTIONAL + at, &value.to_le_bytes());
    }
    put(&mut out, OPTIONAL + 108, &16u32.to_le_bytes());
    for (index, extent) in directories {
        put(&mut out, DIRECTORIES + 8 * index, &extent.rva.to_le_bytes());
        put(&mut out, DIRECTORIES + 8 * index + 4, &extent.size.to_le_bytes());
    }
    for (i, section) in sections.iter().enumerate() {
        let at = OPTIONAL + OPTIONAL_SIZE + 40 * i;
        let offset = out.len();
        let raw = section.bytes.len().next_multiple_of(FILE_ALIGNMENT);
        put(&mut out, at, section.id.name().as_bytes());
        put(&mut out, at + 8, &section.size.to_le_bytes());
        put(&mut out, at + 12, &section.rva.to_le_bytes());
        put(&mut out, at + 16, &(raw as u32).to_le_bytes());
        put(&mut out, at + 20, &(if raw == 0 { 0 } else { offset as u32 }).to_le_bytes());
        put(&mut out, at + 36, &section.id.characteristics().to_le_bytes());
        out.extend_from_slice(&section.bytes);
        out.resize(offset + raw, 0);
    }
    // The time stamp tells contents apart, as linkers do it for reproducible builds.
    let digest = Sha256::digest(&out);
    let stamp = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]).max(1);
    put(&mut out, TIMESTAMP, &stamp.to_le_bytes());
    let sum = checksum(&out, CHECKSUM);
    put(&mut out, CHECKSUM, &sum.to_le_bytes());
    Ok(out)
}

/// The DOS header and a program that says what the file is.
fn dos(out: &mut [u8]) {
    for (at, value) in [(2, 0x80u16), (4, 1), (8, 4), (12, 0xFFFF), (16, 0xB8), (24, 0x40)] {
        out[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    out[..2].copy_from_slice(b"MZ");
    out[0x3C..0x40].copy_from_slice(&(NT as u32).to_le_bytes());
    // push cs; pop ds; mov dx, 14; mov ah, 9; int 21h; mov ax, 4C01h; int 21h
    let program = [0x0E, 0x1F, 0xBA, 0x0E, 0x00, 0xB4, 0x09, 0xCD, 0x21, 0xB8, 0x01, 0x4C, 0xCD, 0x21];
    out[0x40..0x4E].copy_from_slice(&program);
    let message = b"A hotpatch for Windows; not a program for DOS.\r\n$";
    out[0x4E..0x4E + message.len()].copy_from_slice(message);
}
