//! One connection: a socket, as it is or with TLS on it.
//!
//! TLS has one state for both directions, so it is behind a lock; nobody waits for the network while he holds that. Who
//! sends seals ([`Stream::seal`]) and sends what comes of it himself; who reads takes what has come from the socket, and
//! opens it piece by piece. One thread reads at a time.
//!
//! Lock order: `incoming` (of the reader alone), then `tls`.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rustls::{ClientConnection, Connection, Error, ServerConnection};

use crate::deadline::Deadline;
use crate::sync::lock;
use crate::tls::{self, ALPN, Keys, KeysError, Trouble};
use crate::wire::MAGIC;

/// More than any handshake takes: chains of certificates are the bulk of it.
const HANDSHAKE_BYTES_MAX: usize = 128 << 10;
/// An alert that a peer does not take at once is not worth more.
const ALERT_TIMEOUT: Duration = Duration::from_millis(200);
/// Sealed bytes that are read at once, at first and at most.
const INCOMING_BYTES_MIN: usize = 16 << 10;
const INCOMING_BYTES_MAX: usize = 256 << 10;

/// A connection.
pub(crate) struct Stream {
    socket: TcpStream,
    secure: Option<Box<Secure>>,
}

struct Secure {
    tls: Mutex<Connection>,
    incoming: Mutex<Incoming>,
}

/// Why a connection did not come about.
#[derive(Debug)]
pub(crate) enum Failure {
    Socket(io::Error),
    Tls(Error),
    /// We have keys, and the peer speaks plaintext.
    Plain,
    /// Our own keys cannot be used.
    Keys(KeysError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match tls_error(&error) {
            Some(tls) => Failure::Tls(tls.clone()),
            None => Failure::Socket(error),
        }
    }
}

impl Failure {
    /// What the listener says of it.
    pub(crate) fn of_stranger(&self) -> String {
        match self {
            Failure::Socket(error) => match error.kind() {
                io::ErrorKind::TimedOut => "it did not end the handshake in time".into(),
                io::ErrorKind::UnexpectedEof => "it went away in the middle of the handshake".into(),
                kind => format!("the handshake broke off: {kind}"),
            },
            Failure::Tls(error @ Error::InvalidCertificate(_)) => {
                format!("its certificate is not good: {}", tls::reason(error))
            }
            Failure::Tls(error) => tls::reason(error),
            Failure::Plain => "it speaks plaintext, and this host has keys".into(),
            Failure::Keys(error) => format!("this host's keys cannot be used: {error}"),
        }
    }

    /// What the dialer makes of it, unless it is the socket's error.
    pub(crate) fn trouble(self) -> Result<Trouble, io::Error> {
        match self {
            Failure::Socket(error) => Err(error),
            Failure::Tls(error) => Ok(Trouble::of(&error)),
            Failure::Plain => Ok(Trouble::TheyHaveNone),
            Failure::Keys(error) => Ok(Trouble::Files(error.to_string())),
        }
    }
}

impl Stream {
    /// The socket as it is.
    pub(crate) fn plain(socket: TcpStream) -> Stream {
        Stream { socket, secure: None }
    }

    /// The side that has dialed `host`: with keys, its certificate must be for that name.
    pub(crate) fn dial(
        socket: TcpStream,
        keys: Option<&Keys>,
        host: &str,
        deadline: Deadline,
    ) -> Result<Stream, Failure> {
        let Some(keys) = keys else { return Ok(Stream::plain(socket)) };
        let identity = keys.identity().map_err(Failure::Keys)?;
        let name =
            tls::dns_name(host).ok_or_else(|| Failure::Keys(KeysError::Name { name: host.to_owned() }))?;
        let tls = ClientConnection::new(identity.dialing.clone(), name).map_err(Failure::Tls)?;
        Stream::shake(socket, tls.into(), deadline)
    }

    /// The side that listens: with keys, the peer must show a certificate of the cluster.
    pub(crate) fn accept(
        socket: TcpStream,
        keys: Option<&Keys>,
        deadline: Deadline,
    ) -> Result<Stream, Failure> {
        let Some(keys) = keys else { return Ok(Stream::plain(socket)) };
        let identity = keys.identity().map_err(Failure::Keys)?;
        let tls = ServerConnection::new(identity.listening.clone()).map_err(Failure::Tls)?;
        Stream::shake(socket, tls.into(), deadline)
    }

