//! The kernel's part of one space on one host, simulated: the memfd, the page tables of the processes that map it, and
//! their threads that sleep in faults.
//!
//! The calls answer as userfaultfd(2) and the memfd do:
//! - an access that its process's page table does not allow puts its thread to sleep and makes an event: *missing* where the memfd has no
//!   page, *minor* where it has one, *write-protected* where the table has it and forbids writing;
//! - a thread that is woken tries again. One that is woken before its event is read has no event any more; one whose event
//!   *was* read leaves that behind, to be answered late;
//! - a mapping call is about one process: the page comes to the memfd and to that process's table, and its threads are woken.
//!   One over a range that is not the process's maps nothing; one that is disturbed maps some pages, wakes those,
//!   and says so; a page that is in the memfd already stops it;
//! - write protection is one process's, and of pages that it does not see leaves no trace: what is mapped later is as that call
//!   says (the kernel keeps a marker there, which mapping calls replace);
//! - punching takes pages from the memfd and all tables and wakes nobody;
//! - calls about a process that has died fail.
//!
//! Two things happen by chance ([`Weather`]): calls are disturbed, and while the agent is in a call, threads of the processes
//! run ([`Company`]), as they do on another CPU.
//!
//! One lock, of the kernel's state; it is free while the company runs.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use rustc_hash::FxHashMap;

use crate::bug::Planted;
use crate::packed::PAGE;
use crate::space::SpaceMemory;
use crate::uffd::{Fault, Mapped};

/// Faults that one read brings, as in [`crate::Uffd::read`].
const READ_MAX: usize = 16;

/// Chances out of 1000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// A mapping call is disturbed.
    pub disturbed: u64,
    /// Threads of the processes run while a call is made.
    pub company: u64,
}

/// Who runs while the agent is in a system call.
pub trait Company: Send + Sync {
    /// The agent of `host` is in a call about a space of its processes.
    fn meanwhile(&self, host: u16);
}

/// See the module's text.
#[derive(Debug)]
pub struct SimSpace {
    host: u16,
    weather: Weather,
    kernel: Mutex<Kernel>,
    company: OnceLock<CompanyOf>,
}

struct CompanyOf(Weak<dyn Company>);

impl std::fmt::Debug for CompanyOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CompanyOf")
    }
}

#[derive(Debug)]
struct Kernel {
    /// Pages are named by their number in the space here.
    memfd: FxHashMap<u64, Box<[u8]>>,
    /// What is every process's, and registered.
    mapping: Range<u64>,
    processes: Vec<Process>,
    chance: u64,
}

#[derive(Debug, Default)]
struct Process {
    /// What the process sees, and whether it may write it.
    table: FxHashMap<u64, bool>,
    /// Threads that sleep in a fault, and the page.
    asleep: BTreeMap<u32, u64>,
    events: VecDeque<Fault>,
    dead: bool,
}

impl Process {
    fn wake(&mut self, pages: Range<u64>) {
        let Process { asleep, events, .. } = self;
        asleep.retain(|&thread, page| {
            let sleeps = !pages.contains(page);
            if !sleeps {
                events.retain(|event| event.thread != thread);
            }
            sleeps
        });
    }

    fn die(&mut self) {
        *self = Process { dead: true, ..Process::default() };
    }
}

impl Kernel {
    fn sees(&self, page: u64) -> Option<bool> {
        self.processes.iter().filter_map(|process| process.table.get(&page).copied()).max()
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.chance;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ word >> 31) % sides
    }

    /// How far a mapping call gets, if nothing else stops it.
    fn disturbed(&mut self, pages: &Range<u64>, disturbed: u64) -> u64 {
        if disturbed > 0 && self.roll(1000) < disturbed {
            return pages.start + self.roll(pages.end - pages.start + 1);
        }
        pages.end
    }

    /// Maps pages one by one with `page`, which gives each one's bytes; stops where one is in the memfd.
    fn map(
        &mut self,
        process: usize,
        pages: Range<u64>,
        disturbed: u64,
        writable: bool,
        page: impl Fn(u64) -> Box<[u8]>,
    ) -> Mapped {
        if self.processes[process].dead {
            return Mapped::Gone;
        }
        if pages.start < self.mapping.start || pages.end > self.mapping.end {
            return Mapped::Unmapped;
        }
        let limit = self.disturbed(&pages, disturbed);
        let mut done = 0;
        let mut exists = false;
        for number in pages.start..limit {
            if self.memfd.contains_key(&number) {
                exists = true;
                break;
            }
            self.memfd.insert(number, page(done));
            self.processes[process].table.insert(number, writable);
            done += 1;
        }
        if done > 0 {
            self.processes[process].wake(pages.start..pages.start + done);
        }
        match done {
            done if pages.start + done == pages.end => Mapped::All,
            0 if exists => Mapped::Exists { pages: 0 },
            // After some pages the kernel says EAGAIN whatever stopped it.
            pages => Mapped::Again { pages },
        }
    }
}

