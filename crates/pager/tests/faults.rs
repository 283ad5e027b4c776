//! The pager against the kernel: a client in this very process touches pages, the pager answers.
//!
//! Each test has its own space and needs a userfaultfd that serves faults of the kernel; where none is to be had it
//! says so and passes over.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use coherence::PageId;
use megalith_pager as pager;
use pager::{
    Budget, Eviction, Fault, PAGE, Packed, Pager, Place, Source, SpaceId, SpaceMemory, Uffd, address, offset,
};

/// Addresses that nothing else in the process uses; every test takes its own gigabyte.
// Above AddressSanitizer's shadow.
static NEXT: AtomicU64 = AtomicU64::new(0x1200_0000_0000);

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

struct Client {
    base: u64,
    space: SpaceId,
    pager: Arc<Mutex<Pager>>,
    uffd: Arc<Uffd>,
    budget: Arc<Budget>,
}

impl Client {
    /// Maps `pages` pages of a new space, registered, with nobody yet answering.
    fn new(pages: u64) -> Option<Client> {
        // SAFETY: plain system calls on descriptors made here; `api` and `register` are what the calls take.
        unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK);
            if fd < 0 {
                eprintln!("skipped: no userfaultfd here: {}", std::io::Error::last_os_error());
                return None;
            }
            let fd = OwnedFd::from_raw_fd(fd as i32);
            let mut api = Api { api: 0xAA, features: client::UFFD_FEATURES, ioctls: 0 };
            assert_eq!(libc::ioctl(fd.as_raw_fd(), 0xc018_aa3f, &raw mut api), 0);
            let memory = Arc::new(SpaceMemory::new().unwrap());
            let base = NEXT.fetch_add(1 << 30, Ordering::Relaxed);
            let len = pages * PAGE as u64;
            let at = libc::mmap(
                base as *mut _,
                len as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE,
                std::os::fd::AsFd::as_fd(memory.memfd()).as_raw_fd(),
                base as i64,
            );
            assert_eq!(at as u64, base);
            let mut register = Register { start: base, len, mode: 7, ioctls: 0 };
            assert_eq!(libc::ioctl(fd.as_raw_fd(), 0xc020_aa00, &raw mut register), 0);
            let budget = Arc::new(Budget::new(64 << 20));
            let mut pager = Pager::new(budget.clone()).unwrap();
            let space = SpaceId(1);
            let uffd = Arc::new(Uffd::new(fd));
            memory.add_client(uffd.clone());
            pager.open(space, memory);
            Some(Client { base, space, pager: Arc::new(Mutex::new(pager)), uffd, budget })
        }
    }

    fn page(&self, n: u64) -> PageId {
        self.space.page(self.base + n * PAGE as u64)
    }

    fn want(&self, first: u64, pages: u64) {
        for n in first..first + pages {
            assert!(self.budget.try_take(PAGE as u64));
            self.pager.lock().unwrap().want(self.page(n));
        }
    }

    fn place(&self, n: u64) -> Place {
        self.pager.lock().unwrap().entry(self.page(n)).place
    }

    /// Reads a byte of a page: a fault, if it is not there.
    fn peek(&self, n: u64) -> u8 {
        // SAFETY: the page is mapped readable; what is there is decided by the pager.
        unsafe { ((self.base + n * PAGE as u64) as *const u8).read_volatile() }
    }

    fn poke(&self, n: u64, value: u8) {
        // SAFETY: the page is mapped writable and no Rust object lives there.
        unsafe { ((self.base + n * PAGE as u64) as *mut u8).write_volatile(value) }
    }

    /// Answers faults with `answer` while `body` runs.
    fn serving(&self, answer: impl Fn(Fault) + Sync, body: impl FnOnce()) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut faults = Vec::new();
                while !done.load(Ordering::Acquire) {
                    faults.clear();
                    self.uffd.read(&mut faults).unwrap();
                    faults.iter().for_each(|&f| answer(f));
                    if faults.is_empty() {
                        thread::sleep(Duration::from_micros(200));
                    }
                }
            });
            body();
            done.store(true, Ordering::Release);
        });
    }
}

