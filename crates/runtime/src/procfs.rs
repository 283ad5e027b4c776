//! Paths under `/proc` that name the running executable: they would show the runtime instead of the program. And those that
//! would show one host instead of the machine.

/// Whether `path` (without its terminating zero) names the executable of process `pid`, the caller.
pub fn names_own_executable(path: &[u8], pid: u32) -> bool {
    let Some(rest) = path.strip_prefix(b"/proc/") else { return false };
    let Some(who) = rest.strip_suffix(b"/exe") else { return false };
    who == b"self" || who == b"thread-self" || number(who) == Some(pid)
}

/// The descriptor that `path` names through `/proc/self/fd` or `/dev/fd`.
pub fn descriptor(path: &[u8]) -> Option<i32> {
    let digits = path.strip_prefix(b"/proc/self/fd/").or_else(|| path.strip_prefix(b"/dev/fd/"))?;
    number(digits).and_then(|fd| i32::try_from(fd).ok())
}

/// Files, and folders (which end in a slash), that show the machine.
const MACHINE: [&[u8]; 5] = [
    b"/proc/cpuinfo",
    b"/proc/meminfo",
    b"/proc/stat",
    b"/sys/devices/system/cpu/",
    b"/sys/devices/system/node/",
];

/// Where control groups are. Which CPUs and nodes one may use, its files say by these names, of version 1 and 2. They show
/// the machine whichever group they are of: the program's own is one of the home host's, and bounds no thread elsewhere.
const CGROUPS: &[u8] = b"/sys/fs/cgroup/";
const CPUSET_CPUS: [&[u8]; 3] = [b"cpuset.cpus", b"cpuset.cpus.effective", b"cpuset.effective_cpus"];
const CPUSET_MEMS: [&[u8]; 3] = [b"cpuset.mems", b"cpuset.mems.effective", b"cpuset.effective_mems"];

/// How much of a path [`may_show_machine`] looks at.
pub const MACHINE_PREFIX_BYTES: usize = 24;

/// Whether a path that begins so can be one of [`shown_as`]'s.
pub fn may_show_machine(start: &[u8]) -> bool {
    MACHINE.iter().chain([&CGROUPS]).any(|name| {
        let bytes = name.strip_suffix(b"/").unwrap_or(name);
        let bytes = &bytes[..bytes.len().min(MACHINE_PREFIX_BYTES)];
        start.starts_with(bytes)
    })
}

/// The name in the view of the file at `path` (without its terminating zero), if that shows the machine's CPUs or memory.
pub fn shown_as(path: &[u8]) -> Option<&[u8]> {
    let shown = MACHINE.iter().any(|name| match name.strip_suffix(b"/") {
        Some(folder) => path == folder || path.starts_with(name),
        None => path == *name,
    });
    if shown { Some(path) } else { cpuset(path) }
}

fn cpuset(path: &[u8]) -> Option<&'static [u8]> {
    let name = path.strip_prefix(CGROUPS)?.rsplit(|byte| *byte == b'/').next()?;
    if CPUSET_CPUS.contains(&name) {
        Some(b"/sys/fs/cgroup/cpuset.cpus")
    } else if CPUSET_MEMS.contains(&name) {
        Some(b"/sys/fs/cgroup/cpuset.mems")
    } else {
        None
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    digits.iter().try_fold(0u32, |value, digit| value.checked_mul(10)?.checked_add(u32::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_callers_own() {
        assert!(names_own_executable(b"/proc/self/exe", 7));
        assert!(names_own_executable(b"/proc/thread-self/exe", 7));
        assert!(names_own_executable(b"/proc/7/exe", 7));
        assert!(!names_own_executable(b"/proc/8/exe", 7));
        assert!(!names_own_executable(b"/proc/self/exe2", 7));
        assert!(!names_own_executable(b"/proc//exe", 7));
    }

    #[test]
    fn the_machines_files() {
        for path in
            [&b"/proc/cpuinfo"[..], b"/sys/devices/system/cpu", b"/sys/devices/system/node/node0/cpulist"]
        {
            assert_eq!(shown_as(path), Some(path));
            assert!(may_show_machine(&path[..path.len().min(MACHINE_PREFIX_BYTES)]));
        }
        for path in
            [&b"/proc/cpuinfo2"[..], b"/proc/self/stat", b"/sys/devices/system/cpufreq", b"proc/stat", b""]
        {
            assert_eq!(shown_as(path), None);
        }
        assert!(!may_show_machine(b"/proc/self/maps") && !may_show_machine(b"/etc/passwd"));
    }

    #[test]
    fn the_cpusets_of_both_versions_and_of_every_group() {
        let (cpus, mems) = (&b"/sys/fs/cgroup/cpuset.cpus"[..], &b"/sys/fs/cgroup/cpuset.mems"[..]);
        for (path, shown) in [
            (&b"/sys/fs/cgroup/cpuset//cpuset.cpus"[..], cpus),
            (b"/sys/fs/cgroup/cpuset/user/1000/cpuset.mems", mems),
            (b"/sys/fs/cgroup/cpu,cpuset/cpuset.effective_cpus", cpus),
            (b"/sys/fs/cgroup/cpuset/cpuset.effective_mems", mems),
            (b"/sys/fs/cgroup/cpuset.cpus.effective", cpus),
            (b"/sys/fs/cgroup//user.slice/a.service/cpuset.mems.effective", mems),
        ] {
            assert_eq!(shown_as(path), Some(shown));
            assert!(may_show_machine(&path[..path.len().min(MACHINE_PREFIX_BYTES)]));
        }
        for path in [
            &b"/sys/fs/cgroup/cpuset"[..],
            b"/sys/fs/cgroup/cpuset/cpuset.cpus/x",
            b"/sys/fs/cgroup/cpuset/cpuset.cpus.partition",
            b"/sys/fs/cgroup/memory.max",
            b"/tmp/cpuset.cpus",
        ] {
            assert_eq!(shown_as(path), None);
        }
    }

    #[test]
    fn descriptors() {
        assert_eq!(descriptor(b"/proc/self/fd/12"), Some(12));
        assert_eq!(descriptor(b"/dev/fd/0"), Some(0));
        assert_eq!(descriptor(b"/dev/fd/"), None);
        assert_eq!(descriptor(b"/dev/fd/99999999999"), None);
    }
}