fn number(address: u64) -> u64 {
    address / PAGE as u64
}

impl SimSpace {
    /// A space of so many processes of `host`, each of which maps the `mapping` addresses of it.
    pub fn new(
        host: u16,
        mapping: Range<u64>,
        processes: usize,
        weather: Weather,
        seed: u64,
    ) -> Arc<SimSpace> {
        let kernel = Kernel {
            memfd: FxHashMap::default(),
            mapping: number(mapping.start)..number(mapping.end),
            processes: (0..processes).map(|_| Process::default()).collect(),
            chance: seed,
        };
        Arc::new(SimSpace { host, weather, kernel: Mutex::new(kernel), company: OnceLock::new() })
    }

    /// The memory that a pager is given, with all processes as its clients.
    pub fn memory(self: &Arc<Self>, planted: Planted) -> Arc<SpaceMemory> {
        Arc::new(SpaceMemory::simulated(self, planted))
    }

    /// How many processes there have been.
    pub fn processes(&self) -> usize {
        self.kernel().processes.len()
    }

    /// Who runs while the agent is in a call.
    pub fn set_company(&self, company: Weak<dyn Company>) {
        // The first one counts.
        let _ = self.company.set(CompanyOf(company));
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        // A panic elsewhere is reported by who simulates.
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent enters a call: others may run first.
    fn enter(&self) -> MutexGuard<'_, Kernel> {
        let chance = self.kernel().roll(1000);
        let company = self.company.get().filter(|_| chance < self.weather.company);
        if let Some(company) = company.and_then(|CompanyOf(company)| company.upgrade()) {
            company.meanwhile(self.host);
        }
        self.kernel()
    }

    // What the processes do.

    /// An access of a process's thread to a page: `f` is given its bytes. `None` if the thread sleeps in a fault now.
    ///
    /// # Panics
    /// If the address is not the process's, which would end it.
    pub fn access<R>(
        &self,
        (process, thread): (usize, u32),
        address: u64,
        write: bool,
        f: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
        let mut kernel = self.kernel();
        let page = number(address);
        assert!(kernel.mapping.contains(&page), "SIGSEGV at {address:#x}");
        let Kernel { memfd, processes, .. } = &mut *kernel;
        let process = &mut processes[process];
        assert!(!process.dead && !process.asleep.contains_key(&thread), "thread {thread} runs in its sleep");
        let writable = process.table.get(&page).copied();
        if writable == Some(true) || (writable == Some(false) && !write) {
            let bytes = memfd.get_mut(&page).expect("what the table has, the memfd has");
            return Some(f(bytes));
        }
        let minor = writable.is_none() && memfd.contains_key(&page);
        process.asleep.insert(thread, page);
        process.events.push_back(Fault { address, write, minor, thread });
        None
    }

    /// Whether a process's thread sleeps in a fault.
    pub fn is_asleep(&self, process: usize, thread: u32) -> bool {
        self.kernel().processes[process].asleep.contains_key(&thread)
    }

    /// A process is killed.
    pub fn kill(&self, process: usize) {
        self.kernel().processes[process].die();
    }

    /// All processes are killed.
    pub fn kill_all(&self) {
        self.kernel().processes.iter_mut().for_each(Process::die);
    }

    /// Whether a process was killed.
    pub fn is_dead(&self, process: usize) -> bool {
        self.kernel().processes[process].dead
    }

    /// The kernel drops a page's place in a process's page table, as reclaim does. The page stays in the memfd.
    pub fn forget(&self, process: usize, address: u64) {
        self.kernel().processes[process].table.remove(&number(address));
    }

    /// Whether any process sees a page, and if so whether one of them may write it.
    pub fn sees(&self, address: u64) -> Option<bool> {
        self.kernel().sees(number(address))
    }

    /// The pages in the memfd, in order: each with whether a process sees it, and if so whether one may write it.
    pub fn pages(&self) -> Vec<(u64, Option<bool>)> {
        let kernel = self.kernel();
        let mut pages: Vec<_> =
            kernel.memfd.keys().map(|&page| (page * PAGE as u64, kernel.sees(page))).collect();
        pages.sort_unstable();
        pages
    }

    /// Whether there are events of a process to read.
    pub fn has_events(&self, process: usize) -> bool {
        !self.kernel().processes[process].events.is_empty()
    }

