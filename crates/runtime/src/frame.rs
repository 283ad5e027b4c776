//! Signal frames as x86-64 Linux lays them out, and the arithmetic of building one.
//!
//! ```text
//! low    return address | ucontext | siginfo | … | XSAVE area, 64-byte aligned      interrupted rsp - 128
//!        ▲ rsp on entry to the handler: rsp + 8 is a multiple of 16
//! ```

use crate::sigset::SigSet;

/// stack_t.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AltStack {
    /// Lowest address.
    pub base: u64,
    /// `SS_` flags.
    pub flags: i32,
    /// Padding; the kernel leaves it alone.
    pub padding: u32,
    /// Bytes.
    pub bytes: u64,
}

/// `ss_flags`: the thread is on the stack now.
pub const SS_ONSTACK: i32 = 1;
/// `ss_flags`: there is none.
pub const SS_DISABLE: i32 = 2;
/// `ss_flags`: disarmed while a handler runs.
pub const SS_AUTODISARM: i32 = 1 << 31;
/// Smallest alternate stack that Linux takes.
pub const MINSIGSTKSZ: u64 = 2048;

impl AltStack {
    /// No alternate stack.
    pub const NONE: AltStack = AltStack { base: 0, flags: SS_DISABLE, padding: 0, bytes: 0 };

    /// Whether `rsp` is on it. As in Linux, its lowest address is not, and its end is.
    pub const fn holds(&self, rsp: u64) -> bool {
        self.bytes != 0 && rsp > self.base && rsp - self.base <= self.bytes
    }

    /// One past its highest address.
    pub const fn top(&self) -> u64 {
        self.base.wrapping_add(self.bytes)
    }
}

/// The kernel's sigaction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// SIG_DFL, SIG_IGN or a function.
    pub handler: u64,
    /// `SA_` flags.
    pub flags: u64,
    /// What the handler returns to.
    pub restorer: u64,
    /// Blocked meanwhile.
    pub mask: SigSet,
}

/// `handler`: the default action.
pub const SIG_DFL: u64 = 0;
/// `handler`: nothing.
pub const SIG_IGN: u64 = 1;

/// `sa_flags` (sigaction(2)).
pub mod sa {
    /// The handler takes three arguments.
    pub const SIGINFO: u64 = 4;
    /// There is a restorer.
    pub const RESTORER: u64 = 0x0400_0000;
    /// Run on the alternate stack.
    pub const ONSTACK: u64 = 0x0800_0000;
    /// Restart interrupted calls.
    pub const RESTART: u64 = 0x1000_0000;
    /// Do not block the signal meanwhile.
    pub const NODEFER: u64 = 0x4000_0000;
    /// Back to the default first.
    pub const RESETHAND: u64 = 0x8000_0000;
    /// NOCLDSTOP and NOCLDWAIT: the kernel's business.
    pub const CHILDREN: u64 = 3;
    /// All that Linux keeps; it clears the others.
    pub const KNOWN: u64 = CHILDREN | SIGINFO | 0x800 | RESTORER | ONSTACK | RESTART | NODEFER | RESETHAND;
}

impl Action {
    /// The default action.
    pub const DEFAULT: Action = Action { handler: SIG_DFL, flags: 0, restorer: 0, mask: SigSet::EMPTY };

    /// Whether a function of the program is to be called.
    pub const fn is_function(&self) -> bool {
        self.handler > SIG_IGN
    }
}

/// siginfo_t, as far as the runtime reads it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct SigInfo {
    /// Signal.
    pub signal: i32,
    /// errno.
    pub errno: i32,
    /// Where it comes from.
    pub code: i32,
    padding: i32,
    /// First field of the union: for SIGSYS the calling instruction.
    pub address: u64,
    /// For SIGSYS the call's number.
    pub number: i32,
    rest: [u8; 100],
}

impl SigInfo {
    /// Nothing.
    pub const NONE: SigInfo =
        SigInfo { signal: 0, errno: 0, code: 0, padding: 0, address: 0, number: 0, rest: [0; 100] };

    /// A signal that process `pid` queues with a value.
    pub fn queued(signal: i32, pid: u32, value: u64) -> SigInfo {
        let mut info = SigInfo { signal, code: SI_QUEUE, address: u64::from(pid), ..SigInfo::NONE };
        // The union: pid, uid, then the value, whose lower half is at `number`.
        info.number = value as i32;
        info.rest[..4].copy_from_slice(&((value >> 32) as u32).to_le_bytes());
        info
    }

    /// The value of a queued signal.
    pub fn value(&self) -> u64 {
        let high = u32::from_le_bytes([self.rest[0], self.rest[1], self.rest[2], self.rest[3]]);
        u64::from(high) << 32 | u64::from(self.number as u32)
    }
}

/// `si_code` of a signal that was queued with a value.
pub const SI_QUEUE: i32 = -1;
/// `si_code` of a SIGSYS that seccomp raised.
pub const SYS_SECCOMP: i32 = 1;

/// The registers of an interrupted thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // The fields are the registers.
pub struct Registers {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub rflags: u64,
    pub segments: [u16; 4],
    pub error: u64,
    pub trap: u64,
    pub old_mask: u64,
    pub cr2: u64,
    pub fpstate: u64,
    pub reserved: [u64; 8],
}

impl Registers {
    /// The arguments of a system call.
    pub fn arguments(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }

    /// One of them, from 0.
    pub fn argument_mut(&mut self, number: usize) -> &mut u64 {
        match number {
            0 => &mut self.rdi,
            1 => &mut self.rsi,
            2 => &mut self.rdx,
            3 => &mut self.r10,
            4 => &mut self.r8,
            _ => &mut self.r9,
        }
    }
}

