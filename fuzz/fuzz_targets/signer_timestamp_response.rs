#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    hotgraft_signer::fuzz::timestamp_response(bytes);
});