    /// Reads the events of a process that wait, as the agent's thread does.
    pub fn read(&self, process: usize, faults: &mut Vec<Fault>) {
        let events = &mut self.kernel().processes[process].events;
        let count = events.len().min(READ_MAX);
        faults.extend(events.drain(..count));
    }

    // What the agent calls.

    pub(crate) fn copy(&self, process: usize, address: u64, bytes: &[u8], write_protected: bool) -> Mapped {
        let first = number(address);
        let pages = first..first + (bytes.len() / PAGE) as u64;
        let page = |n: u64| bytes[n as usize * PAGE..][..PAGE].into();
        self.enter().map(process, pages, self.weather.disturbed, !write_protected, page)
    }

    pub(crate) fn zero(&self, process: usize, address: u64, pages: u64) -> Mapped {
        let first = number(address);
        self.enter().map(process, first..first + pages, self.weather.disturbed, true, |_| [0; PAGE].into())
    }

    pub(crate) fn continue_(
        &self,
        process: usize,
        address: u64,
        pages: u64,
        write_protected: bool,
    ) -> Mapped {
        let mut kernel = self.enter();
        let pages = number(address)..number(address) + pages;
        if kernel.processes[process].dead {
            return Mapped::Gone;
        }
        if pages.start < kernel.mapping.start || pages.end > kernel.mapping.end {
            return Mapped::Unmapped;
        }
        let limit = kernel.disturbed(&pages, self.weather.disturbed);
        let Kernel { memfd, processes, .. } = &mut *kernel;
        let process = &mut processes[process];
        let mut stopped_by = Mapped::Again { pages: 0 };
        let mut done = 0;
        for page in pages.start..limit {
            if !memfd.contains_key(&page) {
                stopped_by = Mapped::Unmapped;
                break;
            }
            if process.table.contains_key(&page) {
                stopped_by = Mapped::Exists { pages: 0 };
                break;
            }
            process.table.insert(page, !write_protected);
            done += 1;
        }
        if done > 0 {
            process.wake(pages.start..pages.start + done);
        }
        match done {
            done if pages.start + done == pages.end => Mapped::All,
            0 => stopped_by,
            pages => Mapped::Again { pages },
        }
    }

