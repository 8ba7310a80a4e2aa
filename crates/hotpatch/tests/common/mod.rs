//! A small valid hotpatch image and its base, written byte by byte so that the tests do not depend on the packager.
#![allow(dead_code)]

use hotgraft_hotpatch::graft::guarded_digest;
use hotgraft_hotpatch::*;

pub const CODE: u32 = 0x1000;
pub const DATA: u32 = 0x2000;
pub const GRAFT: u32 = 0x40000;
pub const RELOC: u32 = 0x50000;
/// RVA of the load configuration, and of IMAGE_HOT_PATCH_INFO behind it.
pub const CONFIG: u32 = DATA + 0x100;
pub const INFO: u32 = DATA + 0x240;
pub const GUARD: u32 = DATA + 0x80;
pub const IMAGE_BASE: u64 = 0x1_8000_0000;
const CONFIG_SIZE: u32 = 0x140;

/// File offset of the NT headers.
pub const NT: usize = 0x80;
/// File offset of an RVA in the data section.
pub fn data_offset(rva: u32) -> usize {
    (rva - DATA) as usize + 0x600
}

pub struct Part {
    pub name: &'static str,
    pub rva: u32,
    pub flags: u32,
    pub bytes: Vec<u8>,
}

/// A PE32+ DLL with these sections.
pub fn image(parts: &[Part], directories: &[(usize, u32, u32)]) -> Vec<u8> {
    let mut out = vec![0; 0x400];
    let put = |out: &mut Vec<u8>, at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(&mut out, 0, b"MZ");
    put(&mut out, 0x3C, &(NT as u32).to_le_bytes());
    put(&mut out, NT, b"PE\0\0");
    put(&mut out, NT + 4, &0x8664u16.to_le_bytes());
    put(&mut out, NT + 6, &(parts.len() as u16).to_le_bytes());
    put(&mut out, NT + 20, &240u16.to_le_bytes());
    put(&mut out, NT + 22, &0x2022u16.to_le_bytes());
    let opt = NT + 24;
    put(&mut out, opt, &0x20Bu16.to_le_bytes());
    put(&mut out, opt + 24, &IMAGE_BASE.to_le_bytes());
    put(&mut out, opt + 32, &0x1000u32.to_le_bytes());
    put(&mut out, opt + 36, &0x200u32.to_le_bytes());
    put(&mut out, opt + 40, &6u16.to_le_bytes());
    put(&mut out, opt + 48, &6u16.to_le_bytes());
    let end = parts.iter().map(|p| p.rva + (p.bytes.len() as u32).next_multiple_of(0x1000)).max().unwrap_or(0x1000);
    put(&mut out, opt + 56, &end.to_le_bytes());
    put(&mut out, opt + 60, &0x400u32.to_le_bytes());
    put(&mut out, opt + 68, &2u16.to_le_bytes());
    put(&mut out, opt + 70, &0x160u16.to_le_bytes());
    put(&mut out, opt + 108, &16u32.to_le_bytes());
    for (index, rva, size) in directories {
        put(&mut out, opt + 112 + index * 8, &rva.to_le_bytes());
        put(&mut out, opt + 116 + index * 8, &size.to_le_bytes());
    }
    for (i, part) in parts.iter().enumerate() {
        let at = opt + 240 + i * 40;
        let raw = part.bytes.len().next_multiple_of(0x200);
        let offset = out.len() as u32;
        put(&mut out, at, part.name.as_bytes());
        put(&mut out, at + 8, &(part.bytes.len() as u32).to_le_bytes());
        put(&mut out, at + 12, &part.rva.to_le_bytes());
        put(&mut out, at + 16, &(raw as u32).to_le_bytes());
        put(&mut out, at + 20, &offset.to_le_bytes());
        put(&mut out, at + 36, &part.flags.to_le_bytes());
        out.extend_from_slice(&part.bytes);
        out.resize(offset as usize + raw, 0);
    }
    seal(&mut out);
    out
}

/// Make the checksum right again.
pub fn seal(image: &mut [u8]) {
    let at = NT + 24 + 64;
    let sum = pe::checksum(image, at);
    image[at..at + 4].copy_from_slice(&sum.to_le_bytes());
}

pub fn base() -> Vec<u8> {
    let mut code = vec![0xCC; 0x400];
    code[0x20..0x24].copy_from_slice(&[0x48, 0x83, 0xEC, 0x28]);
    code[0x60..0x64].copy_from_slice(&[0x48, 0x89, 0x5C, 0x24]);
    let mut data = vec![7; 0x200];
    data[0x10..0x18].copy_from_slice(&(IMAGE_BASE + 0x1020).to_le_bytes());
    let reloc = [&0x2000u32.to_le_bytes()[..], &12u32.to_le_bytes(), &0xA010u16.to_le_bytes(), &[0, 0]].concat();
    let mut image = image(
        &[
            Part { name: ".text", rva: 0x1000, flags: 0x6000_0020, bytes: code },
            Part { name: ".rdata", rva: 0x2000, flags: 0x4000_0040, bytes: data },
            Part { name: ".reloc", rva: 0x3000, flags: 0x4200_0040, bytes: reloc },
        ],
        &[(5, 0x3000, 12)],
    );
    image[NT + 8..NT + 12].copy_from_slice(&0x1234_5678u32.to_le_bytes());
    seal(&mut image);
    image
}

/// What a valid image says; tests change it before [`build`] writes it.
pub struct Content {
    pub info: HotPatchInfo,
    pub graft: Graft,
}

