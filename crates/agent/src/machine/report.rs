//! A machine's figures.

use coherence::HostId;
use fabric::Fabric;
use pager::PAGE;

use super::Machine;
use crate::figures::Figures;
use crate::wire;

impl Machine {
    /// This host's figures.
    pub fn figures(&self) -> Figures {
        let state = self.lock();
        let holdings = state.pager.holdings();
        let traffic = self.fabric().map(|f| f.traffic()).unwrap_or_default();
        Figures {
            name: self.invitation.members[usize::from(self.invitation.me.0)].name.clone(),
            budget: self.budget.limit(),
            held: self.budget.held(),
            peak: self.budget.peak(),
            mapped: holdings.mapped_pages * PAGE as u64,
            stowed: holdings.stowed_bytes,
            stowed_pages: holdings.stowed_pages,
            faults: state.counters.faults,
            bytes_in: traffic.received,
            bytes_out: traffic.sent,
            evicted_pages: state.counters.evicted_pages,
            handed_over_pages: state.counters.handed_over_pages,
            received_pages: state.counters.received_pages,
            fault_us: state.counters.latency.percentiles(),
        }
    }

    /// All hosts' figures, as known now.
    pub fn all_figures(&self) -> Vec<serde_json::Value> {
        let own = serde_json::to_value(self.figures()).expect("figures are plain");
        let state = self.lock();
        (0u16..)
            .zip(&self.invitation.members)
            .map(|(i, member)| {
                if i == self.invitation.me.0 {
                    return own.clone();
                }
                state.others[usize::from(i)].clone().unwrap_or_else(|| {
                    let unknown = Figures { name: member.name.clone(), ..Default::default() };
                    serde_json::to_value(unknown).expect("figures are plain")
                })
            })
            .collect()
    }

    /// Sends this host's figures to home.
    pub fn send_figures(&self) {
        if let Some(fabric) = self.fabric() {
            let json = serde_json::to_vec(&self.figures()).expect("figures are plain");
            fabric.send(HostId(0), &[&wire::FIGURES_HEAD, &json]);
            fabric.flush();
        }
    }
}