    pub(crate) fn write_protect(&self, process: usize, address: u64, pages: u64, on: bool) -> io::Result<()> {
        let mut kernel = self.enter();
        let pages = number(address)..number(address) + pages;
        if kernel.processes[process].dead {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        if pages.start < kernel.mapping.start || pages.end > kernel.mapping.end {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let process = &mut kernel.processes[process];
        for page in pages.clone() {
            if let Some(writable) = process.table.get_mut(&page) {
                *writable = !on;
            }
        }
        if !on {
            process.wake(pages);
        }
        Ok(())
    }

    pub(crate) fn wake(&self, process: usize, address: u64, pages: u64) {
        self.enter().processes[process].wake(number(address)..number(address) + pages);
    }

    pub(crate) fn pread(&self, address: u64, bytes: &mut [u8]) {
        let kernel = self.enter();
        for (page, bytes) in (number(address)..).zip(bytes.chunks_mut(PAGE)) {
            match kernel.memfd.get(&page) {
                Some(page) => bytes.copy_from_slice(page),
                None => bytes.fill(0),
            }
        }
    }

    pub(crate) fn withdraw(&self) {
        let mut kernel = self.enter();
        kernel.memfd.clear();
        kernel.processes.iter_mut().for_each(|process| process.table.clear());
    }

    pub(crate) fn punch(&self, address: u64, pages: u64) {
        let mut kernel = self.enter();
        for page in number(address)..number(address) + pages {
            kernel.memfd.remove(&page);
            for process in &mut kernel.processes {
                process.table.remove(&page);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u64 = PAGE as u64;

    fn space(disturbed: u64) -> Arc<SimSpace> {
        SimSpace::new(0, 16 * P..32 * P, 2, Weather { disturbed, company: 0 }, 1)
    }

    fn fault(space: &SimSpace) -> Option<Fault> {
        let mut faults = Vec::new();
        space.read(0, &mut faults);
        assert!(faults.len() <= 1);
        faults.pop()
    }

    #[test]
    fn accesses_fault_as_the_kernel_says() {
        let space = space(0);
        let first = |bytes: &mut [u8]| bytes[0];
        assert_eq!(space.access((0, 7), 20 * P + 5, false, first), None);
        let missing = Fault { address: 20 * P + 5, write: false, minor: false, thread: 7 };
        assert_eq!((fault(&space), fault(&space)), (Some(missing), None));
        assert_eq!(space.copy(0, 20 * P, &[3; PAGE], true), Mapped::All);
        assert!(!space.is_asleep(0, 7));
        assert_eq!(space.access((0, 7), 20 * P, false, first), Some(3));
        assert_eq!(space.access((0, 7), 20 * P, true, first), None, "write-protected");
        assert!(fault(&space).is_some_and(|fault| fault.write && !fault.minor));
        space.write_protect(0, 20 * P, 1, false).unwrap();
        assert_eq!(space.access((0, 7), 20 * P, true, first), Some(3));
        space.forget(0, 20 * P);
        assert_eq!(space.access((0, 7), 20 * P, false, first), None);
        assert!(fault(&space).is_some_and(|fault| fault.minor));
        assert_eq!(space.continue_(0, 20 * P, 1, false), Mapped::All);
        assert_eq!(space.continue_(0, 20 * P, 1, false), Mapped::Exists { pages: 0 });
        space.punch(20 * P, 1);
        assert_eq!(space.access((0, 7), 20 * P, false, first), None);
        assert!(fault(&space).is_some_and(|fault| !fault.minor));
        assert!(space.continue_(0, 20 * P, 1, false) == Mapped::Unmapped && space.is_asleep(0, 7));
        space.wake(0, 20 * P, 1);
        assert!(!space.is_asleep(0, 7), "to try again");
    }

    #[test]
    fn who_is_woken_early_leaves_no_event() {
        let space = space(0);
        assert_eq!(space.access((0, 7), 20 * P, false, |_| ()), None);
        assert_eq!(space.access((0, 8), 21 * P, false, |_| ()), None);
        space.wake(0, 20 * P, 1);
        assert_eq!(fault(&space).map(|fault| fault.thread), Some(8));
    }

    #[test]
    fn mapping_calls_end_where_the_kernels_do() {
        let space = space(0);
        assert_eq!(space.zero(0, 30 * P, 3), Mapped::Unmapped, "partly another's");
        assert_eq!(space.zero(0, 30 * P, 2), Mapped::All);
        assert_eq!(space.copy(0, 28 * P, &[1; 3 * PAGE], false), Mapped::Again { pages: 2 });
        assert_eq!(space.copy(0, 30 * P, &[1; PAGE], false), Mapped::Exists { pages: 0 });
        let disturbed = self::space(500);
        let outcomes: Vec<Mapped> = (16..32).map(|n| disturbed.zero(0, n * P, 1)).collect();
        assert!(outcomes.contains(&Mapped::All) && outcomes.contains(&Mapped::Again { pages: 0 }));
    }

    #[test]
    fn pages_that_are_there_are_shown_up_to_what_stops_it() {
        let space = space(0);
        assert_eq!(space.zero(0, 16 * P, 4), Mapped::All);
        assert_eq!(space.zero(1, 20 * P, 1), Mapped::All);
        assert_eq!(space.continue_(1, 18 * P, 15, true), Mapped::Unmapped, "partly another's");
        assert_eq!(space.access((1, 8), 18 * P, false, |_| ()), None);
        assert_eq!(space.continue_(1, 17 * P, 9, true), Mapped::Again { pages: 3 }, "up to one that it sees");
        assert!(!space.is_asleep(1, 8));
        assert_eq!(space.access((1, 8), 19 * P, true, |_| ()), None, "write-protected");
        assert_eq!(
            space.continue_(0, 20 * P, 2, false),
            Mapped::Again { pages: 1 },
            "up to one that is not there"
        );
    }

    #[test]
    fn a_page_is_each_processs_own_to_see() {
        let space = space(0);
        let at = 20 * P;
        assert_eq!(space.access((0, 7), at, true, |_| ()), None);
        assert_eq!(space.access((1, 8), at, true, |_| ()), None);
        assert_eq!(space.copy(0, at, &[3; PAGE], false), Mapped::All);
        assert!(!space.is_asleep(0, 7) && space.is_asleep(1, 8), "who is woken is the process of the call");
        space.wake(1, at, 1);
        assert_eq!(space.access((1, 8), at, true, |_| ()), None);
        let mut faults = Vec::new();
        space.read(1, &mut faults);
        assert_eq!(faults, [Fault { address: at, write: true, minor: true, thread: 8 }]);
        space.write_protect(1, at, 1, true).unwrap();
        assert_eq!(space.continue_(1, at, 1, false), Mapped::All, "what was protected before it was mapped");
        assert_eq!((space.access((1, 8), at, true, |_| ()), space.sees(at)), (Some(()), Some(true)));
        space.write_protect(0, at, 1, true).unwrap();
        assert_eq!(space.sees(at), Some(true), "the other one's");
        space.kill(1);
        assert_eq!((space.sees(at), space.zero(1, 21 * P, 1)), (Some(false), Mapped::Gone));
        assert_eq!(space.write_protect(1, at, 1, true).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        space.punch(at, 1);
        assert_eq!(space.sees(at), None);
    }
}
