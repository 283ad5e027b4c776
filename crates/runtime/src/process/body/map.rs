//! What of the space is mapped in this process: nothing at first, then what was touched and home said was there.
//!
//! Invariants: what the layout says is mapped so, from the memfd at its own address, and registered with the userfaultfd;
//! it was true at home, and no [`Forget`] has come for it since. Every change, and every word with the agent, under [`MAP`].
//!
//! The agent brings pages ahead of need, also such as lie behind what is mapped here. What those read at first only home
//! knows: so the agent asks home for every page of which it has not been told here that it starts as zeros.

use client::Op;
use megalith_runtime::errno::Errno;
use megalith_runtime::layout::{self, Kind, Layout, Prot, Span};
use megalith_runtime::ship::{Area, AreaKind, Forget};
use megalith_runtime::{LOWEST, PAGE, SPACE_END, nr};

use crate::agent::{self, Backing};
use crate::body::fatal;
use crate::lock::Lock;
use crate::own;
use crate::sys::{self, safe_call};

/// As many as the home process may have.
const AREAS_MAX: usize = 65_530;
/// How many changes of the layout are remembered.
const CHANGES_MAX: usize = 64;
const ALL: Span = Span { start: 0, end: SPACE_END };
const MAP_SHARED: u64 = 1;
const UFFDIO_WAKE: u64 = 0x8010_aa02;

/// What an instruction does to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes it.
    Write,
    /// Is it.
    Fetch,
}

impl Access {
    /// From the page fault's error code.
    pub const fn of(error: u64) -> Access {
        match (error & 2 != 0, error & 16 != 0) {
            (true, _) => Access::Write,
            (_, true) => Access::Fetch,
            _ => Access::Read,
        }
    }

    /// Whether `prot` lets it happen. On x86-64 what may be written or executed may be read.
    pub const fn is_allowed(self, prot: Prot) -> bool {
        match self {
            Access::Read => prot.0 & 7 != 0,
            Access::Write => prot.0 & 2 != 0,
            Access::Fetch => prot.0 & 4 != 0,
        }
    }
}

/// What became of an area that home has told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It is mapped.
    Done,
    /// It has changed since.
    Stale,
}

struct Change {
    version: u64,
    span: Span,
}

struct Map {
    layout: Layout<'static>,
    /// The last changes, at their number modulo the length.
    changes: [Change; CHANGES_MAX],
    count: usize,
}

static MAP: Lock<Option<Map>> = Lock::new(None);

/// Makes the map; once, at the start.
pub fn open() -> Result<(), Errno> {
    let storage = own::allocate((AREAS_MAX * size_of::<layout::Area>()) as u64, PAGE)?;
    // SAFETY: fresh memory of that size; zeros are an Area (Kind 0, false).
    let storage = unsafe { core::slice::from_raw_parts_mut(storage.start as *mut layout::Area, AREAS_MAX) };
    let changes = [const { Change { version: 0, span: Span { start: 0, end: 0 } } }; CHANGES_MAX];
    let mut map = MAP.take();
    *map = Some(Map { layout: Layout::new(storage), changes, count: 0 });
    tell(Op::BackFromHome, ALL);
    Ok(())
}

fn with<R>(action: impl FnOnce(&mut Map) -> R) -> R {
    action(MAP.take().as_mut().expect("the map is opened first"))
}

/// Whether the access can go on by now.
pub fn allows(address: u64, access: Access) -> bool {
    allowed_until(address, access).is_some()
}

/// The end of what is mapped around `address`, if the access can go on there.
pub fn allowed_until(address: u64, access: Access) -> Option<u64> {
    with(|map| map.layout.at(address).filter(|area| access.is_allowed(area.prot)).map(|area| area.span.end))
}

/// Maps what home has said of, of the space.
pub fn place(area: &Area) -> Placed {
    with(|map| {
        let span = whole_pages(area.start, area.end);
        if map.has_changed_since(area.version, span) {
            return Placed::Stale;
        }
        let kind = if area.kind == AreaKind::FileCopy as u64 { Kind::FileCopy } else { Kind::Anonymous };
        let area = layout::Area { span, prot: Prot(area.prot as u32 & 7), kind, ..layout::Area::UNUSED };
        // The kernel may have less room for mappings than it has at home: then the map starts anew.
        let placed = map.place(area).or_else(|_| {
            map.forget(ALL);
            map.place(area)
        });
        match placed {
            Ok(()) => Placed::Done,
            Err(errno) => fatal(&[b"the space cannot be mapped: ", errno.name().as_bytes()]),
        }
    })
}

