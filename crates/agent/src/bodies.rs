//! Body processes: on a host that is not a program's home, the process in which its threads run.
//!
//! There is one a space and host. It is this host's agent that starts it, when the first channel for the space comes, hands
//! it the channels over its *door* (a socket pair), kills it when the space ends, and waits for it. It is the runtime's own
//! executable, from memory, with nothing inherited but the agent's standard error.
//!
//! Each has a *keeper*, a thread that forks it and waits for its end. The kernel kills a body process when the thread that
//! forked it ends (PR_SET_PDEATHSIG is about that thread), so an agent that dies leaves none behind, and the keeper
//! must be the one to fork.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use client::{Op, Request, env};
use fabric::MachineId;
use pager::SpaceId;
use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashMap;

use crate::clients::Connection;
use crate::priority;

/// A body process that takes no channel at its door within this time does not get it.
const DOOR_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a body process that is stopped is looked at.
const STOPPED_POLL: Duration = Duration::from_millis(20);

/// How a body process came to its end.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// By itself, or somebody killed it.
    Status(ExitStatus),
    /// It was stopped for so long, and killed: its threads' deputies would wait for ever.
    Stopped(Duration),
}

/// What body processes and workers need of their agent.
#[derive(Debug)]
pub struct Nursery {
    runtime: &'static [u8],
    /// Absolute, where clients connect.
    pub(crate) client_socket: PathBuf,
    /// The command of workers; empty where there are none.
    pub(crate) worker: Vec<String>,
    /// The runtime as a file, once somebody has needed it.
    image: Mutex<Option<Arc<OwnedFd>>>,
}

impl Nursery {
    /// `runtime` is the executable, `client_socket` the absolute path where clients connect, `worker` the command of workers.
    pub fn new(runtime: &'static [u8], client_socket: PathBuf, worker: Vec<String>) -> Self {
        Self { runtime, client_socket, worker, image: Mutex::default() }
    }

    /// Made once: while a file is open for writing anywhere, as in a process just forked, it is not executed.
    fn image(&self) -> io::Result<Arc<OwnedFd>> {
        let mut image = self.image.lock();
        if let Some(image) = &*image {
            return Ok(image.clone());
        }
        let made = Arc::new(self::image(self.runtime)?);
        Ok(image.insert(made).clone())
    }
}

/// The body processes of one machine on this host.
pub struct Bodies {
    machine: MachineId,
    nursery: Arc<Nursery>,
    bodies: Mutex<FxHashMap<SpaceId, Arc<Body>>>,
    /// Signalled when one has ended and is reaped.
    reaped: Condvar,
}

/// One body process.
pub struct Body {
    pidfd: OwnedFd,
    door: Connection,
}

impl Body {
    /// Hands it one end of a channel.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn hand(&self, kind: u64, socket: &OwnedFd) -> io::Result<()> {
        self.door.request(Request { op: Op::Channel as u64, args: [kind, 0, 0, 0] }, Some(socket.as_fd()))
    }

    fn kill(&self) {
        // SAFETY: a plain system call on a pidfd that we hold open; a process that has ended is not found.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
    }
}

impl Bodies {
    /// None yet.
    pub fn new(machine: MachineId, nursery: Arc<Nursery>) -> Self {
        Self { machine, nursery, bodies: Mutex::default(), reaped: Condvar::new() }
    }

    /// The space's body process, which is started if there is none. `ended` is called once it has ended and is reaped,
    /// by its keeper. One that is stopped (SIGSTOP) for longer than `patience` is killed.
    ///
    /// # Errors
    /// Those of making its descriptors, its keeper and the process.
    pub fn find_or_start(
        &self,
        space: SpaceId,
        patience: Duration,
        ended: impl FnOnce(Ending) + Send + 'static,
    ) -> io::Result<Arc<Body>> {
        let mut bodies = self.bodies.lock();
        if let Some(body) = bodies.get(&space) {
            return Ok(body.clone());
        }
        let (door, theirs) = Connection::pair()?;
        door.limit_sends(DOOR_TIMEOUT)?;
        let image = self.nursery.image()?;
        let mut command = self.command(space, image, theirs);
        let (sender, started) = mpsc::channel();
        std::thread::Builder::new().name(format!("body {}", space.0)).spawn(move || {
            let child = command.spawn();
            // Our copies of its descriptors.
            drop(command);
            match child {
                Err(error) => drop(sender.send(Err(error))),
                Ok(child) => keep(child, &sender, patience, ended),
            }
        })?;
        let gone = |_| io::Error::other("its keeper ended");
        let pidfd = started.recv().map_err(gone)??;
        let body = Arc::new(Body { pidfd, door });
        bodies.insert(space, body.clone());
        Ok(body)
    }

