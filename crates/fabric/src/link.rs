//! One peer: the batch that is being filled for it, and the socket that takes it.
//!
//! Exactly one thread writes to the socket at a time: whoever holds the [`Writer`] token. `flush` takes the token if
//! it is free, writes without blocking, and hands what the socket does not take, token and all, to the peer's I/O
//! thread. While somebody writes, others go on filling the next batch; their flush is done by the token's holder. With TLS
//! it is the holder who seals the batch, piece by piece, as the socket takes it.
//!
//! Invariants of [`Out`], under its lock:
//! - `writer == Waiting` until the socket is there; then never again.
//! - `draining` counts the bytes of the batch that the token's holder has in hand; 0 if nobody holds it.
//! - `!open` implies that `filling` is empty, for good.
//! - `filling` and `draining` together are at most `backlog_bytes_max`.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use coherence::{Epoch, HostId};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::error::Lost;
use crate::frame::{self, Kind};
use crate::stream::Stream;
use crate::sync::lock;

/// A calling thread writes at most so much in one flush; the I/O thread does the rest.
const FLUSH_BYTES_MAX: usize = 1 << 20;
/// An empty out-buffer keeps at most so much of its memory.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// So much of a batch is sealed at a time: while that goes on, nothing from this peer is opened.
const SEALED_BYTES_MAX: usize = 128 << 10;

/// A peer for which more waits than this is lost: it does not take what it is sent. What hosts ask of each other in good faith
/// is some hundred MiB at most.
pub(crate) const BACKLOG_BYTES_MAX: usize = 4 << 30;

/// Bytes moved by all links of a machine.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

/// Who may write to the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writer {
    /// Nobody: there is no socket yet.
    Waiting,
    /// Anybody.
    Free,
    /// A thread inside `flush`.
    Caller,
    /// The I/O thread.
    Thread,
}

/// A batch, of which the socket has taken the first `taken` bytes, or with TLS will have, once it takes the rest of `sealed`.
struct Batch {
    bytes: Vec<u8>,
    taken: usize,
    sealed: Vec<u8>,
    gone: usize,
}

impl Batch {
    /// Bytes that the socket has not taken.
    fn left(&self) -> usize {
        self.bytes.len() - self.taken + self.sealed.len() - self.gone
    }

    /// What goes to the socket next, of the bytes before `end`; empty when they have all gone.
    fn next(&mut self, stream: &Stream, end: usize) -> io::Result<&[u8]> {
        if !stream.is_secure() {
            return Ok(&self.bytes[self.taken..end]);
        }
        if self.gone == self.sealed.len() {
            self.sealed.clear();
            self.gone = 0;
            if self.taken < end {
                let piece = self.taken..end.min(self.taken + SEALED_BYTES_MAX);
                self.taken = piece.end;
                stream.seal(&self.bytes[piece], &mut self.sealed)?;
            }
        }
        Ok(&self.sealed[self.gone..])
    }

    /// The socket has taken `count` bytes of what `next` gave.
    fn take(&mut self, stream: &Stream, count: usize) {
        *(if stream.is_secure() { &mut self.gone } else { &mut self.taken }) += count;
    }
}

struct Out {
    filling: Vec<u8>,
    draining: usize,
    /// What a caller hands to the I/O thread together with the token.
    handed: Option<Batch>,
    spare: Vec<u8>,
    spare_sealed: Vec<u8>,
    writer: Writer,
    /// Somebody flushed while another thread was writing, or before there was a socket.
    wanted: bool,
    /// Nothing more is appended; the stream is ended once all is written.
    closing: bool,
    open: bool,
}

/// One peer.
pub(crate) struct Link {
    pub(crate) host: HostId,
    epoch: Epoch,
    backlog_bytes_max: usize,
    out: Mutex<Out>,
    /// There is something in `filling`: lets `flush` pass by idle peers without their lock.
    filled: AtomicBool,
    stream: OnceLock<Stream>,
    wake: OwnedFd,
    stop: AtomicBool,
    /// Why a write failed, for the reader to report.
    pub(crate) broken: OnceLock<Lost>,
    began: Instant,
    last_sent_ms: AtomicU64,
    counters: Arc<Counters>,
}

