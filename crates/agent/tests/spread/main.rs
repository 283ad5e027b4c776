//! One space on several hosts: real agents in this process, and real processes that use it: a *home* process, which
//! opens the space, and the body processes that the agents start. Both are this program again; what they say to each other on the
//! channels that the agents make for them is a line of text.
//!
//! Run with names (or parts of names) to run those tests alone; `long` runs the ones that take minutes, too.

#[path = "../common/mod.rs"]
mod common;

mod body;
mod home;
mod work;

use std::cell::Cell;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use common::{Control, MIB, TestAgent, can_fault};
use serde_json::{Value, json};

/// What a home process is told: the scenario, the agent's socket, the machine.
pub const ROLE: &str = "MEGALITH_TEST_HOME";

const TESTS: &[(&str, fn())] = &[
    ("a_body_process_is_what_it_should_be", a_body_process_is_what_it_should_be),
    ("channels_that_cannot_be", channels_that_cannot_be),
    ("a_program_that_is_none_is_refused", a_program_that_is_none_is_refused),
    ("increments_of_two_hosts_are_all_there", increments_of_two_hosts_are_all_there),
    ("increments_survive_eviction_and_hand_over", increments_survive_eviction_and_hand_over),
    ("copies_make_room_before_a_machine_is_full", copies_make_room_before_a_machine_is_full),
    ("writes_are_seen_in_order", writes_are_seen_in_order),
    ("what_hosts_read_and_write_in_turn_moves_whole", what_hosts_read_and_write_in_turn_moves_whole),
    ("files_are_read_at_home", files_are_read_at_home),
    (
        "a_file_that_cannot_be_read_at_home_ends_the_machine",
        a_file_that_cannot_be_read_at_home_ends_the_machine,
    ),
    ("what_is_freed_is_freed_everywhere", what_is_freed_is_freed_everywhere),
    ("orders_and_places_of_threads", orders_and_places_of_threads),
    ("a_body_process_that_dies_ends_the_machine", a_body_process_that_dies_ends_the_machine),
    ("body_processes_end_with_their_program", body_processes_end_with_their_program),
];

const LONG_TESTS: &[(&str, fn())] =
    &[("long_increments", long_increments), ("long_order", long_order), ("long_contention", long_contention)];

fn main() {
    if std::env::var_os(client::env::BODY).is_some() {
        return body::main();
    }
    if let Ok(scenario) = std::env::var(ROLE) {
        return home::main(&scenario);
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let long = wanted.iter().any(|w| w.starts_with("long"));
    let names =
        |&&(name, _): &&(&str, fn())| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    if !can_fault() {
        return;
    }
    for &(name, test) in TESTS
        .iter()
        .filter(names)
        .chain(LONG_TESTS.iter().filter(|t| long && (wanted.iter().any(|w| w == "long") || names(t))))
    {
        let begun = Instant::now();
        test();
        println!("test {name} ... ok ({:.1} s)", begun.elapsed().as_secs_f64());
    }
}

/// This very program.
fn image() -> &'static [u8] {
    std::fs::read("/proc/self/exe").expect("it is being executed").leak()
}

/// Agents of a machine that is open.
struct Machine {
    control: Control,
    agents: Vec<TestAgent>,
    id: u64,
}

impl Machine {
    fn open(id: u64, budgets: &[u64]) -> Machine {
        Machine::open_with(id, budgets, image())
    }

    fn open_with(id: u64, budgets: &[u64], runtime: &'static [u8]) -> Machine {
        let names = ["a", "b", "c", "d"];
        let agents: Vec<_> =
            names.iter().zip(budgets).map(|(n, &b)| TestAgent::start_with(n, b, runtime)).collect();
        let (control, opened) = Control::open(&agents.iter().collect::<Vec<_>>(), id);
        assert_eq!(opened["event"], "opened", "{opened}");
        Machine { control, agents, id }
    }

