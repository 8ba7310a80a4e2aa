//! What is written is read again; the JSON form too.

mod common;
use common::*;
use hotgraft_hotpatch::*;

#[test]
fn a_valid_image_obeys_every_rule_and_reads_back() {
    let content = content();
    let bytes = build(&content);
    assert_eq!(check::check_against(&bytes, &base()), []);
    let patch = read(&bytes).unwrap();
    assert_eq!(patch.info, content.info);
    assert_eq!(patch.graft.as_ref(), Some(&content.graft));
    assert_eq!(patch.call_targets, [CODE + 0x10, CODE + 0x50]);
    assert_eq!(patch.info_rva, INFO);
    assert_eq!(patch.structure(), Structure::Near);
}

#[test]
fn an_image_without_near_list_is_structurally_a_windows_hotpatch() {
    let mut content = content();
    content.graft.near.clear();
    let bytes = build(&content);
    assert_eq!(check::check(&bytes), []);
    assert_eq!(read(&bytes).unwrap().structure(), Structure::Windows);
}

#[test]
fn who_accepted_and_hooks_are_kept_in_a_version_of_their_own() {
    let plain = content().graft.to_bytes().unwrap();
    assert_eq!(plain[8..12], 3u32.to_le_bytes());
    let hooks = Hooks {
        object_sha256: [9; 32],
        entries: vec![
            Hook { point: HookPoint::PreApply, patch_rva: CODE + 0x10 },
            Hook { point: HookPoint::PostRollback, patch_rva: CODE + 0x50 },
        ],
    };
    for (by, hooks) in [(Some("A. Person"), None), (None, Some(hooks.clone())), (Some(""), Some(hooks))] {
        let mut content = content();
        content.graft.accepted_by = by.map(str::to_owned);
        content.graft.hooks = hooks;
        let bytes = build(&content);
        assert_eq!(check::check_against(&bytes, &base()), []);
        assert_eq!(read(&bytes).unwrap().graft.as_ref(), Some(&content.graft));
        let section = content.graft.to_bytes().unwrap();
        assert_eq!(section[8..12], 4u32.to_le_bytes(), "who knows version 3 alone must not take it");
        let json = serde_json::to_string(&content.graft).unwrap();
        assert_eq!(serde_json::from_str::<Graft>(&json).unwrap(), content.graft);
    }
}

#[test]
fn an_ordinary_image_is_not_a_hotpatch() {
    assert_eq!(read(&base()), Err(Error::NotAHotpatch));
}

#[test]
fn more_records_than_a_chunk_holds_give_several_chunks() {
    let mut content = content();
    let records: Vec<Record> =
        (0..0x1800).map(|i| Record { place: DATA + 0x8000 + i * 8, target: 0x2000, extra: vec![0] }).collect();
    content.info.bases[0].chunks[1].records = records.clone();
    let bytes = build(&content);
    let chunks = read(&bytes).unwrap().info.bases[0].chunks.clone();
    let absolute: Vec<_> = chunks.iter().filter(|c| c.kind == ChunkKind::Absolute).collect();
    assert_eq!(absolute.iter().map(|c| c.records.len()).collect::<Vec<_>>(), [0xFFF, 0x801]);
    assert_eq!(absolute.iter().flat_map(|c| c.records.clone()).collect::<Vec<_>>(), records);
}

#[test]
fn every_version_has_its_size_and_round_trips() {
    for (version, size) in [(1u32, 20), (2, 24), (3, 28), (4, 36)] {
        let mut content = content();
        let info = &mut content.info;
        info.version = version;
        info.buffer_offset = if version >= 2 { 0x40 } else { 0 };
        (info.min_sequence, info.flags) = if version >= 4 { (3, 2) } else { (0, 0) };
        if version < 3 {
            info.extra_patch_size = 0;
            info.bases[0].chunks.iter_mut().flat_map(|c| &mut c.records).for_each(|r| r.extra.clear());
        }
        let bytes = content.info.to_bytes().unwrap();
        assert_eq!(bytes[12..16], u32::to_le_bytes(size), "the base list follows the structure");
        assert_eq!(read(&build(&content)).unwrap().info, content.info);
    }
}

#[test]
fn fields_that_a_version_does_not_have_cannot_be_written() {
    let mut info = content().info;
    info.min_sequence = 1;
    assert!(matches!(info.to_bytes(), Err(Error::Write { .. })));
    let mut info = content().info;
    info.bases[0].chunks[0].records[0].extra.clear();
    assert!(matches!(info.to_bytes(), Err(Error::Write { .. })));
}

#[test]
fn json_names_digests_in_hexadecimal_and_reads_back() {
    let graft = content().graft;
    let text = serde_json::to_string(&graft).unwrap();
    assert!(text.contains(&"07".repeat(32)));
    assert_eq!(serde_json::from_str::<Graft>(&text).unwrap(), graft);
    let patch = serde_json::to_value(read(&build(&content())).unwrap()).unwrap();
    assert_eq!(patch["info"]["bases"][0]["chunks"][0]["kind"], "function");
}

#[test]
fn a_changed_byte_of_the_section_is_noticed() {
    let good = content().graft.to_bytes().unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(Graft::from_bytes(&bad).is_err(), "byte {at:#x}");
    }
}

#[test]
fn a_relocated_field_counts_by_its_rva() {
    let bytes = |base: u64| [&[1, 2][..], &(base + 0x1234).to_le_bytes(), &[3]].concat();
    let at = |base| guarded_digest(&bytes(base), 0x100, &[0x102], base, 8);
    assert_eq!(at(0x1_8000_0000), at(0x7FF0_1234_0000));
    assert!(at(0x1000).is_some());
    assert_eq!(guarded_digest(&[0; 8], 0x100, &[0xFC], 0, 8), None, "a field across the edge has no digest");
}
