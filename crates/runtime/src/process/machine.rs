//! Calls about the whole machine: its CPUs, numbered host by host, its memory, its barriers.
//!
//! Where nobody has said how many CPUs each host has, they are answered by the home host's kernel.

use client::Why;
use megalith_runtime::errno::{EINVAL, Errno};
use megalith_runtime::frame::Context;
use megalith_runtime::nr;

use crate::block::Block;
use crate::spread::HOSTS_MAX;
use crate::sys::{self, Fd, safe_call};
use crate::travel::{ALL_CPUS, Cpus, HOME, Travel};
use crate::{affinity, hosts, live, spread, steward, user, view};

/// The call's answer.
pub fn answer(block: &mut Block, number: u32, context: &Context) -> Result<u64, Errno> {
    let r = &context.registers;
    let known = !spread::settings().cpus().is_empty();
    match number {
        nr::MEMBARRIER => barrier(r.rdi, r.rsi, r.rdx),
        nr::SYSINFO => sysinfo(r.rdi),
        nr::SCHED_GETAFFINITY if known => get_affinity(block, r.rdi as u32, r.rsi, r.rdx),
        nr::SCHED_SETAFFINITY if known => set_affinity(block, r.rdi as u32, r.rsi, r.rdx),
        nr::GETCPU if known => get_cpu(block, r.rdi, r.rsi),
        nr::SCHED_GETAFFINITY => affinity::get(r.rdi, r.rsi, r.rdx),
        nr::SCHED_SETAFFINITY => affinity::set(r.rdi, r.rsi, r.rdx),
        _ => safe_call!(nr::GETCPU, r.rdi, r.rsi, r.rdx),
    }
}

/// membarrier(2): at home, and on every host that has bodies.
fn barrier(command: u64, flags: u64, cpu: u64) -> Result<u64, Errno> {
    let result = safe_call!(nr::MEMBARRIER, command, flags, cpu)?;
    let command = command & 0xffff_ffff;
    if command != 0 {
        // Of one CPU only home knows which it is: the others make it of all.
        hosts::barrier(command, 0);
    }
    Ok(result)
}

/// The CPUs of `host`, as numbers.
fn cpus_of(host: usize) -> core::ops::Range<u32> {
    let counts = spread::settings().cpus();
    let first = counts[..host].iter().sum();
    first..first + counts[host]
}

fn total() -> u32 {
    spread::settings().cpus().iter().sum()
}

fn all() -> Cpus {
    let mut set: Cpus = [0; _];
    (0..total()).for_each(|cpu| set[cpu as usize / 64] |= 1 << (cpu % 64));
    set
}

/// Bytes of the kernel's mask on such a machine.
fn mask_bytes() -> u64 {
    u64::from(total().div_ceil(64)) * 8
}

/// The thread that a call means by `tid`; if there is none, the kernel says so.
fn thread(tid: u32) -> Result<u32, Errno> {
    if tid == 0 {
        return Ok(sys::tid());
    }
    safe_call!(nr::SCHED_GETSCHEDULER, tid).map(|_| tid)
}

/// sched_getaffinity(2).
fn get_affinity(block: &Block, tid: u32, bytes: u64, mask: u64) -> Result<u64, Errno> {
    let bytes = bytes & 0xffff_ffff;
    if !bytes.is_multiple_of(8) || bytes * 8 < u64::from(total()) {
        return Err(EINVAL);
    }
    let tid = thread(tid)?;
    let mut set = all();
    let of_other =
        if tid == sys::tid() { None } else { Some(live::list().find(tid).map(|travel| travel.cpus)) };
    // Of another process's thread nothing is known here: it may use all.
    let allowed = of_other.map_or(block.travel.cpus, |cpus| cpus.unwrap_or(ALL_CPUS));
    set.iter_mut().zip(allowed).for_each(|(word, allowed)| *word &= allowed);
    let copied = bytes.min(mask_bytes());
    // SAFETY: the set's own bytes.
    let set = unsafe { core::slice::from_raw_parts(set.as_ptr().cast::<u8>(), copied as usize) };
    user::write_bytes(mask, set).map(|()| copied)
}

