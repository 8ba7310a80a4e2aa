//! Each rule of the format is broken by at least one image, and named.

mod common;
use common::*;
use hotgraft_hotpatch::rules::*;
use hotgraft_hotpatch::*;
use std::collections::BTreeSet;

type Case = (Rule, fn() -> Vec<u8>);

fn changed(change: fn(&mut Content)) -> Vec<u8> {
    let mut content = content();
    change(&mut content);
    build(&content)
}

fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = build(&content());
    put(&mut image, at, bytes);
    seal(&mut image);
    image
}

/// File offset of a word of INFO.
fn info(word: usize) -> usize {
    data_offset(INFO) + word * 4
}

/// File offset of a word of the only BASE (behind 28 bytes of INFO and one list entry).
fn base_word(word: usize) -> usize {
    data_offset(INFO) + 32 + word * 4
}

/// File offset of the first chunk header (behind BASE and hashes).
fn chunk() -> usize {
    data_offset(INFO) + 32 + 32 + 52
}

/// Header of the FUNCTION chunk with other bits.
fn header(clear: u32, set: u32) -> Vec<u8> {
    let value = (ChunkKind::Function as u32 | 2) & !clear | set;
    patched(chunk(), &value.to_le_bytes())
}

fn hooks(points: &[(HookPoint, u32)]) -> Option<Hooks> {
    let entries = points.iter().map(|&(point, patch_rva)| Hook { point, patch_rva }).collect();
    Some(Hooks { object_sha256: [9; 32], entries })
}

fn function(c: &mut Content) -> &mut GraftFunction {
    &mut c.graft.functions[0]
}

const OPTIONAL: usize = NT + 24;

