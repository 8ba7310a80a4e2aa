//! The Windows tables as they stand in the file, read leniently: whatever can be read is kept with its position, so that
//! [`check`](crate::check) can name each fault and [`read`](crate::read()) can refuse with one error.

use crate::error::{Error, Result};
use crate::info::Record;
use crate::pe::{DIRECTORY_LOAD_CONFIG, View};

/// Bytes of IMAGE_HOT_PATCH_BASE.
pub const BASE_SIZE: u32 = 32;
/// Bytes of IMAGE_HOT_PATCH_HASHES.
pub const HASHES_SIZE: u32 = 52;
/// Bits of a chunk header.
pub const CHUNK_INVERSE: u32 = 0x8000_0000;
/// A chunk that must be applied; the Windows loader rejects it.
pub const CHUNK_OBLIGATORY: u32 = 0x4000_0000;
/// Bits of a chunk header that must be zero.
pub const CHUNK_RESERVED: u32 = 0x3FF0_3000;
/// Type bits of a chunk header.
pub const CHUNK_TYPE: u32 = 0x000F_C000;
/// Number of records in a chunk header.
pub const CHUNK_COUNT: u32 = 0x0000_0FFF;

/// Smallest IMAGE_HOT_PATCH_INFO of a version; `None` for a version that does not exist.
pub fn info_size(version: u32) -> Option<u32> {
    Some(match version {
        1 => 20,
        2 => 24,
        3 => 28,
        4 => 36,
        _ => return None,
    })
}

/// Offset of HotPatchTableOffset in the load configuration, and the smallest load configuration that has it.
pub fn load_config_layout(is_64: bool) -> (u32, u32) {
    if is_64 { (0xF0, 0xF4) } else { (0x94, 0x98) }
}

/// The load configuration as far as it matters here.
#[derive(Clone, Debug)]
pub struct RawLoadConfig {
    /// RVA.
    pub rva: u32,
    /// Size in the data directory.
    pub directory_size: u32,
    /// Size field of the structure.
    pub size: u32,
    /// CHPEMetadataPointer (64-bit images; 0 if the structure is too short).
    pub chpe: u64,
    /// HotPatchTableOffset, 0 if the structure is too short.
    pub hot_patch: u32,
}

/// IMAGE_HOT_PATCH_INFO with its tables.
#[derive(Clone, Debug)]
pub struct RawInfo {
    /// RVA of the structure.
    pub rva: u32,
    /// Version.
    pub version: u32,
    /// Size.
    pub size: u32,
    /// SequenceNumber.
    pub sequence: u32,
    /// BaseImageList.
    pub base_list: u32,
    /// BaseImageCount.
    pub base_count: u32,
    /// BufferOffset.
    pub buffer_offset: u32,
    /// ExtraPatchSize.
    pub extra: u32,
    /// MinSequenceNumber.
    pub min_sequence: u32,
    /// Flags.
    pub flags: u32,
    /// Bases that could be read.
    pub bases: Vec<RawBase>,
}

/// IMAGE_HOT_PATCH_BASE.
#[derive(Clone, Debug)]
pub struct RawBase {
    /// Offset from INFO.
    pub offset: u32,
    /// The eight words.
    pub words: [u32; 8],
    /// 52 bytes behind CodeIntegrityInfo, if there is one.
    pub hashes: Option<[u8; HASHES_SIZE as usize]>,
    /// Chunks.
    pub chunks: Vec<RawChunk>,
}

/// A chunk of the patch table.
#[derive(Clone, Debug)]
pub struct RawChunk {
    /// Offset from INFO.
    pub offset: u32,
    /// Header word.
    pub header: u32,
    /// Records.
    pub records: Vec<Record>,
}

/// Read the load configuration; `None` if the image has none.
pub fn load_config(view: &View<'_>) -> Result<Option<RawLoadConfig>> {
    let (rva, directory_size) = view.directory(DIRECTORY_LOAD_CONFIG);
    if rva == 0 || directory_size == 0 {
        return Ok(None);
    }
    let size = view.u32(rva).ok_or_else(|| table("load configuration", rva, "a size field inside the file"))?;
    let (field, needed) = load_config_layout(view.is_64);
    let has = |end: u32| size >= end && directory_size >= end;
    let at = |offset: u32| rva.checked_add(offset);
    let chpe = if view.is_64 && has(0xD0) { at(0xC8).and_then(|a| view.pointer(a)).unwrap_or(0) } else { 0 };
    let hot_patch = if has(needed) {
        at(field)
            .and_then(|a| view.u32(a))
            .ok_or_else(|| table("load configuration", rva, "HotPatchTableOffset inside the file"))?
    } else {
        0
    };
    Ok(Some(RawLoadConfig { rva, directory_size, size, chpe, hot_patch }))
}

