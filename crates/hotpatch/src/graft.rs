//! The `.hgraft` section: what Windows' tables have no field for.

use serde::{Deserialize, Serialize};

/// Identity of the base image, in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseIdentity {
    /// File name without folder.
    pub file_name: String,
    /// IMAGE_FILE_MACHINE_*.
    pub machine: u16,
    /// FileHeader.TimeDateStamp.
    pub timestamp: u32,
    /// OptionalHeader.CheckSum.
    pub checksum: u32,
    /// OptionalHeader.SizeOfImage.
    pub image_size: u32,
    /// GUID and age of the RSDS record.
    pub pdb: Option<([u8; 16], u32)>,
    /// SHA-256 of the file.
    #[serde(with = "crate::hex")]
    pub sha256: [u8; 32],
}

/// How an entry is redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum EntryMethod {
    /// `EB F9` at the entry (one aligned or line-internal 2-byte store), `E9 rel32` at entry - 5.
    PaddedShortJump = 1,
    /// `E9 rel32` over the first 5 bytes, threads kept out of them.
    NearJump = 2,
}

/// A replaced or added function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraftFunction {
    /// Name for people.
    pub name: String,
    /// Entry in the base; `None` for a function that is new.
    pub base_rva: Option<u32>,
    /// Bytes of the entry range in the base.
    pub base_size: u32,
    /// Entry in the patch.
    pub patch_rva: u32,
    /// Bytes in the patch.
    pub patch_size: u32,
    /// How the entry is redirected (replaced functions only).
    pub method: Option<EntryMethod>,
    /// First RVA of the bytes that the redirect touches, and what they are in the base before relocation
    /// (replaced functions only). No base relocation may lie inside.
    pub site: u32,
    /// The expected bytes at `site`.
    #[serde(with = "crate::hex::bytes")]
    pub expected: Vec<u8>,
    /// True if no stack may hold the old function when the redirect is written.
    pub quiesce: bool,
}

/// A field of the patch that is resolved against the base after placing: `field = base address + target - origin address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NearReference {
    /// RVA in the patch of the 4-byte field.
    pub site: u32,
    /// RVA in the patch that the stored value is relative to (end of the instruction).
    pub origin: u32,
    /// RVA in the base (may be one past the end of an object).
    pub target: u32,
}

/// What a guarded range of the base is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum GuardedKind {
    /// Code of a replaced function.
    Replaced = 1,
    /// Code of a function that the patch calls or takes the address of.
    Function = 2,
    /// Read-only data that the patch refers to.
    Constant = 3,
}

/// Bytes of the digest of a guarded range. It tells a changed function from the right one; whoever could look for another one
/// with the same digest can write to the process as it is.
pub const GUARD_DIGEST: usize = 12;

/// A range of the base that must be, in memory, what the base file says after relocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Guarded {
    /// First byte.
    pub rva: u32,
    /// Bytes.
    pub size: u32,
    /// What it is.
    pub kind: GuardedKind,
    /// Start of the SHA-256 of the bytes as in the base file mapped at its preferred base, with every field under a base
    /// relocation reduced to its RVA (8-byte little-endian; import slots do not occur).
    #[serde(with = "crate::hex")]
    pub digest: [u8; GUARD_DIGEST],
    /// Name for people.
    pub name: String,
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum HookPoint {
    /// Before the entries are redirected; may veto.
    PreApply = 1,
    /// After that.
    PostApply = 2,
    /// Before the entries are restored; may veto.
    PreRollback = 3,
    /// After that.
    PostRollback = 4,
}

impl HookPoint {
    /// All, in their order.
    pub const ALL: [HookPoint; 4] =
        [HookPoint::PreApply, HookPoint::PostApply, HookPoint::PreRollback, HookPoint::PostRollback];

    /// The function in the developer's object file.
    pub fn symbol(self) -> &'static str {
        match self {
            HookPoint::PreApply => "hotgraft_pre_apply",
            HookPoint::PostApply => "hotgraft_post_apply",
            HookPoint::PreRollback => "hotgraft_pre_rollback",
            HookPoint::PostRollback => "hotgraft_post_rollback",
        }
    }
}

/// A function of the patch that is called when it is applied or rolled back: `int (void)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hook {
    /// When.
    pub point: HookPoint,
    /// Its entry in the patch.
    pub patch_rva: u32,
}

/// The developer's own code in a patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// SHA-256 of the object file that it comes from.
    #[serde(with = "crate::hex")]
    pub object_sha256: [u8; 32],
    /// At most one for each point, in their order.
    pub entries: Vec<Hook>,
}

/// The contents of `.hgraft`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graft {
    /// The base.
    pub base: BaseIdentity,
    /// Same as in IMAGE_HOT_PATCH_INFO.
    pub sequence: u32,
    /// KB id.
    pub kb: Option<String>,
    /// CVE ids, sorted.
    pub cves: Vec<String>,
    /// Keys of conditions that were accepted, sorted.
    pub accepted: Vec<String>,
    /// Who accepted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_by: Option<String>,
    /// The developer's own code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// SHA-256 of the new image that the code comes from.
    #[serde(with = "crate::hex")]
    pub new_sha256: [u8; 32],
    /// Functions, sorted by base RVA, the added ones behind, by patch RVA.
    pub functions: Vec<GraftFunction>,
    /// Near references, sorted by site. Empty if the image reaches the base through slots alone.
    pub near: Vec<NearReference>,
    /// Guarded ranges, sorted by RVA.
    pub guarded: Vec<Guarded>,
    /// `None` if the patch can be rolled back, else why not.
    pub irrevertible: Option<String>,
}

/// The digest of a guarded range, as [`Guarded::digest`] defines it.
///
/// `bytes` are the bytes of the range at `rva`, as mapped with the image at `image_base` and relocated to it;
/// `relocations` are the sorted RVAs of all fields under base relocations, `pointer_size` bytes each. `None` if a field
/// lies only partly in the range.
pub fn guarded_digest(
    bytes: &[u8],
    rva: u32,
    relocations: &[u32],
    image_base: u64,
    pointer_size: u32,
) -> Option<[u8; GUARD_DIGEST]> {
    use sha2::{Digest, Sha256};
    let width = pointer_size as usize;
    let end = u64::from(rva) + bytes.len() as u64;
    let first = relocations.partition_point(|r| u64::from(*r) + u64::from(pointer_size) <= u64::from(rva));
    let mut hash = Sha256::new();
    let mut done = 0;
    for site in relocations[first..].iter().take_while(|r| u64::from(**r) < end) {
        let at = site.checked_sub(rva)? as usize;
        let field = bytes.get(at..at.checked_add(width)?)?;
        if at < done {
            return None;
        }
        hash.update(&bytes[done..at]);
        let mut value = [0; 8];
        value[..width].copy_from_slice(field);
        hash.update(u64::from_le_bytes(value).wrapping_sub(image_base).to_le_bytes());
        done = at + width;
    }
    hash.update(&bytes[done..]);
    hash.finalize().first_chunk().copied()
}
