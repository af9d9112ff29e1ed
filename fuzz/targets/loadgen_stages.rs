#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _taken_or_refused = text.parse::<loadgen::stages::Stages>();
    let _taken_or_refused = loadgen::target::Target::parse(text);
});
