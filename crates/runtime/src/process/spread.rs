//! What the environment says of spread mode (docs/spread.md), and what of it is counted.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use megalith_runtime::sigset;

/// Hosts that a machine may have.
pub const HOSTS_MAX: usize = 256;
/// CPUs that a machine may have.
pub const CPUS_MAX: u32 = 1024;
/// Longest list of hosts for new threads.
const STARTS_MAX: usize = 1024;

/// A number for each host.
pub struct Settings {
    starts: [u32; STARTS_MAX],
    starts_used: usize,
    cpus: [u32; HOSTS_MAX],
    hosts: usize,
    /// The folder of the machine's `proc/…` and `sys/…`; empty if there is none.
    pub view: &'static [u8],
}

struct Once(UnsafeCell<Settings>);

// SAFETY: written by the first thread only, before there is a second.
unsafe impl Sync for Once {}

static SETTINGS: Once = Once(UnsafeCell::new(Settings {
    starts: [0; STARTS_MAX],
    starts_used: 0,
    cpus: [0; HOSTS_MAX],
    hosts: 0,
    view: b"",
}));
static ON: AtomicBool = AtomicBool::new(false);
static SPACE: AtomicU64 = AtomicU64::new(NO_SPACE);
static STARTED: AtomicU32 = AtomicU32::new(0);

const NO_SPACE: u64 = u64::MAX;

/// A variable that is no list of numbers.
pub struct Malformed;

/// Turns spread mode on; once, at the start. The lists are separated by commas.
pub fn turn_on(starts: &[u8], cpus: &[u8], view: &'static [u8]) -> Result<(), Malformed> {
    // SAFETY: see Once: there is no second thread yet.
    let settings = unsafe { &mut *SETTINGS.0.get() };
    settings.starts_used = read_list(starts, &mut settings.starts)?;
    settings.hosts = read_list(cpus, &mut settings.cpus)?;
    settings.view = view;
    let known = |host: &u32| (*host as usize) < HOSTS_MAX;
    let cpus: u64 = settings.cpus.iter().map(|count| u64::from(*count)).sum();
    if !settings.starts[..settings.starts_used].iter().all(known)
        || cpus > u64::from(CPUS_MAX)
        || settings.cpus[..settings.hosts].contains(&0)
    {
        return Err(Malformed);
    }
    sigset::keep_order();
    ON.store(true, Ordering::Relaxed);
    Ok(())
}

fn read_list(text: &[u8], list: &mut [u32]) -> Result<usize, Malformed> {
    let mut used = 0;
    for number in text.split(|byte| *byte == b',').filter(|_| !text.is_empty()) {
        let number = core::str::from_utf8(number).ok().and_then(|digits| digits.parse().ok());
        *list.get_mut(used).ok_or(Malformed)? = number.ok_or(Malformed)?;
        used += 1;
    }
    Ok(used)
}

/// Whether this process is in spread mode.
pub fn on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// What was read.
pub fn settings() -> &'static Settings {
    // SAFETY: see Once: written before there was a second thread.
    unsafe { &*SETTINGS.0.get() }
}

impl Settings {
    /// How many CPUs each host has, by number; empty if nobody has said.
    pub fn cpus(&self) -> &[u32] {
        &self.cpus[..self.hosts]
    }

    /// How long the list of hosts for new threads is.
    pub fn starts(&self) -> usize {
        self.starts_used
    }

    /// Where the next new thread is to start.
    pub fn next_start(&self) -> u32 {
        let number = STARTED.fetch_add(1, Ordering::Relaxed) as usize;
        if self.starts_used == 0 { 0 } else { self.starts[number % self.starts_used] }
    }
}

/// The agent's number for this process's space.
pub fn set_space(space: u64) {
    SPACE.store(space, Ordering::Relaxed);
}

/// [`set_space`]'s; `None` without an agent: then there is no other host.
pub fn space() -> Option<u64> {
    Some(SPACE.load(Ordering::Relaxed)).filter(|space| *space != NO_SPACE)
}
