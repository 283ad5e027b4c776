//! One CPU for a program of one thread and for who answers its faults.
//!
//! A thread that faults sleeps, and who answers it wakes, and then the other way round. On one CPU those are two context
//! switches; on two they are two interrupts to a CPU that has meanwhile gone idle, which took three to ten times as long where
//! we measured (docs/performance.md), most in virtual machines, whose idle CPUs the hypervisor takes away. The scheduler
//! prefers the idle CPU. So while a program of one thread faults often, it is kept where it runs, and its faults thread and
//! the evictor go there too. Programs with several threads are left to the scheduler.
//!
//! The program does not see it: the runtime answers its questions about CPUs, and undoes our choice before it makes a
//! thread or a process (the runtime's `affinity.rs`). A choice that somebody else makes meanwhile is respected.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// How often we look where the thread is: it moves seldom, and a look costs some microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// So many faults from one look to the next make it worth while.
const FAULTS_MIN: u32 = 10;
/// After this time the scheduler may move the program, for the sake of others on that CPU.
const LOOSEN_EVERY: Duration = Duration::from_millis(500);
/// A program that has not faulted for so long is let go.
pub const QUIET: Duration = Duration::from_millis(20);

/// Keeps another process's only thread, and the calling thread with it, on one CPU.
pub struct Companion {
    /// `/proc/PID/task/PID/stat`; `None` when it cannot be read.
    stat: Option<File>,
    client: Affinity,
    own: Affinity,
    looked: Instant,
    tied: Option<Instant>,
    faults: u32,
}

impl Companion {
    /// For the main thread of process `pid`, and the thread that calls.
    pub fn new(pid: i32) -> Self {
        let stat = File::open(format!("/proc/{pid}/task/{pid}/stat")).ok();
        let (client, own) = (Affinity::of(pid), Affinity::of(0));
        Self { stat, client, own, looked: Instant::now(), tied: None, faults: 0 }
    }

    /// The thread waits in a fault. Returns the CPU that both are on, if they are tied.
    pub fn faulted(&mut self) -> Option<usize> {
        self.faults += 1;
        let now = Instant::now();
        let elapsed = now - self.looked;
        if elapsed >= LOOK_EVERY {
            let often = self.faults >= FAULTS_MIN && elapsed < 4 * LOOK_EVERY;
            let stale = self.tied.is_some_and(|since| now - since > LOOSEN_EVERY);
            let cpu = if often && !stale { self.only_cpu() } else { None };
            self.tie(cpu, now);
            (self.looked, self.faults) = (now, 0);
        }
        self.own.cpu
    }

    /// Whether the program is tied: then [`Companion::quiet`] is to be called after [`QUIET`].
    pub fn is_tied(&self) -> bool {
        self.tied.is_some()
    }

    /// The program has not faulted for a while.
    pub fn quiet(&mut self) {
        self.tie(None, Instant::now());
    }

    fn only_cpu(&self) -> Option<usize> {
        let mut text = [0; 512];
        let n = self.stat.as_ref()?.read_at(&mut text, 0).ok()?;
        only_cpu(&text[..n])
    }

    fn tie(&mut self, cpu: Option<usize>, now: Instant) {
        self.client.set(cpu);
        self.own.set(self.client.cpu);
        self.tied = self.client.cpu.map(|_| self.tied.unwrap_or(now));
    }
}

/// The CPU on which a process of one thread ran last, from its stat (proc_pid_stat(5)): fields 20 and 39.
fn only_cpu(stat: &[u8]) -> Option<usize> {
    // The name, field 2, may hold anything, and ends with the last parenthesis.
    let name_end = stat.iter().rposition(|&b| b == b')')?;
    let mut fields = std::str::from_utf8(stat.get(name_end + 2..)?).ok()?.split(' ');
    let threads = fields.nth(20 - 3)?;
    let cpu = fields.nth(39 - 20 - 1)?;
    if threads == "1" { cpu.parse().ok() } else { None }
}

/// A thread's affinity: one CPU of our choice, or what it had of its own.
pub struct Affinity {
    thread: i32,
    /// `None` when it cannot be read: then nothing is changed.
    own: Option<libc::cpu_set_t>,
    cpu: Option<usize>,
}

impl Affinity {
    /// That of a thread; 0 is the calling one.
    pub fn of(thread: i32) -> Self {
        Self { thread, own: get(thread), cpu: None }
    }

    /// Keeps the thread on `cpu`, if it is one of its own; with `None` lets it go.
    pub fn set(&mut self, cpu: Option<usize>) {
        let now = get(self.thread);
        if let (Some(now), Some(own)) = (&now, &self.own)
            // SAFETY: comparing two initialised sets.
            && unsafe { !libc::CPU_EQUAL(now, &self.cpu.map_or(*own, only)) }
        {
            // Somebody else has chosen meanwhile.
            (self.own, self.cpu) = (Some(*now), None);
        }
        let Some(own) = &self.own else { return };
        // SAFETY: reading an initialised set, at an index within it.
        let cpu = cpu.filter(|&cpu| cpu < libc::CPU_SETSIZE as usize && unsafe { libc::CPU_ISSET(cpu, own) });
        if cpu == self.cpu {
            return;
        }
        let set = cpu.map_or(*own, only);
        // SAFETY: the set is as long as we say.
        let result =
            unsafe { libc::sched_setaffinity(self.thread, size_of::<libc::cpu_set_t>(), &raw const set) };
        if result == 0 {
            self.cpu = cpu;
        }
    }
}

fn get(thread: i32) -> Option<libc::cpu_set_t> {
    // SAFETY: all zeros is an empty set; the call fills it in, and is told its length.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        (libc::sched_getaffinity(thread, size_of::<libc::cpu_set_t>(), &raw mut set) == 0).then_some(set)
    }
}

fn only(cpu: usize) -> libc::cpu_set_t {
    // SAFETY: all zeros is an empty set; callers have seen `cpu` in a set of this type.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_name() {
        let fields = |threads: &str| {
            let mut f: Vec<String> = (3..=52).map(|n| format!("{n}000")).collect();
            f[20 - 3] = threads.into();
            f[39 - 3] = "7".into();
            format!("42 (a) b (c)) {}\n", f.join(" "))
        };
        assert_eq!(only_cpu(fields("1").as_bytes()), Some(7));
        assert_eq!(only_cpu(fields("2").as_bytes()), None);
        assert_eq!(only_cpu(b"42 (x"), None);
    }

    #[test]
    fn a_thread_goes_and_comes_back() {
        std::thread::spawn(|| {
            let mut affinity = Affinity::of(0);
            let first = affinity.own.unwrap();
            // SAFETY: a plain system call.
            let here = || unsafe { libc::sched_getcpu() } as usize;
            let cpu = here();
            affinity.set(Some(cpu));
            assert_eq!((affinity.cpu, here()), (Some(cpu), cpu));
            affinity.set(Some(100_000));
            assert_eq!(affinity.cpu, None, "no such CPU");
            // SAFETY: comparing two initialised sets.
            assert!(unsafe { libc::CPU_EQUAL(&get(0).unwrap(), &first) }, "as it was");
            // Somebody else's choice becomes what there is to choose from.
            Affinity::of(0).set(Some(cpu));
            affinity.set(None);
            // SAFETY: comparing two initialised sets.
            assert!(unsafe { libc::CPU_EQUAL(&get(0).unwrap(), &only(cpu)) });
        })
        .join()
        .unwrap();
    }
}
