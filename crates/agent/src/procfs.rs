//! What `/proc` says of threads and CPUs.

use std::fs;

/// Milliseconds of CPU time that a thread has used; `None` if it is gone.
pub fn cpu_ms(pid: i32, tid: u64) -> Option<u64> {
    parse_cpu_ms(&fs::read(format!("/proc/{pid}/task/{tid}/stat")).ok()?, ticks_per_second())
}

/// A thread's name; `None` if it is gone.
pub fn name(pid: i32, tid: u64) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/task/{tid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end().replace(char::is_control, " "))
}

/// A process's threads.
pub fn threads(pid: i32) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn ticks_per_second() -> u64 {
    // SAFETY: a plain system call.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1)
}

/// utime and stime, fields 14 and 15 of proc_pid_stat(5).
fn parse_cpu_ms(stat: &[u8], ticks_per_second: u64) -> Option<u64> {
    // The name, field 2, may hold anything, and ends with the last parenthesis.
    let name_end = stat.iter().rposition(|&b| b == b')')?;
    let mut fields = std::str::from_utf8(stat.get(name_end + 2..)?).ok()?.split(' ');
    let user: u64 = fields.nth(14 - 3)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * 1000 / ticks_per_second)
}

/// How busy the CPUs are that this process may use.
#[derive(Debug)]
pub struct Load {
    cpus: Vec<usize>,
    last: Option<Ticks>,
    load: Option<f64>,
}

/// Clock ticks of some CPUs since the host started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

/// Below so many ticks of all CPUs together a share says nothing.
const TICKS_MIN: u64 = 10;

impl Default for Load {
    fn default() -> Self {
        // SAFETY: all zeros is an empty set; the call fills it in, and is told its length.
        let set = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
            set
        };
        // SAFETY: reading an initialised set, at an index within it.
        let has = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
        let cpus: Vec<usize> = (0..libc::CPU_SETSIZE as usize).filter(has).collect();
        Self { cpus, last: None, load: None }
    }
}

impl Load {
    /// How many CPUs there are.
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// How many of them were busy, on average, since this was last asked; `None` the first time.
    pub fn take(&mut self) -> Option<f64> {
        let Ok(stat) = fs::read_to_string("/proc/stat") else { return None };
        self.see(ticks(&stat, &self.cpus))
    }

    fn see(&mut self, now: Ticks) -> Option<f64> {
        let Some(last) = self.last else {
            self.last = Some(now);
            return None;
        };
        // The kernel's count of an idle CPU may go back a little.
        let all = now.all.saturating_sub(last.all);
        if all >= TICKS_MIN {
            let share = now.busy.saturating_sub(last.busy) as f64 / all as f64;
            self.load = Some((share.min(1.0) * self.cpus.len() as f64 * 100.0).round() / 100.0);
            self.last = Some(now);
        }
        self.load
    }
}

/// Of proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal. What waits for a disk is not busy.
fn ticks(stat: &str, cpus: &[usize]) -> Ticks {
    let mut sum = Ticks { busy: 0, all: 0 };
    for line in stat.lines() {
        let mut words = line.split_whitespace();
        let cpu = words.next().and_then(|w| w.strip_prefix("cpu")).and_then(|n| n.parse().ok());
        if cpu.is_some_and(|cpu| cpus.binary_search(&cpu).is_ok()) {
            let times: Vec<u64> = words.take(8).filter_map(|w| w.parse().ok()).collect();
            let all: u64 = times.iter().sum();
            sum.all += all;
            sum.busy += all - times.get(3).unwrap_or(&0) - times.get(4).unwrap_or(&0);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_whatever_the_name() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        let stat = format!("42 (a) b 1 2 (c)) {}\n", fields.join(" "));
        assert_eq!(parse_cpu_ms(stat.as_bytes(), 100), Some(290));
        assert_eq!(parse_cpu_ms(b"42 (x) 1 2", 100), None);
    }

    #[test]
    fn this_thread_is_found() {
        let pid = std::process::id() as i32;
        // SAFETY: a plain system call.
        let tid = unsafe { libc::gettid() } as u64;
        assert!(threads(pid).contains(&tid) && cpu_ms(pid, tid).is_some());
        let name = name(pid, tid).expect("it lives");
        assert!(
            "this_thread_is_found".contains(name.split(':').next_back().unwrap()) || name.contains("procfs"),
            "{name}"
        );
        assert_eq!((cpu_ms(pid, 1 << 40), self::name(pid, 1 << 40)), (None, None));
    }

    #[test]
    fn load_counts_the_own_cpus_alone() {
        let stat = |busy: u64, idle: u64| {
            format!(
                "cpu 9 9 9 9\ncpu0 {busy} 0 0 {idle} 5 0 0 0 0 0\ncpu1 99 0 0 0 0 0 0 0 0 0\ncpu2 {busy} 0 0 {idle} 5 1 1 1 0 0\nintr 1\n"
            )
        };
        assert_eq!(ticks(&stat(100, 50), &[0, 2]), Ticks { busy: 203, all: 313 });
        let mut load = Load { cpus: vec![0, 2], last: None, load: None };
        assert_eq!(load.see(ticks(&stat(100, 50), &[0, 2])), None);
        assert_eq!(load.see(ticks(&stat(175, 75), &[0, 2])), Some(1.5));
        assert_eq!(load.see(ticks(&stat(176, 75), &[0, 2])), Some(1.5), "too soon to tell");
    }
}
