//! What other hosts say to a machine: the fabric's way in.

use std::sync::Weak;
use std::time::Duration;

use coherence::{HostId, Violation};
use fabric::{Fabric, Inbox, Lost};
use pager::SpaceId;

use super::{End, Machine};
use crate::state::State;
use crate::told::Told;
use crate::wire::{self, Parties, Said};

/// Messages of one host that wait to be handled. Before the machine stands there are few, and later what one read of its
/// socket brings.
const BURST_BYTES_MAX: usize = 64 << 20;
/// An empty burst keeps so much of its memory.
const SPARE_BYTES_MAX: usize = 4 << 20;

impl Machine {
    pub(super) fn handle_burst(&self, from: HostId) {
        let Some(fabric) = self.fabric() else { return };
        let mut burst = self.bursts[usize::from(from.0)].lock();
        if burst.is_empty() {
            return;
        }
        let mut after = Vec::new();
        let parties = Parties { me: self.invitation.me, from, hosts: self.bursts.len() as u16 };
        let mut state = self.lock();
        let mut rest = burst.as_slice();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let (message, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
            rest = tail;
            let heard = match wire::read(message, parties) {
                // Last figures are wanted even so.
                Ok(said) if self.has_ended() && !matches!(said, Said::Figures(_)) => None,
                Ok(said) => self.hear(from, said, &mut state, &**fabric),
                Err(_) => Some(After::Malformed),
            };
            let unbelievable = matches!(heard, Some(After::Malformed | After::Violation(_)));
            after.extend(heard);
            if unbelievable {
                // The machine ends with that; what else came from there is not heard.
                break;
            }
        }
        state.flush_arrived();
        self.end_sweeps(&mut state, &**fabric);
        let press = self.under_pressure();
        let unreadable = state.unreadable.take();
        drop(state);
        self.unreadable(unreadable);
        burst.clear();
        burst.shrink_to(SPARE_BYTES_MAX);
        drop(burst);
        if press {
            self.pressure.notify_one();
        }
        for after in after {
            match after {
                After::Figures => self.send_figures(),
                After::SpaceEnd(space) => self.free_space(space),
                After::Room => {
                    self.pressure.notify_one();
                }
                After::Relief => self.relieved(true),
                After::Malformed => {
                    self.end(End::Lost { host: from, reason: "it sent bytes that are no message".into() });
                }
                After::TooMuch(what) => {
                    let reason = format!("it asked for more {what} than a host can need");
                    self.end(End::Lost { host: from, reason });
                }
                After::Violation(violation) => self.violated(&violation),
                After::Lost(host, reason) => {
                    let by = &self.invitation.members[usize::from(from.0)].name;
                    self.end(End::Lost { host, reason: format!("{reason} (as host {by} saw it)") });
                }
            }
        }
        fabric.flush();
    }

    /// Handles one message with the state locked; what must wait for the lock to be free is returned.
    fn hear(&self, from: HostId, said: Said<'_>, state: &mut State, fabric: &dyn Fabric) -> Option<After> {
        match said {
            Said::Coherence(message, page) => {
                return state.message(from, message, page, fabric).err().map(After::Violation);
            }
            Said::RoomAsk(pages) => {
                return state.give_room(from, pages, fabric).err().map(After::Violation);
            }
            Said::Room(pages) => {
                state.rooms.promised(from, pages, self.clock.now());
                return Some(After::Room);
            }
            Said::RoomRecall => state.give_room_back(from, fabric),
            Said::RoomBack(pages) => {
                state.room_back(pages);
                return Some(if pages > 0 { After::Relief } else { After::Room });
            }
            Said::SpaceEnd(space) => {
                state.shut_space(space);
                return Some(After::SpaceEnd(space));
            }
            Said::FileAsk(question, first, pages) => {
                state.give_file(from, (question, first, pages), fabric);
            }
            Said::FileBytes(question, page, packed) => {
                return state.file_bytes((question, page), packed, fabric).err().map(After::Violation);
            }
            Said::Sweep(..) if state.has_too_many_sweeps(from) => return Some(After::TooMuch("sweeps")),
            Said::Sweep(token, pages) => {
                return state.sweep(from, token, &pages, fabric).err().map(After::Violation);
            }
            Said::Swept(token) => state.swept(token),
            Said::Figures(json) => {
                if let Some(told) = Told::read(json, self.bursts.len()) {
                    let host = usize::from(from.0);
                    state.body_times[host] = told.times;
                    state.body_fetches[host] = told.fetches;
                    state.others[host].replace(told.figures);
                    state.figures_heard[host] += 1;
                }
            }
            Said::FiguresAsk => return Some(After::Figures),
            Said::PeerLost(host, text) => {
                // Both sides of a cut link say that the other is lost: home believes its own link first.
                return Some(After::Lost(host, text.replace(char::is_control, " ")));
            }
        }
        None
    }
}

