#![no_main]

const IMAGE: &[u8] = include_bytes!("../../testdata/fixtures/statics/old/statics.exe");

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = hotgraft_program::Program::from_bytes("image", IMAGE, Some(("fuzzed", bytes)));
});