pub fn content() -> Content {
    let base = base();
    let view = pe::View::parse(&base).unwrap();
    let (sha256, sha1) = sha::both(&base);
    let relocations = view.base_relocations().unwrap();
    let digest =
        |rva, size| guarded_digest(&view.mapped(rva, size).unwrap(), rva, &relocations, IMAGE_BASE, 8).unwrap();
    let function = |name: &str, entry: u32, patch: u32, method| {
        let (site, len) = if method == EntryMethod::PaddedShortJump { (entry - 6, 8) } else { (entry, 5) };
        GraftFunction {
            name: name.into(),
            base_rva: Some(entry),
            base_size: 8,
            patch_rva: patch,
            patch_size: 16,
            method: Some(method),
            site,
            expected: view.bytes(site, len).unwrap().to_vec(),
            quiesce: false,
        }
    };
    let guard = |rva, size, kind, name: &str| Guarded { rva, size, kind, digest: digest(rva, size), name: name.into() };
    let record = |place, target, extra| Record { place, target, extra: vec![extra] };
    let chunk = |kind, inverse, records| Chunk { kind, inverse, obligatory: false, records };
    Content {
        info: HotPatchInfo {
            version: 3,
            sequence: 9,
            buffer_offset: 0,
            extra_patch_size: 1,
            min_sequence: 0,
            flags: 0,
            bases: vec![Base {
                sequence: 0,
                flags: info::base_flags::CAN_ROLL_BACK | info::base_flags::MACHINE_AMD64,
                original_timestamp: 0x1234_5678,
                original_checksum: view.checksum,
                buffer_offset: 0,
                hashes: Some(Hashes { sha256, sha1 }),
                chunks: vec![
                    chunk(
                        ChunkKind::Function,
                        false,
                        vec![record(0x1020, CODE + 0x10, 0x8348), record(0x1060, CODE + 0x30, 0x8948)],
                    ),
                    chunk(ChunkKind::Absolute, true, vec![record(DATA, 0x2020, 0), record(DATA + 8, 0x1020, 0)]),
                    chunk(ChunkKind::CallTarget, true, vec![record(0, 0x1020, 0)]),
                    chunk(ChunkKind::Indirect, true, vec![record(DATA + 16, 0x2040, 0)]),
                ],
            }],
        },
        graft: Graft {
            base: BaseIdentity {
                file_name: "base.dll".into(),
                machine: 0x8664,
                timestamp: 0x1234_5678,
                checksum: view.checksum,
                image_size: view.size_of_image,
                pdb: None,
                sha256,
            },
            sequence: 9,
            kb: Some("KB5000001".into()),
            cves: vec!["CVE-2026-0001".into(), "CVE-2026-0002".into()],
            accepted: vec!["runtime.loop.endless".into()],
            accepted_by: None,
            hooks: None,
            new_sha256: [7; 32],
            functions: vec![
                function("first", 0x1020, CODE + 0x10, EntryMethod::PaddedShortJump),
                function("second", 0x1060, CODE + 0x30, EntryMethod::NearJump),
                GraftFunction {
                    name: "added".into(),
                    base_rva: None,
                    base_size: 0,
                    patch_rva: CODE + 0x50,
                    patch_size: 16,
                    method: None,
                    site: 0,
                    expected: vec![],
                    quiesce: false,
                },
            ],
            near: vec![
                NearReference { site: CODE + 0x11, origin: CODE + 0x15, target: 0x1060 },
                NearReference { site: CODE + 0x18, origin: CODE + 0x1D, target: 0x2000 },
            ],
            guarded: vec![
                guard(0x1020, 8, GuardedKind::Replaced, "first"),
                guard(0x1060, 8, GuardedKind::Replaced, "second"),
                guard(0x2000, 0x40, GuardedKind::Constant, "table"),
            ],
            irrevertible: None,
        },
    }
}

/// The hotpatch image with this content.
pub fn build(content: &Content) -> Vec<u8> {
    build_raw(&content.info.to_bytes().unwrap(), &content.graft.to_bytes().unwrap())
}

/// The hotpatch image around these tables.
pub fn build_raw(info: &[u8], graft: &[u8]) -> Vec<u8> {
    let mut code = vec![0xCC; 0x80];
    for at in [0x10, 0x30, 0x50] {
        code[at..at + 16].fill(0x90);
    }
    let mut data = vec![0; (INFO - DATA) as usize];
    let at = (CONFIG - DATA) as usize;
    data[at..at + 4].copy_from_slice(&CONFIG_SIZE.to_le_bytes());
    data[at + 0x80..at + 0x88].copy_from_slice(&(IMAGE_BASE + u64::from(GUARD)).to_le_bytes());
    data[at + 0x88] = 2;
    data[at + 0xF0..at + 0xF4].copy_from_slice(&INFO.to_le_bytes());
    let guard = (GUARD - DATA) as usize;
    data[guard..guard + 4].copy_from_slice(&(CODE + 0x10).to_le_bytes());
    data[guard + 4..guard + 8].copy_from_slice(&(CODE + 0x50).to_le_bytes());
    data.extend_from_slice(info);
    let reloc = [&0x2000u32.to_le_bytes()[..], &12u32.to_le_bytes(), &0xA180u16.to_le_bytes(), &[0, 0]].concat();
    image(
        &[
            Part { name: ".text", rva: CODE, flags: 0x6000_0020, bytes: code },
            Part { name: ".rdata", rva: DATA, flags: 0x4000_0040, bytes: data },
            Part { name: ".hgraft", rva: GRAFT, flags: 0x4000_0040, bytes: graft.to_vec() },
            Part { name: ".reloc", rva: RELOC, flags: 0x4200_0040, bytes: reloc },
        ],
        &[(5, RELOC, 12), (10, CONFIG, CONFIG_SIZE)],
    )
}

pub fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}
