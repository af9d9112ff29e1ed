#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| echo_server::fuzzing::generated_bytes(bytes));