/// What a message asks for that is done without the lock.
enum After {
    Figures,
    SpaceEnd(SpaceId),
    Room,
    Relief,
    Malformed,
    /// More of these than a host can need.
    TooMuch(&'static str),
    Violation(Violation),
    Lost(HostId, String),
}

/// The fabric's way to a machine. Weak, because the machine owns the fabric.
pub struct Mailbox(pub Weak<Machine>);

impl Inbox for Mailbox {
    fn message(&self, from: HostId, bytes: &[u8]) {
        let Some(machine) = self.0.upgrade() else { return };
        let mut burst = machine.bursts[usize::from(from.0)].lock();
        if burst.len() + bytes.len() > BURST_BYTES_MAX {
            drop(burst);
            let reason = "it sent more than can be kept before the machine stands".into();
            return machine.end(End::Lost { host: from, reason });
        }
        burst.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        burst.extend_from_slice(bytes);
    }

    fn gets_on(&self, time: Duration) -> bool {
        self.0.upgrade().is_none_or(|machine| machine.gets_on(time))
    }

    fn drained(&self, from: HostId) {
        if let Some(machine) = self.0.upgrade() {
            machine.handle_burst(from);
        }
    }

    fn lost(&self, host: HostId, reason: Lost) {
        if let Some(machine) = self.0.upgrade() {
            machine.end(End::Lost { host, reason: reason.to_string() });
        }
    }

    fn goodbye(&self, host: HostId) {
        if let Some(machine) = self.0.upgrade() {
            // Home closes a machine. Another host that leaves one that goes on is as good as lost.
            machine.end(match host {
                HostId(0) => End::Closed,
                host => End::Lost { host, reason: "its agent ended".into() },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use coherence::Epoch;
    use fabric::{Invitation, MachineId, Member, Settings};
    use pager::Budget;

    use super::*;
    use crate::bodies::Nursery;

    fn machine() -> (Arc<Machine>, mpsc::Receiver<End>) {
        let member = |name: &str| Member { name: name.into(), address: format!("{name}:1") };
        let second = Duration::from_secs(1);
        let invitation = Invitation {
            machine: MachineId(1),
            epoch: Epoch(1),
            me: HostId(0),
            members: vec![member("a"), member("b")],
            settings: Settings { heartbeat: second, lost_after: 2 * second, join_timeout: second },
        };
        let (sender, ends) = mpsc::channel();
        let nursery = Arc::new(Nursery::new(b"", "/nowhere".into(), Vec::new()));
        let machine = Machine::new(invitation, Arc::new(Budget::new(32 << 20)), nursery, sender)
            .expect("there is memory");
        (machine, ends)
    }

    #[test]
    fn who_sends_without_end_before_the_machine_stands_is_lost() {
        let (machine, ends) = machine();
        let mailbox = Mailbox(Arc::downgrade(&machine));
        let message = vec![0; 1 << 20];
        for _ in 0..BURST_BYTES_MAX / (message.len() + 4) {
            mailbox.message(HostId(1), &message);
            mailbox.drained(HostId(1));
        }
        assert!(!machine.has_ended());
        mailbox.message(HostId(1), &message);
        let end = ends.try_recv();
        assert!(matches!(&end, Ok(End::Lost { host: HostId(1), .. })), "{end:?}");
        assert!(machine.bursts[1].lock().len() <= BURST_BYTES_MAX);
    }

    #[test]
    fn a_thread_that_is_stuck_is_noticed() {
        let (machine, _ends) = machine();
        let mailbox = Mailbox(Arc::downgrade(&machine));
        let time = Duration::from_millis(100);
        assert!(mailbox.gets_on(time));
        let stuck = machine.lock();
        std::thread::scope(|scope| {
            assert!(!scope.spawn(|| mailbox.gets_on(time)).join().expect("it looked"))
        });
        drop(stuck);
        assert!(mailbox.gets_on(time));
        let stuck = machine.bursts[1].lock();
        std::thread::scope(|scope| {
            assert!(!scope.spawn(|| mailbox.gets_on(time)).join().expect("it looked"))
        });
        drop(stuck);
        machine.end(End::Closed);
    }
}
