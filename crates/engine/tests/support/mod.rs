//! Small images and patches for the tests, written byte by byte.
#![allow(dead_code, reason = "each test binary uses a part")]

use hotgraft_engine::pe::{self, Headers};
use hotgraft_hotpatch::graft::guarded_digest;
use hotgraft_hotpatch::{
    Base, BaseIdentity, Chunk, ChunkKind, EntryMethod, Graft, GraftFunction, Guarded, GuardedKind, Hashes,
    HotPatchInfo, NearReference, Record,
};
use hotgraft_hotpatch::{Hook, HookPoint, Hooks};
use sha2::{Digest, Sha256};

pub const READ: u32 = 0x4000_0040;
pub const WRITE: u32 = 0xC000_0040;
pub const CODE: u32 = 0x6000_0020;

/// A section: name, RVA, flags, bytes.
pub type SectionSpec = (&'static str, u32, u32, Vec<u8>);

/// A PE32+ DLL with these sections and directories (index, RVA, size).
pub fn dll(image_base: u64, timestamp: u32, sections: &[SectionSpec], directories: &[(usize, u32, u32)]) -> Vec<u8> {
    let mut file = vec![0; 0x400];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = 0x80;
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x80, b"PE\0\0");
    put(0x84, &0x8664u16.to_le_bytes());
    put(0x86, &(sections.len() as u16).to_le_bytes());
    put(0x88, &timestamp.to_le_bytes());
    put(0x94, &240u16.to_le_bytes());
    put(0x96, &0x2022u16.to_le_bytes());
    let end = sections.iter().map(|s| (s.1 + s.3.len() as u32).next_multiple_of(0x1000)).max().unwrap();
    let optional = 0x98;
    put(optional, &0x20bu16.to_le_bytes());
    put(optional + 24, &image_base.to_le_bytes());
    put(optional + 32, &0x1000u32.to_le_bytes());
    put(optional + 36, &0x200u32.to_le_bytes());
    put(optional + 40, &6u16.to_le_bytes());
    put(optional + 48, &6u16.to_le_bytes());
    put(optional + 56, &end.to_le_bytes());
    put(optional + 60, &0x400u32.to_le_bytes());
    put(optional + 64, &0x1234u32.to_le_bytes());
    put(optional + 68, &2u16.to_le_bytes());
    put(optional + 70, &0x140u16.to_le_bytes());
    put(optional + 72, &0x10_0000u64.to_le_bytes());
    put(optional + 80, &0x1000u64.to_le_bytes());
    put(optional + 88, &0x10_0000u64.to_le_bytes());
    put(optional + 96, &0x1000u64.to_le_bytes());
    put(optional + 108, &16u32.to_le_bytes());
    for &(index, rva, size) in directories {
        put(optional + 112 + index * 8, &rva.to_le_bytes());
        put(optional + 116 + index * 8, &size.to_le_bytes());
    }
    let mut raw = 0x400u32;
    for (index, (name, rva, flags, bytes)) in sections.iter().enumerate() {
        let at = optional + 240 + index * 40;
        let size = (bytes.len() as u32).next_multiple_of(0x200);
        put(at, name.as_bytes());
        put(at + 8, &(bytes.len() as u32).to_le_bytes());
        put(at + 12, &rva.to_le_bytes());
        put(at + 16, &size.to_le_bytes());
        put(at + 20, &raw.to_le_bytes());
        put(at + 36, &flags.to_le_bytes());
        raw += size;
    }
    for (_, _, _, bytes) in sections {
        file.extend_from_slice(bytes);
        file.resize(file.len().next_multiple_of(0x200), 0);
    }
    file
}

/// A relocation directory for 8-byte fields on one page.
pub fn reloc(places: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut pages: Vec<u32> = places.iter().map(|place| place & !0xfff).collect();
    pages.dedup();
    for page in pages {
        let mut entries: Vec<u16> =
            places.iter().filter(|&&p| p & !0xfff == page).map(|p| 0xa000 | (p & 0xfff) as u16).collect();
        if !entries.len().is_multiple_of(2) {
            entries.push(0);
        }
        bytes.extend_from_slice(&page.to_le_bytes());
        bytes.extend_from_slice(&(8 + entries.len() as u32 * 2).to_le_bytes());
        entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.to_le_bytes()));
    }
    bytes
}

