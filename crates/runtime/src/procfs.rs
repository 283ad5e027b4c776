//! Paths under `/proc` that name the running executable: they would show the runtime instead of the program.

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
    fn descriptors() {
        assert_eq!(descriptor(b"/proc/self/fd/12"), Some(12));
        assert_eq!(descriptor(b"/dev/fd/0"), Some(0));
        assert_eq!(descriptor(b"/dev/fd/"), None);
        assert_eq!(descriptor(b"/dev/fd/99999999999"), None);
    }
}
