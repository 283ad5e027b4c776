//! What other hosts say to a machine: the fabric's way in.

use std::sync::Weak;
use std::time::Instant;

use coherence::{HostId, Violation};
use fabric::{Fabric, Inbox, Lost};
use pager::SpaceId;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{End, Machine};
use crate::fetches::Fetched;
use crate::state::State;
use crate::wire::{self, Said};

impl Machine {
    pub(super) fn handle_burst(&self, from: HostId) {
        let Some(fabric) = self.fabric() else { return };
        let mut burst = self.bursts[usize::from(from.0)].lock();
        if burst.is_empty() {
            return;
        }
        let mut after = Vec::new();
        let mut state = self.lock();
        let mut rest = burst.as_slice();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let (message, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
            rest = tail;
            let heard = match wire::read(message) {
                // Last figures are wanted even so.
                Ok(said) if self.has_ended() && !matches!(said, Said::Figures(_)) => None,
                Ok(said) => self.hear(from, said, &mut state, &**fabric),
                Err(_) => Some(After::Malformed),
            };
            after.extend(heard);
        }
        state.flush_arrived();
        self.end_sweeps(&mut state, &**fabric);
        let press = self.under_pressure();
        let unreadable = state.unreadable.take();
        drop(state);
        self.unreadable(unreadable);
        burst.clear();
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
                After::Malformed => {
                    self.end(End::Lost { host: from, reason: "it sent bytes that are no message".into() });
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
                state.rooms.promised(from, pages, Instant::now());
                return Some(After::Room);
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
            Said::Sweep(token, pages) => {
                return state.sweep(from, token, &pages, fabric).err().map(After::Violation);
            }
            Said::Swept(token) => state.swept(token),
            Said::Figures(json) => {
                if let Ok(mut figures) = serde_json::from_slice::<Value>(json) {
                    let host = usize::from(from.0);
                    let mut take = |name| figures.as_object_mut().and_then(|f| f.remove(name));
                    let times: Vec<(u64, u64)> = take("bodies").and_then(parsed).unwrap_or_default();
                    let fetches: Vec<Fetched> = take("fetches").and_then(parsed).unwrap_or_default();
                    state.body_times[host] = times.into_iter().collect();
                    state.body_fetches[host] = fetches.into_iter().map(|f| (f.tid, f)).collect();
                    state.others[host].replace(figures);
                    state.figures_heard[host] += 1;
                }
            }
            Said::FiguresAsk => return Some(After::Figures),
            Said::PeerLost(host, text) => {
                // Both sides of a cut link say that the other is lost: home believes its own link first.
                let known = usize::from(host.0) < self.invitation.members.len();
                return Some(if known { After::Lost(host, text.to_owned()) } else { After::Malformed });
            }
        }
        None
    }
}

fn parsed<T: DeserializeOwned>(value: Value) -> Option<T> {
    serde_json::from_value(value).ok()
}

/// What a message asks for that is done without the lock.
enum After {
    Figures,
    SpaceEnd(SpaceId),
    Room,
    Malformed,
    Violation(Violation),
    Lost(HostId, String),
}

/// The fabric's way to a machine. Weak, because the machine owns the fabric.
pub struct Mailbox(pub Weak<Machine>);

impl Inbox for Mailbox {
    fn message(&self, from: HostId, bytes: &[u8]) {
        let Some(machine) = self.0.upgrade() else { return };
        let mut burst = machine.bursts[usize::from(from.0)].lock();
        burst.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        burst.extend_from_slice(bytes);
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
