//! One space's memory on one host: its memfd, who maps it, and what untouched pages read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use crate::bug::{Bug, Planted};
use crate::memfd::Memfd;
use crate::packed::PAGE;
use crate::uffd::{ClientId, Uffd};

/// What untouched pages of a range read.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File {
        /// Which.
        file: Arc<File>,
        /// Its byte at the start of the range.
        offset: u64,
    },
    /// What the home host says.
    Home,
}

impl Source {
    /// The source of the pages `bytes` further on.
    fn later(&self, bytes: u64) -> Source {
        match self {
            Source::File { file, offset } => Source::File { file: file.clone(), offset: offset + bytes },
            Source::Home => Source::Home,
        }
    }
}

/// What pages that nobody has touched find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Zeros.
    Zeros,
    /// A file's bytes.
    File,
    /// What the home host says.
    Home,
}

/// What pages of `[start, end)` read when first touched. The start is the map's key.
#[derive(Debug)]
struct Backing {
    end: u64,
    source: Source,
}

/// The memory of one space here.
#[derive(Debug)]
pub struct SpaceMemory {
    memfd: Memfd,
    /// Written when a client comes or goes, read at every fault and by the evictor.
    clients: RwLock<Vec<Arc<Uffd>>>,
    /// The bug planted in this host, in simulations.
    planted: Planted,
}

impl SpaceMemory {
    /// An empty space.
    ///
    /// # Errors
    /// Those of [`Memfd::new`].
    pub fn new() -> io::Result<Self> {
        Ok(Self { memfd: Memfd::new()?, clients: RwLock::default(), planted: Planted::default() })
    }

    /// A simulated space, with its processes.
    #[cfg(feature = "sim")]
    pub fn simulated(space: &Arc<crate::sim::SimSpace>, planted: Planted) -> Self {
        let processes = 0..space.processes();
        let clients = processes.map(|process| Arc::new(Uffd::simulated(space.clone(), process))).collect();
        Self { memfd: Memfd::simulated(space.clone()), clients: RwLock::new(clients), planted }
    }

    /// The space's memfd, which clients map.
    pub fn memfd(&self) -> &Memfd {
        &self.memfd
    }

    fn clients(&self) -> RwLockReadGuard<'_, Vec<Arc<Uffd>>> {
        self.clients.read().expect("no panic holds this lock")
    }

    /// Adds a process that maps the space.
    pub fn add_client(&self, client: Arc<Uffd>) {
        self.clients.write().expect("no panic holds this lock").push(client);
    }

    /// Forgets a process that maps the space no more.
    pub fn remove_client(&self, client: ClientId) {
        self.clients.write().expect("no panic holds this lock").retain(|other| other.id() != client);
    }

    /// Calls `f` for that client, or for every one.
    pub fn each_client(&self, which: Option<ClientId>, f: impl FnMut(&Uffd)) {
        let is_meant = |client: &&Arc<Uffd>| which.is_none_or(|which| client.id() == which);
        self.clients().iter().filter(is_meant).map(AsRef::as_ref).for_each(f);
    }

    /// Maps new pages: `map` is called with a client and how many of them are mapped so far, and says how many more it has mapped.
    /// They go to the page table of `first`, or of any client; where that one maps them no more, to another's. The others find
    /// them by a minor fault: those of their threads that wait already are woken. Returns how many pages are mapped.
    pub fn map(
        &self,
        (address, pages): (u64, u64),
        first: Option<ClientId>,
        mut map: impl FnMut(&Uffd, u64) -> u64,
    ) -> u64 {
        let clients = self.clients();
        let at = clients.iter().position(|client| Some(client.id()) == first).unwrap_or(0);
        let mut done = 0;
        for client in clients[at..].iter().chain(&clients[..at]) {
            done += map(client, done);
            if done == pages {
                break;
            }
        }
        if clients.len() > 1 && done > 0 && !self.planted.has(Bug::OthersNotWoken) {
            clients.iter().for_each(|client| client.wake(address, done));
        }
        done
    }

    /// Stops writers of `pages` pages, in every process; afterwards the bytes in the memfd stand still.
    ///
    /// A process that does not see a page yet cannot write it either: it is shown pages under the machine's lock alone, and
    /// then the page that was to leave is called back.
    pub fn protect(&self, address: u64, pages: u64) {
        let clients = self.clients();
        let protected =
            if self.planted.has(Bug::ProtectOne) { &clients[..clients.len().min(1)] } else { &clients[..] };
        for client in protected {
            match client.write_protect(address, pages, true) {
                Ok(()) => {}
                // It is dead, and its session about to end: nobody there can write.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                // Where a client has unmapped some of the range the call ends early, so go page by page then.
                Err(_) => {
                    for i in 0..pages {
                        let _ = client.write_protect(address + i * PAGE as u64, 1, true);
                    }
                }
            }
        }
    }

    /// Allows writing to `pages` pages, and wakes who waits to: in that client, or in all.
    pub fn allow_write(&self, address: u64, pages: u64, which: Option<ClientId>) {
        self.each_client(which, |client| {
            // That wakes, too, unless some of them lie outside the client's mapping: who waits in one of the others tries again then.
            if client.write_protect(address, pages, false).is_err() {
                let _ = client.write_protect(address, 1, false);
                client.wake(address, pages);
            }
        });
    }

    /// The space has ended: no process finds anything in it any more, old or new ([`Memfd::withdraw`]), and those threads that wait for
    /// a page find that out.
    pub fn withdraw(&self) {
        self.memfd.withdraw();
        self.wake(0, client::SPACE_END / PAGE as u64);
    }

    /// Wakes who waits in these pages, to fault again.
    pub fn wake(&self, address: u64, pages: u64) {
        self.each_client(None, |client| client.wake(address, pages));
    }
}

