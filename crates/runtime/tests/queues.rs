//! The model of lent queues (`src/queues.rs`): threads on several hosts take and release one lock, as glibc's mutexes do, in every
//! order of their steps and of the messages between hosts. Nobody is ever left waiting.
//!
//! The queue and the slots are the real ones. Steps are what a thread does under a lock or with one atomic instruction, and
//! what a kernel does in one futex call. Home may lend whenever it could, not only when a count says so.

use std::time::Duration;

use megalith_runtime::queues::{Entry, Loan, Queue, Slot};
use stateright::{Checker, Model, Property};

const HOME: usize = 0;
const HOSTS: usize = 3;

/// What each thread does in futex(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    Wait,
    Wake,
}

/// Where a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// About to take the lock: 0 becomes 1.
    Take,
    /// The lock was taken: it becomes 2; who finds a 0 has it, others wait for it not to be 2.
    Insist,
    /// Has the lock.
    Inside,
    /// A body: says for what it waits.
    Say(Call),
    /// A body: looks whether its host has the queue.
    Look(Call),
    /// Home is to make the call for it: takes the queue's lock.
    Enter(Call),
    /// Holds the queue's lock; the host has been told that the queue is home's again.
    TakeBack(Call, Loan),
    /// Likewise; the host knows, and wakes.
    Emptied(Call, Loan),
    /// Makes the call, on the kernel of this host.
    Make(Call, usize),
    /// Waits there.
    Waits(usize),
    /// Does so no longer.
    Woken(usize),
    /// Has woken others, at home: lends the queue or not.
    Lend,
    /// Holds the queue's lock, and empties the queue to lend it.
    Lending,
    /// The result is on its way to the body, with a loan.
    Result(u32),
    /// The word that its host has the queue is on its way.
    Lent(Call, u32),
    /// Has done all its rounds.
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Thread {
    host: usize,
    rounds: u32,
    at: At,
    /// It says that it waits, at home or on its host.
    says: [bool; 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    word: u8,
    queue: Queue,
    /// Who holds the queue's lock.
    holder: Option<usize>,
    slots: [u32; HOSTS],
    threads: Vec<Thread>,
}

/// What is left out on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// Home lends a queue in which threads wait.
    LendsFull,
    /// A host gives back a queue in which threads wait.
    GivesBackFull,
    /// Who waits says so only after it has looked whose the queue is.
    SaysTooLate,
    /// Loans are not told apart: a late word of one that has ended counts.
    ForgetsTurns,
}

struct Lock {
    hosts: &'static [usize],
    rounds: u32,
    planted: Planted,
}

impl Lock {
    fn next(&self, thread: &mut Thread, call: Call) {
        thread.at = match call {
            Call::Wait => At::Insist,
            Call::Wake if thread.rounds == 0 => At::Done,
            Call::Wake => At::Take,
        };
    }

    /// How a thread begins a call.
    fn begin(thread: &mut Thread, call: Call) {
        thread.at = if thread.host == HOME { At::Enter(call) } else { At::Say(call) };
    }

    /// The result of a call that was made at home.
    fn answer(&self, thread: &mut Thread, call: Call, turn: u32) {
        match thread.host {
            HOME => self.next(thread, call),
            _ if turn == 0 => self.next(thread, call),
            _ => thread.at = At::Result(turn),
        }
    }

    fn wake(state: &mut State, host: usize, most: usize) {
        let waiting = state.threads.iter_mut().filter(|thread| thread.at == At::Waits(host));
        waiting.take(most).for_each(|thread| thread.at = At::Woken(host));
    }

    fn says_any(state: &State, host: usize) -> bool {
        let index = usize::from(host != HOME);
        state.threads.iter().any(|thread| thread.says[index] && (host == HOME || thread.host == host))
    }

