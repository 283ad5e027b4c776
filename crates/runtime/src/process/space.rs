//! The layout calls: mmap, munmap, mremap, mprotect, brk, madvise, mlock.
//!
//! Every change is made in this order, under [`SPACE`]: the kernel's mapping, the other hosts' mappings (docs/spread.md), the
//! agent's knowledge, the layout. So when the agent discards bytes nobody can touch them any more, and a body that asks what is
//! at an address is answered before all of this or after.
//! A page of the space that another thread may reach is registered before it can be touched: what replaces a
//! mapping is mapped without access first.

use megalith_runtime::errno::{EACCES, EFAULT, EINVAL, ENODEV, ENOMEM, ENOSYS, EPERM, Errno};
use megalith_runtime::layout::{Area, Kind, Layout, Prot, Span};
use megalith_runtime::mapping::{Place, Plan, Remap, Request, Source, flag};
use megalith_runtime::ship::{self, AreaKind};
use megalith_runtime::{PAGE, SPACE_END, nr, page_up};

use crate::agent::Backing;
use crate::lock::{Guard, Lock};
use crate::sys::{self, Fd, LIMIT_DATA};
use crate::{hosts, own, say};

/// Linux's default `vm.max_map_count`.
const AREAS_MAX: usize = 65_530;
/// mremap(2) moves this much at a time, so that memory does not double.
const MOVE_BYTES: u64 = 2 << 20;
const MAP_SHARED: u64 = 1;
const MREMAP_MOVE_FIXED: u64 = 3;

/// The program's memory.
pub struct Space {
    layout: Layout<'static>,
    backing: Backing,
    /// The machine's memory: no single mapping may commit more.
    machine_bytes: u64,
    heap_start: u64,
    heap_end: u64,
    /// Counts what other hosts must learn: mappings that went, and rights that were taken away.
    version: u64,
}

/// The one space of this process.
pub static SPACE: Lock<Option<Space>> = Lock::new(None);

/// Makes the space; once, at the start.
pub fn open(backing: Backing, machine_bytes: u64) -> Result<(), Errno> {
    let storage = own::allocate((AREAS_MAX * size_of::<Area>()) as u64, PAGE)?;
    // SAFETY: fresh memory of that size; Area has no invalid bit pattern that zeros would be (Kind 0, false).
    let storage = unsafe { core::slice::from_raw_parts_mut(storage.start as *mut Area, AREAS_MAX) };
    let layout = Layout::new(storage);
    *SPACE.take() = Some(Space { layout, backing, machine_bytes, heap_start: 0, heap_end: 0, version: 0 });
    Ok(())
}