/// What the untouched pages of a space read.
#[derive(Debug, Default)]
pub struct Backings {
    map: BTreeMap<u64, Backing>,
}

impl Backings {
    /// Pages of `[start, start + len)` read `source`.
    pub fn insert(&mut self, start: u64, len: u64, source: Source) {
        self.remove(start, len);
        self.map.insert(start, Backing { end: start + len, source });
    }

    /// Pages of `[start, start + len)` read as zeros again.
    pub fn remove(&mut self, start: u64, len: u64) {
        let end = start + len;
        let touched: Vec<u64> =
            self.map.range(..end).rev().take_while(|(_, b)| b.end > start).map(|(&s, _)| s).collect();
        for at in touched {
            let b = self.map.remove(&at).expect("just listed");
            if at < start {
                self.map.insert(at, Backing { end: start, source: b.source.clone() });
            }
            if b.end > end {
                self.map.insert(end, Backing { end: b.end, source: b.source.later(end - at) });
            }
        }
    }

    /// Pages from `address` on that read alike, at most `pages`: their number, and what they read.
    pub fn run(&self, address: u64, pages: u64) -> (u64, Reads) {
        let limit = address + pages * PAGE as u64;
        if let Some((_, b)) = self.map.range(..=address).next_back().filter(|(_, b)| b.end > address) {
            let reads = match b.source {
                Source::File { .. } => Reads::File,
                Source::Home => Reads::Home,
            };
            return ((b.end.min(limit) - address) / PAGE as u64, reads);
        }
        let next = self.map.range(address..limit).next().map_or(limit, |(&s, _)| s);
        ((next - address) / PAGE as u64, Reads::Zeros)
    }

    /// Reads the file's bytes for the pages from `address` on, zeros past its end or where there is no file.
    ///
    /// # Errors
    /// Those of pread(2): a mapped file that cannot be read.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill(0);
        let found = self.map.range(..=address).next_back().filter(|(_, b)| b.end > address);
        let Some((&start, Backing { source: Source::File { file, offset }, .. })) = found else {
            return Ok(());
        };
        let mut done = 0;
        while done < bytes.len() {
            match file.read_at(&mut bytes[done..], offset + (address - start) + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const P: u64 = PAGE as u64;

    #[test]
    fn ranges_split_and_read_the_right_bytes() {
        let path = std::env::temp_dir().join(format!("megalith-backing-{}", std::process::id()));
        let mut file = File::create(&path).unwrap();
        for i in 0..8u8 {
            file.write_all(&[i + 1; PAGE]).unwrap();
        }
        file.write_all(&[9; 100]).unwrap();
        let file = Arc::new(File::open(&path).unwrap());
        std::fs::remove_file(&path).unwrap();

        let mut b = Backings::default();
        b.insert(10 * P, 9 * P, Source::File { file, offset: 0 });
        b.remove(12 * P, 2 * P);
        assert_eq!(b.run(9 * P, 20), (1, Reads::Zeros));
        assert_eq!(b.run(10 * P, 20), (2, Reads::File));
        assert_eq!(b.run(12 * P, 20), (2, Reads::Zeros));
        assert_eq!(b.run(14 * P, 20), (5, Reads::File));
        assert_eq!(b.run(14 * P, 3), (3, Reads::File));
        let mut page = [0xEE; PAGE];
        b.read(15 * P, &mut page).unwrap();
        assert_eq!(page, [6; PAGE]);
        b.read(18 * P, &mut page).unwrap();
        assert_eq!((page[99], page[100]), (9, 0), "zeros past the file's end");
        b.insert(13 * P, 4 * P, Source::Home);
        assert_eq!(b.run(13 * P, 9), (4, Reads::Home));
        b.read(15 * P, &mut page).unwrap();
        assert_eq!(page, [0; PAGE], "not ours to know");
        b.read(17 * P, &mut page).unwrap();
        assert_eq!(page, [8; PAGE], "what is left of the file begins where it should");
        b.remove(0, 100 * P);
        assert_eq!(b.run(0, 50), (50, Reads::Zeros));
    }
}