/// An import table at `rva` for one DLL: (bytes, RVA of the first slot).
pub fn import_table(rva: u32, dll: &str, names: &[&str]) -> (Vec<u8>, u32) {
    let lookup = 40u32;
    let slots = lookup + 8 * (names.len() as u32 + 1);
    let mut strings = Vec::new();
    let strings_at = slots + 8 * (names.len() as u32 + 1);
    let dll_at = strings_at;
    strings.extend_from_slice(dll.as_bytes());
    strings.push(0);
    let mut thunks = Vec::new();
    for name in names {
        if !strings.len().is_multiple_of(2) {
            strings.push(0);
        }
        thunks.extend_from_slice(&((rva + strings_at + strings.len() as u32) as u64).to_le_bytes());
        strings.extend_from_slice(&[0, 0]);
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
    }
    thunks.extend_from_slice(&[0; 8]);
    let mut bytes = vec![0; 40];
    bytes[0..4].copy_from_slice(&(rva + lookup).to_le_bytes());
    bytes[12..16].copy_from_slice(&(rva + dll_at).to_le_bytes());
    bytes[16..20].copy_from_slice(&(rva + slots).to_le_bytes());
    bytes.extend_from_slice(&thunks);
    bytes.extend_from_slice(&thunks);
    bytes.extend_from_slice(&strings);
    (bytes, rva + slots)
}

pub const BASE_NAME: &str = "base.dll";
pub const PREFERRED: u64 = 0x1_8000_0000;
/// Entries of the base: two padded ones and one without padding.
pub const ALPHA: u32 = 0x1020;
pub const BETA: u32 = 0x1060;
pub const GAMMA: u32 = 0x10a0;
/// A constant with a pointer in it, a variable, an import slot.
pub const TABLE: u32 = 0x2200;
pub const VARIABLE: u32 = 0x3010;

/// The base image.
pub fn base_file() -> Vec<u8> {
    let mut text = vec![0xcc; 0x200];
    for (rva, value) in [(ALPHA, 1u8), (BETA, 2), (GAMMA, 3)] {
        let at = rva as usize - 0x1000;
        // mov eax, value; ret; nops up to 16 bytes.
        text[at..at + 6].copy_from_slice(&[0xb8, value, 0, 0, 0, 0xc3]);
        text[at + 6..at + 16].fill(0x90);
    }
    // No filler in front of gamma: the end of another function.
    text[GAMMA as usize - 0x1000 - 16..GAMMA as usize - 0x1000].fill(0xc3);
    let (imports, _) = import_table(0x2000, "KERNEL32.dll", &["GetTickCount", "Sleep"]);
    let mut rdata = imports;
    rdata.resize(0x100, 0);
    // Debug directory, then the RSDS record.
    let mut debug = vec![0; 28];
    debug[12..16].copy_from_slice(&2u32.to_le_bytes());
    debug[16..20].copy_from_slice(&32u32.to_le_bytes());
    debug[20..24].copy_from_slice(&0x2140u32.to_le_bytes());
    rdata.extend_from_slice(&debug);
    rdata.resize(0x140, 0);
    rdata.extend_from_slice(b"RSDS");
    rdata.extend_from_slice(&[7; 16]);
    rdata.extend_from_slice(&1u32.to_le_bytes());
    rdata.extend_from_slice(b"base.pdb\0");
    rdata.resize(0x200, 0);
    // TABLE: a pointer to the variable between two numbers.
    rdata.extend_from_slice(&0x1111_2222u64.to_le_bytes());
    rdata.extend_from_slice(&(PREFERRED + VARIABLE as u64).to_le_bytes());
    rdata.extend_from_slice(&0x3333_4444u64.to_le_bytes());
    let data = vec![0x5a; 0x100];
    let relocs = reloc(&[TABLE + 8]);
    let size = relocs.len() as u32;
    dll(
        PREFERRED,
        0x6000_0001,
        &[
            (".text", 0x1000, CODE, text),
            (".rdata", 0x2000, READ, rdata),
            (".data", 0x3000, WRITE, data),
            (".reloc", 0x4000, READ, relocs),
        ],
        &[(1, 0x2000, 40), (5, 0x4000, size), (6, 0x2100, 28)],
    )
}

