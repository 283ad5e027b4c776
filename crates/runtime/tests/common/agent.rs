//! An agent of one host without others: it serves one machine's clients from their own memfds, in the words of
//! `crates/client`. What a page holds is decided at its first fault, as the real agent does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use client::{Op, PAGE_BYTES, Reply, Request, SPACE_END, UFFD_FEATURES, VERSION};

/// The machine that the agent serves.
pub const MACHINE: u64 = 0x0123_4567_89ab_cdef;

/// What it has seen.
#[derive(Default)]
pub struct Counts {
    pub spaces: AtomicU64,
    pub faults: AtomicU64,
    pub backed: AtomicU64,
    pub cleared: AtomicU64,
    pub discarded: AtomicU64,
}

/// The agent; ends with this value.
pub struct Agent {
    directory: PathBuf,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
    pub counts: Arc<Counts>,
}

impl Agent {
    pub fn start(bytes: u64) -> Agent {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("megalith-agent-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let listener = listen(&directory.join("client.sock")).expect("a socket");
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Counts::default());
        let (stopping, counting) = (stop.clone(), counts.clone());
        let accepting = std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                if !readable(listener.as_raw_fd(), 50) {
                    continue;
                }
                // SAFETY: a new descriptor, owned from here on.
                let accepted = unsafe {
                    libc::accept4(
                        listener.as_raw_fd(),
                        std::ptr::null_mut(),
                        std::ptr::null_mut(),
                        libc::SOCK_CLOEXEC,
                    )
                };
                assert!(accepted >= 0, "{}", Error::last_os_error());
                // SAFETY: as above.
                let socket = unsafe { OwnedFd::from_raw_fd(accepted) };
                let (stopping, counting) = (stopping.clone(), counting.clone());
                std::thread::spawn(move || serve(socket, bytes, &stopping, &counting));
            }
        });
        Agent { directory, stop, accepting: Some(accepting), counts }
    }

    /// A command that runs `program` on the machine.
    pub fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(super::runtime());
        command
            .arg0(program)
            .args(arguments)
            .env(client::env::PROGRAM, program)
            .env(client::env::MACHINE, format!("{MACHINE:016x}"))
            .env(client::env::SOCKET, self.directory.join("client.sock"));
        command
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.accepting.take() {
            thread.join().expect("the agent's thread");
        }
        std::fs::remove_dir_all(&self.directory).expect("the directory");
    }
}

pub fn listen(path: &Path) -> Result<OwnedFd, Error> {
    // SAFETY: plain calls on a descriptor and an address of ours.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
        let socket = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as u16;
        let bytes = path.as_os_str().as_encoded_bytes();
        for (slot, byte) in address.sun_path.iter_mut().zip(bytes) {
            *slot = *byte as libc::c_char;
        }
        let length = size_of::<libc::sockaddr_un>() as u32;
        if libc::bind(fd, (&raw const address).cast(), length) != 0 || libc::listen(fd, 64) != 0 {
            return Err(Error::last_os_error());
        }
        Ok(socket)
    }
}

pub fn readable(fd: RawFd, milliseconds: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd of ours.
    unsafe { libc::poll(&mut poll, 1, milliseconds) > 0 }
}

/// A range's end, the offset of its first byte in the file, and the file.
type Backed = (u64, u64, Arc<File>);

/// One client's space.
struct Space {
    uffd: OwnedFd,
    memfd: File,
    /// Backed ranges by their start; disjoint.
    files: Mutex<BTreeMap<u64, Backed>>,
}

const UFFDIO_CONTINUE: libc::c_ulong = 0xc020_aa07;
const UFFDIO_WAKE: libc::c_ulong = 0x8010_aa02;

