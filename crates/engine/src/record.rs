//! The record of an applied patch: it lies in the target, in front of the patch image, so that any later process can
//! read from memory alone what is patched. The layout is described in `docs/record-format.md`.

use hotgraft_hotpatch::{BaseIdentity, EntryMethod, Graft, Hook};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::memory::read_bytes;
use crate::patch::PatchFile;
use crate::redirect::{self, Redirect};
use crate::space::{AddressSpace, PAGE, Protection, SpaceError};

/// First bytes of a record.
pub const MAGIC: [u8; 8] = *b"HGRAFT\x1aR";
/// Version of the layout.
pub const VERSION: u32 = 1;
/// Bytes of the fixed head.
const HEAD: usize = 64;
/// Largest payload that is read, bytes.
const MAX_PAYLOAD: u64 = 0x100_0000;

/// An entry of the base that the patch redirects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Function.
    pub name: String,
    /// Entry in the base (RVA).
    pub base_rva: u32,
    /// Size of the function in the base, bytes.
    pub base_size: u32,
    /// Replacement in the patch image (RVA).
    pub patch_rva: u32,
    /// Size of the replacement, bytes.
    pub patch_size: u32,
    /// How the entry is redirected.
    pub method: EntryMethod,
    /// First compared byte (RVA in the base).
    pub site: u32,
    /// What the base file has there.
    #[serde(with = "hex_bytes")]
    pub expected: Vec<u8>,
    /// No stack may hold the function when its redirect changes.
    pub quiesce: bool,
}

/// A patch that was active before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// Its sequence.
    pub sequence: u32,
    /// Where its record lies (VA).
    pub record: u64,
}

/// What is known of a patch that was placed. Never changed once written: what is active follows from the entries in
/// memory, not from what the record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The base.
    pub base: BaseIdentity,
    /// Where the base lies (VA).
    pub base_address: u64,
    /// Where the patch image lies (VA).
    pub patch_address: u64,
    /// SizeOfImage of the patch, bytes.
    pub patch_size: u32,
    /// SHA-256 of the patch file.
    #[serde(with = "hex_array")]
    pub patch_sha256: [u8; 32],
    /// Sequence.
    pub sequence: u32,
    /// KB id.
    pub kb: Option<String>,
    /// CVE ids.
    pub cves: Vec<String>,
    /// Keys of accepted conditions.
    pub accepted: Vec<String>,
    /// Who signed the patch; `None` for an unsigned one.
    pub signer: Option<String>,
    /// `None` if the patch can be rolled back, else why not.
    pub irrevertible: Option<String>,
    /// Unwind table in the patch image: RVA and number of entries.
    pub unwind: Option<(u32, u32)>,
    /// What was active before.
    pub previous: Option<Previous>,
    /// Functions of the patch that are called when it is applied or rolled back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// Redirected entries.
    pub entries: Vec<Entry>,
}

/// A record and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Address of the record (VA).
    pub address: u64,
    /// Contents.
    pub record: Record,
}

/// Serde of byte strings as hex.
mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::identity::hex(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::unhex(&text).ok_or_else(|| serde::de::Error::custom("expected an even number of hex digits"))
    }
}

/// Serde of digests as hex.
mod hex_array {
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        super::hex_bytes::serialize(bytes, serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let bytes = super::hex_bytes::deserialize(deserializer)?;
        bytes.try_into().map_err(|_| serde::de::Error::custom("expected 32 bytes in hex"))
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

impl Record {
    /// The record of `patch` placed at `patch_address`.
    pub(crate) fn new(
        patch: &PatchFile,
        base_address: u64,
        patch_address: u64,
        signer: Option<String>,
        previous: Option<Previous>,
    ) -> Record {
        let graft = patch.graft();
        Record {
            base: graft.base.clone(),
            base_address,
            patch_address,
            patch_size: patch.headers().image_size,
            patch_sha256: patch.sha256(),
            sequence: graft.sequence,
            kb: graft.kb.clone(),
            cves: graft.cves.clone(),
            accepted: graft.accepted.clone(),
            signer,
            irrevertible: graft.irrevertible.clone(),
            unwind: patch.unwind_table(),
            previous,
            hooks: graft.hooks.as_ref().map(|hooks| hooks.entries.clone()).unwrap_or_default(),
            entries: entries(graft),
        }
    }

    /// Redirects of all entries.
    pub(crate) fn redirects(&self) -> Vec<Redirect<'_>> {
        self.entries.iter().map(|entry| redirect::of_entry(entry, self.base_address, self.patch_address)).collect()
    }

    /// Whether `address` (VA) lies in the patch image.
    pub fn holds(&self, address: u64) -> bool {
        address.checked_sub(self.patch_address).is_some_and(|offset| offset < self.patch_size as u64)
    }

    /// Head and payload.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.to_padded_bytes(0)
    }

