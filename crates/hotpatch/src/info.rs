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
    #[serde(with = "crate::hex")]
    pub sha256: [u8; 32],
    /// SHA-1.
    #[serde(with = "crate::hex")]
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

impl ChunkKind {
    /// All kinds, by value.
    pub const ALL: [ChunkKind; 7] = [
        ChunkKind::Function,
        ChunkKind::Absolute,
        ChunkKind::Rel32,
        ChunkKind::CallTarget,
        ChunkKind::Indirect,
        ChunkKind::NoCallTarget,
        ChunkKind::DynamicValue,
    ];

    /// The kind with these type bits (see the discriminants).
    pub fn from_bits(bits: u32) -> Option<ChunkKind> {
        Self::ALL.into_iter().find(|k| *k as u32 == bits)
    }
}

/// IMAGE_HOT_PATCH_BASE flags.
pub mod base_flags {
    /// IMAGE_HOT_PATCH_BASE_OBLIGATORY.
    pub const OBLIGATORY: u32 = 1;
    /// IMAGE_HOT_PATCH_BASE_CAN_ROLL_BACK.
    pub const CAN_ROLL_BACK: u32 = 2;
    /// IMAGE_HOT_PATCH_BASE_MACHINE_I386.
    pub const MACHINE_I386: u32 = 4;
    /// IMAGE_HOT_PATCH_BASE_MACHINE_ARM64.
    pub const MACHINE_ARM64: u32 = 8;
    /// IMAGE_HOT_PATCH_BASE_MACHINE_AMD64.
    pub const MACHINE_AMD64: u32 = 0x10;
    /// The machine flag of an IMAGE_FILE_MACHINE_* value, 0 for one that has none.
    pub fn of_machine(machine: u16) -> u32 {
        match machine {
            0x14C => MACHINE_I386,
            0xAA64 => MACHINE_ARM64,
            0x8664 => MACHINE_AMD64,
            _ => 0,
        }
    }
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
