//! A thread as it stands in a signal frame, made ready to be sent.

use megalith_runtime::frame::{Context, FXSAVE_BYTES, SigInfo, saved_bytes};
use megalith_runtime::nr;
use megalith_runtime::ship::Shipment;

use crate::sys::safe_call;

/// arch_prctl(2): sets the GS base.
pub const SET_GS: u64 = 0x1001;
/// arch_prctl(2): sets the FS base.
pub const SET_FS: u64 = 0x1002;
/// arch_prctl(2): stores the FS base.
pub const GET_FS: u64 = 0x1003;
/// arch_prctl(2): stores the GS base.
pub const GET_GS: u64 = 0x1004;

/// The calling thread's FS or GS base.
pub fn base(code: u64) -> u64 {
    let mut base = 0u64;
    // Cannot fail: a valid pointer.
    let _ = safe_call!(nr::ARCH_PRCTL, code, &raw mut base);
    // SAFETY: the kernel has written it behind the compiler's back.
    unsafe { (&raw const base).read_volatile() }
}

/// The XSAVE area that a context names.
///
/// # Safety
/// The kernel, or who sent the thread here, has put it where the context says, with its length in the legacy area; and it
/// stays there while it is read.
pub unsafe fn saved<'a>(context: &Context) -> &'a [u8] {
    let fpstate = context.registers.fpstate;
    if fpstate == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe {
        let legacy = &*(fpstate as *const [u8; FXSAVE_BYTES]);
        core::slice::from_raw_parts(fpstate as *const u8, saved_bytes(legacy))
    }
}

/// The calling thread, as it was interrupted; `saved` follows it.
pub fn shipment(context: &Context, saved: &[u8], reason: u64, worked: u64, info: &SigInfo) -> Shipment {
    Shipment {
        context: *context,
        fs: base(GET_FS),
        gs: base(GET_GS),
        saved_bytes: saved.len() as u64,
        reason,
        worked,
        info: *info,
    }
}