#[test]
fn zeros_bytes_and_eviction() {
    let Some(c) = Client::new(256) else { return };
    c.want(0, 3);
    c.pager.lock().unwrap().install_initial(c.page(0), 3, None, |_, _| panic!("nothing to ask")).unwrap();
    assert_eq!((c.peek(0), c.peek(2)), (0, 0));
    c.poke(1, 42);
    let mut batch = Eviction::default();
    assert_eq!(c.pager.lock().unwrap().begin_eviction(64, &mut batch), 3);
    batch.pack();
    assert_eq!(c.pager.lock().unwrap().finish_eviction(&mut batch), 3);
    assert!(matches!(c.place(1), Place::Stowed(_, Some(_))) && matches!(c.place(0), Place::Stowed(_, None)));
    // Back again, by a fault.
    c.serving(
        |fault| {
            let n = (fault.address - c.base) / PAGE as u64;
            assert!(c.budget.try_take(PAGE as u64));
            c.pager.lock().unwrap().unstow(c.page(n), 1, true, None);
        },
        || assert_eq!((c.peek(1), c.peek(0)), (42, 0)),
    );
    let mut pager = c.pager.lock().unwrap();
    pager.remove(c.page(0), 256);
    let holdings = pager.holdings();
    assert_eq!((holdings.mapped_pages, holdings.stowed_pages), (0, 0));
    assert_eq!(c.budget.held(), holdings.stowed_bytes);
}

#[test]
fn a_write_during_eviction_calls_the_page_back() {
    let Some(c) = Client::new(1) else { return };
    c.want(0, 1);
    c.pager.lock().unwrap().install_initial(c.page(0), 1, None, |_, _| panic!("nothing to ask")).unwrap();
    c.poke(0, 1);
    let mut batch = Eviction::default();
    c.pager.lock().unwrap().begin_eviction(1, &mut batch);
    batch.pack();
    let answer = |fault: Fault| {
        assert!(fault.write);
        c.pager.lock().unwrap().allow_write(c.page(0), 1, None);
    };
    c.serving(answer, || c.poke(0, 2));
    assert_eq!(c.pager.lock().unwrap().finish_eviction(&mut batch), 0, "called back");
    assert_eq!((c.place(0), c.peek(0)), (Place::Mapped, 2));
}

#[test]
fn first_bytes_come_from_files_from_home_or_are_zeros() {
    let Some(c) = Client::new(16) else { return };
    // SAFETY: a constant name; the descriptor is ours.
    let mut file =
        File::from(unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"file".as_ptr(), libc::MFD_CLOEXEC)) });
    file.write_all(&[5; 2 * PAGE]).unwrap();
    let source = Source::File { file: Arc::new(file), offset: 0 };
    c.pager.lock().unwrap().back(c.space, address(c.page(2)), 2 * PAGE as u64, Some(source));
    c.pager.lock().unwrap().back(c.space, address(c.page(4)), 3 * PAGE as u64, Some(Source::Home));
    c.want(1, 7);
    let mut asked = Vec::new();
    c.pager.lock().unwrap().install_initial(c.page(1), 7, None, |page, run| asked.push((page, run))).unwrap();
    assert_eq!(asked, [(c.page(4), 3)], "in one question");
    assert_eq!((c.peek(1), c.peek(2), c.peek(3), c.peek(7)), (0, 5, 5, 0));
    assert!((4..7).all(|n| c.place(n) == Place::Absent));
    c.pager.lock().unwrap().install_bytes(c.page(4), &[6; 3 * PAGE], true, None);
    assert_eq!((c.peek(4), c.peek(6)), (6, 6));
    // The same, not to be seen yet.
    let mut pager = c.pager.lock().unwrap();
    pager.remove(c.page(1), 7);
    assert!(pager.stow_initial(c.page(1)).unwrap() && pager.stow_initial(c.page(3)).unwrap());
    assert!(!pager.stow_initial(c.page(5)).unwrap(), "home has it");
    let mut bytes = vec![9; 6 * PAGE];
    pager.read_initial(c.page(1), &mut bytes).unwrap();
    let firsts: Vec<u8> = bytes.chunks(PAGE).map(|page| page[0]).collect();
    assert_eq!(firsts, [0, 5, 5, 0, 0, 0], "what this host knows");
    drop(pager);
    assert!(c.place(5) == Place::Absent && c.budget.try_take(PAGE as u64));
    c.pager.lock().unwrap().unstow(c.page(3), 1, true, None);
    assert_eq!(c.peek(3), 5);
}

