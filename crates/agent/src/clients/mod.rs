//! Client processes: who maps a space, what they ask, and the faults of their threads.
//!
//! | file | what |
//! |---|---|
//! | `socket.rs` | connections and packets |
//! | `session.rs` | a process and its space: the program's own, a body process, or one of those of a shared space |
//! | `faults.rs` | the thread that serves a process's faults |
//! | `held.rs` | what this host has of a range |
//! | `steward.rs` | where a program's threads are, and orders to move |

mod faults;
mod held;
mod session;
mod socket;
mod steward;

use std::os::fd::AsFd;
use std::sync::Arc;

use client::{Op, Reply, Request};
use fabric::MachineId;
use pager::{SpaceId, Uffd};

use crate::machine::Machine;
pub use session::Role;
use session::Session;
#[cfg(feature = "fuzz")]
pub use session::range;
pub use socket::{ClientListener, Connection, check, listen};
#[cfg(feature = "fuzz")]
pub use steward::placement;
pub use steward::{Stewards, Thread};

/// Serves one client until it closes. `find` gives the machine that it names.
pub fn serve(connection: Connection, find: impl Fn(MachineId) -> Option<Arc<Machine>>) {
    let connection = Arc::new(connection);
    if let Err(refusal) = begin(&connection, find).and_then(|begun| run(&connection, begun)) {
        tell(&connection, refusal);
    }
}

/// Answers a client that there is no place for.
pub fn refuse(connection: &Connection, errno: i32) {
    tell(connection, (errno, 0));
}

fn tell(connection: &Connection, (errno, value): Refusal) {
    let reply = Reply { status: -i64::from(errno), values: [value, 0, 0, 0] };
    // A client that has gone need not be told.
    let _ = connection.reply(reply, None);
}

/// What a connection is for, as its first packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A process and its space.
    Session(Role),
    /// The steward of the space's program.
    Steward(SpaceId),
}

/// An errno, and the value that goes with it.
pub type Refusal = (i32, u64);

/// What a connection's first packet asks for, and of which machine.
///
/// # Errors
/// `EINVAL` for no first packet, `EPROTO` with our version for one of another version.
pub fn purpose(request: &Request) -> Result<(MachineId, Purpose), Refusal> {
    let [version, machine, space, _] = request.args;
    let purpose = match request.op {
        op if op == Op::Hello as u64 => Purpose::Session(Role::Home),
        op if op == Op::Join as u64 => Purpose::Session(Role::Body(space_of(space)?)),
        op if op == Op::Attach as u64 => Purpose::Session(Role::Attached(space_of(space)?)),
        op if op == Op::Steward as u64 => Purpose::Steward(space_of(space)?),
        _ => return Err((libc::EINVAL, 0)),
    };
    if version == client::VERSION {
        Ok((MachineId(machine), purpose))
    } else {
        Err((libc::EPROTO, client::VERSION))
    }
}

enum Begun {
    Session(Arc<Machine>, Role, Box<Uffd>),
    Steward(Arc<Machine>, SpaceId),
}

fn begin(
    connection: &Connection,
    find: impl Fn(MachineId) -> Option<Arc<Machine>>,
) -> Result<Begun, Refusal> {
    let Ok(Some((request, descriptor))) = connection.receive() else {
        return Err((libc::EINVAL, 0));
    };
    let (machine, purpose) = purpose(&request)?;
    let machine = find(machine).ok_or((libc::ENOENT, 0))?;
    match (purpose, descriptor) {
        (Purpose::Session(role), Some(uffd)) => Ok(Begun::Session(machine, role, Box::new(Uffd::new(uffd)))),
        (Purpose::Steward(space), None) => Ok(Begun::Steward(machine, space)),
        _ => Err((libc::EINVAL, 0)),
    }
}

fn run(connection: &Arc<Connection>, begun: Begun) -> Result<(), Refusal> {
    let peer = connection.peer().map_err(|_| (libc::ESRCH, 0))?;
    match begun {
        Begun::Steward(machine, space) => steward::serve(connection, &machine, space, peer.pid),
        Begun::Session(machine, role, uffd) => {
            let session = Session::begin(machine, role, peer, *uffd, connection)
                .map_err(|error| (error.raw_os_error().unwrap_or(libc::EIO), 0))?;
            let reply = Reply { status: 0, values: session.values() };
            if connection.reply(reply, Some(session.memfd().as_fd())).is_ok() {
                session.serve();
            }
            session.finish();
            Ok(())
        }
    }
}

fn space_of(number: u64) -> Result<SpaceId, Refusal> {
    let id = u32::try_from(number).map(SpaceId).map_err(|_| (libc::EINVAL, 0))?;
    if id <= SpaceId::MAX { Ok(id) } else { Err((libc::EINVAL, 0)) }
}