const CASES: &[Case] = &[
    (IMAGE_FORMAT, || b"not an image".to_vec()),
    (IMAGE_MACHINE, || patched(NT + 4, &[0xC4, 1])),
    (IMAGE_DLL, || patched(NT + 22, &0x22u16.to_le_bytes())),
    (IMAGE_RELOCATABLE, || patched(NT + 22, &0x2023u16.to_le_bytes())),
    (IMAGE_RELOCATABLE, || patched(OPTIONAL + 70, &0x40u16.to_le_bytes())),
    (IMAGE_RELOCATABLE, || patched(OPTIONAL + 70, &0x100u16.to_le_bytes())),
    (IMAGE_CHECKSUM, || {
        let mut image = build(&content());
        image[0x60] = 1;
        image
    }),
    (IMAGE_RELOCATIONS, || patched(OPTIONAL + 112 + 5 * 8 + 4, &[0xFF])),
    (IMAGE_EXPORTS, || patched(OPTIONAL + 112, &[0, 0x20, 0, 0, 40, 0, 0, 0])),
    (CONFIG_PRESENT, base),
    (CONFIG_SIZE, || patched(OPTIONAL + 112 + 10 * 8 + 4, &[0x38, 1])),
    (CONFIG_MINIMUM, || patched(data_offset(CONFIG), &[0xF0, 0])),
    (CONFIG_INSIDE, || patched(data_offset(CONFIG), &[0, 0, 0x10, 0])),
    (CONFIG_CHPE, || patched(data_offset(CONFIG) + 0xC8, &[1])),
    (CONFIG_OFFSET, || patched(data_offset(CONFIG) + 0xF0, &(INFO + 2).to_le_bytes())),
    (CONFIG_OFFSET, || patched(data_offset(CONFIG) + 0xF0, &0u32.to_le_bytes())),
    (CONFIG_TARGETS, || patched(data_offset(CONFIG) + 0x88, &[0xFF, 0xFF])),
    (CONFIG_TARGETS, || patched(data_offset(GUARD), &[0xFF])),
    (INFO_READABLE, || patched(info(0), &[5])),
    (INFO_READABLE, || patched(info(0), &[0])),
    (INFO_READABLE, || patched(info(1), &[27, 0, 0, 0])),
    (INFO_READABLE, || patched(info(1), &[0xFF, 0xFF, 0xFF, 0xFF])),
    (INFO_SPANS, || patched(info(3), &[0xF0, 0xFF])),
    (INFO_SPANS, || patched(info(4), &[0xF0, 0xFF])),
    (INFO_SPANS, || patched(base_word(6), &[0xF0, 0xFF])),
    (INFO_SPANS, || patched(base_word(4), &[0xF0, 0xFF])),
    (INFO_SPANS, || patched(chunk(), &[0xFF])),
    (INFO_VERSION, || changed(|c| c.info.version = 4)),
    (INFO_SEQUENCE, || patched(info(2), &[0])),
    (INFO_BASES, || patched(info(4), &[0])),
    (INFO_ONE_BASE, || changed(|c| c.info.bases.push(Base { chunks: vec![], ..c.info.bases[0].clone() }))),
    (INFO_EXTRA, || {
        changed(|c| {
            c.info.extra_patch_size = 2;
            c.info.bases[0].chunks.iter_mut().flat_map(|c| &mut c.records).for_each(|r| r.extra.push(0));
        })
    }),
    (INFO_FLAGS, || {
        changed(|c| {
            c.info.version = 4;
            c.info.flags = 1;
        })
    }),
    (INFO_ALIGNED, || patched(base_word(4), &[66])),
    (BASE_FLAGS, || changed(|c| c.info.bases[0].flags |= 0x20)),
    (BASE_MACHINE, || changed(|c| c.info.bases[0].flags |= 4)),
    (BASE_MACHINE_SET, || changed(|c| c.info.bases[0].flags &= 0xF)),
    (BASE_HASHES, || changed(|c| c.info.bases[0].hashes = None)),
    (BASE_HASHES, || patched(base_word(5), &[48])),
    (BASE_TABLE, || changed(|c| c.info.bases[0].chunks.clear())),
    (CHUNK_RESERVED, || header(0, 0x1000)),
    (CHUNK_KIND, || header(0x10000, 0xA_0000)),
    (CHUNK_OBLIGATORY, || header(0, 0x4000_0000)),
    (CHUNK_DIRECTION, || changed(|c| c.info.bases[0].chunks[1].inverse = false)),
    (CHUNK_FUNCTION, || changed(|c| c.info.bases[0].chunks[0].inverse = true)),
    (CHUNK_EMITTED, || changed(|c| c.info.bases[0].chunks[2].kind = ChunkKind::NoCallTarget)),
    (CHUNK_EMPTY, || {
        let mut words = content().info.to_bytes().unwrap();
        let end = words.len() - 4;
        put(&mut words, end, &(ChunkKind::Indirect as u32 | 0x8000_0000).to_le_bytes());
        words.extend_from_slice(&[0; 4]);
        let size = words.len() as u32;
        put(&mut words, 4, &size.to_le_bytes());
        build_raw(&words, &content().graft.to_bytes().unwrap())
    }),
    (CHUNK_ORDER, || changed(|c| c.info.bases[0].chunks[1].records.reverse())),
    (CHUNK_ORDER, || changed(|c| c.info.bases[0].chunks.swap(1, 2))),
    (RECORD_PLACE, || changed(|c| c.info.bases[0].chunks[0].records[0].place = 8)),
    (RECORD_PLACE, || changed(|c| c.info.bases[0].chunks[0].records[0].place = 0x3FFF)),
    (RECORD_PLACE, || changed(|c| c.info.bases[0].chunks[1].records[0].place = u32::MAX - 3)),
    (RECORD_TARGET, || changed(|c| c.info.bases[0].chunks[0].records[0].target = 0x9_0000)),
    (RECORD_TARGET, || changed(|c| c.info.bases[0].chunks[1].records[0].target = 0x3FF9)),
    (RECORD_OVERLAP, || changed(|c| c.info.bases[0].chunks[1].records[1].place = DATA + 4)),
    (RECORD_OVERLAP, || changed(|c| c.info.bases[0].chunks[0].records[1].place = 0x1024)),
    (RECORD_DYNAMIC, || {
        changed(|c| {
            c.info.bases[0].chunks[3].kind = ChunkKind::DynamicValue;
            c.info.bases[0].chunks[3].records[0].target = u32::MAX;
        })
    }),
    (RECORD_CODE, || changed(|c| c.info.bases[0].chunks[0].records[0].target = DATA)),
    (RECORD_CODE, || changed(|c| c.info.bases[0].chunks[0].records[0].target = CODE + 0x40)),
    (RECORD_DATA, || changed(|c| c.info.bases[0].chunks[1].records[1].place = INFO + 8)),
    (RECORD_DATA, || changed(|c| c.info.bases[0].chunks[1].records[1].place = CONFIG + 0x80)),
    (RECORD_EXPECTED, || changed(|c| c.info.bases[0].chunks[0].records[0].extra[0] = 0)),
    (RECORD_EXPECTED, || changed(|c| c.info.bases[0].chunks[1].records[0].extra[0] = 1)),
    (GRAFT_PRESENT, || patched(OPTIONAL + 240 + 2 * 40, b".other")),
    (GRAFT_PRESENT, || patched(OPTIONAL + 240 + 2 * 40 + 36, &0xC000_0040u32.to_le_bytes())),
    (GRAFT_READABLE, || build_raw(&content().info.to_bytes().unwrap(), b"HGRAFT\x1a\n")),
    (GRAFT_CANONICAL, || {
        // A byte more that nothing refers to, with the length and the digest to match.
        let mut graft = content().graft.to_bytes().unwrap();
        graft.push(1);
        let length = graft.len() as u32;
        graft[12..16].copy_from_slice(&length.to_le_bytes());
        let digest = sha::both(&[&graft[..16], &graft[48..]].concat()).0;
        graft[16..48].copy_from_slice(&digest);
        build_raw(&content().info.to_bytes().unwrap(), &graft)
    }),
    (GRAFT_CANONICAL, || changed(|c| c.graft.cves.reverse())),
    (GRAFT_IDENTITY, || changed(|c| c.graft.sequence = 8)),
    (GRAFT_IDENTITY, || changed(|c| c.graft.base.timestamp = 8)),
    (GRAFT_IDENTITY, || changed(|c| c.graft.base.sha256[0] ^= 1)),
    (GRAFT_ROLL_BACK, || changed(|c| c.graft.irrevertible = Some("state".into()))),
    (GRAFT_FUNCTIONS, || changed(|c| function(c).patch_rva += 1)),
    (GRAFT_FUNCTIONS, || changed(|c| function(c).expected[6] ^= 1)),
    (GRAFT_FUNCTIONS, || changed(|c| c.graft.functions.truncate(1))),
    (GRAFT_SITES, || changed(|c| function(c).site += 1)),
    (GRAFT_SITES, || changed(|c| function(c).method = None)),
    (GRAFT_HOOKS, || changed(|c| c.graft.hooks = hooks(&[]))),
    (GRAFT_HOOKS, || changed(|c| c.graft.hooks = hooks(&[(HookPoint::PreApply, DATA)]))),
    (GRAFT_HOOKS, || changed(|c| c.graft.hooks = hooks(&[(HookPoint::PostApply, CODE), (HookPoint::PreApply, CODE)]))),
    (GRAFT_ADDED, || changed(|c| c.graft.functions[2].method = Some(EntryMethod::NearJump))),
    (GRAFT_ADDED, || changed(|c| c.graft.functions[2].patch_rva = DATA)),
    (GRAFT_NEAR, || changed(|c| c.graft.near[0].target = 0x4001)),
    (GRAFT_NEAR, || changed(|c| c.graft.near[1].site = CODE + 0x14)),
    (GRAFT_NEAR, || changed(|c| c.graft.near[0].origin = CODE + 0x11)),
    (GRAFT_GUARDED, || changed(|c| c.graft.guarded[2].size = 0x8000)),
    (GRAFT_GUARDED, || {
        changed(|c| {
            c.graft.guarded.remove(0);
        })
    }),
    (AGAINST_IDENTITY, || changed(|c| c.info.bases[0].original_checksum ^= 1)),
    (AGAINST_FILE, || changed(|c| c.graft.base.image_size += 0x1000)),
    (AGAINST_FILE, || changed(|c| c.graft.base.pdb = Some(([1; 16], 1)))),
    (AGAINST_EXPECTED, || changed(|c| c.info.bases[0].chunks[0].records[0].extra[0] = 0x8349)),
    (AGAINST_SITES, || changed(|c| function(c).expected[0] ^= 1)),
    (AGAINST_GUARDED, || changed(|c| c.graft.guarded[2].digest[0] ^= 1)),
];

