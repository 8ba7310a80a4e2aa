#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = hotgraft_hotpatch::read(bytes);
    hotgraft_hotpatch::check::check(bytes);
});