/// The base's identity.
pub fn identity(file: &[u8], file_name: &str) -> BaseIdentity {
    let headers = Headers::parse(file).unwrap();
    let image = pe::expand(file, &headers).unwrap();
    let pdb = headers.directory(pe::Directory::Debug).and_then(|(rva, size)| {
        image[rva as usize..(rva + size) as usize].chunks_exact(28).find_map(|entry| {
            let data = pe::u32_at(entry, 20)? as usize;
            let record = image.get(data..data + 24)?;
            let guid = record[4..20].try_into().ok()?;
            (pe::u32_at(entry, 12) == Some(2) && record.starts_with(b"RSDS")).then_some((guid, pe::u32_at(record, 20)?))
        })
    });
    BaseIdentity {
        file_name: file_name.into(),
        machine: headers.machine,
        timestamp: headers.timestamp,
        checksum: headers.checksum,
        image_size: headers.image_size,
        pdb,
        sha256: Sha256::digest(file).into(),
    }
}

/// A replacement in a patch to be built.
#[derive(Clone)]
pub struct Replacement {
    pub name: &'static str,
    pub base_rva: u32,
    pub base_size: u32,
    pub method: EntryMethod,
    pub code: Vec<u8>,
    /// (offset of the 4-byte field in `code`, target RVA in the base); the field ends the instruction.
    pub near: Vec<(usize, u32)>,
    /// (offset of the 4-byte field, import index in `PatchSpec::imports`).
    pub import_fields: Vec<(usize, usize)>,
    /// (offset of the 4-byte field, offset in the patch's writable data).
    pub data_fields: Vec<(usize, u32)>,
    pub quiesce: bool,
    /// UNWIND_INFO.
    pub unwind: Vec<u8>,
}

impl Replacement {
    pub fn new(name: &'static str, base_rva: u32, method: EntryMethod, code: &[u8]) -> Replacement {
        Replacement {
            name,
            base_rva,
            base_size: 16,
            method,
            code: code.to_vec(),
            near: Vec::new(),
            import_fields: Vec::new(),
            data_fields: Vec::new(),
            quiesce: false,
            unwind: vec![1, 0, 0, 0],
        }
    }
}

/// A patch to be built.
#[derive(Clone)]
pub struct PatchSpec {
    pub base: Vec<u8>,
    pub file_name: &'static str,
    pub sequence: u32,
    pub replacements: Vec<Replacement>,
    /// (DLL, functions); at most one DLL.
    pub imports: Option<(&'static str, Vec<&'static str>)>,
    /// INVERSE ABSOLUTE: (offset in the patch's data, target RVA in the base).
    pub absolute: Vec<(u32, u32)>,
    /// Guarded: (RVA, size, kind, name).
    pub guarded: Vec<(u32, u32, GuardedKind, &'static str)>,
    pub irrevertible: Option<&'static str>,
    pub unwind: bool,
    pub min_sequence: u32,
    /// Each is the first function of the patch.
    pub hooks: Vec<HookPoint>,
}

/// RVAs in a built patch.
pub const PATCH_TEXT: u32 = 0x1000;
pub const PATCH_RDATA: u32 = 0x3000;
pub const PATCH_DATA: u32 = 0x4000;
const PATCH_PDATA: u32 = 0x5000;
const PATCH_HGRAFT: u32 = 0x6000;
const PATCH_XDATA: u32 = PATCH_RDATA + 0x700;
const PATCH_IMPORTS: u32 = PATCH_RDATA + 0x800;

impl PatchSpec {
    pub fn new(base: &[u8], file_name: &'static str, sequence: u32, replacements: Vec<Replacement>) -> PatchSpec {
        PatchSpec {
            base: base.to_vec(),
            file_name,
            sequence,
            replacements,
            imports: None,
            absolute: Vec::new(),
            guarded: Vec::new(),
            irrevertible: None,
            unwind: true,
            min_sequence: 0,
            hooks: Vec::new(),
        }
    }

