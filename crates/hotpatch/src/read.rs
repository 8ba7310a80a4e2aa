//! From the bytes of a PE file to a [`Hotpatch`].

use crate::error::{Error, Result};
use crate::graft::Graft;
use crate::info::{Base, Chunk, ChunkKind, Hashes, HotPatchInfo};
use crate::pe::View;
use crate::raw;
use serde::Serialize;

/// Name of our own section.
pub const SECTION: &str = ".hgraft";

/// What the structure of a hotpatch image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Structure {
    /// The Windows tables say everything that must be done: no near list.
    Windows,
    /// `.hgraft` holds near references that Windows' tables cannot express; only our engine can apply it.
    Near,
}

/// A hotpatch image, read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hotpatch {
    /// IMAGE_FILE_MACHINE_* of the image.
    pub machine: u16,
    /// OptionalHeader.SizeOfImage of the image, bytes.
    pub image_size: u32,
    /// RVA of IMAGE_HOT_PATCH_INFO.
    pub info_rva: u32,
    /// The Windows tables.
    pub info: HotPatchInfo,
    /// Our own section, if the image has it.
    pub graft: Option<Graft>,
    /// RVAs in the patch of its own valid call targets (guard function table of its load configuration), sorted.
    pub call_targets: Vec<u32>,
}

impl Hotpatch {
    /// Whether the image is structurally a Windows hotpatch.
    pub fn structure(&self) -> Structure {
        match &self.graft {
            Some(graft) if !graft.near.is_empty() => Structure::Near,
            _ => Structure::Windows,
        }
    }
}

/// Read a hotpatch image.
///
/// Fails with [`Error::NotAHotpatch`] for a PE image without hotpatch information and with another error for
/// anything malformed. What can be read but breaks a rule is [`check`](crate::check::check)'s business.
pub fn read(bytes: &[u8]) -> Result<Hotpatch> {
    let view = View::parse(bytes)?;
    let config = raw::load_config(&view)?.filter(|c| c.hot_patch != 0).ok_or(Error::NotAHotpatch)?;
    let raw = raw::info(&view, config.hot_patch)?;
    let mut call_targets = call_targets(&view, &config)?;
    call_targets.sort_unstable();
    Ok(Hotpatch {
        machine: view.machine,
        image_size: view.size_of_image,
        info_rva: raw.rva,
        info: info(&raw)?,
        graft: graft_bytes(&view).map(Graft::from_bytes).transpose()?,
        call_targets,
    })
}

/// The bytes of `.hgraft`, if the image has the section.
pub(crate) fn graft_bytes<'a>(view: &View<'a>) -> Option<&'a [u8]> {
    let section = view.section(SECTION)?;
    Some(view.from(section.rva).unwrap_or(&[]))
}

fn info(raw: &raw::RawInfo) -> Result<HotPatchInfo> {
    Ok(HotPatchInfo {
        version: raw.version,
        sequence: raw.sequence,
        buffer_offset: raw.buffer_offset,
        extra_patch_size: raw.extra,
        min_sequence: raw.min_sequence,
        flags: raw.flags,
        bases: raw.bases.iter().map(|b| base(raw.rva, b)).collect::<Result<_>>()?,
    })
}

fn base(info: u32, raw: &raw::RawBase) -> Result<Base> {
    let [sequence, flags, original_timestamp, original_checksum, _, _, _, buffer_offset] = raw.words;
    let chunks = raw
        .chunks
        .iter()
        .map(|c| {
            let at = info.wrapping_add(c.offset);
            if c.header & raw::CHUNK_RESERVED != 0 {
                return Err(raw::table("patch table chunk", at, "reserved bits that are zero"));
            }
            let kind = ChunkKind::from_bits(c.header & raw::CHUNK_TYPE)
                .ok_or_else(|| raw::table("patch table chunk", at, "a type that winnt.h defines"))?;
            Ok(Chunk {
                kind,
                inverse: c.header & raw::CHUNK_INVERSE != 0,
                obligatory: c.header & raw::CHUNK_OBLIGATORY != 0,
                records: c.records.clone(),
            })
        })
        .collect::<Result<_>>()?;
    let hashes = raw.hashes.map(|h| {
        let (sha256, sha1) = h.split_at(32);
        let mut out = Hashes { sha256: [0; 32], sha1: [0; 20] };
        out.sha256.copy_from_slice(sha256);
        out.sha1.copy_from_slice(sha1);
        out
    });
    Ok(Base { sequence, flags, original_timestamp, original_checksum, buffer_offset, hashes, chunks })
}

/// The guard function table: GuardCFFunctionTable (+0x80 / +0x50), GuardCFFunctionCount, GuardFlags; in file order.
pub(crate) fn call_targets(view: &View<'_>, config: &raw::RawLoadConfig) -> Result<Vec<u32>> {
    let (table_at, count_at, flags_at) = if view.is_64 { (0x80, 0x88, 0x90) } else { (0x50, 0x54, 0x58) };
    if config.size < flags_at + 4 {
        return Ok(Vec::new());
    }
    let fail = |expected: &str| raw::table("guard function table", config.rva, expected);
    let field = |offset: u32| config.rva.checked_add(offset);
    let table = field(table_at).and_then(|a| view.pointer(a)).ok_or_else(|| fail("its address inside the file"))?;
    let count = field(count_at).and_then(|a| view.pointer(a)).ok_or_else(|| fail("its count inside the file"))?;
    let flags = field(flags_at).and_then(|a| view.u32(a)).ok_or_else(|| fail("GuardFlags inside the file"))?;
    if table == 0 || count == 0 {
        return Ok(Vec::new());
    }
    let stride = 4 + u64::from(flags >> 28);
    let bytes = table
        .checked_sub(view.image_base)
        .and_then(|rva| u32::try_from(rva).ok())
        .zip(count.checked_mul(stride).and_then(|n| usize::try_from(n).ok()))
        .and_then(|(rva, len)| view.bytes(rva, len))
        .ok_or_else(|| fail("all entries inside the file"))?;
    Ok(bytes.chunks_exact(stride as usize).map(|e| u32::from_le_bytes([e[0], e[1], e[2], e[3]])).collect())
}