#[test]
fn a_page_that_stands_in_the_way_is_replaced_with_its_protection() {
    // UFFDIO_COPY meets a page already in the memfd (EEXIST): waking alone would leave wrong bytes, writable.
    let Some(c) = Client::new(4) else { return };
    let memory = c.pager.lock().unwrap().space(c.space).unwrap().clone();
    let stray = [9u8; PAGE];
    // SAFETY: writing our own memfd from our own buffer.
    let n = unsafe {
        libc::pwrite(
            std::os::fd::AsFd::as_fd(memory.memfd()).as_raw_fd(),
            stray.as_ptr().cast(),
            PAGE,
            address(c.page(1)) as i64,
        )
    };
    assert_eq!(n, PAGE as isize);
    c.want(0, 3);
    c.pager.lock().unwrap().install_bytes(c.page(0), &[7; 3 * PAGE], false, None);
    assert_eq!((c.peek(0), c.peek(1), c.peek(2)), (7, 7, 7));
    let wrote = AtomicBool::new(false);
    let answer = |fault: Fault| {
        assert!(fault.write, "the page is there to read");
        wrote.store(true, Ordering::Release);
        c.pager.lock().unwrap().allow_write(c.page(1), 1, None);
    };
    c.serving(answer, || c.poke(1, 8));
    assert!(wrote.load(Ordering::Acquire), "it was write-protected");
}

#[test]
fn a_run_past_the_end_of_the_mapping_keeps_the_rest_stowed() {
    let Some(c) = Client::new(5) else { return };
    c.want(2, 8);
    c.pager.lock().unwrap().install_initial(c.page(2), 8, None, |_, _| panic!("nothing to ask")).unwrap();
    assert!((2..5).all(|n| c.place(n) == Place::Mapped));
    assert!((5..10).all(|n| matches!(c.place(n), Place::Stowed(_, None))));
    assert_eq!(c.budget.held(), 3 * PAGE as u64);
}

#[test]
fn what_leaves_is_what_was_written_even_by_a_racing_writer() {
    // Write-protect before the copy: a writer that runs while pages leave must either be seen or be stopped.
    let Some(c) = Client::new(1) else { return };
    c.want(0, 1);
    c.pager.lock().unwrap().install_initial(c.page(0), 1, None, |_, _| panic!("nothing to ask")).unwrap();
    let stop = AtomicBool::new(false);
    let answer = |fault: Fault| {
        let mut pager = c.pager.lock().unwrap();
        match pager.entry(c.page(0)).place {
            Place::Mapped | Place::Evicting => {
                if fault.write {
                    pager.allow_write(c.page(0), 1, None)
                } else {
                    pager.show(c.page(0), true, c.uffd.id(), |_| true)
                }
            }
            Place::Stowed(..) => {
                assert!(c.budget.try_take(PAGE as u64));
                pager.unstow(c.page(0), 1, true, None);
            }
            Place::Absent => panic!("it never leaves this host"),
        }
    };
    c.serving(answer, || {
        thread::scope(|scope| {
            let word = c.base as *const AtomicU64;
            scope.spawn(|| {
                let mut batch = Eviction::default();
                while !stop.load(Ordering::Acquire) {
                    if c.pager.lock().unwrap().begin_eviction(1, &mut batch) == 1 {
                        batch.pack();
                        c.pager.lock().unwrap().finish_eviction(&mut batch);
                    }
                }
            });
            // SAFETY: the word is in the client's mapping, aligned, and only ever used as an atomic.
            let word = unsafe { &*word };
            for expected in 0..20_000 {
                assert_eq!(word.fetch_add(1, Ordering::Relaxed), expected, "an update was lost");
            }
            stop.store(true, Ordering::Release);
        });
    });
}

#[test]
fn handed_over_pages_are_kept_without_clients() {
    let budget = Arc::new(Budget::new(64 << 20));
    let mut pager = Pager::new(budget.clone()).unwrap();
    let page = SpaceId(3).page(0x40_0000);
    pager.stow(page, Packed::ZERO);
    pager.stow(offset(page, 1), Packed { packing: pager::Packing::Raw, bytes: &[5; PAGE] });
    assert_eq!(pager.take(offset(page, 1), false, |p| p.bytes[PAGE - 1]), 5);
    let mut oldest = Vec::new();
    pager.oldest_stowed(10, &mut oldest);
    assert_eq!(oldest, [page]);
    pager.close(SpaceId(3));
    drop(pager);
    assert_eq!(budget.held(), 0);
}
