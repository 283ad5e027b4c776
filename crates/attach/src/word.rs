//! Atomic operations on words of the space: what locks of several hosts are made of.
//!
//! The space is coherent, so an atomic instruction on a page that is here to write is one over all hosts; where it is not, the
//! instruction faults, and is done when the page has come.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Attachment;

impl Attachment {
    /// The word's value.
    ///
    /// # Errors
    /// `EINVAL` for what is no aligned word of the space, `EBADF` if the attachment is closed or a parent's, `EPIPE` if the machine has
    /// ended. One that ends in the middle is SIGBUS.
    pub fn load(&self, address: u64) -> io::Result<u64> {
        self.with_word(address, |word| word.load(Ordering::SeqCst))
    }

    /// Gives the word a value; fails as [`Attachment::load`].
    pub fn store(&self, address: u64, value: u64) -> io::Result<()> {
        self.with_word(address, |word| word.store(value, Ordering::SeqCst))
    }

    /// Adds to the word, modulo 2^64: its value before. Fails as [`Attachment::load`].
    pub fn fetch_add(&self, address: u64, more: u64) -> io::Result<u64> {
        self.with_word(address, |word| word.fetch_add(more, Ordering::SeqCst))
    }

    /// Gives the word the value `new` if it has `current`: its value before. Fails as [`Attachment::load`].
    pub fn compare_exchange(&self, address: u64, current: u64, new: u64) -> io::Result<u64> {
        self.with_word(address, |word| {
            word.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
                .unwrap_or_else(|found| found)
        })
    }

    fn with_word<T>(&self, address: u64, act: impl FnOnce(&AtomicU64) -> T) -> io::Result<T> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if open.is_none() || self.process != std::process::id() {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        if self.has_ended() {
            return Err(io::Error::from_raw_os_error(libc::EPIPE));
        }
        let last = self.bytes - size_of::<u64>() as u64;
        if !address.is_multiple_of(align_of::<AtomicU64>() as u64)
            || address.checked_sub(self.start).is_none_or(|offset| offset > last)
        {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: an aligned word inside the mapping, which stays while `open` is held. All values are valid. Others may write it
        // meanwhile, also plainly (numpy): the processor's words are whole, and what the compiler may assume of this place it cannot
        // know, as it came from outside of the program.
        Ok(act(unsafe { AtomicU64::from_ptr(address as *mut u64) }))
    }
}