    fn command(&self, space: SpaceId, image: Arc<OwnedFd>, door: OwnedFd) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()));
        command
            .arg0("megalith-body")
            .env_clear()
            .env(env::BODY, space.0.to_string())
            .env(env::MACHINE, self.machine.to_string())
            .env(env::SOCKET, &self.nursery.client_socket)
            .env(env::PROGRAM, "body")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let agent = std::process::id();
        let priority = priority::programs();
        // SAFETY: between fork and exec: system calls alone, no memory is asked for, no lock taken.
        unsafe { command.pre_exec(move || settle_in(&image, &door, agent, priority)) };
        command
    }

    /// The space has ended: its body process is killed. True if there is one; its keeper calls `ended` soon.
    pub fn kill(&self, space: SpaceId) -> bool {
        self.bodies.lock().get(&space).map(|body| body.kill()).is_some()
    }

    /// Kills them all.
    pub fn kill_all(&self) {
        self.bodies.lock().values().for_each(|body| body.kill());
    }

    /// Forgets a body process that is reaped.
    pub fn forget(&self, space: SpaceId) {
        self.bodies.lock().remove(&space);
        self.reaped.notify_all();
    }

    /// Waits until all are reaped; false if some were not within `time`.
    pub fn wait(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut bodies = self.bodies.lock();
        while !bodies.is_empty() {
            if self.reaped.wait_until(&mut bodies, deadline).timed_out() {
                return bodies.is_empty();
            }
        }
        true
    }
}

/// A keeper's work.
fn keep(
    mut child: Child,
    sender: &mpsc::Sender<io::Result<OwnedFd>>,
    patience: Duration,
    ended: impl FnOnce(Ending),
) {
    // SAFETY: a plain system call; the child is not reaped yet, so the id is its own.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) } as RawFd;
    let pidfd = if pidfd < 0 {
        let error = io::Error::last_os_error();
        // Nobody could kill it later.
        let _ = child.kill();
        Err(error)
    } else {
        // SAFETY: the descriptor was just made and is nobody else's.
        Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
    };
    let started = pidfd.is_ok();
    // Who started it waits for this word.
    let _ = sender.send(pidfd);
    match watch(&mut child, patience) {
        Ok(ending) if started => ended(ending),
        Ok(_) => {}
        Err(error) => eprintln!("megalith agent: waiting for a body process: {error}"),
    }
}

/// Waits until a body process is reaped, or has been stopped for too long.
fn watch(child: &mut Child, patience: Duration) -> io::Result<Ending> {
    loop {
        if !is_stopped(child, 0)? {
            return Ok(Ending::Status(child.wait()?));
        }
        let deadline = Instant::now() + patience;
        while is_stopped(child, libc::WNOHANG)? {
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                return Ok(Ending::Stopped(patience));
            }
            std::thread::sleep(STOPPED_POLL);
        }
    }
}

/// Whether a child is stopped. With no `options` it waits until that can be said, or the child has ended; with WNOHANG it does
/// not. (waitid(2); a stop that a debugger has caused is the debugger's affair, and is not seen.)
fn is_stopped(child: &Child, options: i32) -> io::Result<bool> {
    let what = if options == 0 { libc::WEXITED | libc::WSTOPPED } else { libc::WSTOPPED };
    loop {
        // SAFETY: all zeros is a siginfo_t, and the call writes no more than one. The child is not reaped yet.
        let (result, code) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let result = libc::waitid(libc::P_PID, child.id(), &raw mut info, what | options | libc::WNOWAIT);
            (result, info.si_code)
        };
        if result == 0 {
            return Ok(code == libc::CLD_STOPPED);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The runtime's executable as a file in memory.
fn image(runtime: &[u8]) -> io::Result<OwnedFd> {
    const NAME: &CStr = c"megalith-body";
    // SAFETY: a constant string and no pointers kept.
    let mut fd = unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_EXEC) };
    if fd < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        // Before Linux 6.3 all memfds can be executed, and the flag is unknown.
        // SAFETY: as above.
        fd = unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) };
    }
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and is nobody else's.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(runtime)?;
    // Above the door, which takes its place in the new process before this is executed; and open there for reading
    // alone, since what is open for writing is not executed.
    let read_only = File::open(format!("/proc/self/fd/{fd}"))?;
    // SAFETY: a plain system call.
    let fd = unsafe { libc::fcntl(read_only.as_raw_fd(), libc::F_DUPFD_CLOEXEC, env::DOOR + 1) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the new process what a body process is, before it is executed.
fn settle_in(image: &OwnedFd, door: &OwnedFd, agent: u32, nice: i32) -> io::Result<()> {
    let check = |result: i32| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    let mut files = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    debug_assert!(image.as_raw_fd() > env::DOOR);
    priority::lower(nice);
    // SAFETY: plain system calls; `files` is what the calls take, and lives on.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        if libc::getppid() as u32 != agent {
            // The agent died in between.
            libc::_exit(1);
        }
        check(libc::setsid())?;
        // Each of its threads has channels.
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files))?;
        files.rlim_cur = files.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files))?;
        if door.as_raw_fd() == env::DOOR {
            check(libc::fcntl(env::DOOR, libc::F_SETFD, 0))?;
        } else {
            check(libc::dup2(door.as_raw_fd(), env::DOOR))?;
        }
    }
    Ok(())
}