#[test]
fn every_broken_image_breaks_the_rule_it_was_made_for() {
    let base = base();
    for (i, (rule, make)) in CASES.iter().enumerate() {
        let violations = check::check_against(&make(), &base);
        let found: Vec<_> = violations.iter().map(|v| v.rule).collect();
        assert!(found.contains(&rule.name), "case {i} for {}: found {violations:#?}", rule.name);
        let index = |name: &&str| RULES.iter().position(|r| r.name == *name);
        assert!(found.is_sorted_by_key(index), "violations come in the order of the rules");
    }
}

#[test]
fn every_rule_has_a_case() {
    let covered: BTreeSet<_> = CASES.iter().map(|(rule, _)| rule.name).collect();
    let all: BTreeSet<_> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(covered, all);
    assert_eq!(all.len(), RULES.len(), "names are unique");
}

#[test]
fn every_rule_is_on_the_format_page() {
    let page = include_str!("../../../docs/hotpatch-format.md");
    for rule in RULES {
        let line = format!("| `{}` | {:?} |", rule.name, rule.demanded_by);
        assert!(page.contains(&line), "docs/hotpatch-format.md lacks `{line}`");
    }
}

#[test]
fn many_violations_of_one_rule_are_counted() {
    let mut content = content();
    content.graft.near = (0..100).map(|i| NearReference { site: 0x9000 + i * 4, origin: 0, target: 0 }).collect();
    let violations = check::check(&build(&content));
    assert_eq!(violations.len(), 9);
    assert_eq!(violations[8].text, "92 more of the same");
}
