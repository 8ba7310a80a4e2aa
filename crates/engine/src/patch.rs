//! A hotpatch file, checked against itself: everything that can be known without a target.

use std::sync::Arc;

use hotgraft_hotpatch::{ChunkKind, EntryMethod, Graft, GraftFunction, HotPatchInfo};
use sha2::{Digest, Sha256};

use crate::pe::{Directory, Headers, MACHINE_AMD64, MAX_PATCH, PeError, SCN_EXECUTE, SCN_WRITE};
use crate::space::PAGE;

/// Why a file is not a hotpatch that this engine applies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// Not a PE image.
    #[error("the patch is not a PE image: {0}")]
    Image(#[from] PeError),
    /// The hotpatch tables cannot be read.
    #[error("the patch cannot be read: {0}")]
    Tables(#[from] hotgraft_hotpatch::Error),
    /// It has no `.hgraft` section, so the base cannot be checked in full.
    #[error("the patch has no .hgraft section: the base image in memory could not be checked against it")]
    NoGraft,
    /// Valid tables that contradict each other or ask for what is not done.
    #[error("the patch is not sound: {0}")]
    Unsound(String),
    /// A machine that this engine does not patch.
    #[error("patches for machine {0:#06x} are not applied by this version, only x86-64 (0x8664)")]
    Machine(u16),
}

/// A hotpatch file. The bytes that were checked are the bytes that are mapped.
#[derive(Clone, Debug)]
pub struct PatchFile {
    bytes: Arc<[u8]>,
    headers: Headers,
    info: HotPatchInfo,
    graft: Graft,
    call_targets: Vec<u32>,
    sha256: [u8; 32],
    provenance: Option<Arc<[u8]>>,
}

fn unsound<T>(text: impl Into<String>) -> Result<T, PatchError> {
    Err(PatchError::Unsound(text.into()))
}

impl PatchFile {
    /// Read a hotpatch file and check it against itself.
    pub fn parse(bytes: &[u8]) -> Result<PatchFile, PatchError> {
        let hotpatch = hotgraft_hotpatch::read(bytes)?;
        let graft = hotpatch.graft.ok_or(PatchError::NoGraft)?;
        PatchFile::from_parts(bytes, hotpatch.info, graft, hotpatch.call_targets)
    }

    fn from_parts(
        bytes: &[u8],
        info: HotPatchInfo,
        graft: Graft,
        call_targets: Vec<u32>,
    ) -> Result<PatchFile, PatchError> {
        let headers = Headers::parse(bytes)?;
        let sha256 = Sha256::digest(bytes).into();
        let patch = PatchFile { bytes: bytes.into(), headers, info, graft, call_targets, sha256, provenance: None };
        patch.check_image()?;
        patch.check_tables()?;
        patch.check_functions()?;
        Ok(patch)
    }

    /// With the provenance envelope that came beside the file; the trust policy judges it.
    pub fn with_provenance(mut self, envelope: Option<Vec<u8>>) -> PatchFile {
        self.provenance = envelope.map(Arc::from);
        self
    }

    /// The provenance envelope.
    pub fn provenance(&self) -> Option<&[u8]> {
        self.provenance.as_deref()
    }

    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its headers.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The Windows tables.
    pub fn info(&self) -> &HotPatchInfo {
        &self.info
    }

    /// The `.hgraft` section.
    pub fn graft(&self) -> &Graft {
        &self.graft
    }

    /// SHA-256 of the file.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// The functions that replace one of the base, with their entry (RVA) and method.
    pub fn replaced(&self) -> impl Iterator<Item = (&GraftFunction, u32, EntryMethod)> {
        self.graft.functions.iter().filter_map(|function| Some((function, function.base_rva?, function.method?)))
    }

    fn check_image(&self) -> Result<(), PatchError> {
        let headers = &self.headers;
        if headers.machine != MACHINE_AMD64 || self.graft.base.machine != MACHINE_AMD64 {
            let other = if headers.machine != MACHINE_AMD64 { headers.machine } else { self.graft.base.machine };
            return Err(PatchError::Machine(other));
        }
        if headers.image_size > MAX_PATCH {
            return unsound(format!("SizeOfImage {:#x} exceeds {MAX_PATCH:#x}", headers.image_size));
        }
        if !(headers.section_alignment as u64).is_multiple_of(PAGE) || headers.section_alignment == 0 {
            return unsound(format!("SectionAlignment {:#x} is no multiple of a page", headers.section_alignment));
        }
        let mut end = headers.headers_size;
        for section in &headers.sections {
            if !(section.rva as u64).is_multiple_of(PAGE) || section.rva < end {
                return unsound(format!("section {} at {:#x} shares a page with another", section.name, section.rva));
            }
            end = section.rva + section.size;
            if section.characteristics & SCN_EXECUTE != 0 && section.characteristics & SCN_WRITE != 0 {
                return unsound(format!("section {} is writable and executable", section.name));
            }
        }
        for (directory, what) in [
            (Directory::Tls, "thread-local storage"),
            (Directory::DelayImport, "delay-loaded imports"),
            (Directory::Clr, "managed code"),
        ] {
            if headers.directories.get(directory as usize).is_some_and(|&(rva, size)| rva != 0 && size != 0) {
                return unsound(format!("the image has {what}"));
            }
        }
        Ok(())
    }

    fn check_tables(&self) -> Result<(), PatchError> {
        let base = &self.graft.base;
        let [info] = self.info.bases.as_slice() else {
            return unsound(format!("{} base images, expected one", self.info.bases.len()));
        };
        if info.original_timestamp != base.timestamp || info.original_checksum != base.checksum {
            return unsound("the Windows table and .hgraft name different base images");
        }
        if info.hashes.as_ref().is_some_and(|hashes| hashes.sha256 != base.sha256) {
            return unsound("the Windows table and .hgraft hold different SHA-256 of the base");
        }
        if self.info.sequence == 0 || self.info.sequence != self.graft.sequence {
            return unsound(format!("sequence {} and {}", self.info.sequence, self.graft.sequence));
        }
        let (patch_size, base_size) = (self.headers.image_size as u64, base.image_size as u64);
        for chunk in &info.chunks {
            match (chunk.kind, chunk.inverse) {
                (ChunkKind::Function, false) | (ChunkKind::CallTarget, true) => {}
                (ChunkKind::Absolute | ChunkKind::Indirect, true) => {
                    for record in &chunk.records {
                        if record.place as u64 + 8 > patch_size {
                            return unsound(format!("place {:#x} outside the patch", record.place));
                        }
                        // An address one past the end of an object may be the end of the image.
                        let extent = if chunk.kind == ChunkKind::Indirect { 8 } else { 0 };
                        if record.target as u64 + extent > base_size {
                            return unsound(format!("target {:#x} outside the base", record.target));
                        }
                    }
                }
                (kind, inverse) => {
                    return unsound(format!("a chunk of kind {kind:?} (inverse: {inverse}) is not applied"));
                }
            }
            if chunk.kind == ChunkKind::CallTarget
                && let Some(record) = chunk.records.iter().find(|record| record.place as u64 >= patch_size)
            {
                return unsound(format!("call target {:#x} outside the patch", record.place));
            }
        }
        for near in &self.graft.near {
            if near.site as u64 + 4 > patch_size || near.origin as u64 > patch_size || near.target as u64 > base_size {
                return unsound(format!("near reference at {:#x} outside the images", near.site));
            }
        }
        for range in &self.graft.guarded {
            if range.rva as u64 + range.size as u64 > base_size {
                return unsound(format!("guarded range {} at {:#x} outside the base", range.name, range.rva));
            }
        }
        let mut records: Vec<(u32, u32)> = info
            .chunks
            .iter()
            .filter(|chunk| chunk.kind == ChunkKind::Function)
            .flat_map(|chunk| chunk.records.iter().map(|record| (record.place, record.target)))
            .collect();
        let mut functions: Vec<(u32, u32)> =
            self.replaced().map(|(function, base_rva, _)| (base_rva, function.patch_rva)).collect();
        records.sort_unstable();
        functions.sort_unstable();
        if records != functions {
            return unsound("the FUNCTION records and .hgraft list different replacements");
        }
        if functions.is_empty() {
            return unsound("no function is replaced");
        }
        Ok(())
    }

    fn check_functions(&self) -> Result<(), PatchError> {
        let mut sites: Vec<(u32, u32, &str)> = Vec::new();
        for function in &self.graft.functions {
            let name = &function.name;
            let code = self.headers.section_at(function.patch_rva);
            if !code.is_some_and(|section| {
                section.characteristics & SCN_EXECUTE != 0
                    && function.patch_rva as u64 + function.patch_size as u64
                        <= section.rva as u64 + section.size as u64
            }) {
                return unsound(format!("{name} does not lie in a code section of the patch"));
            }
            match (function.base_rva, function.method) {
                (None, None) => continue,
                (Some(_), None) => return unsound(format!("{name} has no redirect method")),
                (None, Some(_)) => return unsound(format!("{name} is new but has a redirect method")),
                (Some(entry), Some(method)) => {
                    let end = function.site as u64 + function.expected.len() as u64;
                    let (before, after) = match method {
                        EntryMethod::PaddedShortJump => (5, 2),
                        EntryMethod::NearJump => (0, 5),
                    };
                    if end > self.graft.base.image_size as u64
                        || (entry as u64) < function.site as u64 + before
                        || entry as u64 + after > end
                        || function.expected.len() > 64
                    {
                        return unsound(format!("the expected bytes of {name} do not cover its redirect"));
                    }
                    sites.push((function.site, end as u32, name));
                }
            }
        }
        sites.sort_unstable();
        if let Some(pair) = sites.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            return unsound(format!("the sites of {} and {} overlap", pair[0].2, pair[1].2));
        }
        Ok(())
    }

    /// The patch's unwind table: (RVA, number of RUNTIME_FUNCTIONs).
    pub fn unwind_table(&self) -> Option<(u32, u32)> {
        self.headers.directory(Directory::Exception).map(|(rva, size)| (rva, size / 12)).filter(|&(_, count)| count > 0)
    }

    /// Call targets of the patch's own guard table and of its CALL_TARGET records: RVAs, sorted.
    pub fn call_targets(&self) -> Vec<u32> {
        let mut targets: Vec<u32> = self
            .info
            .bases
            .iter()
            .flat_map(|base| &base.chunks)
            .filter(|chunk| chunk.kind == ChunkKind::CallTarget)
            .flat_map(|chunk| chunk.records.iter().map(|record| record.place))
            .collect();
        targets.extend(self.call_targets.iter().filter(|&&rva| rva < self.headers.image_size));
        targets.sort_unstable();
        targets.dedup();
        targets
    }
}
