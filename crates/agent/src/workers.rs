//! Workers: processes of the machine's owner on its hosts, at home and elsewhere, for a shared space (docs/python.md).
//!
//! One is started for a connection that the agent hands it, runs the command that the agent was started with (the Python interpreter that
//! runs the agent, say), and finds in its environment how to attach to the space. It lives no longer than the space, the
//! machine or the agent. As with body processes, a *keeper* thread forks it and waits for its end: the kernel kills a worker when
//! the thread that forked it ends.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use client::env;
use fabric::MachineId;
use pager::SpaceId;
use parking_lot::{Condvar, Mutex};

use crate::bodies::Nursery;
use crate::priority;

/// Workers of a machine on this host at a time.
const WORKERS_MAX: usize = 1024;

struct Worker {
    space: SpaceId,
    pidfd: OwnedFd,
}

#[derive(Default)]
struct Kept {
    workers: Vec<Arc<Worker>>,
    /// Those that are being started are killed as soon as they are known.
    over: bool,
}

/// The workers of one machine on this host.
pub struct Workers {
    machine: MachineId,
    nursery: Arc<Nursery>,
    kept: Arc<(Mutex<Kept>, Condvar)>,
}

impl Worker {
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

impl Workers {
    /// None yet.
    pub fn new(machine: MachineId, nursery: Arc<Nursery>) -> Self {
        Self { machine, nursery, kept: Arc::default() }
    }

    /// Whether there can be one more.
    ///
    /// # Errors
    /// In one line, why not.
    pub fn check(&self) -> Result<(), String> {
        if self.nursery.worker.is_empty() {
            return Err("its agent starts no workers".into());
        }
        if self.kept.0.lock().workers.len() >= WORKERS_MAX {
            return Err(format!("it has {WORKERS_MAX} workers of the machine, and takes no more"));
        }
        Ok(())
    }

    /// Starts a worker that gets `socket`.
    ///
    /// # Errors
    /// Those of making the keeper and the process; [`Workers::check`]'s.
    pub fn start(&self, space: SpaceId, socket: OwnedFd) -> io::Result<()> {
        self.check().map_err(io::Error::other)?;
        let mut command = self.command(space, socket);
        let (sender, started) = mpsc::channel();
        let kept = self.kept.clone();
        std::thread::Builder::new().name(format!("worker {}", space.0)).spawn(move || {
            let child = command.spawn();
            // Our copy of its socket: else nobody would see the end of the connection.
            drop(command);
            let worker = child.and_then(|mut child| match pidfd(&child) {
                Ok(pidfd) => Ok((child, Arc::new(Worker { space, pidfd }))),
                Err(error) => {
                    // Nobody could kill it later.
                    let _ = child.kill().and_then(|()| child.wait());
                    Err(error)
                }
            });
            let (mut child, worker) = match worker {
                Ok(worker) => worker,
                Err(error) => return drop(sender.send(Err(error))),
            };
            {
                let mut kept = kept.0.lock();
                kept.workers.push(worker.clone());
                if kept.over {
                    worker.kill();
                }
            }
            // Who started it waits for this word.
            let _ = sender.send(Ok(()));
            if let Err(error) = child.wait() {
                eprintln!("megalith agent: waiting for a worker: {error}");
            }
            kept.0.lock().workers.retain(|other| !Arc::ptr_eq(other, &worker));
            kept.1.notify_all();
        })?;
        started.recv().map_err(|_| io::Error::other("its keeper ended"))?
    }

    fn command(&self, space: SpaceId, socket: OwnedFd) -> Command {
        let words = &self.nursery.worker;
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(["--fd", &socket.as_raw_fd().to_string()])
            .env(env::SOCKET, &self.nursery.client_socket)
            .env(env::MACHINE, self.machine.to_string())
            .env(env::SPACE, space.0.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit());
        let (agent, priority) = (std::process::id(), priority::programs());
        // SAFETY: between fork and exec: system calls alone, no memory is asked for, no lock taken.
        unsafe { command.pre_exec(move || settle_in(&socket, agent, priority)) };
        command
    }

    /// The space has ended: so do its workers.
    pub fn kill(&self, space: SpaceId) {
        self.kept
            .0
            .lock()
            .workers
            .iter()
            .filter(|worker| worker.space == space)
            .for_each(|worker| worker.kill());
    }

    /// Kills them all, and those that are being started.
    pub fn kill_all(&self) {
        let mut kept = self.kept.0.lock();
        kept.over = true;
        kept.workers.iter().for_each(|worker| worker.kill());
    }

    /// Waits until all are reaped; false if some were not within `time`.
    pub fn wait(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut kept = self.kept.0.lock();
        while !kept.workers.is_empty() {
            if self.kept.1.wait_until(&mut kept, deadline).timed_out() {
                return kept.workers.is_empty();
            }
        }
        true
    }
}

fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the child is not reaped yet, so the id is its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) } as RawFd;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the new process what a worker is, before it is executed.
fn settle_in(socket: &OwnedFd, agent: u32, nice: i32) -> io::Result<()> {
    let check = |result: i32| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    priority::lower(nice);
    // SAFETY: plain system calls.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        if libc::getppid() as u32 != agent {
            // The agent died in between.
            libc::_exit(1);
        }
        check(libc::setsid())?;
        check(libc::fcntl(socket.as_raw_fd(), libc::F_SETFD, 0))?;
    }
    Ok(())
}