/// Nothing of a span is mapped when this returns, and nothing older that is said of it counts.
pub fn forget(change: &Forget) {
    with(|map| {
        let span = whole_pages(change.start, change.end);
        map.forget(span);
        map.changes[map.count % CHANGES_MAX] = Change { version: change.version, span };
        map.count += 1;
    });
}

fn whole_pages(start: u64, end: u64) -> Span {
    if !start.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) || start >= end || end > SPACE_END {
        fatal(&[b"home speaks of what is no span of the space"]);
    }
    Span { start, end }
}

impl Map {
    /// Whether what was true at `version` may no longer be so for `span`.
    fn has_changed_since(&self, version: u64, span: Span) -> bool {
        let kept = &self.changes[..self.count.min(CHANGES_MAX)];
        let newer = || kept.iter().filter(|change| change.version > version);
        // Where all that is remembered is newer, so may be what is not remembered.
        let beyond = self.count > CHANGES_MAX && newer().count() == CHANGES_MAX;
        beyond || newer().any(|change| change.span.clip(span).is_some())
    }

    fn place(&mut self, area: layout::Area) -> Result<(), Errno> {
        let span = area.span;
        self.layout.room_to_change()?;
        let mut at = span.start;
        while at < span.end {
            let rest = Span { start: at, end: span.end };
            let next = self
                .layout
                .pieces(rest)
                .next()
                .map_or(Span { start: span.end, end: span.end }, |piece| piece.span);
            if at < next.start {
                self.fill(layout::Area { span: Span { start: at, end: next.start }, ..area })?;
            }
            at = next.end;
        }
        // SAFETY: program memory, below SPACE_END: nothing of Rust's lives there.
        unsafe { sys::protect(span, u64::from(area.prot.0), None)? };
        self.layout.remove(span);
        self.layout.insert(area);
        Ok(())
    }

    /// Maps where nothing is: without access, until whoever touches it is served.
    fn fill(&mut self, area: layout::Area) -> Result<(), Errno> {
        let span = area.span;
        // SAFETY: program memory, below SPACE_END: nothing of Rust's lives there.
        unsafe { sys::map_at(span, Prot::NONE, MAP_SHARED, own::MEMFD, span.start)? };
        Backing::Agent.register(span)?;
        tell(if area.kind == Kind::FileCopy { Op::BackFromHome } else { Op::Unback }, span);
        self.layout.room_to_change()?;
        self.layout.insert(layout::Area { prot: Prot::NONE, ..area });
        Ok(())
    }

    fn forget(&mut self, span: Span) {
        // SAFETY: program memory, below SPACE_END: nothing of Rust's lives there.
        if let Err(errno) = unsafe { sys::unmap(span) } {
            fatal(&[b"memory cannot be unmapped: ", errno.name().as_bytes()]);
        }
        // Who waits for a page of it finds out by asking again.
        let start = span.start.max(LOWEST);
        let mut range = [start, span.end.max(start + PAGE) - start];
        if let Err(errno) = safe_call!(nr::IOCTL, own::UFFD, UFFDIO_WAKE, range.as_mut_ptr()) {
            fatal(&[b"waiters cannot be woken: ", errno.name().as_bytes()]);
        }
        if !self.layout.is_free(span) {
            tell(Op::BackFromHome, span);
        }
        if self.layout.room_to_change().is_err() && span != ALL {
            return self.forget(ALL);
        }
        self.layout.remove(span);
    }
}

fn tell(op: Op, span: Span) {
    let (reply, _) = agent::ask(op, [span.start, span.bytes(), 0, 0], None);
    if let Err(errno) = Errno::check(reply.status) {
        fatal(&[b"the agent does not take what pages are: ", errno.name().as_bytes()]);
    }
}