fn serve(socket: OwnedFd, bytes: u64, stop: &AtomicBool, counts: &Arc<Counts>) {
    let mut space: Option<Arc<Space>> = None;
    let ended = Arc::new(AtomicBool::new(false));
    let mut server = None;
    while !stop.load(Ordering::Relaxed) {
        if !readable(socket.as_raw_fd(), 50) {
            continue;
        }
        let Ok((request, fd)) = receive(&socket) else { break };
        let [a, b, c, _] = request.args;
        let status = match (request.op, &space) {
            (op, None) if op == Op::Hello as u64 => {
                assert_eq!((a, b), (VERSION, MACHINE));
                let made = Arc::new(Space {
                    uffd: fd.expect("a userfaultfd"),
                    memfd: memfd(),
                    files: Mutex::default(),
                });
                let (serving, counting, ending) = (made.clone(), counts.clone(), ended.clone());
                server = Some(std::thread::spawn(move || serve_faults(&serving, &counting, &ending)));
                counts.spaces.fetch_add(1, Ordering::Relaxed);
                reply(&socket, Reply { status: 0, values: [1, bytes, 0, 0] }, Some(made.memfd.as_raw_fd()));
                space = Some(made);
                continue;
            }
            (op, Some(space)) if op == Op::Discard as u64 => {
                counts.discarded.fetch_add(1, Ordering::Relaxed);
                space.forget(a, b, false)
            }
            (op, Some(space)) if op == Op::Clear as u64 => {
                counts.cleared.fetch_add(1, Ordering::Relaxed);
                space.forget(a, b, true)
            }
            (op, Some(space)) if op == Op::Back as u64 => {
                counts.backed.fetch_add(1, Ordering::Relaxed);
                assert_eq!(c % PAGE_BYTES, 0);
                let status = space.forget(a, b, true);
                let file = Arc::new(File::from(fd.expect("a file")));
                space.files.lock().unwrap().insert(a, (a + b, c, file));
                status
            }
            other => panic!("an unexpected request {other:?}", other = other.0),
        };
        reply(&socket, Reply { status, values: [0; 4] }, None);
    }
    ended.store(true, Ordering::Relaxed);
    if let Some(server) = server {
        server.join().expect("the fault server");
    }
}

pub fn memfd() -> File {
    // SAFETY: a new descriptor, owned from here on.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"space".as_ptr(), libc::MFD_CLOEXEC)) };
    file.set_len(SPACE_END).expect("a sparse file");
    file
}

impl Space {
    fn forget(&self, start: u64, bytes: u64, file: bool) -> i64 {
        assert!(
            start.is_multiple_of(PAGE_BYTES)
                && bytes.is_multiple_of(PAGE_BYTES)
                && bytes > 0
                && start + bytes <= SPACE_END
        );
        if file {
            let mut files = self.files.lock().unwrap();
            let end = start + bytes;
            let hit: Vec<u64> =
                files.range(..end).filter(|(_, backed)| backed.0 > start).map(|(at, _)| *at).collect();
            for at in hit {
                let (until, offset, file) = files.remove(&at).expect("just seen");
                if at < start {
                    files.insert(at, (start, offset, file.clone()));
                }
                if until > end {
                    files.insert(end, (until, offset + (end - at), file));
                }
            }
        }
        // SAFETY: punches a hole into a file of ours.
        let punched = unsafe { libc::fallocate(self.memfd.as_raw_fd(), 3, start as i64, bytes as i64) };
        if punched == 0 { 0 } else { -i64::from(Error::last_os_error().raw_os_error().unwrap_or(5)) }
    }

    fn first_bytes(&self, page: u64) -> [u8; PAGE_BYTES as usize] {
        let mut bytes = [0; PAGE_BYTES as usize];
        let files = self.files.lock().unwrap();
        let Some((start, (end, offset, file))) = files.range(..=page).next_back() else { return bytes };
        if page < *end {
            let mut done = 0;
            while let Ok(read) = file.read_at(&mut bytes[done..], offset + (page - start) + done as u64) {
                if read == 0 {
                    break;
                }
                done += read;
            }
        }
        bytes
    }