/// ucontext_t, the kernel's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// `UC_` flags.
    pub flags: u64,
    /// Unused.
    pub link: u64,
    /// The alternate stack that rt_sigreturn(2) sets.
    pub stack: AltStack,
    /// Registers.
    pub registers: Registers,
    /// The mask that rt_sigreturn(2) sets.
    pub mask: SigSet,
}

/// What stands on a stack below the XSAVE area.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Return address of the handler.
    pub restorer: u64,
    /// Context.
    pub context: Context,
    /// Signal.
    pub info: SigInfo,
}

const _: () = assert!(size_of::<Registers>() == 256);
const _: () = assert!(size_of::<Context>() == 304);
const _: () = assert!(size_of::<SigInfo>() == 128);
const _: () = assert!(size_of::<Frame>() == 440);
const _: () = assert!(size_of::<Action>() == 32);

/// Bytes below the stack pointer that belong to the interrupted function (System V ABI).
pub const RED_ZONE: u64 = 128;

/// Flags that a handler starts without: TF, DF, RF.
pub const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 10 | 1 << 16;

/// Bytes of the legacy FXSAVE area.
pub const FXSAVE_BYTES: usize = 512;
/// Where in it the kernel describes what follows (`fp_sw_bytes`).
pub const SOFTWARE_BYTES_AT: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
/// More than any XSAVE area with its magic; a larger claim is not believed.
pub const XSAVE_BYTES_MAX: usize = 32 << 10;

/// Length of a saved floating-point state, from its first [`FXSAVE_BYTES`] bytes.
pub fn saved_bytes(fxsave: &[u8; FXSAVE_BYTES]) -> usize {
    let word = |at: usize| u32::from_le_bytes([fxsave[at], fxsave[at + 1], fxsave[at + 2], fxsave[at + 3]]);
    let extended = word(SOFTWARE_BYTES_AT + 4) as usize;
    if word(SOFTWARE_BYTES_AT) == MAGIC1 && (FXSAVE_BYTES..=XSAVE_BYTES_MAX).contains(&extended) {
        extended
    } else {
        FXSAVE_BYTES
    }
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The [`Frame`]: rsp on entry to the handler.
    pub frame: u64,
    /// The XSAVE area.
    pub fpstate: u64,
}

impl Position {
    /// Below `top`, with `saved_bytes` of floating-point state.
    pub const fn below(top: u64, saved_bytes: usize) -> Position {
        let fpstate = top.wrapping_sub(saved_bytes as u64) & !63;
        let frame = (fpstate.wrapping_sub(size_of::<Frame>() as u64) & !15).wrapping_sub(8);
        Position { frame, fpstate }
    }

    /// For a handler that interrupts `rsp`. `None` if the alternate stack is too small, where Linux forces a
    /// SIGSEGV.
    pub fn for_handler(
        rsp: u64,
        on_stack: bool,
        alternate: &AltStack,
        saved_bytes: usize,
    ) -> Option<Position> {
        let already = alternate.holds(rsp);
        let enter = on_stack && alternate.bytes != 0 && !already;
        let position =
            Position::below(if enter { alternate.top() } else { rsp.wrapping_sub(RED_ZONE) }, saved_bytes);
        ((!enter && !already) || alternate.holds(position.frame)).then_some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_aligned_and_below_the_red_zone() {
        for rsp in 0x7000_0000u64..0x7000_0100 {
            for bytes in [512, 836, 2700, 11008] {
                let position = Position::for_handler(rsp, false, &AltStack::NONE, bytes).unwrap();
                assert_eq!(position.fpstate % 64, 0);
                assert_eq!((position.frame + 8) % 16, 0);
                assert!(position.fpstate + bytes as u64 <= rsp - RED_ZONE);
                assert!(position.frame + 440 <= position.fpstate);
            }
        }
    }

    #[test]
    fn the_alternate_stack_is_entered_once() {
        let alternate = AltStack { base: 0x1000, flags: 0, padding: 0, bytes: 0x4000 };
        let entered = Position::for_handler(0x9000, true, &alternate, 512).unwrap();
        assert_eq!(entered, Position::below(0x5000, 512));
        let nested = Position::for_handler(0x4000, true, &alternate, 512).unwrap();
        assert_eq!(nested, Position::below(0x4000 - RED_ZONE, 512));
        assert_eq!(
            Position::for_handler(0x9000, false, &alternate, 512),
            Some(Position::below(0x9000 - 128, 512))
        );
        assert_eq!(Position::for_handler(0x1200, true, &alternate, 512), None, "overflow");
        assert_eq!(Position::for_handler(0x9000, true, &alternate, 0x5000), None, "too small");
    }

    #[test]
    fn queued_values_come_back() {
        let value = 0x0123_4567_89ab_cdef;
        let info = SigInfo::queued(16, 7, value);
        assert_eq!((info.signal, info.code, info.value()), (16, SI_QUEUE, value));
        // siginfo_t: the value of a queued signal is at its byte 24.
        // SAFETY: SigInfo is 128 bytes.
        let bytes = unsafe { core::slice::from_raw_parts((&raw const info).cast::<u8>(), 128) };
        assert_eq!(bytes[24..32], value.to_le_bytes());
    }

    #[test]
    fn state_sizes_are_believed_within_reason() {
        let mut area = [0; FXSAVE_BYTES];
        assert_eq!(saved_bytes(&area), 512);
        area[464..468].copy_from_slice(&MAGIC1.to_le_bytes());
        area[468..472].copy_from_slice(&2440u32.to_le_bytes());
        assert_eq!(saved_bytes(&area), 2440);
        area[468..472].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(saved_bytes(&area), 512);
    }
}