/// Takes the space's lock.
pub fn lock() -> impl core::ops::DerefMut<Target = Space> {
    struct Opened(Guard<'static, Option<Space>>);
    impl core::ops::Deref for Opened {
        type Target = Space;
        fn deref(&self) -> &Space {
            self.0.as_ref().expect("the space is opened first")
        }
    }
    impl core::ops::DerefMut for Opened {
        fn deref_mut(&mut self) -> &mut Space {
            self.0.as_mut().expect("the space is opened first")
        }
    }
    Opened(SPACE.take())
}

/// A range argument of munmap, mprotect, madvise, mlock: page-aligned start, length rounded up.
fn range(addr: u64, length: u64) -> Result<Span, Errno> {
    let bytes = page_up(length).ok_or(ENOMEM)?;
    let end = addr.checked_add(bytes).ok_or(ENOMEM)?;
    Ok(Span { start: addr, end })
}

impl Space {
    /// What is at `address`, for a body.
    pub fn area(&self, address: u64) -> ship::Area {
        let page = Span::new(address & !(PAGE - 1), PAGE);
        // Above the space there is nothing but what the kernel at home maps.
        let beyond = address >= SPACE_END;
        let (span, prot, kind) = match self.layout.at(address) {
            Some(area) => (area.span, area.prot, kind_for_bodies(area.kind)),
            None if beyond => (page, Prot::NONE, AreaKind::Native),
            None => (page, Prot::NONE, AreaKind::None),
        };
        let (start, end) = (span.start, span.end);
        ship::Area { version: self.version, start, end, prot: u64::from(prot.0), kind: kind as u64 }
    }

    /// Makes the other hosts unmap `span`, before its bytes or its rights go. Costs nothing while there is none.
    fn forget_elsewhere(&mut self, span: Span) {
        if hosts::any() && !self.layout.is_free(span) {
            self.version += 1;
            hosts::forget(self.version, span);
        }
    }

    /// mmap(2).
    pub fn mmap(&mut self, request: Request, fd: Fd) -> Result<u64, Errno> {
        if request.flags & flag::GROWSDOWN != 0 {
            return Err(say::refuse(
                nr::MMAP,
                " of MAP_GROWSDOWN",
                "growth on faults is the kernel's",
                EINVAL,
            ));
        }
        let plan = request.plan()?;
        self.layout.room_to_change()?;
        match plan.source {
            Source::Anonymous { shared } => {
                let kind = if shared { Kind::SharedAnonymous } else { Kind::Anonymous };
                self.map_zeros(plan, kind)
            }
            Source::File { shared } => self.map_file(plan, shared, request, fd),
        }
    }

    fn map_zeros(&mut self, plan: Plan, kind: Kind) -> Result<u64, Errno> {
        let area = self.area_for(plan, kind)?;
        self.refuse_excess(&area, area.span.bytes())?;
        self.place(area, None)?;
        Ok(area.span.start)
    }

    fn map_file(&mut self, plan: Plan, shared: bool, request: Request, fd: Fd) -> Result<u64, Errno> {
        probe(plan.bytes, request, fd)?;
        let stat = sys::stat(fd)?;
        if stat.is_zero_device() {
            return self.map_zeros(plan, if shared { Kind::SharedAnonymous } else { Kind::Anonymous });
        }
        let native_flags = request.flags & (flag::TYPE | flag::NORESERVE | flag::SYNC);
        if shared || !stat.is_regular() {
            let area = self.area_for(plan, Kind::Native)?;
            self.place_native(area, native_flags, fd, request.offset)?;
            return Ok(area.span.start);
        }
        let area = self.area_for(plan, Kind::FileCopy)?;
        self.refuse_excess(&area, area.span.bytes())?;
        // Pages past the file's last one: touching them is SIGBUS, which only the kernel's own mapping gives.
        let file_bytes =
            page_up(stat.size.saturating_sub(request.offset)).unwrap_or(u64::MAX).min(plan.bytes);
        let file = Span::new(area.span.start, file_bytes);
        let past = Span { start: file.end, end: area.span.end };
        if file_bytes > 0 {
            self.place(Area { span: file, ..area }, Some((fd, request.offset)))?;
        }
        if past.bytes() > 0 {
            let tail = Area { span: past, kind: Kind::Native, ..area };
            let placed = self.place_native(tail, native_flags, fd, request.offset + file_bytes);
            if let Err(errno) = placed {
                self.remove(file)?;
                return Err(errno);
            }
        }
        Ok(area.span.start)
    }

    fn area_for(&self, plan: Plan, kind: Kind) -> Result<Area, Errno> {
        let span = plan.place.choose(&self.layout, plan.bytes)?;
        Ok(Area { span, prot: plan.prot, kind, unreserved: plan.unreserved, stack: false })
    }

    /// ENOMEM where Linux's heuristic overcommit says so, with the machine's memory for the host's; and where
    /// RLIMIT_DATA says so.
    fn refuse_excess(&self, area: &Area, more: u64) -> Result<(), Errno> {
        if area.accountable() && more > self.machine_bytes {
            return Err(ENOMEM);
        }
        let private = matches!(area.kind, Kind::Anonymous | Kind::FileCopy);
        if private && area.prot.writes() && !area.stack {
            let limit = sys::limit(LIMIT_DATA).soft;
            if limit != u64::MAX && self.layout.data_bytes().saturating_add(more) > limit {
                return Err(ENOMEM);
            }
        }
        Ok(())
    }

    /// Maps `area` from the memfd, replacing what is there; its bytes are zeros, or the file's.
    fn place(&mut self, area: Area, file: Option<(Fd, u64)>) -> Result<(), Errno> {
        let span = area.span;
        let fresh = self.layout.is_free(span);
        let quiet = !fresh || (file.is_some() && self.backing == Backing::Bare);
        let first = match (fresh, file) {
            (true, Some(_)) if self.backing == Backing::Bare => Prot::READ_WRITE,
            (true, _) => area.prot,
            (false, _) => Prot::NONE,
        };
        // SAFETY: program memory, below SPACE_END: nothing of Rust's lives there.
        unsafe { sys::map_at(span, first, MAP_SHARED, own::MEMFD, span.start)? };
        if let Err(errno) = self.backing.register(span) {
            say::fatal(&[b"memory cannot be registered with userfaultfd: ", errno.name().as_bytes()]);
        }
        self.forget_elsewhere(span);
        let dirty = self.layout.pieces(span).any(|piece| piece.kind.in_space());
        self.layout.remove(span);
        match file {
            None if dirty => self.backing.clear(span),
            None => {}
            Some((fd, offset)) => {
                if !fresh && self.backing == Backing::Bare {
                    self.backing.clear(span);
                    // SAFETY: as above.
                    unsafe { sys::protect(span, u64::from(Prot::READ_WRITE.0), None)? };
                }
                if let Err(errno) = self.backing.fill(span, fd, offset) {
                    // SAFETY: as above; the program was never told of it.
                    unsafe { sys::unmap(span)? };
                    self.backing.clear(span);
                    return Err(errno);
                }
            }
        }
        if quiet {
            // SAFETY: as above.
            unsafe { sys::protect(span, u64::from(area.prot.0), None)? };
        }
        self.layout.insert(area);
        Ok(())
    }

    /// Maps `area` by the kernel's means, replacing what is there.
    fn place_native(&mut self, area: Area, flags: u64, fd: Fd, offset: u64) -> Result<(), Errno> {
        // SAFETY: program memory, below SPACE_END: nothing of Rust's lives there.
        unsafe { sys::map_at(area.span, area.prot, flags, fd, offset)? };
        self.forget(area.span);
        self.layout.insert(area);
        Ok(())
    }

    /// Removes `span` from the agent and from the layout; the kernel's mapping has gone already.
    fn forget(&mut self, span: Span) {
        self.forget_elsewhere(span);
        let mut at = span.start;
        while at < span.end {
            let rest = Span { start: at, end: span.end };
            let Some(first) = self.layout.pieces(rest).find(|piece| piece.kind.in_space()) else { break };
            // One request for a run of areas, whatever their protection.
            let mut run = first.span;
            for piece in self.layout.pieces(Span { start: run.end, end: span.end }) {
                if piece.span.start != run.end || !piece.kind.in_space() {
                    break;
                }
                run.end = piece.span.end;
            }
            self.backing.clear(run);
            at = run.end;
        }
        self.layout.remove(span);
    }

    /// munmap(2).
    pub fn munmap(&mut self, addr: u64, length: u64) -> Result<u64, Errno> {
        if !addr.is_multiple_of(PAGE) || addr > SPACE_END || length > SPACE_END - addr || length == 0 {
            return Err(EINVAL);
        }
        let span = range(addr, length)?;
        self.remove(span)?;
        Ok(0)
    }

    fn remove(&mut self, span: Span) -> Result<(), Errno> {
        if span.bytes() == 0 {
            return Ok(());
        }
        self.layout.room_to_change()?;
        // SAFETY: program memory, below SPACE_END: nothing of Rust's lives there.
        unsafe { sys::unmap(span)? };
        self.forget(span);
        Ok(())
    }

    /// mprotect(2), and pkey_mprotect(2) with a key.
    pub fn mprotect(&mut self, addr: u64, length: u64, prot: u64, key: Option<u64>) -> Result<u64, Errno> {
        const GROWSDOWN: u64 = 0x0100_0000;
        const GROWSUP: u64 = 0x0200_0000;
        if prot & GROWSUP != 0 || !addr.is_multiple_of(PAGE) {
            return Err(EINVAL);
        }
        if length == 0 {
            return Ok(0);
        }
        let mut span = range(addr, length)?;
        if span.bytes() == 0 {
            return Err(ENOMEM);
        }
        if prot & !(GROWSDOWN | 0xf) != 0 {
            return Err(EINVAL);
        }
        if prot & GROWSDOWN != 0 {
            let stack = self.layout.at(addr).filter(|area| area.stack).ok_or(EINVAL)?;
            span.start = stack.span.start;
        }
        let bits = prot & 0xf;
        let new = Prot(bits as u32 & 7);
        while span.start < span.end {
            let area = *self.layout.at(span.start).ok_or(ENOMEM)?;
            let piece = area.span.clip(span).ok_or(ENOMEM)?;
            self.layout.room_to_change()?;
            let changed = Area { prot: new, ..area };
            if changed.accountable() && !area.prot.writes() {
                self.refuse_excess(&changed, piece.bytes())?;
            }
            // SAFETY: program memory; the layout has just said so.
            unsafe { sys::protect(piece, bits, key)? };
            if area.prot.0 & !new.0 != 0 {
                self.forget_elsewhere(piece);
            }
            self.layout.protect(piece, new);
            span.start = piece.end;
        }
        Ok(0)
    }

    /// brk(2): the new end of the heap, or the old one if it cannot be.
    pub fn brk(&mut self, wanted: u64) -> u64 {
        if wanted >= self.heap_start {
            // A heap that cannot change says so by its unchanged end.
            let _ = self.set_heap(wanted);
        }
        self.heap_end
    }

    fn set_heap(&mut self, wanted: u64) -> Result<(), Errno> {
        let (old, new) = (page_up(self.heap_end).ok_or(ENOMEM)?, page_up(wanted).ok_or(ENOMEM)?);
        if new > SPACE_END - PAGE {
            return Err(ENOMEM);
        }
        self.layout.room_to_change()?;
        if new < old {
            self.remove(Span { start: new, end: old })?;
        } else if new > old {
            let span = Span { start: old, end: new };
            if !self.layout.is_free(Span { start: old, end: new + PAGE }) {
                return Err(ENOMEM);
            }
            let area =
                Area { span, prot: Prot::READ_WRITE, kind: Kind::Anonymous, unreserved: false, stack: false };
            self.refuse_excess(&area, span.bytes())?;
            self.place(area, None)?;
        }
        self.heap_end = wanted;
        Ok(())
    }

    /// The heap starts here.
    pub fn start_heap(&mut self, at: u64) {
        (self.heap_start, self.heap_end) = (at, at);
    }

    /// The first stack: `bytes` below `top`.
    pub fn map_stack(&mut self, top: u64, bytes: u64, executable: bool) -> Result<(), Errno> {
        let prot = Prot(if executable { 7 } else { 3 });
        let span = Span { start: top - bytes, end: top };
        self.place(Area { span, prot, kind: Kind::Anonymous, unreserved: true, stack: true }, None)
    }

    /// The highest free place for an image of `bytes` at a multiple of `align`.
    pub fn place_for_image(&self, wish: u64, bytes: u64, align: u64) -> Result<u64, Errno> {
        let wish = wish & !(align - 1);
        if wish != 0 && self.layout.is_free(Span::new(wish, bytes)) {
            return Ok(wish);
        }
        let span = Place::Anywhere(0).choose(&self.layout, bytes + align - PAGE)?;
        Ok((span.end - bytes) & !(align - 1))
    }

    /// mremap(2).
    pub fn mremap(
        &mut self,
        addr: u64,
        old_length: u64,
        new_length: u64,
        flags: u64,
        to: u64,
    ) -> Result<u64, Errno> {
        let remap = Remap::new(addr, old_length, new_length, flags, to)?;
        self.layout.room_to_change()?;
        let area = *self.layout.at(addr).ok_or(EFAULT)?;
        let old = remap.old;
        if old.bytes() == 0 {
            let shared = matches!(area.kind, Kind::SharedAnonymous | Kind::Native);
            let reason = "a page of the space has one address";
            return Err(if shared { say::refuse(nr::MREMAP, " of size 0", reason, EINVAL) } else { EINVAL });
        }
        if remap.to.is_none() && !remap.keep_old && remap.bytes <= old.bytes() {
            self.remove(Span { start: addr + remap.bytes, end: old.end })?;
            return Ok(addr);
        }
        if old.end > area.span.end {
            return Err(EFAULT);
        }
        if remap.bytes > SPACE_END {
            return Err(ENOMEM);
        }
        if remap.keep_old && area.kind != Kind::Anonymous {
            return Err(EINVAL);
        }
        let growth = remap.bytes.saturating_sub(old.bytes());
        if area.kind == Kind::FileCopy && growth > 0 {
            return Err(say::refuse(nr::MREMAP, " of a private file", "it cannot grow", ENOMEM));
        }
        self.refuse_excess(&area, growth)?;
        if remap.to.is_none() && !remap.keep_old && self.grow_in_place(area, old, growth)? {
            return Ok(addr);
        }
        if !remap.may_move {
            return Err(ENOMEM);
        }
        let place = remap.to.map_or(Place::Anywhere(0), Place::Exactly);
        let new = place.choose(&self.layout, remap.bytes)?;
        if area.kind == Kind::Native {
            return self.move_native(area, old, new);
        }
        if new.bytes() < old.bytes() {
            self.remove(Span { start: old.start + new.bytes(), end: old.end })?;
        }
        let moving = Span::new(old.start, old.bytes().min(new.bytes()));
        self.move_bytes(area, moving, new, remap.keep_old)?;
        Ok(new.start)
    }

    fn grow_in_place(&mut self, area: Area, old: Span, growth: u64) -> Result<bool, Errno> {
        let more = Span { start: old.end, end: old.end.saturating_add(growth) };
        if area.kind == Kind::Native
            || old.end != area.span.end
            || more.end > SPACE_END
            || !self.layout.is_free(more)
        {
            return Ok(false);
        }
        self.place(Area { span: more, ..area }, None)?;
        Ok(true)
    }

    fn move_native(&mut self, area: Area, old: Span, new: Span) -> Result<u64, Errno> {
        let arguments = [old.start, old.bytes(), new.bytes(), MREMAP_MOVE_FIXED, new.start, 0];
        // SAFETY: program memory on both sides.
        unsafe { sys::call(nr::MREMAP, arguments)? };
        self.forget_elsewhere(old);
        self.layout.remove(old);
        self.forget(new);
        self.layout.insert(Area { span: new, ..area });
        Ok(new.start)
    }

    /// Moves the bytes of `old` to the start of `new`, a chunk at a time; pages of zeros are not written.
    fn move_bytes(&mut self, area: Area, old: Span, new: Span, keep_old: bool) -> Result<(), Errno> {
        self.place(Area { span: new, prot: Prot::READ_WRITE, ..area }, None)?;
        // SAFETY: program memory. Nobody may write it while it moves, as nobody can in Linux.
        unsafe { sys::protect(old, u64::from(Prot::READ.0), None)? };
        self.forget_elsewhere(old);
        let mut done = 0;
        while done < old.bytes() {
            let chunk = Span::new(old.start + done, MOVE_BYTES.min(old.bytes() - done));
            for page in (chunk.start..chunk.end).step_by(PAGE as usize) {
                copy_page(page, new.start + (page - old.start));
            }
            self.backing.clear(chunk);
            done += chunk.bytes();
        }
        if area.prot != Prot::READ_WRITE {
            // SAFETY: program memory.
            unsafe { sys::protect(new, u64::from(area.prot.0), None)? };
            self.layout.protect(new, area.prot);
        }
        if keep_old {
            // SAFETY: program memory.
            return unsafe { sys::protect(old, u64::from(area.prot.0), None) };
        }
        // SAFETY: program memory.
        unsafe { sys::unmap(old)? };
        self.layout.remove(old);
        Ok(())
    }

    /// madvise(2).
    pub fn madvise(&mut self, addr: u64, length: u64, advice: u64) -> Result<u64, Errno> {
        if !advice::is_known(advice) || !addr.is_multiple_of(PAGE) {
            return Err(EINVAL);
        }
        let bytes = page_up(length).ok_or(EINVAL)?;
        let end = addr.checked_add(bytes).ok_or(EINVAL)?;
        let span = Span { start: addr, end: end.min(SPACE_END) };
        if bytes == 0 {
            return Ok(0);
        }
        if addr >= SPACE_END {
            return Err(ENOMEM);
        }
        let mut at = span.start;
        let mut hole = end > SPACE_END;
        while at < span.end {
            let next = self.layout.pieces(Span { start: at, end: span.end }).next();
            let Some(piece) = next else { break };
            hole |= piece.span.start != at;
            self.advise(piece, advice)?;
            at = piece.span.end;
        }
        if hole || at < span.end { Err(ENOMEM) } else { Ok(0) }
    }

    fn advise(&mut self, area: Area, advice: u64) -> Result<(), Errno> {
        let native = || {
            // SAFETY: program memory, and its own bytes to lose.
            unsafe { sys::call(nr::MADVISE, [area.span.start, area.span.bytes(), advice, 0, 0, 0]) }
                .map(|_| ())
        };
        if area.kind == Kind::Native {
            return native();
        }
        match (advice, area.kind) {
            // Dropping a mapping of shared memory does not drop the memory.
            (advice::DONTNEED | advice::DONTNEED_LOCKED, Kind::SharedAnonymous) => Ok(()),
            (advice::DONTNEED | advice::DONTNEED_LOCKED, kind) | (advice::FREE, kind @ Kind::Anonymous) => {
                self.backing.discard(area.span, kind == Kind::FileCopy);
                Ok(())
            }
            (advice::FREE, _) => Err(EINVAL),
            (advice::REMOVE, Kind::SharedAnonymous) if area.prot.writes() => {
                self.backing.clear(area.span);
                Ok(())
            }
            (advice::REMOVE, Kind::Anonymous) => Err(EINVAL),
            (advice::REMOVE, _) => Err(EACCES),
            (advice::POPULATE_READ | advice::POPULATE_WRITE, _) => native(),
            (advice::WIPEONFORK, kind) if kind != Kind::Anonymous => Err(EINVAL),
            // glibc falls back to mprotect(2) for its guard pages.
            (advice::GUARD_INSTALL | advice::GUARD_REMOVE | advice::COLLAPSE, _) => Err(EINVAL),
            (advice::HWPOISON | advice::SOFT_OFFLINE, _) => Err(EPERM),
            _ => Ok(()),
        }
    }

    /// mlock(2), mlock2(2), munlock(2): accepted where something is mapped; memory of a machine cannot be pinned.
    pub fn mlock(&mut self, addr: u64, length: u64) -> Result<u64, Errno> {
        let start = addr & !(PAGE - 1);
        let span = range(start, length.checked_add(addr - start).ok_or(ENOMEM)?).map_err(|_| EINVAL)?;
        if span.end > SPACE_END || self.layout.has_hole(span) { Err(ENOMEM) } else { Ok(0) }
    }
}

/// Asks the kernel whether it would map this file so, and for which errno not. The kernel's own choice of an
/// address is above the space: `start` has seen to that.
fn probe(bytes: u64, request: Request, fd: Fd) -> Result<(), Errno> {
    let flags = request.flags & (flag::TYPE | flag::NORESERVE | flag::SYNC | flag::HUGETLB);
    // SAFETY: a new mapping where nothing is.
    let mapped = unsafe { sys::call(nr::MMAP, [0, bytes, request.prot, flags, fd as u64, request.offset])? };
    // SAFETY: mapped just now, and never used.
    unsafe { sys::unmap(Span::new(mapped, bytes)) }
}

fn kind_for_bodies(kind: Kind) -> AreaKind {
    match kind {
        Kind::Anonymous | Kind::SharedAnonymous => AreaKind::Space,
        Kind::FileCopy => AreaKind::FileCopy,
        Kind::Native => AreaKind::Native,
    }
}

fn copy_page(from: u64, to: u64) {
    // SAFETY: both are mapped pages of the program; the runtime's own references never point there.
    let (from, to) = unsafe { (&*(from as *const [u64; 512]), &mut *(to as *mut [u64; 512])) };
    if from.iter().any(|word| *word != 0) {
        to.copy_from_slice(from);
    }
}

/// mlock2(2)'s one flag, and mlockall(2)'s three.
pub fn lock_flags(number: u32, flags: u64) -> Result<(), Errno> {
    let valid = match number {
        nr::MLOCK2 => flags & !1 == 0,
        nr::MLOCKALL => flags & !7 == 0 && flags != 0 && flags != 4,
        _ => true,
    };
    if valid { Ok(()) } else { Err(EINVAL) }
}

/// Calls on memory that are refused altogether.
pub fn refused(number: u32) -> Errno {
    match number {
        nr::SHMAT => {
            say::refuse(number, " at an address", "System V memory goes where the kernel puts it", EINVAL)
        }
        nr::REMAP_FILE_PAGES => say::refuse(number, "", "pages out of order", EINVAL),
        nr::PROCESS_MADVISE => say::refuse(number, "", "another process's memory", ENOSYS),
        nr::MODIFY_LDT => say::refuse(number, "", "segments", ENOSYS),
        nr::USELIB => say::refuse(number, "", "obsolete", ENOSYS),
        _ => ENODEV,
    }
}

mod advice {
    pub const DONTNEED: u64 = 4;
    pub const FREE: u64 = 8;
    pub const REMOVE: u64 = 9;
    pub const WIPEONFORK: u64 = 18;
    pub const POPULATE_READ: u64 = 22;
    pub const POPULATE_WRITE: u64 = 23;
    pub const DONTNEED_LOCKED: u64 = 24;
    pub const COLLAPSE: u64 = 25;
    pub const HWPOISON: u64 = 100;
    pub const SOFT_OFFLINE: u64 = 101;
    pub const GUARD_INSTALL: u64 = 102;
    pub const GUARD_REMOVE: u64 = 103;

    pub const fn is_known(advice: u64) -> bool {
        matches!(advice, 0..=4 | 8..=25 | 100..=103)
    }
}
