//! How far another host is: what the kernel has measured on the link with it (TCP_INFO), for nothing.

use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What the kernel says before it has measured anything.
const UNMEASURED_US: u32 = u32::MAX;

/// The shortest round trip of a TCP connection of late (`net.ipv4.tcp_min_rtt_wlen`, 5 min), in microseconds; of a kernel
/// that does not keep that, the smoothed one. `None` if nothing is measured, or it is no TCP connection.
///
/// The shortest, because all that is added to a journey is waiting: for a CPU, in a queue, for an acknowledgement put off.
pub fn shortest_us(socket: BorrowedFd<'_>) -> Option<u32> {
    // SAFETY: plain numbers, for which zeros are values.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which is as long, and into `length` how many.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if done != 0 {
        return None;
    }
    let told = |offset: usize| length as usize >= offset + size_of::<u32>();
    let shortest = Some(info.tcpi_min_rtt).filter(|_| told(offset_of!(libc::tcp_info, tcpi_min_rtt)));
    let measured = |us: &u32| ![0, UNMEASURED_US].contains(us);
    shortest.filter(measured).or(Some(info.tcpi_rtt).filter(measured))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_connection_has_one_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(shortest_us(listener.as_fd()), None, "nobody at the other end");
        let begun = Instant::now();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let took = begun.elapsed().as_micros();
        for end in [near.as_fd(), far.as_fd()] {
            let us = shortest_us(end).expect("the handshake was a round trip");
            assert!(us > 0 && u128::from(us) <= took, "{us} of {took} \u{b5}s");
        }
        assert_eq!(shortest_us(UnixStream::pair().unwrap().0.as_fd()), None);
    }
}
