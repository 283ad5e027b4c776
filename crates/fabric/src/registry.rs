//! The machines that one agent knows: at most one mesh for each.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};

use crate::deadline::Deadline;
use crate::invitation::MachineId;
use crate::mesh::Core;
use crate::sync::{lock, wait};

enum Slot {
    /// A thread is asking the agent whether it joins.
    Joining,
    Here(Arc<Core>),
}

#[derive(Default)]
pub(crate) struct Registry {
    machines: Mutex<HashMap<MachineId, Slot>>,
    changed: Condvar,
}

/// What the registry has for a machine.
pub(crate) enum Entry {
    /// Nothing; the caller must now `settle` it.
    New,
    Here(Arc<Core>),
    /// Somebody else was making it until the deadline.
    Busy,
}

impl Registry {
    pub(crate) fn enter(&self, machine: MachineId, deadline: Deadline) -> Entry {
        let mut machines = lock(&self.machines);
        loop {
            match machines.get(&machine) {
                Some(Slot::Here(core)) => return Entry::Here(core.clone()),
                Some(Slot::Joining) => match deadline.left() {
                    Some(left) => machines = wait(&self.changed, machines, left),
                    None => return Entry::Busy,
                },
                None => {
                    machines.insert(machine, Slot::Joining);
                    return Entry::New;
                }
            }
        }
    }

    /// A machine that is here.
    pub(crate) fn find(&self, machine: MachineId) -> Option<Arc<Core>> {
        match lock(&self.machines).get(&machine) {
            Some(Slot::Here(core)) => Some(core.clone()),
            Some(Slot::Joining) | None => None,
        }
    }

    /// Ends what `enter` began: the machine is here, or is not.
    pub(crate) fn settle(&self, machine: MachineId, core: Option<Arc<Core>>) {
        let mut machines = lock(&self.machines);
        match core {
            Some(core) => machines.insert(machine, Slot::Here(core)),
            None => machines.remove(&machine),
        };
        self.changed.notify_all();
    }

    /// Forgets `core`, if it is the one known by that name.
    pub(crate) fn leave(&self, machine: MachineId, core: &Core) {
        let mut machines = lock(&self.machines);
        if matches!(machines.get(&machine), Some(Slot::Here(here)) if std::ptr::eq(&**here, core)) {
            machines.remove(&machine);
        }
    }
}
