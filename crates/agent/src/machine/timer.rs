//! The thread that delivers what was held back ([`crate::dwell`]).

use std::time::Duration;

use parking_lot::MutexGuard;

use super::Machine;
use crate::state::State;

/// The timer looks again after this time when nothing is held back.
const TIMER_POLL: Duration = Duration::from_secs(1);

impl Machine {
    /// The timer: delivers what was held back, until the machine ends.
    pub(super) fn deliver_what_is_due(&self) {
        // SAFETY: a plain system call about the calling thread: its waits end to the microsecond.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
        while !self.has_ended() {
            let mut state = self.lock();
            match state.next_due() {
                Some(due) if due <= self.clock.now() => self.deliver_due(state),
                Some(due) => drop(self.due.wait_until(&mut state, due)),
                None => drop(self.due.wait_for(&mut state, TIMER_POLL)),
            }
        }
    }

    /// Delivers what is due.
    pub(crate) fn deliver_due(&self, mut state: MutexGuard<'_, State>) {
        let Some(fabric) = self.fabric() else { return };
        let delivered = state.deliver_due(self.clock.now(), &**fabric);
        self.end_sweeps(&mut state, &**fabric);
        self.leave(state, &**fabric);
        if let Err(violation) = delivered {
            self.violated(&violation);
        }
    }
}
