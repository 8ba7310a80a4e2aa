#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(program) = hotgraft_program::Program::from_bytes("fuzzed", bytes, None) {
        program.coverage();
    }
});
