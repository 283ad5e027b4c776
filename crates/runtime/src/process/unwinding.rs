//! What stands in for the runtime in a build with unwinding: it says so and exits with 125.

/// The entry point.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn _start() -> ! {
    core::arch::naked_asm!(
        "mov eax, 1",
        "mov edi, 2",
        "lea rsi, [rip + 2f]",
        "mov edx, 3f - 2f",
        "syscall",
        "mov edi, 125",
        "mov eax, 231",
        "syscall",
        "ud2",
        "2: .ascii \"megalith: this runtime was built by `cargo test`; build it with `cargo build`\\n\"",
        "3:",
    )
}