impl Link {
    pub(crate) fn new(
        host: HostId,
        epoch: Epoch,
        counters: Arc<Counters>,
        backlog_bytes_max: usize,
    ) -> io::Result<Link> {
        Ok(Link {
            host,
            epoch,
            backlog_bytes_max,
            out: Mutex::new(Out {
                filling: Vec::new(),
                draining: 0,
                handed: None,
                spare: Vec::new(),
                spare_sealed: Vec::new(),
                writer: Writer::Waiting,
                wanted: false,
                closing: false,
                open: true,
            }),
            filled: AtomicBool::new(false),
            stream: OnceLock::new(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stop: AtomicBool::new(false),
            broken: OnceLock::new(),
            began: Instant::now(),
            last_sent_ms: AtomicU64::new(0),
            counters,
        })
    }

    /// The connection, once the link stands.
    pub(crate) fn stream(&self) -> Option<&Stream> {
        self.stream.get()
    }

    /// Gives the link its connection; what was sent before goes out with the next flush.
    pub(crate) fn stand(&self, stream: Stream) {
        assert!(self.stream.set(stream).is_ok(), "a link stands once");
        self.sent_now();
        let mut out = lock(&self.out);
        out.writer = Writer::Free;
        if !out.open {
            // It has failed already: the reader is to find that out.
            self.shut();
        }
    }

    /// Appends a frame to the batch.
    pub(crate) fn push(&self, kind: Kind, parts: &[&[u8]]) {
        self.append(kind, parts, false);
    }

    fn append(&self, kind: Kind, parts: &[&[u8]], last: bool) {
        let mut out = lock(&self.out);
        if out.open && !out.closing {
            frame::append(&mut out.filling, kind, self.epoch, parts);
            out.closing = last;
            self.filled.store(true, Ordering::Relaxed);
            if out.filling.len() + out.draining > self.backlog_bytes_max {
                let _ = self.broken.set(Lost::Overrun(self.backlog_bytes_max));
                self.discard(&mut out);
                self.shut();
            }
        }
    }

    /// Ends the socket, if there is one, both ways.
    fn shut(&self) {
        if let Some(stream) = self.stream.get() {
            // Fails only if the peer has closed it already.
            let _ = stream.socket().shutdown(Shutdown::Both);
        }
    }

    /// Bytes that the socket has not taken.
    pub(crate) fn backlog(&self) -> usize {
        let out = lock(&self.out);
        out.filling.len() + out.draining
    }

    /// Hands the batch to the socket, without blocking.
    pub(crate) fn flush(&self) {
        if !self.filled.load(Ordering::Relaxed) {
            return;
        }
        let mut out = lock(&self.out);
        if out.filling.is_empty() {
            return;
        }
        if out.writer != Writer::Free {
            out.wanted = true;
            return;
        }
        out.writer = Writer::Caller;
        let mut allowance = FLUSH_BYTES_MAX;
        loop {
            let batch = self.take(&mut out);
            drop(out);
            let (batch, result) = self.write(batch, allowance);
            out = lock(&self.out);
            match result {
                Ok(Wrote::All(bytes)) => {
                    allowance = allowance.saturating_sub(bytes);
                    self.wrote_all(&mut out, batch);
                    if !out.wanted || out.filling.is_empty() {
                        return self.free(&mut out);
                    }
                    if allowance == 0 {
                        break;
                    }
                }
                Ok(Wrote::Some) => {
                    if out.open {
                        out.draining = batch.left();
                        out.handed = Some(batch);
                    }
                    break;
                }
                Err(error) => return self.fail(&mut out, error),
            }
        }
        if out.open {
            out.writer = Writer::Thread;
            drop(out);
            self.wake();
        }
    }

    /// Says goodbye: nothing more is appended, and after the last byte the stream ends.
    pub(crate) fn goodbye(&self) {
        self.append(Kind::Goodbye, &[], true);
        self.flush();
    }

    /// Ends the link at once: whatever is not sent is forgotten, and both threads of the peer end.
    pub(crate) fn close(&self) {
        self.discard(&mut lock(&self.out));
        self.stop.store(true, Ordering::Release);
        self.shut();
        self.wake();
    }

    /// The I/O thread: finishes what callers could not write, and gives signs of life while the agent `gets_on`.
    pub(crate) fn run(&self, heartbeat: Duration, gets_on: impl Fn(Duration) -> bool) {
        let mut batch: Option<Batch> = None;
        while !self.stop.load(Ordering::Acquire) {
            let since = self.now_ms().saturating_sub(self.last_sent_ms.load(Ordering::Relaxed));
            let due = heartbeat.saturating_sub(Duration::from_millis(since));
            if batch.is_none() {
                batch = self.take_over();
            }
            if batch.is_none() {
                if due.is_zero() && gets_on(heartbeat) {
                    self.push(Kind::KeepAlive, &[]);
                    self.flush();
                }
                self.wait(false, if due.is_zero() { heartbeat } else { due });
                continue;
            }
            self.wait(true, heartbeat);
            let Some(unfinished) = batch.take() else { continue };
            let (rest, result) = self.write(unfinished, usize::MAX);
            let mut out = lock(&self.out);
            match result {
                Ok(Wrote::All(_)) => {
                    self.wrote_all(&mut out, rest);
                    if out.wanted && !out.filling.is_empty() {
                        batch = Some(self.take(&mut out));
                    } else {
                        self.free(&mut out);
                    }
                }
                Ok(Wrote::Some) => {
                    out.draining = if out.open { rest.left() } else { 0 };
                    batch = Some(rest);
                }
                Err(error) => self.fail(&mut out, error),
            }
        }
    }

    /// The batch handed to the I/O thread, if the token is its own.
    fn take_over(&self) -> Option<Batch> {
        let mut out = lock(&self.out);
        if out.writer != Writer::Thread {
            return None;
        }
        match out.handed.take() {
            Some(batch) => Some(batch),
            None if out.filling.is_empty() => {
                self.free(&mut out);
                None
            }
            None => Some(self.take(&mut out)),
        }
    }

    /// Waits for room in the socket (if `room`) or a wake-up, at most `time`.
    fn wait(&self, room: bool, time: Duration) {
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        let wake = PollFd::new(&self.wake, PollFlags::IN);
        // An interrupted or refused poll is a wake-up for nothing: the loop looks again.
        let _ = match self.stream.get() {
            Some(stream) if room => {
                poll(&mut [wake, PollFd::new(stream.socket(), PollFlags::OUT)], Some(&time))
            }
            _ => poll(&mut [wake], Some(&time)),
        };
        // Empty unless somebody woke us; either is fine.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Takes the filled batch; the caller holds the token.
    fn take(&self, out: &mut MutexGuard<'_, Out>) -> Batch {
        let (spare, sealed) = (std::mem::take(&mut out.spare), std::mem::take(&mut out.spare_sealed));
        let bytes = std::mem::replace(&mut out.filling, spare);
        out.draining = bytes.len();
        out.wanted = false;
        self.filled.store(false, Ordering::Relaxed);
        Batch { bytes, taken: 0, sealed, gone: 0 }
    }

    fn wrote_all(&self, out: &mut MutexGuard<'_, Out>, batch: Batch) {
        out.draining = 0;
        let Batch { mut bytes, mut sealed, .. } = batch;
        bytes.clear();
        bytes.shrink_to(SPARE_BYTES_MAX);
        sealed.clear();
        (out.spare, out.spare_sealed) = (bytes, sealed);
    }

    /// Gives the token back; ends the stream if that was the last of it.
    fn free(&self, out: &mut MutexGuard<'_, Out>) {
        out.writer = Writer::Free;
        if let Some(stream) = self.stream.get().filter(|_| out.closing && out.filling.is_empty()) {
            // Fails only if the peer has closed it already.
            let _ = stream.socket().shutdown(Shutdown::Write);
        }
    }

    /// The stream is broken, and the reader has found it out: sends the alert that says so, if it can be sent at once.
    pub(crate) fn alert(&self) {
        let out = lock(&self.out);
        let free = out.writer == Writer::Free;
        let Some(stream) = self.stream.get().filter(|stream| free && stream.is_secure()) else { return };
        let mut sealed = Vec::new();
        if stream.seal(&[], &mut sealed).is_ok() {
            let _ = send(stream.socket(), &sealed, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    /// The socket is broken: the reader is made to find its end, and reports it.
    fn fail(&self, out: &mut MutexGuard<'_, Out>, error: io::Error) {
        let _ = self.broken.set(Lost::from(&error));
        self.discard(out);
        out.writer = Writer::Free;
        self.shut();
    }

    fn discard(&self, out: &mut MutexGuard<'_, Out>) {
        out.open = false;
        out.filling = Vec::new();
        out.spare = Vec::new();
        out.spare_sealed = Vec::new();
        out.handed = None;
        out.draining = 0;
    }

    /// Writes what the socket takes, until `allowance` is used up.
    fn write(&self, mut batch: Batch, allowance: usize) -> (Batch, io::Result<Wrote>) {
        let Some(stream) = self.stream.get() else { return (batch, Err(io::ErrorKind::NotConnected.into())) };
        let end = batch.bytes.len().min(batch.taken.saturating_add(allowance));
        let begin = batch.taken;
        loop {
            let next = match batch.next(stream, end) {
                Ok([]) => break,
                Ok(next) => next,
                Err(error) => return (batch, Err(error)),
            };
            match send(stream.socket(), next, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => {
                    batch.take(stream, count);
                    self.counters.sent.fetch_add(count as u64, Ordering::Relaxed);
                    self.sent_now();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return (batch, Ok(Wrote::Some)),
                Err(error) => return (batch, Err(error.into())),
            }
        }
        let wrote = if batch.left() == 0 { Wrote::All(batch.taken - begin) } else { Wrote::Some };
        (batch, Ok(wrote))
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn sent_now(&self) {
        self.last_sent_ms.store(self.now_ms(), Ordering::Relaxed);
    }
}

enum Wrote {
    /// The whole batch; so many bytes of it now.
    All(usize),
    /// Not all.
    Some,
}
