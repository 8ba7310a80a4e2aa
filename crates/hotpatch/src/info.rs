//! IMAGE_HOT_PATCH_INFO, IMAGE_HOT_PATCH_BASE, IMAGE_HOT_PATCH_HASHES and the patch table (winnt.h).

use serde::Serialize;

/// IMAGE_HOT_PATCH_INFO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HotPatchInfo {
    /// Version, 1 to 4.
    pub version: u32,
    /// SequenceNumber of the patch, not 0.
    pub sequence: u32,
    /// BufferOffset (version 2 on).
    pub buffer_offset: u32,
    /// Extra words in each record (version 3 on).
    pub extra_patch_size: u32,
    /// MinSequenceNumber (version 4 on).
    pub min_sequence: u32,
    /// Flags (version 4 on).
    pub flags: u32,
    /// Base images.
    pub bases: Vec<Base>,
}

/// IMAGE_HOT_PATCH_BASE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Base {
    /// SequenceNumber.
    pub sequence: u32,
    /// IMAGE_HOT_PATCH_BASE_* flags.
    pub flags: u32,
    /// TimeDateStamp of the base file's header.
    pub original_timestamp: u32,
    /// CheckSum of the base file's header.
    pub original_checksum: u32,
    /// BufferOffset (version 2 on).
    pub buffer_offset: u32,
    /// CodeIntegrityInfo.
    pub hashes: Option<Hashes>,
    /// The patch table.
    pub chunks: Vec<Chunk>,
}

/// IMAGE_HOT_PATCH_HASHES of the base file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hashes {
    /// SHA-256.
    pub sha256: [u8; 32],
    /// SHA-1.
    pub sha1: [u8; 20],
}

/// Type bits of a chunk header (IMAGE_HOT_PATCH_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
#[allow(missing_docs)]
pub enum ChunkKind {
    Function = 0x1_C000,
    Absolute = 0x2_C000,
    Rel32 = 0x3_C000,
    CallTarget = 0x4_4000,
    Indirect = 0x5_C000,
    NoCallTarget = 0x6_4000,
    DynamicValue = 0x7_8000,
}

/// A run of records of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chunk {
    /// Type.
    pub kind: ChunkKind,
    /// The place to change is in the patch and the target in the base.
    pub inverse: bool,
    /// IMAGE_HOT_PATCH_CHUNK_OBLIGATORY.
    pub obligatory: bool,
    /// Records.
    pub records: Vec<Record>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Record {
    /// RVA of the place to change.
    pub place: u32,
    /// RVA of the target in the other image, or a value.
    pub target: u32,
    /// `extra_patch_size` further words; the first of a FUNCTION record holds the expected first bytes.
    pub extra: Vec<u32>,
}
