//! Address space that is ours, whose memory comes as it is touched and can be given back piece by piece.

use std::io;
use std::ptr::NonNull;

/// A private anonymous mapping.
#[derive(Debug)]
pub struct Reserve {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone; whoever reads or writes it answers for that.
unsafe impl Send for Reserve {}

impl Reserve {
    /// Reserves `bytes` of addresses, and no memory.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new(bytes: usize) -> io::Result<Self> {
        let base = map(bytes)?;
        Ok(Self { base, bytes })
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it begins.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Gives the memory of a range of whole pages back; it is zeros again. Nobody may borrow from it.
    pub fn forget(&mut self, start: usize, bytes: usize) {
        assert!(start + bytes <= self.bytes);
        // SAFETY: the range is inside the mapping, and `&mut self` says that nobody else looks.
        unsafe { forget(self.base.add(start), bytes) };
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // SAFETY: made by `map` with this length; borrows of it have ended with this value.
        unsafe { unmap(self.base, self.bytes) };
    }
}

#[cfg(not(miri))]
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a fresh anonymous mapping at an address that the kernel chooses.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // A transparent huge page would charge 2 MiB for one slot.
    // SAFETY: our own mapping; advice alone.
    unsafe { libc::madvise(base, bytes, libc::MADV_NOHUGEPAGE) };
    Ok(NonNull::new(base.cast()).expect("mmap does not return null"))
}

#[cfg(not(miri))]
unsafe fn forget(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's: inside a mapping of `map`, nothing in it is used.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTNEED) };
}

#[cfg(not(miri))]
unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's: a whole mapping of `map`.
    unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
}

/// Miri knows neither `MAP_NORESERVE` nor madvise(2): there the heap stands for the mapping.
#[cfg(miri)]
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout(bytes)) }).ok_or(io::ErrorKind::OutOfMemory.into())
}

#[cfg(miri)]
unsafe fn forget(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's: inside what `map` gave.
    unsafe { start.write_bytes(0, bytes) };
}

#[cfg(miri)]
unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's: what `map` gave for as many bytes.
    unsafe { std::alloc::dealloc(base.as_ptr(), layout(bytes)) };
}

#[cfg(miri)]
fn layout(bytes: usize) -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(bytes, 4096).expect("less than all addresses")
}
