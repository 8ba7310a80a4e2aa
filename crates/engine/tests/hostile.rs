//! Bytes from anywhere: a result or an error, never a panic, a hang or a target that was changed.

mod support;

use hotgraft_engine::{ApplyOptions, BufferSpace, PatchFile, RollbackOptions, Trust, apply, assess, query, rollback};
use proptest::prelude::*;
use support::*;

const AT: u64 = 0x1_4000_0000;

fn options() -> ApplyOptions<'static> {
    ApplyOptions { trust: Trust::trial(), time_limit: std::time::Duration::ZERO, ..ApplyOptions::default() }
}

fn loaded() -> BufferSpace {
    let mut space = BufferSpace::new();
    space.load(BASE_NAME, &base_file(), AT).unwrap();
    space
}

/// What fuzzing starts from. With `HOTGRAFT_FUZZ_SEEDS` it stays in that folder, one folder for each target.
#[test]
fn seeds_are_what_they_are_said_to_be() {
    let temporary = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("HOTGRAFT_FUZZ_SEEDS").map(std::path::PathBuf::from);
    let folder = kept.unwrap_or_else(|| temporary.path().to_owned());
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    };
    let base = base_file();
    for (name, spec) in [("first", first(&base)), ("second", second(&base))] {
        let file = spec.build();
        put("engine_patch", name, &file);
        put("hotpatch_image", name, &file);
        let mut space = loaded();
        let applied = apply(&mut space, AT, &PatchFile::parse(&file).unwrap(), &options()).unwrap();
        let record = space.snapshot().into_iter().find(|block| block.0 == applied.record_address).unwrap().1;
        put("engine_record", name, &record);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_as_a_patch(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = PatchFile::parse(&bytes);
    }

    #[test]
    fn a_changed_patch_is_applied_wholly_or_not_at_all(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut file = first(&base_file()).build();
        for (index, value) in changes {
            // Where the headers and tables are; the code is anything anyway.
            let places: Vec<usize> = (0x80..0x400).chain(0x600..file.len()).collect();
            let at = places[index.index(places.len())];
            file[at] = value;
        }
        if let Ok(patch) = PatchFile::parse(&file) {
            let mut space = loaded();
            let before = space.snapshot();
            let _ = assess(&space, &patch);
            match apply(&mut space, AT, &patch, &options()) {
                Err(_) => prop_assert_eq!(space.snapshot(), before),
                Ok(applied) => {
                    prop_assert_eq!(query(&space, None).unwrap()[0].active, Some(applied.sequence));
                    rollback(&mut space, AT, &RollbackOptions::default()).unwrap();
                    let after = space.snapshot();
                    let base = after.iter().find(|block| block.0 == AT).unwrap();
                    prop_assert_eq!(base, &before[0]);
                }
            }
        }
    }

    #[test]
    fn a_changed_base_in_memory_is_only_ever_refused_or_patched_right(
        changes in proptest::collection::vec((0u64..0x5000, any::<u8>()), 1..8),
    ) {
        let patch = PatchFile::parse(&first(&base_file()).build()).unwrap();
        let mut space = loaded();
        for (offset, value) in changes {
            space.poke(AT + offset, &[value]).unwrap();
        }
        let before = space.snapshot();
        let _ = query(&space, None);
        let _ = assess(&space, &patch);
        match apply(&mut space, AT, &patch, &options()) {
            Err(_) => prop_assert_eq!(space.snapshot(), before),
            Ok(_) => {
                rollback(&mut space, AT, &RollbackOptions::default()).unwrap();
                let after = space.snapshot();
                let base = after.iter().find(|block| block.0 == AT).unwrap();
                prop_assert_eq!(base, &before[0]);
            }
        }
    }

    #[test]
    fn a_changed_record_is_ignored_or_harmless(
        changes in proptest::collection::vec((0u64..0x1000, any::<u8>()), 1..8),
    ) {
        let patch = PatchFile::parse(&first(&base_file()).build()).unwrap();
        let mut space = loaded();
        let applied = apply(&mut space, AT, &patch, &options()).unwrap();
        for (offset, value) in changes {
            space.poke(applied.record_address + offset, &[value]).unwrap();
        }
        let _ = query(&space, None);
        let _ = rollback(&mut space, AT, &RollbackOptions::default());
    }
}