    fn borrow(&self, state: &mut State, host: usize, turn: u32) {
        let slot = Slot::with(state.slots[host]);
        slot.borrow(turn);
        state.slots[host] = if self.planted == Planted::ForgetsTurns { turn << 1 | 1 } else { slot.word() };
    }

    /// One step of a thread; false if it has none now.
    fn step(&self, state: &mut State, number: usize) -> bool {
        let mut thread = state.threads[number].clone();
        let host = thread.host;
        let away = usize::from(host != HOME);
        match thread.at {
            At::Take if state.word == 0 => (state.word, thread.at) = (1, At::Inside),
            At::Take => thread.at = At::Insist,
            At::Insist => match std::mem::replace(&mut state.word, 2) {
                0 => thread.at = At::Inside,
                _ => Self::begin(&mut thread, Call::Wait),
            },
            At::Inside => {
                thread.rounds -= 1;
                match std::mem::replace(&mut state.word, 0) {
                    2 => Self::begin(&mut thread, Call::Wake),
                    _ => self.next(&mut thread, Call::Wake),
                }
            }
            At::Say(call) => {
                thread.says[1] = call == Call::Wait && self.planted != Planted::SaysTooLate;
                thread.at = At::Look(call);
            }
            At::Look(call) => {
                let here = Slot::with(state.slots[host]).is_here();
                thread.says[1] &= here;
                thread.at = if here { At::Make(call, host) } else { At::Enter(call) };
            }
            At::Enter(_) if state.holder.is_some() => return false,
            At::Enter(call) => {
                state.holder = Some(number);
                match state.queue.enter(host as u32, true) {
                    Entry::Here => self.entered(state, &mut thread, call),
                    Entry::Yours(turn) => (state.holder, thread.at) = (None, At::Lent(call, turn)),
                    Entry::TakeBack(loan) => thread.at = At::TakeBack(call, loan),
                }
            }
            At::TakeBack(call, loan) => {
                let slot = &mut state.slots[loan.host as usize];
                let known = Slot::with(*slot);
                known.give_back(loan.turn);
                *slot = known.word();
                thread.at = At::Emptied(call, loan);
            }
            At::Emptied(call, loan) => {
                let lender = loan.host as usize;
                if Self::says_any(state, lender) && self.planted != Planted::GivesBackFull {
                    let asleep = state.threads.iter().any(|thread| thread.at == At::Waits(lender));
                    Self::wake(state, lender, usize::MAX);
                    return asleep;
                }
                state.queue.taken_back(0);
                self.entered(state, &mut thread, call);
            }
            At::Make(Call::Wait, kernel) => {
                if self.planted == Planted::SaysTooLate {
                    thread.says[usize::from(kernel != HOME)] = true;
                }
                thread.at = if state.word == 2 { At::Waits(kernel) } else { At::Woken(kernel) };
            }
            At::Make(Call::Wake, kernel) => {
                Self::wake(state, kernel, 1);
                match kernel {
                    HOME => thread.at = At::Lend,
                    _ => self.next(&mut thread, Call::Wake),
                }
            }
            At::Waits(_) | At::Done => return false,
            At::Woken(kernel) => {
                thread.says = [false; 2];
                match kernel {
                    HOME => self.answer(&mut thread, Call::Wait, 0),
                    _ => self.next(&mut thread, Call::Wait),
                }
            }
            At::Lend => self.answer(&mut thread, Call::Wake, 0),
            At::Lending => {
                if Self::says_any(state, HOME) && self.planted != Planted::LendsFull {
                    let asleep = state.threads.iter().any(|thread| thread.at == At::Waits(HOME));
                    Self::wake(state, HOME, usize::MAX);
                    return asleep;
                }
                let turn = state.queue.lend(host as u32, 0);
                state.holder = None;
                self.answer(&mut thread, Call::Wake, turn);
            }
            At::Result(turn) => {
                self.borrow(state, host, turn);
                self.next(&mut thread, Call::Wake);
            }
            At::Lent(call, turn) => {
                self.borrow(state, host, turn);
                thread.at = At::Say(call);
            }
        }
        debug_assert!(away == 1 || !thread.says[1]);
        state.threads[number] = thread;
        true
    }

