//! Blocks of the space's memory, for who allocates often: what malloc(3) and its kin are for ordinary memory.
//!
//! [`heap::Heap`] says who has what; here is the lock around it, and what must be done about the memory. Any thread may call anything.
//! Nobody waits for the agent with the lock, and who frees a block waits for it only when more free memory is kept than may be.
//!
//! Invariants:
//! - a range whose memory could not be given back is never given out again;
//! - in a child of the process, which has no mapping, nothing is given out and nothing is done for what is freed.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heap::{Block, Heap};

use crate::Attachment;

/// A heap in a range of the space.
#[derive(Debug)]
pub struct SpaceHeap {
    attachment: Arc<Attachment>,
    state: Mutex<State>,
    /// This process is a child of the one that has the memory.
    inherited: AtomicBool,
}

#[derive(Debug)]
struct State {
    heap: Heap,
    closed: bool,
}

impl SpaceHeap {
    /// A heap of the `bytes` addresses from `start` on, which are the caller's and which nobody has touched. Of memory that is free it
    /// keeps up to `kept_bytes_max`.
    ///
    /// # Panics
    /// As [`Heap::new`], and if the range is not in the space.
    pub fn new(attachment: Arc<Attachment>, start: u64, bytes: u64, kept_bytes_max: u64) -> Self {
        let end = start.checked_add(bytes).expect("a range of addresses");
        assert!(
            start >= attachment.start() && end <= attachment.start() + attachment.bytes(),
            "in the space"
        );
        let state = Mutex::new(State { heap: Heap::new(start, bytes, kept_bytes_max), closed: false });
        Self { attachment, state, inherited: AtomicBool::new(false) }
    }

    /// A block of `bytes`, all zeros if `zeros`; null if there can be none: no addresses are left, the heap is closed, the machine has
    /// ended.
    pub fn allocate(&self, bytes: usize, zeros: bool) -> *mut u8 {
        let Some(block) = self.take(bytes as u64, zeros) else { return ptr::null_mut() };
        let address = block.address as *mut u8;
        if zeros && !block.zeros {
            // SAFETY: the block is of `bytes` and nobody else's; the space is mapped as long as a block is given out.
            unsafe { ptr::write_bytes(address, 0, bytes) };
        }
        address
    }

    /// The block with another length, here or elsewhere; null, and the block as it was, where that cannot be.
    ///
    /// # Safety
    /// `old` was given out by this heap, and nobody else uses it.
    ///
    /// # Panics
    /// If `old` is not given out.
    pub unsafe fn reallocate(&self, old: *mut u8, bytes: usize) -> *mut u8 {
        if !self.can_give() {
            return ptr::null_mut();
        }
        let address = old as u64;
        let length = {
            let mut state = self.state();
            if state.heap.resize(address, bytes as u64).expect("a block that is given out") {
                return old;
            }
            state.heap.length(address).expect("it was there just now")
        };
        let new = self.allocate(bytes, false);
        if !new.is_null() {
            // SAFETY: both blocks are that long and disjoint; the caller answers for the old one, and the new one is ours.
            unsafe { ptr::copy_nonoverlapping(old, new, bytes.min(length as usize)) };
            self.free(old);
        }
        new
    }

    /// Takes a block back. Its memory goes back to the hosts, some of it later.
    ///
    /// # Panics
    /// If the block is not given out.
    pub fn free(&self, block: *mut u8) {
        if self.inherited.load(Ordering::Relaxed) {
            return;
        }
        let (leaving, closed) = {
            let mut state = self.state();
            let leaving = state.heap.give(block as u64).expect("a block that is given out is freed once");
            (leaving, state.closed)
        };
        for range in leaving {
            // A closed machine's memory has gone, all of it. Where one has ended by itself there is nobody to ask.
            if !closed && self.attachment.discard(range.start, range.end - range.start).is_ok() {
                self.state().heap.discarded(range);
            }
        }
    }

    /// How many blocks are given out.
    pub fn blocks(&self) -> usize {
        self.state().heap.blocks()
    }

    /// From now on nothing is given out. Whether nothing is: then nobody has addresses of the space from here.
    pub fn close(&self) -> bool {
        let mut state = self.state();
        state.closed = true;
        state.heap.blocks() == 0
    }

    /// Called in a child of the process that attached.
    pub fn inherit(&self) {
        self.inherited.store(true, Ordering::Relaxed);
    }

    fn take(&self, bytes: u64, zeros: bool) -> Option<Block> {
        if !self.can_give() {
            return None;
        }
        let mut state = self.state();
        if state.closed { None } else { state.heap.take(bytes, zeros) }
    }

    fn can_give(&self) -> bool {
        !self.inherited.load(Ordering::Relaxed) && !self.attachment.has_ended()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
