//! Any bytes give a result or an error, in bounded time.

mod common;
use common::*;
use hotgraft_hotpatch::*;
use proptest::prelude::*;

fn all_readers(bytes: &[u8]) {
    let _ = read(bytes).map(|patch| serde_json::to_string(&patch).unwrap());
    let _ = check::check(bytes);
    let _ = check::check_against(bytes, bytes);
    let _ = Graft::from_bytes(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        all_readers(&bytes);
    }

    #[test]
    fn random_tables(words in proptest::collection::vec(any::<u32>(), 0..200), version in 0u32..6) {
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let size = bytes.len() as u32;
        if bytes.len() >= 8 {
            put(&mut bytes, 0, &version.to_le_bytes());
            put(&mut bytes, 4, &size.to_le_bytes());
        }
        all_readers(&build_raw(&bytes, &bytes));
    }

    #[test]
    fn mutated_images(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 1..12), cut in any::<prop::sample::Index>(), whole in any::<bool>()) {
        let mut image = build(&content());
        for (index, value) in changes {
            let at = index.index(image.len() - 4);
            put(&mut image, at, &value.to_le_bytes());
        }
        if !whole {
            let len = cut.index(image.len());
            image.truncate(len);
        }
        all_readers(&image);
    }

    #[test]
    fn mutated_tables_with_small_numbers(changes in proptest::collection::vec((0usize..60, 0u32..0x400), 1..8)) {
        let mut image = build(&content());
        for (word, value) in changes {
            put(&mut image, data_offset(INFO) + word * 4, &value.to_le_bytes());
        }
        all_readers(&image);
    }

    #[test]
    fn sections_with_a_right_digest(changes in proptest::collection::vec((48usize..600, any::<u8>()), 1..8)) {
        use sha2::Digest;
        let mut graft = content().graft.to_bytes().unwrap();
        for (at, value) in changes {
            let at = 48 + (at - 48) % (graft.len() - 48);
            graft[at] = value;
        }
        let digest = sha2::Sha256::new().chain_update(&graft[..16]).chain_update(&graft[48..]).finalize();
        put(&mut graft, 16, &digest);
        if let Ok(read) = Graft::from_bytes(&graft) {
            prop_assert_eq!(Graft::from_bytes(&read.to_bytes().unwrap()).unwrap(), read);
        }
        all_readers(&build_raw(&content().info.to_bytes().unwrap(), &graft));
    }
}

#[test]
fn tables_that_share_bytes_are_refused_before_they_multiply() {
    let mut words = vec![3u32, 0, 1, 28, 0, 0, 0];
    let bases = 10_000u32;
    words[4] = bases;
    let base = 28 + bases * 4;
    words.extend(std::iter::repeat_n(base, bases as usize));
    words.extend([0, 0, 0, 0, 0, 0, base + 32, 0]);
    for _ in 0..1000 {
        words.push(ChunkKind::Function as u32 | 10);
        words.extend([0; 20]);
    }
    words.push(0);
    words[1] = words.len() as u32 * 4;
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let image = build_raw(&bytes, &[]);
    assert!(matches!(read(&image), Err(Error::Table { .. })));
}