    /// The queue is at home, and the thread holds its lock.
    fn entered(&self, state: &mut State, thread: &mut Thread, call: Call) {
        thread.says[0] = call == Call::Wait;
        thread.at = At::Make(call, HOME);
        state.holder = None;
    }

    /// The other thing that a thread may do: home begins to lend.
    fn lend(&self, state: &mut State, number: usize) -> bool {
        let thread = &state.threads[number];
        // Never lent: home would be in the way of nobody.
        let may = thread.at == At::Lend && thread.host != HOME && state.holder.is_none();
        let host = thread.host as u32;
        // What the real home asks is never wider than this: the queue is at home.
        if !may || !matches!(state.queue.clone().enter(host, true), Entry::Here) {
            return false;
        }
        state.holder = Some(number);
        state.threads[number].at = At::Lending;
        true
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Step(usize),
    Lend(usize),
}

impl Model for Lock {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let thread =
            |host: &usize| Thread { host: *host, rounds: self.rounds, at: At::Take, says: [false; 2] };
        let threads = self.hosts.iter().map(thread).collect();
        vec![State { word: 0, queue: Queue::NEW, holder: None, slots: [0; HOSTS], threads }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for number in 0..state.threads.len() {
            actions.extend([Action::Step(number), Action::Lend(number)]);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let done = match action {
            Action::Step(number) => self.step(&mut next, number),
            Action::Lend(number) => self.lend(&mut next, number),
        };
        done.then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one at a time has the lock", |_, state: &State| {
                state.threads.iter().filter(|thread| thread.at == At::Inside).count() <= 1
            }),
            Property::always("nobody is left waiting", |model: &Lock, state: &State| {
                let done = state.threads.iter().all(|thread| thread.at == At::Done);
                done || (0..state.threads.len()).any(|number| model.step(&mut state.clone(), number))
            }),
            Property::sometimes("a wait and a wake-up stay on one host", |_, state: &State| {
                state.threads.iter().any(|thread| matches!(thread.at, At::Woken(host) if host != HOME))
                    && state.queue.clone().enter(9, true) != Entry::Here
            }),
            Property::sometimes("all are done", |_, state: &State| {
                state.threads.iter().all(|thread| thread.at == At::Done)
            }),
        ]
    }
}

fn check(hosts: &'static [usize], rounds: u32, planted: Planted) -> impl Checker<Lock> {
    let checker = Lock { hosts, rounds, planted }.checker().threads(2).timeout(Duration::from_secs(120));
    checker.spawn_bfs().join()
}

fn holds(hosts: &'static [usize], rounds: u32) {
    let checker = check(hosts, rounds, Planted::Nothing);
    checker.assert_properties();
    assert!(checker.is_done());
    println!("{hosts:?}, {rounds} rounds: {} states", checker.unique_state_count());
}

#[test]
fn two_bodies_of_one_host() {
    holds(&[1, 1], 3);
}

#[test]
fn two_bodies_of_one_host_and_a_thread_at_home() {
    holds(&[0, 1, 1], 2);
}

#[test]
fn two_bodies_of_one_host_and_one_of_another() {
    holds(&[1, 1, 2], 2);
}

#[test]
fn what_is_left_out_is_missed() {
    for planted in [Planted::LendsFull, Planted::GivesBackFull, Planted::SaysTooLate, Planted::ForgetsTurns] {
        let found = [&[1, 1][..], &[0, 1, 1], &[1, 1, 2]].iter().find_map(|hosts| {
            check(hosts, 2, planted).discovery("nobody is left waiting").map(|path| path.into_states().len())
        });
        let steps = found.unwrap_or_else(|| panic!("{planted:?} harms nobody"));
        println!("{planted:?}: a thread waits for ever after {steps} steps");
    }
}
