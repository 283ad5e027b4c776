//! The threads of this process that the program knows of, in spread mode.
//!
//! Life of an entry: made by the creator, who holds the list while the kernel makes the thread, so that nobody sees the thread
//! before the list knows it → taken out by the thread itself before it ends. Whoever holds the list may signal a thread in it.

use core::ptr;
use core::sync::atomic::Ordering;

use crate::block::Block;
use crate::lock::{Guard, Lock};
use crate::travel::Travel;
use crate::{cputime, sys};

/// See the module.
pub struct List {
    first: *mut Block,
    /// With what the first thread has ended: the process's status when the others have ended too.
    leader_code: u64,
}

/// A block's neighbours in the list.
pub struct Links {
    next: *mut Block,
    previous: *mut Block,
}

impl Links {
    /// In no list.
    pub const NONE: Links = Links { next: ptr::null_mut(), previous: ptr::null_mut() };
}

static LIVE: Lock<List> = Lock::new(List { first: ptr::null_mut(), leader_code: 0 });

/// What [`remove`] leaves.
pub enum Left {
    /// Other threads.
    Others,
    /// Nobody: the process ends with this code.
    Nobody(u64),
}

/// Takes the list.
pub fn list() -> Guard<'static, List> {
    LIVE.take()
}

/// See [`Lock::expect_free_of`].
pub fn expect_free_of(tid: u32) {
    LIVE.expect_free_of(tid);
}

impl List {
    /// A thread that lives from now on.
    ///
    /// # Safety
    /// The block is its thread's, and stays so until [`remove`].
    pub unsafe fn add(&mut self, block: *mut Block, tid: u32) {
        // SAFETY: the caller's promise; the first one in the list is alive.
        unsafe {
            (*block).travel.tid = tid;
            (*block).links = Links { next: self.first, previous: ptr::null_mut() };
            if let Some(first) = self.first.as_mut() {
                first.links.previous = block;
            }
        }
        self.first = block;
    }

    /// CPU time that all have used away, in nanoseconds.
    pub fn worked(&self) -> u64 {
        let (mut at, mut sum) = (self.first, 0);
        // SAFETY: blocks in the list are alive; the sum in a Travel is atomic.
        while let Some(block) = unsafe { at.as_ref() } {
            sum += block.travel.worked();
            at = block.links.next;
        }
        sum
    }

    /// The futex words for which threads wait at home.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        let mut at = self.first;
        core::iter::from_fn(move || {
            // SAFETY: blocks in the list are alive; the word in a Travel is atomic.
            let block = unsafe { at.as_ref() }?;
            at = block.links.next;
            Some(block.travel.waits_for.load(Ordering::SeqCst))
        })
        .filter(|word| *word != 0)
    }

    /// The travels of thread `tid`.
    pub fn find(&mut self, tid: u32) -> Option<&mut Travel> {
        let mut at = self.first;
        // SAFETY: blocks in the list are alive; what others use of a Travel is atomic or guarded by this list.
        while let Some(block) = unsafe { at.as_mut() } {
            if block.travel.tid == tid {
                return Some(&mut block.travel);
            }
            at = block.links.next;
        }
        None
    }
}

/// The calling thread, whose block this is, ends with `code`.
pub fn remove(block: &mut Block, code: u64) -> Left {
    let mut list = LIVE.take();
    if block.travel.tid == sys::pid() {
        list.leader_code = code;
    }
    let Links { next, previous } = core::mem::replace(&mut block.links, Links::NONE);
    // SAFETY: neighbours in the list are alive.
    unsafe {
        if let Some(next) = next.as_mut() {
            next.links.previous = previous;
        }
        match previous.as_mut() {
            Some(previous) => previous.links.next = next,
            None => list.first = next,
        }
    }
    block.travel.tid = 0;
    cputime::ended(block.travel.worked());
    if list.first.is_null() { Left::Nobody(list.leader_code) } else { Left::Others }
}
