//! One packet with perhaps a descriptor beside it (unix(7), `SCM_RIGHTS`): how the agent is spoken with.

use megalith_runtime::nr;

use crate::sys::{Fd, safe_call};

const MSG_NOSIGNAL: u64 = 0x4000;
const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
/// Of a cmsghdr and one descriptor, without padding.
const CONTROL_BYTES: u64 = 20;

/// struct msghdr.
#[repr(C)]
struct Message {
    name: u64,
    name_bytes: u64,
    vectors: u64,
    vector_count: u64,
    control: u64,
    control_bytes: u64,
    flags: u64,
}

/// struct cmsghdr with one descriptor.
#[repr(C, align(8))]
struct Control {
    bytes: u64,
    level: i32,
    kind: i32,
    fd: Fd,
    padding: i32,
}

/// Sends `packet`; false if nobody is there.
pub fn send<T>(socket: Fd, packet: &T, fd: Option<Fd>) -> bool {
    let vector = [core::ptr::from_ref(packet) as u64, size_of::<T>() as u64];
    let control = Control {
        bytes: CONTROL_BYTES,
        level: SOL_SOCKET,
        kind: SCM_RIGHTS,
        fd: fd.unwrap_or(-1),
        padding: 0,
    };
    let message = Message {
        name: 0,
        name_bytes: 0,
        vectors: vector.as_ptr() as u64,
        vector_count: 1,
        control: if fd.is_some() { &raw const control as u64 } else { 0 },
        control_bytes: if fd.is_some() { size_of::<Control>() as u64 } else { 0 },
        flags: 0,
    };
    safe_call!(nr::SENDMSG, socket, &raw const message, MSG_NOSIGNAL).is_ok()
}

/// Waits for a packet over `empty` (numbers, for which every bit pattern is a value); `None` when the other end is closed, or
/// says something of another length.
pub fn receive<T: Copy>(socket: Fd, empty: T) -> Option<(T, Option<Fd>)> {
    let mut packet = empty;
    let vector = [&raw mut packet as u64, size_of::<T>() as u64];
    let mut control = Control { bytes: 0, level: 0, kind: 0, fd: -1, padding: 0 };
    let mut message = Message {
        name: 0,
        name_bytes: 0,
        vectors: vector.as_ptr() as u64,
        vector_count: 1,
        control: &raw mut control as u64,
        control_bytes: size_of::<Control>() as u64,
        flags: 0,
    };
    match safe_call!(nr::RECVMSG, socket, &raw mut message, MSG_CMSG_CLOEXEC) {
        Ok(bytes) if bytes == size_of::<T>() as u64 => {}
        _ => return None,
    }
    // SAFETY: the kernel may have written them behind the compiler's back.
    let (packet, control, message) = unsafe {
        (
            (&raw const packet).read_volatile(),
            (&raw const control).read_volatile(),
            (&raw const message).read_volatile(),
        )
    };
    let passed =
        message.control_bytes >= CONTROL_BYTES && (control.level, control.kind) == (SOL_SOCKET, SCM_RIGHTS);
    Some((packet, passed.then_some(control.fd)))
}