    /// Head and payload, at least `size` bytes; JSON allows the spaces that fill it up.
    pub(crate) fn to_padded_bytes(&self, size: u64) -> Vec<u8> {
        let mut payload = serde_json::to_vec(self).unwrap_or_default();
        if payload.len() + HEAD < size as usize {
            payload.resize(size as usize - HEAD, b' ');
        }
        let mut bytes = Vec::with_capacity(HEAD + payload.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(HEAD as u32).to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&Sha256::digest(&payload));
        bytes.extend_from_slice(&payload);
        bytes
    }

    /// Read the record at `address`; `None` if there is none or it is damaged. `available` is the number of readable
    /// bytes from there.
    fn read(space: &dyn AddressSpace, address: u64, available: u64) -> Option<Record> {
        if available < HEAD as u64 {
            return None;
        }
        let head = read_bytes(space, address, HEAD).ok()?;
        if head[..8] != MAGIC
            || head[8..12] != VERSION.to_le_bytes()
            || head[12..16] != (HEAD as u32).to_le_bytes()
            || head[24..32] != [0; 8]
        {
            return None;
        }
        let size = u64::from_le_bytes(head[16..24].try_into().ok()?);
        if size > MAX_PAYLOAD || size > available - HEAD as u64 {
            return None;
        }
        let payload = read_bytes(space, address + HEAD as u64, size as usize).ok()?;
        if Sha256::digest(&payload)[..] != head[32..64] {
            return None;
        }
        let record: Record = serde_json::from_slice(&payload).ok()?;
        let behind = (address + HEAD as u64 + size).next_multiple_of(PAGE);
        (record.is_sound() && record.patch_address == behind).then_some(record)
    }

    /// The record is data of the target, which may be hostile: its numbers must not lead outside the images.
    fn is_sound(&self) -> bool {
        let base_size = self.base.image_size as u64;
        self.base_address.checked_add(base_size).is_some_and(|end| end < 1 << 47)
            && self.patch_address.checked_add(self.patch_size as u64).is_some_and(|end| end < 1 << 47)
            && self.entries.iter().all(|entry| {
                let (before, after) = redirect::extent(entry.method);
                entry.site as u64 + entry.expected.len() as u64 <= base_size
                    && entry.base_rva as u64 + entry.base_size as u64 <= base_size
                    && entry.patch_rva as u64 + entry.patch_size as u64 <= self.patch_size as u64
                    && entry.base_rva as u64 >= entry.site as u64 + before
                    && entry.base_rva as u64 + after <= entry.site as u64 + entry.expected.len() as u64
            })
    }
}

/// The entries of a patch.
pub(crate) fn entries(graft: &Graft) -> Vec<Entry> {
    graft
        .functions
        .iter()
        .filter_map(|function| {
            Some(Entry {
                name: function.name.clone(),
                base_rva: function.base_rva?,
                base_size: function.base_size,
                patch_rva: function.patch_rva,
                patch_size: function.patch_size,
                method: function.method?,
                site: function.site,
                expected: function.expected.clone(),
                quiesce: function.quiesce,
            })
        })
        .collect()
}

/// Pages that a record takes, bytes.
pub(crate) fn pages(bytes: &[u8]) -> u64 {
    (bytes.len() as u64).next_multiple_of(PAGE)
}

/// All records in the target, by address: the first page of every private allocation is looked at.
pub fn find_all(space: &dyn AddressSpace) -> Result<Vec<Found>, SpaceError> {
    let mut found = Vec::new();
    for region in space.regions()? {
        // A record is sealed read-only; anything else at the start of an allocation is not ours or not finished.
        if !region.private || region.address != region.allocation || region.protection != Protection::Read {
            continue;
        }
        if let Some(record) = Record::read(space, region.address, region.size) {
            found.push(Found { address: region.address, record });
        }
    }
    Ok(found)
}

/// The record of the allocation that holds `address`, which a redirect leads to.
pub fn find_by_target(space: &dyn AddressSpace, address: u64) -> Result<Option<Found>, SpaceError> {
    let regions = space.regions()?;
    let Some(hit) = regions.iter().find(|r| address.checked_sub(r.address).is_some_and(|offset| offset < r.size))
    else {
        return Ok(None);
    };
    let head = regions.iter().find(|region| region.address == hit.allocation);
    Ok(head
        .filter(|region| region.private && region.protection == Protection::Read)
        .and_then(|region| Record::read(space, region.address, region.size))
        .map(|record| Found { address: hit.allocation, record }))
}