    fn is_present(&self, page: u64) -> bool {
        // SAFETY: asks where data is in a file of ours.
        let data = unsafe { libc::lseek(self.memfd.as_raw_fd(), page as i64, libc::SEEK_DATA) };
        data == page as i64
    }
}

fn serve_faults(space: &Space, counts: &Counts, ended: &AtomicBool) {
    let fd = space.uffd.as_raw_fd();
    while !ended.load(Ordering::Relaxed) {
        if !readable(fd, 20) {
            continue;
        }
        let mut message = [0u8; 32];
        // SAFETY: reads one message into a buffer of its size.
        if unsafe { libc::read(fd, message.as_mut_ptr().cast(), 32) } != 32 {
            continue;
        }
        assert_eq!(message[0], 0x12, "a page fault");
        let page = u64::from_le_bytes(message[16..24].try_into().unwrap()) & !(PAGE_BYTES - 1);
        counts.faults.fetch_add(1, Ordering::Relaxed);
        if !space.is_present(page) {
            space.memfd.write_all_at(&space.first_bytes(page), page).expect("room");
        }
        let mut resume = [page, PAGE_BYTES, 0, 0];
        for _ in 0..1000 {
            // SAFETY: struct uffdio_continue.
            if unsafe { libc::ioctl(fd, UFFDIO_CONTINUE, resume.as_mut_ptr()) } == 0 {
                break;
            }
            match Error::last_os_error() {
                error if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                error if error.raw_os_error() == Some(libc::ESRCH) => return,
                _ => {
                    let mut range = [page, PAGE_BYTES];
                    // SAFETY: struct uffdio_range. Somebody was faster, or the page is gone again.
                    unsafe { libc::ioctl(fd, UFFDIO_WAKE, range.as_mut_ptr()) };
                    break;
                }
            }
        }
    }
}

#[repr(C, align(8))]
struct Control([u8; 24]);

pub fn receive(socket: &OwnedFd) -> Result<(Request, Option<OwnedFd>), Error> {
    let mut request = Request { op: 0, args: [0; 4] };
    let mut control = Control([0; 24]);
    // SAFETY: buffers of the lengths given.
    unsafe {
        let mut vector = libc::iovec { iov_base: (&raw mut request).cast(), iov_len: size_of::<Request>() };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = 24;
        if libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC)
            != size_of::<Request>() as isize
        {
            return Err(Error::from(ErrorKind::UnexpectedEof));
        }
        let first = libc::CMSG_FIRSTHDR(&message);
        let fd = (!first.is_null()).then(|| OwnedFd::from_raw_fd(*libc::CMSG_DATA(first).cast::<RawFd>()));
        Ok((request, fd))
    }
}

pub fn reply(socket: &OwnedFd, reply: Reply, fd: Option<RawFd>) {
    let mut control = Control([0; 24]);
    // SAFETY: buffers of the lengths given.
    unsafe {
        let mut vector =
            libc::iovec { iov_base: (&raw const reply).cast_mut().cast(), iov_len: size_of::<Reply>() };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut vector;
        message.msg_iovlen = 1;
        if let Some(fd) = fd {
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = 24;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(header).cast::<RawFd>().write(fd);
        }
        // A client that is gone does not read it.
        libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL);
    }
}

/// Whether this kernel and user may make the userfaultfd that the runtime needs.
pub fn permitted() -> bool {
    // SAFETY: a new descriptor, closed at once; struct uffdio_api.
    unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) as RawFd;
        let device = libc::access(c"/dev/userfaultfd".as_ptr(), libc::R_OK | libc::W_OK) == 0;
        if fd < 0 {
            if !device {
                println!("skipped: userfaultfd is not permitted here");
            }
            return device;
        }
        let mut api = [0xaa, UFFD_FEATURES, 0];
        let granted = libc::ioctl(fd, 0xc018_aa3f, api.as_mut_ptr()) == 0;
        libc::close(fd);
        if !granted {
            println!("skipped: this kernel's userfaultfd lacks a feature");
        }
        granted
    }
}
