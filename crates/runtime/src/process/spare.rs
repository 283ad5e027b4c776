//! Channels whose thread has ended, for the next one that goes to that host: its body there is ready, and nobody is asked.

use crate::lock::Lock;
use crate::own;
use crate::spread::HOSTS_MAX;
use crate::sys::Fd;

/// So many are kept for a host: a body that waits costs it a stack.
const SPARE_MAX: usize = 8;

struct Spares {
    channels: [Fd; SPARE_MAX],
    count: usize,
}

static SPARES: Lock<[Spares; HOSTS_MAX]> =
    Lock::new([const { Spares { channels: [-1; SPARE_MAX], count: 0 } }; HOSTS_MAX]);

/// A channel to `host` whose body waits for a thread.
pub fn take(host: u32) -> Option<Fd> {
    let mut all = SPARES.take();
    let spares = all.get_mut(host as usize)?;
    spares.count = spares.count.checked_sub(1)?;
    Some(spares.channels[spares.count])
}

/// Keeps a channel to `host` whose body waits for a thread; closes it where there are enough.
pub fn give(host: usize, channel: Fd) {
    let mut all = SPARES.take();
    let spares = &mut all[host];
    if spares.count == SPARE_MAX {
        drop(all);
        return own::close_channel(channel);
    }
    spares.channels[spares.count] = channel;
    spares.count += 1;
}
