//! Reading and writing the program's memory: through the kernel, so that a bad pointer is EFAULT and no crash.
//!
//! By process_vm_readv(2) and process_vm_writev(2) of this very process, with the program's memory as their *local* side. That side is
//! copied as by any call that takes a buffer. The remote side is pinned first and copied then, and a page of the space must not be
//! pinned: what is written to it after it has gone to another host is lost. So to write to the program is to read from the runtime,
//! whose own memory goes nowhere.

use megalith_runtime::errno::{EFAULT, ENAMETOOLONG, Errno};
use megalith_runtime::{PAGE, nr};

use crate::sys::{self, safe_call};

#[repr(C)]
struct Vector {
    base: u64,
    bytes: u64,
}

fn transfer(number: u32, own: u64, address: u64, bytes: usize) -> Result<usize, Errno> {
    let local = Vector { base: address, bytes: bytes as u64 };
    let remote = Vector { base: own, bytes: bytes as u64 };
    let done = safe_call!(number, sys::pid(), &raw const local, 1, &raw const remote, 1, 0)?;
    Ok(done as usize)
}

/// Reads what is readable from `address` on; returns how much.
pub fn read_some(address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    transfer(nr::PROCESS_VM_WRITEV, buffer.as_mut_ptr() as u64, address, buffer.len())
}

/// Plain numbers, for which every bit pattern is a value.
///
/// # Safety
/// It must be true.
pub unsafe trait Plain: Copy {}

// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: numbers.
unsafe impl Plain for u64 {}
// SAFETY: numbers.
unsafe impl<const N: usize> Plain for [u64; N] {}
// SAFETY: numbers.
unsafe impl Plain for megalith_runtime::frame::Action {}
// SAFETY: numbers.
unsafe impl Plain for megalith_runtime::frame::AltStack {}
// SAFETY: numbers.
unsafe impl Plain for megalith_runtime::sigset::SigSet {}

/// Reads a value.
pub fn read<T: Plain>(address: u64) -> Result<T, Errno> {
    // SAFETY: Plain: zeros are a value.
    let mut value: T = unsafe { core::mem::zeroed() };
    let bytes = size_of::<T>();
    match transfer(nr::PROCESS_VM_WRITEV, &raw mut value as u64, address, bytes) {
        Ok(done) if done == bytes => Ok(value),
        _ => Err(EFAULT),
    }
}

/// Writes bytes.
pub fn write_bytes(address: u64, bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    match transfer(nr::PROCESS_VM_READV, bytes.as_ptr() as u64, address, bytes.len()) {
        Ok(done) if done == bytes.len() => Ok(()),
        _ => Err(EFAULT),
    }
}

/// Writes a value.
pub fn write<T: Plain>(address: u64, value: &T) -> Result<(), Errno> {
    // SAFETY: Plain types are bytes.
    let bytes = unsafe { core::slice::from_raw_parts((value as *const T).cast::<u8>(), size_of::<T>()) };
    write_bytes(address, bytes)
}

/// Reads a string, without its terminating zero. ENAMETOOLONG if it does not fit.
pub fn read_string(address: u64, buffer: &mut [u8]) -> Result<&[u8], Errno> {
    let mut used = 0;
    while used < buffer.len() {
        let at = address.wrapping_add(used as u64);
        let to_page_end = (PAGE - at % PAGE) as usize;
        let end = buffer.len().min(used + to_page_end);
        let read = read_some(at, &mut buffer[used..end]).map_err(|_| EFAULT)?;
        if let Some(zero) = buffer[used..used + read].iter().position(|byte| *byte == 0) {
            return Ok(&buffer[..used + zero]);
        }
        if read < end - used {
            return Err(EFAULT);
        }
        used = end;
    }
    Err(ENAMETOOLONG)
}