    /// The patch file.
    pub fn build(&self) -> Vec<u8> {
        let headers = Headers::parse(&self.base).unwrap();
        let image = pe::expand(&self.base, &headers).unwrap();
        let relocations = headers
            .directory(pe::Directory::BaseRelocation)
            .map(|(rva, size)| {
                pe::relocations(&image[rva as usize..(rva + size) as usize], rva, headers.image_size).unwrap()
            })
            .unwrap_or_default();

        let (imports, slot) = match &self.imports {
            Some((dll, names)) => import_table(PATCH_IMPORTS, dll, names),
            None => (Vec::new(), 0),
        };
        let mut text = Vec::new();
        let mut functions = Vec::new();
        let mut near = Vec::new();
        let mut pdata = Vec::new();
        let mut xdata: Vec<u8> = Vec::new();
        for replacement in &self.replacements {
            text.resize(text.len().next_multiple_of(16), 0xcc);
            let rva = PATCH_TEXT + text.len() as u32;
            let mut code = replacement.code.clone();
            for &(at, target) in &replacement.near {
                near.push(NearReference { site: rva + at as u32, origin: rva + at as u32 + 4, target });
            }
            for &(at, index) in &replacement.import_fields {
                let value = slot + index as u32 * 8 - (rva + at as u32 + 4);
                code[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            for &(at, offset) in &replacement.data_fields {
                let value = PATCH_DATA + offset - (rva + at as u32 + 4);
                code[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            let (before, after) = match replacement.method {
                EntryMethod::PaddedShortJump => (6, 10),
                EntryMethod::NearJump => (0, 8),
            };
            let site = replacement.base_rva - before;
            functions.push(GraftFunction {
                name: replacement.name.into(),
                base_rva: Some(replacement.base_rva),
                base_size: replacement.base_size,
                patch_rva: rva,
                patch_size: code.len() as u32,
                method: Some(replacement.method),
                site,
                expected: image[site as usize..(replacement.base_rva + after) as usize].to_vec(),
                quiesce: replacement.quiesce,
            });
            for value in [rva, rva + code.len() as u32, PATCH_XDATA + xdata.len() as u32] {
                pdata.extend_from_slice(&value.to_le_bytes());
            }
            xdata.extend_from_slice(&replacement.unwind);
            xdata.resize(xdata.len().next_multiple_of(4), 0);
            text.extend_from_slice(&code);
        }
        functions.sort_by_key(|function| function.base_rva);
        near.sort();
        let base = identity(&self.base, self.file_name);
        let guarded = self
            .guarded
            .iter()
            .map(|&(rva, size, kind, name)| Guarded {
                rva,
                size,
                kind,
                digest: guarded_digest(
                    &image[rva as usize..(rva + size) as usize],
                    rva,
                    &relocations,
                    headers.image_base,
                    8,
                )
                .unwrap(),
                name: name.into(),
            })
            .collect();
        let graft = Graft {
            base: base.clone(),
            sequence: self.sequence,
            kb: Some(format!("KB{}", 5_000_000 + self.sequence)),
            cves: vec!["CVE-2026-0001".into()],
            accepted_by: None,
            hooks: (!self.hooks.is_empty()).then(|| Hooks {
                object_sha256: [8; 32],
                entries: self.hooks.iter().map(|&point| Hook { point, patch_rva: PATCH_TEXT }).collect(),
            }),
            accepted: Vec::new(),
            new_sha256: [9; 32],
            functions: functions.clone(),
            near,
            guarded,
            irrevertible: self.irrevertible.map(str::to_owned),
        };
        let mut chunks = vec![Chunk {
            kind: ChunkKind::Function,
            inverse: false,
            obligatory: false,
            records: functions
                .iter()
                .map(|function| {
                    let at = (function.base_rva.unwrap() - function.site) as usize;
                    let first = u16::from_le_bytes([function.expected[at], function.expected[at + 1]]);
                    Record { place: function.base_rva.unwrap(), target: function.patch_rva, extra: vec![first as u32] }
                })
                .collect(),
        }];
        if !self.absolute.is_empty() {
            let records = self
                .absolute
                .iter()
                .map(|&(offset, target)| Record { place: PATCH_DATA + offset, target, extra: vec![0] })
                .collect();
            chunks.push(Chunk { kind: ChunkKind::Absolute, inverse: true, obligatory: false, records });
        }
        let info = HotPatchInfo {
            version: if self.min_sequence > 0 { 4 } else { 3 },
            sequence: self.sequence,
            buffer_offset: 0,
            extra_patch_size: 1,
            min_sequence: self.min_sequence,
            flags: 0,
            bases: vec![Base {
                sequence: self.sequence,
                flags: 0x12,
                original_timestamp: base.timestamp,
                original_checksum: base.checksum,
                buffer_offset: 0,
                hashes: Some(Hashes { sha256: base.sha256, sha1: [0; 20] }),
                chunks,
            }],
        };
        // Load configuration: its size and HotPatchTableOffset.
        let mut rdata = vec![0; 0x140];
        rdata[..4].copy_from_slice(&0x140u32.to_le_bytes());
        rdata[0xf0..0xf4].copy_from_slice(&(PATCH_RDATA + 0x200).to_le_bytes());
        rdata.resize(0x200, 0);
        rdata.extend_from_slice(&info.to_bytes().unwrap());
        assert!(rdata.len() <= 0x700 && xdata.len() <= 0x100);
        rdata.resize(0x700, 0);
        rdata.extend_from_slice(&xdata);
        rdata.resize(0x800, 0);
        rdata.extend_from_slice(&imports);
        let data = vec![0; 0x100];
        let hgraft = graft.to_bytes().unwrap();
        let mut directories = vec![(10, PATCH_RDATA, 0x140)];
        if self.imports.is_some() {
            directories.push((1, PATCH_IMPORTS, 40));
        }
        if self.unwind {
            directories.push((3, PATCH_PDATA, pdata.len() as u32));
        }
        dll(
            0x1_9000_0000,
            0x7000_0000 + self.sequence,
            &[
                (".text", PATCH_TEXT, CODE, text),
                (".rdata", PATCH_RDATA, READ, rdata),
                (".data", PATCH_DATA, WRITE, data),
                (".pdata", PATCH_PDATA, READ, pdata),
                (".hgraft", PATCH_HGRAFT, READ, hgraft),
            ],
            &directories,
        )
    }
}

/// The first patch of the base: alpha (padded) and gamma (5 bytes at the entry).
pub fn first(base: &[u8]) -> PatchSpec {
    let mut alpha = Replacement::new(
        "alpha",
        ALPHA,
        EntryMethod::PaddedShortJump,
        // mov eax, [rip+variable]; call [rip+import]; mov [rip+own data], eax; ret
        &[0x8b, 0x05, 0, 0, 0, 0, 0xff, 0x15, 0, 0, 0, 0, 0x89, 0x05, 0, 0, 0, 0, 0xc3],
    );
    alpha.near = vec![(2, VARIABLE)];
    alpha.import_fields = vec![(8, 1)];
    alpha.data_fields = vec![(14, 0x20)];
    let gamma = Replacement::new("gamma", GAMMA, EntryMethod::NearJump, &[0xb8, 33, 0, 0, 0, 0xc3]);
    let mut spec = PatchSpec::new(base, BASE_NAME, 1, vec![alpha, gamma]);
    spec.imports = Some(("kernel32.dll", vec!["GetTickCount", "GetCurrentProcessId"]));
    spec.absolute = vec![(0x10, TABLE)];
    spec.guarded = vec![
        (ALPHA, 16, GuardedKind::Replaced, "alpha"),
        (GAMMA, 16, GuardedKind::Replaced, "gamma"),
        (TABLE, 24, GuardedKind::Constant, "table"),
    ];
    spec
}

/// The cumulative successor: alpha again, beta new, gamma no longer.
pub fn second(base: &[u8]) -> PatchSpec {
    let alpha = Replacement::new("alpha", ALPHA, EntryMethod::PaddedShortJump, &[0xb8, 11, 0, 0, 0, 0xc3]);
    let beta = Replacement::new("beta", BETA, EntryMethod::PaddedShortJump, &[0xb8, 22, 0, 0, 0, 0xc3]);
    let mut spec = PatchSpec::new(base, BASE_NAME, 2, vec![alpha, beta]);
    spec.guarded = vec![(ALPHA, 16, GuardedKind::Replaced, "alpha"), (BETA, 16, GuardedKind::Replaced, "beta")];
    spec
}
