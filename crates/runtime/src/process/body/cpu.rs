//! What this host's CPU can do, as one word: programs choose code by it, and keep what they have chosen.

use core::arch::asm;

use megalith_runtime::ship;

/// eax, ebx, ecx, edx.
type Leaf = [u32; 4];

fn leaf(number: u32, part: u32) -> Leaf {
    let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
    // SAFETY: reads; every x86-64 CPU has the instruction. rbx is the compiler's own: it is put back.
    unsafe {
        asm!("mov {kept}, rbx", "cpuid", "xchg {kept}, rbx", kept = out(reg) ebx, inout("eax") number => eax,
            inout("ecx") part => ecx, out("edx") edx, options(nomem, nostack, preserves_flags));
    }
    [eax, ebx as u32, ecx, edx]
}

/// Leaf 1, ecx: xgetbv may be used.
const OSXSAVE: u32 = 1 << 27;

/// XCR0: which registers the kernel saves.
fn saved_state() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads; the caller has seen OSXSAVE.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// The word that goes into [`ship::Hello`]. Left out is what differs between the CPUs of one host (APIC ids), or between
/// kernels without programs seeing it (supervisor state).
pub fn word() -> u64 {
    let basic = |number| if leaf(0, 0)[0] >= number { leaf(number, 0) } else { [0; 4] };
    let [_, _, features, older] = basic(1);
    let seven = basic(7);
    let more = if seven[0] >= 1 { leaf(7, 1) } else { [0; 4] };
    let areas = basic(0xd);
    let packing = if areas[0] != 0 { leaf(0xd, 1)[0] } else { 0 };
    let extended = if leaf(0x8000_0000, 0)[0] >= 0x8000_0001 { leaf(0x8000_0001, 0) } else { [0; 4] };
    let state = if features & OSXSAVE != 0 { saved_state() } else { 0 };
    let words = [features, older, packing, extended[2], extended[3], state as u32, (state >> 32) as u32];
    ship::cpu_word(words.into_iter().chain(seven).chain(more).chain(areas))
}
