#![no_main]
//! A patch of any bytes is applied wholly or not at all.

use hotgraft_engine::{ApplyOptions, BufferSpace, PatchFile, RollbackOptions, Trust, apply, assess, rollback};

#[path = "../../crates/engine/tests/support/mod.rs"]
mod support;

const AT: u64 = 0x1_4000_0000;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(patch) = PatchFile::parse(bytes) else { return };
    let mut space = BufferSpace::new();
    space.load(support::BASE_NAME, &support::base_file(), AT).unwrap();
    let before = space.snapshot();
    let _ = assess(&space, &patch);
    let options =
        ApplyOptions { trust: Trust::trial(), time_limit: std::time::Duration::ZERO, ..ApplyOptions::default() };
    match apply(&mut space, AT, &patch, &options) {
        Err(_) => assert!(space.snapshot() == before, "a failed apply left something behind"),
        Ok(_) => {
            rollback(&mut space, AT, &RollbackOptions::default()).unwrap();
            let base = |blocks: &[(u64, _, _)]| blocks.iter().position(|block| block.0 == AT).unwrap();
            let after = space.snapshot();
            assert!(after[base(&after)] == before[base(&before)], "the base is not what it was");
        }
    }
});
