#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parsers::feed("runtime_elf", bytes));