    /// Starts a home process.
    fn start(&self, scenario: &str) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .env(ROLE, scenario)
            .env(client::env::SOCKET, self.agents[0].directory.join("client.sock"))
            .env(client::env::MACHINE, format!("{:016x}", self.id))
            .spawn()
            .unwrap()
    }

    /// Runs a home process to its end, which must be a good one.
    fn run(&mut self, scenario: &str, patience: Duration) {
        let status = wait(&mut self.start(scenario), patience);
        if !status.success() {
            self.control.say(&json!({"op": "close"}));
            let last = std::iter::from_fn(|| Some(self.control.hear()).filter(|e| !e.is_null()));
            let last: Vec<Value> = last.filter(|event| event["event"] != "status").collect();
            panic!("{scenario}: {status}; the agent says {last:?}");
        }
    }

    /// Closes the machine; its last figures.
    fn close(mut self) -> Value {
        self.control.say(&json!({"op": "close"}));
        let closed = self.control.hear_until("closed");
        until_alone();
        closed
    }
}

fn wait(child: &mut Child, patience: Duration) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > patience {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("a home process does not end within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processes that this one has started and that are not reaped.
fn children() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default()
    };
    tasks.flat_map(|t| of(t).split_whitespace().map(|p| p.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// No process is left, not even a zombie: other hosts hear of the end of a space or a machine a moment later than home.
fn until_alone() {
    let begun = Instant::now();
    while !children().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "left: {:?}", children());
        std::thread::sleep(Duration::from_millis(5));
    }
}

const MINUTE: Duration = Duration::from_secs(60);

fn a_body_process_is_what_it_should_be() {
    let mut machine = Machine::open(0x101, &[16 * MIB; 3]);
    machine.run("facts", MINUTE);
    machine.close();
}

fn channels_that_cannot_be() {
    let mut machine = Machine::open(0x102, &[16 * MIB; 2]);
    machine.run("refusals", MINUTE);
    // What the agents print is for their log; the machine goes on.
    assert_eq!(machine.control.hear_until("status")["hosts"][1]["name"], "b");
    machine.close();
}

fn a_program_that_is_none_is_refused() {
    let mut machine = Machine::open_with(0x103, &[16 * MIB; 2], b"#! no program");
    machine.run("refused", MINUTE);
    machine.close();
}

/// The figures of a machine's hosts, summed.
fn sum(closed: &Value, figure: &str) -> u64 {
    closed["hosts"].as_array().unwrap().iter().map(|h| h[figure].as_u64().unwrap()).sum()
}

fn increments_of_two_hosts_are_all_there() {
    let mut machine = Machine::open(0x104, &[64 * MIB; 2]);
    machine.run("count pages=64 threads=2 times=40000 hot=2", 2 * MINUTE);
    let closed = machine.close();
    assert!(closed["hosts"][1]["faults"]["remote"].as_u64().unwrap() > 30, "{closed}");
}

fn increments_survive_eviction_and_hand_over() {
    let mut machine = Machine::open(0x105, &[16 * MIB; 3]);
    machine.run("count pages=8000 threads=2 times=6000 hot=4 fill=1", 2 * MINUTE);
    let closed = machine.close();
    assert!(sum(&closed, "evicted_pages") > 1000 && sum(&closed, "handed_over_pages") > 300, "{closed}");
    for host in 0..3 {
        assert!(closed["hosts"][host]["peak"].as_u64().unwrap() <= 16 * MIB, "{closed}");
    }
}

fn copies_make_room_before_a_machine_is_full() {
    let mut machine = Machine::open(0x10e, &[16 * MIB; 3]);
    machine.run("copies shared=3200 own=5000", 2 * MINUTE);
    let closed = machine.close();
    assert!(sum(&closed, "handed_over_pages") > 1000, "{closed}");
}

fn writes_are_seen_in_order() {
    let mut machine = Machine::open(0x106, &[32 * MIB; 3]);
    machine.run("order times=1500", MINUTE);
    machine.close();
}

fn what_hosts_read_and_write_in_turn_moves_whole() {
    let mut machine = Machine::open(0x10d, &[16 * MIB; 3]);
    machine.run("round page=3 times=60", MINUTE);
    let closed = machine.close();
    let journeys = |kind: &str| {
        let of = |host: &Value| host["faults"][kind].as_u64().unwrap();
        closed["hosts"].as_array().unwrap().iter().map(of).sum::<u64>()
    };
    assert!(journeys("remote") >= 59, "each turn brings the page: {closed}");
    let from = |host: usize, other: usize| closed["hosts"][host]["pages_from"][other].as_u64().unwrap_or(0);
    assert!(
        (19..=22).contains(&from(1, 0)) && from(1, 2) == 0 && from(1, 1) == 0,
        "the turn goes round: {closed}"
    );
    assert!(journeys("write") <= 3, "after the first of them nobody asks for the right to write: {closed}");
}

fn files_are_read_at_home() {
    let mut machine = Machine::open(0x107, &[32 * MIB; 3]);
    machine.run("files", MINUTE);
    machine.close();
}

fn a_file_that_cannot_be_read_at_home_ends_the_machine() {
    let mut machine = Machine::open(0x10c, &[16 * MIB; 2]);
    let mut home = machine.start("unreadable");
    let lost = machine.control.hear_until("lost");
    assert_eq!(lost["host"], "a", "{lost}");
    assert!(lost["detail"].as_str().unwrap().contains("cannot be read"), "{lost}");
    assert!(!wait(&mut home, MINUTE).success(), "it is killed");
    drop(machine);
    until_alone();
}

fn what_is_freed_is_freed_everywhere() {
    let mut machine = Machine::open(0x10a, &[16 * MIB; 3]);
    machine.run("free times=200", MINUTE);
    machine.close();
}

fn orders_and_places_of_threads() {
    let mut machine = Machine::open(0x10b, &[16 * MIB; 3]);
    let mut home = machine.start("steward");
    let pid = home.id();
    let places = |status: &Value| {
        let threads = status["threads"].as_array().cloned().unwrap_or_default();
        threads.into_iter().find(|t| t["pid"] == pid && t["name"] == "wanderer")
    };
    let busiest = Cell::new(0.0);
    let until = |control: &mut Control, what: &str, seen: &dyn Fn(&Value) -> bool| {
        let begun = Instant::now();
        loop {
            let status = control.hear_until("status");
            busiest.set(
                status["hosts"][0]["load"].as_f64().map_or(busiest.get(), |load| load.max(busiest.get())),
            );
            if seen(&status) {
                return status;
            }
            assert!(begun.elapsed() < MINUTE, "waiting for {what}: {status}");
        }
    };
    let on = |host: &'static str| move |status: &Value| places(status).is_some_and(|t| t["host"] == host);
    let status = until(&mut machine.control, "b", &on("b"));
    let tid = places(&status).unwrap()["tid"].as_u64().unwrap();
    // It burned 300 ms there, of which some show at once, and all in the end.
    until(&mut machine.control, "its time", &|s| {
        places(s).is_some_and(|t| t["cpu_ms"].as_u64() >= Some(290))
    });
    let hosts = until(&mut machine.control, "a hot page", &|s| s["hosts"].to_string().contains("\"hot\":[{"));
    for host in hosts["hosts"].as_array().unwrap() {
        assert!(host["cpus"].as_u64() > Some(0) && host.get("bodies").is_none(), "{host}");
        for hot in host["hot"].as_array().into_iter().flatten() {
            assert!(hot["pid"] == pid && hot["page"].as_u64() >= Some(home::BASE), "{hot}");
        }
    }
    // Home has the CPUs of the host that burned; by now they may be idle again.
    assert!(busiest.get() > 0.0, "{hosts}");
    assert!(sum(&hosts, "forwarded_pages") > 0, "{hosts}");
    // Who is not known may have ended: nothing happens.
    machine.control.say(&json!({"op": "move", "pid": pid, "thread": 1u64 << 40, "host": "c"}));
    machine.control.say(&json!({"op": "move", "pid": 1, "thread": tid, "host": "c"}));
    machine.control.say(&json!({"op": "move", "pid": pid, "thread": tid, "host": "nobody"}));
    machine.control.say(&json!({"op": "move", "pid": pid, "thread": tid, "host": 9}));
    machine.control.say(&json!({"op": "move", "pid": pid, "thread": tid, "host": "c"}));
    let status = until(&mut machine.control, "c", &on("c"));
    let thread = places(&status).unwrap();
    assert_eq!((&thread["moves"], &thread["why"]), (&json!(2), &json!("ordered")), "{thread}");
    assert!(thread["cpu_ms"].as_u64() >= Some(290), "what it used on b is not forgotten: {thread}");
    machine.control.say(&json!({"op": "move", "pid": pid, "thread": tid, "host": 0}));
    until(&mut machine.control, "its end", &|s| places(s).is_none());
    assert!(wait(&mut home, MINUTE).success());
    machine.close();
}

fn a_body_process_that_dies_ends_the_machine() {
    let mut machine = Machine::open(0x108, &[16 * MIB; 2]);
    let mut home = machine.start("body dies");
    let lost = machine.control.hear_until("lost");
    assert_eq!(lost["host"], "b", "{lost}");
    assert!(lost["detail"].as_str().unwrap().contains("the body process of the program died"), "{lost}");
    assert!(!wait(&mut home, MINUTE).success(), "it is killed");
    drop(machine);
    until_alone();
}

fn body_processes_end_with_their_program() {
    let mut machine = Machine::open(0x109, &[16 * MIB; 2]);
    let mut home = machine.start("stay");
    let begun = Instant::now();
    while children().len() < 2 {
        assert!(begun.elapsed() < MINUTE, "the body process does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
    home.kill().unwrap();
    home.wait().unwrap();
    until_alone();
    // And the machine lives: another program, another space, another body process; closed while it runs.
    machine.run("count pages=4 threads=1 times=50 hot=1", MINUTE);
    let mut home = machine.start("stay");
    while children().len() < 2 {
        assert!(begun.elapsed() < MINUTE, "the body process does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
    let Machine { mut control, agents, .. } = machine;
    control.say(&json!({"op": "close"}));
    control.hear_until("closed");
    assert!(!wait(&mut home, MINUTE).success(), "it is killed");
    drop(agents);
    until_alone();
}

fn long_increments() {
    for (n, scenario) in (0..).zip([
        "count pages=64 threads=3 times=150000 hot=3",
        "count pages=8000 threads=3 times=120000 hot=4 fill=1",
        "count pages=8000 threads=2 times=120000 hot=64 fill=1",
    ]) {
        let mut machine = Machine::open(0x200 + n, &[16 * MIB; 3]);
        machine.run(scenario, 20 * MINUTE);
        println!("{scenario}: {}", machine.close());
    }
}

fn long_order() {
    let mut machine = Machine::open(0x210, &[16 * MIB; 3]);
    machine.run("order times=400000", 20 * MINUTE);
    println!("{}", machine.close());
}

/// What it costs when two hosts write to one page all the time, each to a word of its own (false sharing) or to the same.
fn long_contention() {
    for (n, words) in (0..).zip(["own", "same"]) {
        let mut machine = Machine::open(0x220 + n, &[64 * MIB; 2]);
        machine.run(&format!("contend same={} seconds=4", u64::from(words == "same")), MINUTE);
        let closed = machine.close();
        let taken = sum(&closed, "forwarded_pages") + sum(&closed, "invalidated_pages");
        println!(
            "{words} word: the page moved {} times a second, {} waited",
            taken / 4,
            sum(&closed, "dwelled") / 4
        );
    }
}
