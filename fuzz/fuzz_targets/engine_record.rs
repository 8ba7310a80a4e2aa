#![no_main]
//! Whatever a target says of itself is read without harm, and what is done with it is done wholly or not at all.

use hotgraft_engine::{ApplyOptions, BufferSpace, PatchFile, RollbackOptions, Trust, apply, query, rollback};

#[path = "../../crates/engine/tests/support/mod.rs"]
mod support;

const AT: u64 = 0x1_4000_0000;
const PAGE: usize = 0x1000;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let base = support::base_file();
    let mut space = BufferSpace::new();
    space.load(support::BASE_NAME, &base, AT).unwrap();
    let patch = PatchFile::parse(&support::first(&base).build()).unwrap();
    let options =
        ApplyOptions { trust: Trust::trial(), time_limit: std::time::Duration::ZERO, ..ApplyOptions::default() };
    let applied = apply(&mut space, AT, &patch, &options).unwrap();
    space.poke(applied.record_address, &bytes[..bytes.len().min(PAGE)]).unwrap();
    let before = space.snapshot();
    let _ = query(&space, None);
    if rollback(&mut space, AT, &RollbackOptions::default()).is_err() {
        assert!(space.snapshot() == before, "a failed rollback left something behind");
    }
});
