//! C programs that print what the kernel answers: the same natively, in bare mode, in spread mode, and on an agent.

mod common;

use common::agent::{Agent, permitted};
use common::{bare, compiled, same_as_native, spread};

const GIB: u64 = 1 << 30;

fn everywhere(name: &str, arguments: &[&str]) {
    for flags in [&["-pie", "-fPIE"][..], &["-no-pie"], &["-static"], &["-static-pie", "-fPIE"]] {
        let program = compiled(name, flags);
        same_as_native(&program, arguments, bare);
        same_as_native(&program, arguments, spread);
        if permitted() {
            let agent = Agent::start(64 * GIB);
            same_as_native(&program, arguments, |program, arguments| agent.command(program, arguments));
        }
        std::fs::remove_file(program).expect("compiled above");
    }
}

#[test]
fn layout_calls_answer_as_linux_does() {
    everywhere("memory", &[]);
}

#[test]
fn signals_are_delivered_as_linux_does() {
    everywhere("signals", &[]);
}

#[test]
fn threads_and_children_live_and_die_as_in_linux() {
    everywhere("threads", &[]);
}

#[test]
fn signals_end_waits_as_in_linux() {
    everywhere("waits", &[]);
}