    fn shake(socket: TcpStream, mut tls: Connection, deadline: Deadline) -> Result<Stream, Failure> {
        // Who writes takes all of it out at once, so there is nothing to bound.
        tls.set_buffer_limit(None);
        let mut incoming = Incoming::new();
        let (mut read, mut speaks_plain) = (0, false);
        loop {
            send_pending(&mut tls, &socket, deadline)?;
            if !tls.is_handshaking() {
                break;
            }
            let count = deadline.read(&socket, incoming.space())?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            incoming.filled(count);
            speaks_plain |= read == 0 && incoming.begins_like(&MAGIC);
            read += count;
            if read > HANDSHAKE_BYTES_MAX {
                return Err(io::Error::from(io::ErrorKind::InvalidData).into());
            }
            while tls.is_handshaking() && !incoming.is_empty() {
                if let Err(error) = incoming.feed(&mut tls) {
                    // The alert; a peer that does not take it has had its chance.
                    let _ = send_pending(&mut tls, &socket, deadline.within(ALERT_TIMEOUT));
                    return Err(if speaks_plain { Failure::Plain } else { error.into() });
                }
            }
        }
        if tls.alpn_protocol() != Some(ALPN) {
            return Err(Failure::Tls(Error::NoApplicationProtocol));
        }
        let secure = Secure { tls: Mutex::new(tls), incoming: Mutex::new(incoming) };
        Ok(Stream { socket, secure: Some(Box::new(secure)) })
    }

    /// What goes over it is not seen or changed on the way.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure.is_some()
    }

    /// Whether the peer may speak for the host `name`; without keys anybody may.
    pub(crate) fn may_be(&self, name: &str) -> bool {
        self.secure.as_ref().is_none_or(|secure| {
            let tls = lock(&secure.tls);
            let shown = tls.peer_certificates().and_then(<[_]>::first);
            shown.is_some_and(|certificate| tls::is_for(certificate, name))
        })
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The socket, where that is all.
    pub(crate) fn into_plain(self) -> Result<OwnedFd, Stream> {
        if self.is_secure() { Err(self) } else { Ok(self.socket.into()) }
    }

    /// Fills `plain`; `TimedOut` at the deadline.
    pub(crate) fn read_exact(&self, deadline: Deadline, plain: &mut [u8]) -> io::Result<()> {
        let Some(secure) = &self.secure else { return deadline.read_exact(&self.socket, plain) };
        let mut incoming = lock(&secure.incoming);
        let mut filled = 0;
        while filled < plain.len() {
            match secure.open(&mut incoming, &mut plain[filled..])? {
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(count) => filled += count,
                None => match deadline.read(&self.socket, incoming.space())? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => incoming.filled(count),
                },
            }
        }
        Ok(())
    }

    /// Writes all of `plain`; `TimedOut` at the deadline.
    pub(crate) fn write_all(&self, deadline: Deadline, plain: &[u8]) -> io::Result<()> {
        if self.secure.is_none() {
            return deadline.write_all(&self.socket, plain);
        }
        let mut sealed = Vec::new();
        self.seal(plain, &mut sealed)?;
        deadline.write_all(&self.socket, &sealed)
    }

    /// Waits for what comes next, and reads what `plain` takes of it. 0 at an end that was meant (or may have been, without
    /// TLS), `UnexpectedEof` at one that was not. `received` counts the socket's bytes.
    pub(crate) fn read(&self, plain: &mut [u8], received: &AtomicU64) -> io::Result<usize> {
        let Some(secure) = &self.secure else {
            let count = (&self.socket).read(plain)?;
            received.fetch_add(count as u64, Ordering::Relaxed);
            return Ok(count);
        };
        let mut incoming = lock(&secure.incoming);
        loop {
            if let Some(count) = secure.open(&mut incoming, plain)? {
                return Ok(count);
            }
            match (&self.socket).read(incoming.space())? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => {
                    received.fetch_add(count as u64, Ordering::Relaxed);
                    incoming.filled(count);
                }
            }
        }
    }

    /// Appends to `sealed` what is to be sent so that `plain` arrives, and whatever TLS has to say of its own.
    ///
    /// # Panics
    /// Without TLS: then `plain` itself is to be sent.
    pub(crate) fn seal(&self, plain: &[u8], sealed: &mut Vec<u8>) -> io::Result<()> {
        let mut tls = self.tls();
        tls.writer().write_all(plain)?;
        drain(&mut tls, sealed)
    }

    /// Appends to `sealed` the end: the peer reads 0.
    pub(crate) fn seal_end(&self, sealed: &mut Vec<u8>) -> io::Result<()> {
        let mut tls = self.tls();
        tls.send_close_notify();
        drain(&mut tls, sealed)
    }

    /// New keys for what is sent from now on, and for what the peer sends once it knows.
    #[cfg(test)]
    pub(crate) fn change_keys(&self) {
        self.tls().refresh_traffic_keys().expect("TLS 1.3 stands");
    }

    fn tls(&self) -> MutexGuard<'_, Connection> {
        lock(&self.secure.as_ref().expect("the caller knows that there is TLS").tls)
    }
}