/// sched_setaffinity(2): a thread whose CPUs are all of one host goes there.
fn set_affinity(block: &mut Block, tid: u32, bytes: u64, mask: u64) -> Result<u64, Errno> {
    let mut set: Cpus = [0; _];
    let room = size_of::<Cpus>();
    // SAFETY: the set's own bytes.
    let given = unsafe { core::slice::from_raw_parts_mut(set.as_mut_ptr().cast::<u8>(), room) };
    let bytes = room.min((bytes & 0xffff_ffff) as usize);
    if bytes != 0 && user::read_some(mask, &mut given[..bytes])? != bytes {
        return Err(megalith_runtime::errno::EFAULT);
    }
    let tid = thread(tid)?;
    set.iter_mut().zip(all()).for_each(|(word, real)| *word &= real);
    if set == [0; _] {
        return Err(EINVAL);
    }
    let own = tid == sys::tid();
    let listed = live::list().find(tid).map(|travel| travel.cpus = set).is_some();
    if own {
        // Of a vfork(2) child too, which is in no list: its exec takes them along.
        block.travel.cpus = set;
    }
    match only_host(&set) {
        Some(host) if own => {
            block.travel.why.store(Why::Ordered as u32, core::sync::atomic::Ordering::Relaxed);
            block.travel.set_wish(host);
        }
        Some(host) if listed => steward::send_to(tid, host),
        _ => {}
    }
    Ok(0)
}

/// The one host that has all CPUs of the set.
fn only_host(set: &Cpus) -> Option<u32> {
    let mut hosts = (0..spread::settings().cpus().len()).filter(|host| has_any(set, *host));
    let first = hosts.next()?;
    hosts.next().is_none().then_some(first as u32)
}

/// A thread that may use `cpus` from its start.
pub fn restrict(travel: &mut Travel, cpus: &Cpus) {
    travel.cpus = *cpus;
    if let Some(host) = only_host(cpus) {
        travel.set_wish(host);
    }
}

/// Where a new thread that may use `cpus` starts: on the next host of the list that has some of them, else on the first that has.
pub fn start(cpus: &Cpus) -> u32 {
    let settings = spread::settings();
    let allowed = |host: u32| settings.cpus().is_empty() || has_any(cpus, host as usize);
    let mut listed = (0..settings.starts().max(1)).map(|_| settings.next_start());
    listed
        .find(|host| allowed(*host))
        .or_else(|| (0..HOSTS_MAX as u32).find(|host| allowed(*host)))
        .unwrap_or(HOME)
}

/// Whether `host` has one of `cpus`.
fn has_any(cpus: &Cpus, host: usize) -> bool {
    host < spread::settings().cpus().len()
        && cpus_of(host).any(|cpu| cpus[cpu as usize / 64] & 1 << (cpu % 64) != 0)
}

/// getcpu(2): a CPU of the host where the thread is.
fn get_cpu(block: &Block, cpu: u64, node: u64) -> Result<u64, Errno> {
    let mut native = [0u32; 2];
    let second = native.as_mut_ptr().wrapping_add(1);
    safe_call!(nr::GETCPU, native.as_mut_ptr(), second, 0)?;
    // SAFETY: the kernel has written it behind the compiler's back.
    let native = unsafe { (&raw const native).read_volatile() };
    let host = (block.travel.place().host as usize).min(spread::settings().cpus().len() - 1);
    let cpus = cpus_of(host);
    if cpu != 0 {
        user::write(cpu, &(cpus.start + native[0] % (cpus.end - cpus.start)))?;
    }
    if node != 0 {
        user::write(node, &(host as u32))?;
    }
    Ok(0)
}

/// sysinfo(2), with the memory that the view's file `sysinfo` names: total and free bytes.
fn sysinfo(address: u64) -> Result<u64, Errno> {
    const TOTAL: usize = 4;
    const FREE: usize = 5;
    let mut info = [0u64; 14];
    safe_call!(nr::SYSINFO, info.as_mut_ptr())?;
    // SAFETY: the kernel has written it behind the compiler's back.
    let mut info = unsafe { (&raw const info).read_volatile() };
    let unit = (info[13] & 0xffff_ffff).max(1);
    if let Some([total, free]) = memory() {
        (info[TOTAL], info[FREE]) = (total / unit, free / unit);
    }
    user::write(address, &info).map(|()| 0)
}

fn memory() -> Option<[u64; 2]> {
    let mut path = [0; view::PATH_BYTES];
    let path = view::inside(b"/sysinfo", &mut path).ok()??;
    let fd = safe_call!(nr::OPENAT, -100i64, path, 0o2000000).ok()? as Fd;
    let mut text = [0; 64];
    let read = sys::read_at(fd, &mut text, 0);
    sys::close(fd);
    let text = core::str::from_utf8(&text[..read.ok()?]).ok()?;
    let mut numbers = text.split_ascii_whitespace().map(|digits| digits.parse().ok());
    Some([numbers.next()??, numbers.next()??])
}