/// Read IMAGE_HOT_PATCH_INFO at `rva` and everything behind it. Fails where the positions lead outside of `Size` bytes,
/// or where the tables of several bases overlap (their total would not be bounded by the file).
pub fn info(view: &View<'_>, rva: u32) -> Result<RawInfo> {
    const WHAT: &str = "IMAGE_HOT_PATCH_INFO";
    let fail = |expected: String| Error::Table { what: WHAT, at: rva, expected };
    let head = view.bytes(rva, 8).ok_or_else(|| fail("the structure inside one section of the file".into()))?;
    let (version, size) = (word(head, 0).unwrap_or(0), word(head, 4).unwrap_or(0));
    let minimum = info_size(version).ok_or_else(|| fail(format!("version 1 to 4, not {version}")))?;
    if size < minimum {
        return Err(fail(format!("Size of at least {minimum} for version {version}, not {size}")));
    }
    let data = view
        .bytes(rva, size as usize)
        .ok_or_else(|| fail(format!("Size ({size:#x}) bytes in one section of the file")))?;
    let get = |offset: u32| if offset < minimum { word(data, offset).unwrap_or(0) } else { 0 };
    let mut out = RawInfo {
        rva,
        version,
        size,
        sequence: get(8),
        base_list: get(12),
        base_count: get(16),
        buffer_offset: get(20),
        extra: get(24),
        min_sequence: get(28),
        flags: get(32),
        bases: Vec::new(),
    };
    let list = slice(data, out.base_list, u64::from(out.base_count) * 4)
        .ok_or_else(|| table("BaseImageList", rva.wrapping_add(out.base_list), "a list inside Size"))?;
    // Every word of a table is read for one base only, so the work is bounded by the file.
    let mut budget = u64::from(size / 4);
    for entry in list.chunks_exact(4) {
        let offset = word(entry, 0).unwrap_or(0);
        budget = budget
            .checked_sub(u64::from(BASE_SIZE / 4))
            .ok_or_else(|| table("BaseImageList", rva.wrapping_add(out.base_list), "bases that do not overlap"))?;
        let base = base(data, rva, offset, out.extra, &mut budget)?;
        out.bases.push(base);
    }
    Ok(out)
}

fn base(data: &[u8], rva: u32, offset: u32, extra: u32, budget: &mut u64) -> Result<RawBase> {
    let bytes = slice(data, offset, u64::from(BASE_SIZE))
        .ok_or_else(|| table("IMAGE_HOT_PATCH_BASE", rva.wrapping_add(offset), "the structure inside Size"))?;
    let words = std::array::from_fn(|i| word(bytes, i as u32 * 4).unwrap_or(0));
    let (integrity, integrity_size, patch_table) = (words[4], words[5], words[6]);
    let hashes = if integrity == 0 {
        None
    } else {
        let at = rva.wrapping_add(integrity);
        let bytes = slice(data, integrity, u64::from(HASHES_SIZE))
            .filter(|_| slice(data, integrity, u64::from(integrity_size)).is_some())
            .ok_or_else(|| table("IMAGE_HOT_PATCH_HASHES", at, "52 bytes inside Size"))?;
        bytes.try_into().ok()
    };
    let chunks = if patch_table == 0 { Vec::new() } else { chunks(data, rva, patch_table, extra, budget)? };
    Ok(RawBase { offset, words, hashes, chunks })
}

fn chunks(data: &[u8], rva: u32, start: u32, extra: u32, budget: &mut u64) -> Result<Vec<RawChunk>> {
    let words = u64::from(extra) + 2;
    let mut at = start;
    let mut out = Vec::new();
    loop {
        let fail = |expected: &str| table("patch table", rva.wrapping_add(at), expected);
        let header =
            word(data, at).ok_or_else(|| fail("a chunk header, or the zero that ends the table, inside Size"))?;
        *budget = budget.checked_sub(1).ok_or_else(|| fail("tables that do not overlap"))?;
        if header == 0 {
            return Ok(out);
        }
        let count = u64::from(header & CHUNK_COUNT);
        let total = count * words;
        let body = at
            .checked_add(4)
            .and_then(|body| slice(data, body, total * 4))
            .ok_or_else(|| fail("the records of the chunk inside Size"))?;
        *budget = budget.checked_sub(total).ok_or_else(|| fail("tables that do not overlap"))?;
        let records = body
            .chunks_exact(words as usize * 4)
            .map(|r| Record {
                place: word(r, 0).unwrap_or(0),
                target: word(r, 4).unwrap_or(0),
                extra: r[8..].chunks_exact(4).map(|w| word(w, 0).unwrap_or(0)).collect(),
            })
            .collect();
        out.push(RawChunk { offset: at, header, records });
        // `body` lies inside `data`, whose length is a u32.
        at += 4 + body.len() as u32;
    }
}

fn word(data: &[u8], offset: u32) -> Option<u32> {
    let start = offset as usize;
    Some(u32::from_le_bytes(data.get(start..start.checked_add(4)?)?.try_into().ok()?))
}

fn slice(data: &[u8], offset: u32, len: u64) -> Option<&[u8]> {
    let start = offset as usize;
    data.get(start..start.checked_add(usize::try_from(len).ok()?)?)
}

pub(crate) fn table(what: &'static str, at: u32, expected: &str) -> Error {
    Error::Table { what, at, expected: expected.to_owned() }
}
