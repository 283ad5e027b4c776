//! A moment after which a step of the handshake has failed, and blocking I/O that honours it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The end of a wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// `time` from now.
    pub(crate) fn after(time: Duration) -> Deadline {
        Deadline(Instant::now() + time)
    }

    /// The earlier of this and `time` from now.
    pub(crate) fn within(self, time: Duration) -> Deadline {
        Deadline(self.0.min(Instant::now() + time))
    }

    /// What is left, or `None` once it has passed.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    fn left_or_timeout(self) -> io::Result<Duration> {
        self.left().ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))
    }

    /// Reads what comes next from `socket`, at most what `bytes` takes: 0 at its end, `TimedOut` at the deadline.
    pub(crate) fn read(self, mut socket: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            socket.set_read_timeout(Some(self.left_or_timeout()?))?;
            match socket.read(bytes) {
                Ok(count) => return Ok(count),
                Err(error) => retry(error)?,
            }
        }
    }

    /// Fills `bytes` from `socket`; `TimedOut` at the deadline, however slowly bytes trickle in.
    pub(crate) fn read_exact(self, socket: &TcpStream, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.read(socket, bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => bytes = &mut bytes[count..],
            }
        }
        Ok(())
    }

    /// Writes all of `bytes` to `socket`; `TimedOut` at the deadline.
    pub(crate) fn write_all(self, mut socket: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            socket.set_write_timeout(Some(self.left_or_timeout()?))?;
            match socket.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }
}

/// An interrupted or timed-out call goes round again (where the deadline decides); anything else is the caller's.
fn retry(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(()),
        _ => Err(error),
    }
}