impl Secure {
    /// Opens what has come until `plain` is full: how much, 0 at the end that was meant. `None` if there is nothing yet.
    fn open(&self, incoming: &mut Incoming, plain: &mut [u8]) -> io::Result<Option<usize>> {
        let mut count = 0;
        while count < plain.len() {
            // Taken anew for each piece: whoever wants to send is let in between.
            let mut tls = lock(&self.tls);
            match tls.reader().read(&mut plain[count..]) {
                Ok(0) => return Ok(Some(count)),
                Ok(more) => count += more,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => {
                    if let Some(error) = incoming.failed.take_if(|_| count == 0) {
                        return Err(error);
                    }
                    if incoming.is_empty() || incoming.failed.is_some() {
                        break;
                    }
                    // What came before the error is read before it.
                    incoming.failed = incoming.feed(&mut tls).err();
                }
            }
        }
        Ok(Some(count).filter(|count| *count > 0))
    }
}

/// What has come from the socket, and TLS has not yet seen.
struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    failed: Option<io::Error>,
}

impl Incoming {
    fn new() -> Incoming {
        Incoming { bytes: vec![0; INCOMING_BYTES_MIN], start: 0, end: 0, failed: None }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Room to read into; never empty. Call it only when all has been fed.
    fn space(&mut self) -> &mut [u8] {
        if self.is_empty() {
            // A read that filled it means that more was there.
            if self.end == self.bytes.len() && self.end < INCOMING_BYTES_MAX {
                self.bytes.resize(self.end * 2, 0);
            }
            (self.start, self.end) = (0, 0);
        }
        assert!(self.end < self.bytes.len(), "TLS takes all that it is fed");
        &mut self.bytes[self.end..]
    }

    fn filled(&mut self, count: usize) {
        self.end += count;
        assert!(self.end <= self.bytes.len());
    }

    /// Whether it could be the beginning of `words`, or begins with it.
    fn begins_like(&self, words: &[u8]) -> bool {
        self.bytes[self.start..self.end].iter().zip(words).all(|(byte, word)| byte == word)
    }

    /// Gives TLS the next piece, of which it takes what it likes.
    fn feed(&mut self, tls: &mut Connection) -> io::Result<()> {
        let mut rest = &self.bytes[self.start..self.end];
        let count = tls.read_tls(&mut rest)?;
        self.start += count;
        tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(())
    }
}

fn drain(tls: &mut Connection, sealed: &mut Vec<u8>) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(sealed)?;
    }
    Ok(())
}

fn send_pending(tls: &mut Connection, socket: &TcpStream, deadline: Deadline) -> io::Result<()> {
    let mut sealed = Vec::new();
    drain(tls, &mut sealed)?;
    deadline.write_all(socket, &sealed)
}

/// The error of TLS that is in an error of ours.
fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}
