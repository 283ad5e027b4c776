//! Error numbers (errno(3)).

/// A positive error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// What a system call returns for it.
    pub const fn as_return(self) -> i64 {
        -(self.0 as i64)
    }

    /// Splits a raw system call result.
    pub const fn check(raw: i64) -> Result<u64, Errno> {
        if raw < 0 && raw >= -4095 { Err(Errno(-raw as i32)) } else { Ok(raw as u64) }
    }

    /// The symbol, for messages; "an error" for one this crate has no name for.
    pub const fn name(self) -> &'static str {
        match self {
            EPERM => "EPERM",
            ENOENT => "ENOENT",
            EIO => "EIO",
            E2BIG => "E2BIG",
            ENOEXEC => "ENOEXEC",
            EBADF => "EBADF",
            EAGAIN => "EAGAIN",
            ENOMEM => "ENOMEM",
            EACCES => "EACCES",
            EFAULT => "EFAULT",
            EEXIST => "EEXIST",
            ENODEV => "ENODEV",
            ENOTDIR => "ENOTDIR",
            EINVAL => "EINVAL",
            EMFILE => "EMFILE",
            ENAMETOOLONG => "ENAMETOOLONG",
            ENOSYS => "ENOSYS",
            ELOOP => "ELOOP",
            EPROTO => "EPROTO",
            EOVERFLOW => "EOVERFLOW",
            EOPNOTSUPP => "EOPNOTSUPP",
            ECONNREFUSED => "ECONNREFUSED",
            EHOSTUNREACH => "EHOSTUNREACH",
            _ => "an error",
        }
    }
}

macro_rules! errnos {
    ($($name:ident = $value:literal),* $(,)?) => {
        $(#[doc = concat!("errno ", $value)] pub const $name: Errno = Errno($value);)*
    };
}

errnos! {
    EPERM = 1, ENOENT = 2, ESRCH = 3, EINTR = 4, EIO = 5, E2BIG = 7, ENOEXEC = 8, EBADF = 9, EAGAIN = 11,
    ENOMEM = 12, EACCES = 13, EFAULT = 14, EEXIST = 17, ENODEV = 19, ENOTDIR = 20, EINVAL = 22, EMFILE = 24,
    ENAMETOOLONG = 36, ENOSYS = 38, ELOOP = 40, EPROTO = 71, EOVERFLOW = 75, EOPNOTSUPP = 95, ETIMEDOUT = 110,
    ECONNREFUSED = 111, EHOSTUNREACH = 113,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_split_at_the_kernels_limit() {
        assert_eq!(Errno::check(-4095), Err(Errno(4095)));
        assert_eq!(Errno::check(-4096), Ok(-4096i64 as u64));
        assert_eq!(Errno::check(0), Ok(0));
        assert_eq!(EFAULT.as_return(), -14);
    }
}
