//! A body process with a home that the test plays: what threads do away, and what home hears of it.

#[path = "../common/mod.rs"]
mod common;
mod home;

use std::arch::naked_asm;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::Op;
use common::agent::permitted;
use home::{Host, SPACE, Said, Thread, starting_at, value_of};
use megalith_runtime::frame::{Registers, SigInfo};
use megalith_runtime::nr;
use megalith_runtime::queues::queue_of;
use megalith_runtime::ship::{
    self, AreaKind, Barrier, Clocks, Forget, Hello, Kind, Lent, Reason, Recall, Shipment, TakeBack, Waiting,
    Wake,
};

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x1_0000_0000;
const PAGE: u64 = client::PAGE_BYTES;

const READ: u64 = 1;
const READ_WRITE: u64 = 3;

/// A piece of machine code for the space.
macro_rules! code {
    ($($line:literal),* $(,)?) => {{
        #[unsafe(naked)]
        unsafe extern "C" fn code() {
            naked_asm!($($line),*)
        }
        code
    }};
}

/// A host with `code` in its space and a page of data; `None` if this kernel does not let us.
fn host_with(code: unsafe extern "C" fn()) -> Option<Host> {
    if !permitted() {
        return None;
    }
    let host = Host::start();
    host.map_code(CODE, code);
    host.map(DATA, PAGE, READ_WRITE, AreaKind::Space);
    Some(host)
}

/// A thread at the code, with rdi pointing to the data.
fn thread_at_code() -> Shipment {
    let mut shipment = starting_at(CODE);
    shipment.context.registers.rdi = DATA;
    shipment
}

fn signal_of(info: &SigInfo) -> (i32, i32) {
    (info.signal, info.code)
}

const SIGTRAP: i32 = 5;
const SIGFPE: i32 = 8;
const SIGSEGV: i32 = 11;
const SI_KERNEL: i32 = 0x80;

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_call_is_asked_at_home_and_its_result_goes_on() {
    let Some(host) = host_with(code!("mov eax, 39", "mov esi, 5", "syscall", "mov [rdi], rax", "int3"))
    else {
        return;
    };
    let thread = host.thread();
    assert!(thread.ship(&thread_at_code(), &[]) > 0);
    let call = thread.call();
    assert_eq!((call.rax, call.rdi, call.rsi, call.rip), (39, DATA, 5, CODE + 12));
    thread.result(0x1234_5678_9abc);
    let home = thread.home(Reason::Fault);
    assert_eq!(signal_of(home.info()), (SIGTRAP, SI_KERNEL));
    assert_eq!((home.registers().rax, home.registers().rip), (0x1234_5678_9abc, CODE + 16));
    assert_eq!(host.read(DATA), 0x1234_5678_9abc);
    assert_eq!(host.queries.load(Ordering::Relaxed), 2, "code and data, once each");
}

#[test]
fn calls_of_home_bring_the_thread_there() {
    // exit(2), and any call that home does not make for it.
    let Some(host) = host_with(code!("mov eax, 60", "syscall", "mov eax, 1", "syscall", "int3")) else {
        return;
    };
    let thread = host.thread();
    thread.ship(&thread_at_code(), &[]);
    let home = thread.home(Reason::Call);
    assert_eq!((home.registers().rax, home.registers().rip), (60, CODE + 7));
    thread.ship(&home.shipment, &home.saved);
    assert_eq!(thread.call().rax, 1);
    thread.come_home();
    let home = thread.home(Reason::Call);
    assert_eq!((home.registers().rax, home.registers().rip), (1, CODE + 14));
    thread.ship(&home.shipment, &home.saved);
    thread.home(Reason::Fault);
}

#[test]
fn faults_come_home_as_the_kernel_told_them() {
    let Some(host) = host_with(code!("xor eax, eax", "cdq", "div eax")) else { return };
    let thread = host.thread();
    thread.ship(&thread_at_code(), &[]);
    let home = thread.home(Reason::Fault);
    assert_eq!(signal_of(home.info()), (SIGFPE, 1));
    assert_eq!((home.info().address, home.registers().rip), (CODE + 3, CODE + 3));

    let write = CODE + PAGE;
    host.map_code(write, code!("mov [rdi], rax", "int3"));
    host.map(DATA + PAGE, PAGE, READ, AreaKind::Space);
    let at = |address: u64| {
        let mut shipment = starting_at(write);
        shipment.context.registers.rdi = address;
        thread.ship(&shipment, &[]);
        thread.home(Reason::Fault)
    };
    for (address, code) in [(DATA + 10 * PAGE, 1), (DATA + PAGE, 2)] {
        let home = at(address + 8);
        assert_eq!(signal_of(home.info()), (SIGSEGV, code));
        let registers = home.registers();
        assert_eq!((home.info().address, registers.cr2, registers.rip), (address + 8, address + 8, write));
        assert_eq!((registers.trap, registers.error & 6), (14, 6), "a write in user mode");
    }
    assert_eq!(signal_of(at(1 << 63).info()), (SIGSEGV, SI_KERNEL), "no address at all");
    assert_eq!(signal_of(at(0xffff_ffff_8000_0000).info()).0, SIGSEGV, "the kernel's");

    // Once it has been read, writing it is a fault of the other kind.
    host.map_code(CODE + 2 * PAGE, code!("mov rax, [rdi]", "mov [rdi], rax"));
    let mut shipment = starting_at(CODE + 2 * PAGE);
    shipment.context.registers.rdi = DATA + PAGE;
    thread.ship(&shipment, &[]);
    let home = thread.home(Reason::Fault);
    assert_eq!(signal_of(home.info()), (SIGSEGV, 2));

    // A jump to nowhere.
    thread.ship(&starting_at(0), &[]);
    let home = thread.home(Reason::Fault);
    assert_eq!((signal_of(home.info()), home.info().address), ((SIGSEGV, 1), 0));
}

#[test]
fn what_only_home_maps_is_touched_at_home() {
    let Some(host) = host_with(code!("nop", "mov rax, [rdi]", "int3")) else { return };
    host.map(DATA, PAGE, READ_WRITE, AreaKind::Native);
    let thread = host.thread();
    thread.ship(&thread_at_code(), &[]);
    let home = thread.home(Reason::Native);
    assert_eq!(home.registers().rip, CODE + 1, "the instruction is to be run again");
}

#[test]
fn protection_that_grows_is_found_out() {
    let Some(host) =
        host_with(code!("mov rax, [rdi]", "mov esi, 1", "mov eax, 39", "syscall", "mov [rdi], rsi", "int3"))
    else {
        return;
    };
    host.map(DATA, PAGE, READ, AreaKind::Space);
    let thread = host.thread();
    thread.ship(&thread_at_code(), &[]);
    thread.call();
    host.map(DATA, 2 * PAGE, READ_WRITE, AreaKind::Space);
    thread.result(0);
    thread.home(Reason::Fault);
    assert_eq!(host.read(DATA), 1);
}

#[test]
fn registers_and_bases_travel() {
    if !std::arch::is_x86_feature_detected!("avx") {
        println!("skipped: no AVX");
        return;
    }
    let Some(host) = host_with(code!(
        "vmovdqu ymm7, [rdi]",
        "mov rbx, fs:[0]",
        "mov r15, gs:[8]",
        "int3",
        "vmovdqu [rdi + 64], ymm7",
        "mov [rdi + 96], rbx",
        "int3",
    )) else {
        return;
    };
    let pattern: Vec<u8> = (1..=32).collect();
    std::os::unix::fs::FileExt::write_all_at(&host.memory, &pattern, DATA).expect("room");
    let thread = host.thread();
    let mut shipment = thread_at_code();
    (shipment.fs, shipment.gs) = (DATA, DATA + 8);
    thread.ship(&shipment, &[]);
    let first = thread.home(Reason::Fault);
    assert_eq!((first.shipment.fs, first.shipment.gs), (DATA, DATA + 8));
    assert_eq!(first.registers().rbx, 0x0807_0605_0403_0201);
    assert_eq!(first.registers().r15, 0x1817_1615_1413_1211);
    assert!(first.saved.len() > 512, "an extended area");

    // In between, the same body runs a thread without any of it.
    host.map_code(CODE + PAGE, code!("vpxor ymm7, ymm7, ymm7", "int3"));
    thread.ship(&starting_at(CODE + PAGE), &[]);
    let other = thread.home(Reason::Fault);
    assert_eq!((other.shipment.fs, other.shipment.gs), (0, 0));

    thread.ship(&first.shipment, &first.saved);
    let last = thread.home(Reason::Fault);
    let mut stored = [0; 40];
    std::os::unix::fs::FileExt::read_exact_at(&host.memory, &mut stored, DATA + 64).expect("readable");
    assert_eq!(stored[..32], pattern);
    assert_eq!(stored[32..], pattern[..8]);
    assert_eq!(last.registers().r15, first.registers().r15);
}

#[test]
fn a_recalled_thread_comes_between_two_instructions() {
    let Some(host) = host_with(code!("2:", "add qword ptr [rdi], 1", "jmp 2b")) else { return };
    let thread = host.thread();
    let mut shipment = thread_at_code();
    let mut saved = Vec::new();
    for _ in 0..50 {
        let tid = thread.ship(&shipment, &saved);
        let before = host.read(DATA);
        match thread.hear_until_running(&host, before) {
            Some(Said::Home(home)) => panic!("it came unasked: {home:?}"),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
        host.say(Kind::Recall, &Recall { tid });
        let home = thread.home(Reason::Recalled);
        assert!((CODE..CODE + 6).contains(&home.registers().rip));
        (shipment, saved) = (home.shipment, home.saved);
        shipment.reason = 0;
    }
}

impl Thread {
    /// Answers questions until the number at DATA grows.
    fn hear_until_running(&self, host: &Host, before: u64) -> Option<Said> {
        let start = Instant::now();
        while host.read(DATA) <= before + 10 {
            assert!(start.elapsed() < Duration::from_secs(20), "it does not run");
            if self.has_word() {
                match self.hear() {
                    Said::Query(address) => self.tell(&self.area(address)),
                    other => return Some(other),
                }
            }
        }
        None
    }
}

#[test]
fn a_late_recall_harms_nobody() {
    let Some(host) = host_with(code!("int3", "mov eax, 39", "syscall", "int3")) else { return };
    let thread = host.thread();
    let tid = thread.ship(&thread_at_code(), &[]);
    let home = thread.home(Reason::Fault);
    // It is home already; and others that never were.
    for tid in [tid, 1, 0x3fff_fff0] {
        host.say(Kind::Recall, &Recall { tid });
    }
    host.say(Kind::Clocks, &Clocks { real: 0, monotonic: 0, boot: 0 });
    assert_eq!(host.hear().0, Kind::Clocks as u32, "the recalls have been acted on");
    let tid = thread.ship(&home.shipment, &home.saved);
    assert_eq!(thread.call().rax, 39, "it goes on");

    // While it waits for an answer an order counts: nothing more of it runs here.
    host.say(Kind::Recall, &Recall { tid });
    host.say(Kind::Clocks, &Clocks { real: 0, monotonic: 0, boot: 0 });
    host.hear();
    thread.result(5);
    let home = thread.home(Reason::Recalled);
    assert_eq!((home.registers().rax, home.registers().rip), (5, CODE + 8));
}

#[test]
fn forgotten_spans_are_asked_for_again() {
    let Some(host) = host_with(code!("2:", "add qword ptr [rdi], 1", "jmp 2b")) else { return };
    let thread = host.thread();
    let tid = thread.ship(&thread_at_code(), &[]);
    assert!(thread.hear_until_running(&host, 0).is_none());
    for version in 1..200 {
        host.layout.lock().unwrap().version = version;
        let faults = host.faults.load(Ordering::Relaxed);
        host.say(Kind::Forget, &Forget { version, start: DATA, end: DATA + PAGE });
        assert_eq!(host.hear().0, Kind::Done as u32);
        let before = host.read(DATA);
        assert!(matches!(thread.hear(), Said::Query(DATA)));
        if version % 2 == 0 {
            // An answer that was true before.
            let mut area = thread.area(DATA);
            area.version = version - 1;
            thread.tell(&area);
            assert!(matches!(thread.hear(), Said::Query(DATA)), "it asks again");
        }
        assert_eq!(host.read(DATA), before, "nobody reaches it meanwhile");
        thread.tell(&thread.area(DATA));
        assert!(thread.hear_until_running(&host, before).is_none());
        assert!(host.faults.load(Ordering::Relaxed) > faults, "the agent sees the first touch");
    }
    host.layout.lock().unwrap().areas.clear();
    host.say(Kind::Forget, &Forget { version: 200, start: 0, end: client::SPACE_END });
    assert_eq!(host.hear().0, Kind::Done as u32);
    let home = thread.home(Reason::Fault);
    assert_eq!(signal_of(home.info()), (SIGSEGV, 1));
    host.say(Kind::Recall, &Recall { tid });
}

#[test]
fn a_thread_that_waits_for_a_page_is_not_lost() {
    let Some(host) = host_with(code!("mov eax, 39", "syscall", "mov rax, [rdi]", "int3")) else { return };
    let thread = host.thread();
    let tid = thread.ship(&thread_at_code(), &[]);
    thread.call();
    let withhold = || {
        host.withholds.store(true, Ordering::SeqCst);
        host.faults.load(Ordering::SeqCst)
    };
    let before = withhold();
    thread.result(0);
    assert!(matches!(thread.hear(), Said::Query(DATA)));
    thread.tell(&thread.area(DATA));
    wait_until("it waits for the page", || host.faults.load(Ordering::SeqCst) > before);

    // What it waits for is taken away: it asks what there is now.
    host.layout.lock().unwrap().version = 1;
    host.say(Kind::Forget, &Forget { version: 1, start: DATA, end: DATA + PAGE });
    assert_eq!(host.hear().0, Kind::Done as u32);
    assert!(matches!(thread.hear(), Said::Query(DATA)));
    let before = withhold();
    thread.tell(&thread.area(DATA));
    wait_until("it waits again", || host.faults.load(Ordering::SeqCst) > before);

    // It is wanted at home: the access is not made here.
    host.say(Kind::Recall, &Recall { tid });
    let home = thread.home(Reason::Recalled);
    assert_eq!(home.registers().rip, CODE + 7);
    host.withholds.store(false, Ordering::SeqCst);
    thread.ship(&home.shipment, &home.saved);
    thread.home(Reason::Fault);
}

#[test]
fn the_agent_is_told_what_pages_are_before_they_are_touched() {
    let Some(host) = host_with(code!("mov rax, [rdi]", "mov rax, [rdi + 8192]", "mov rax, [rsi]", "int3"))
    else {
        return;
    };
    let file = DATA + 64 * PAGE;
    host.map(DATA, 16 * PAGE, READ_WRITE, AreaKind::Space);
    host.map(file, 16 * PAGE, READ_WRITE, AreaKind::FileCopy);
    let thread = host.thread();
    let mut shipment = thread_at_code();
    shipment.context.registers.rsi = file;
    thread.ship(&shipment, &[]);
    let home = thread.home(Reason::Fault);
    let (asks, zeros) = (Op::BackFromHome as u64, Op::Unback as u64);
    let mut told = vec![
        // Nothing is known of a page until it is mapped.
        (asks, 0, client::SPACE_END),
        (zeros, CODE, PAGE),
        (zeros, DATA, 16 * PAGE),
        (asks, file, 16 * PAGE),
    ];
    assert_eq!(*host.told.lock().unwrap(), told);
    host.layout.lock().unwrap().version = 1;
    host.say(Kind::Forget, &Forget { version: 1, start: DATA + 2 * PAGE, end: DATA + 3 * PAGE });
    assert_eq!(host.hear().0, Kind::Done as u32);
    told.push((asks, DATA + 2 * PAGE, PAGE));
    assert_eq!(*host.told.lock().unwrap(), told);
    // Only what is missing is mapped anew.
    let mut again = home.shipment;
    again.context.registers.rip = CODE;
    thread.ship(&again, &home.saved);
    thread.home(Reason::Fault);
    told.push((zeros, DATA + 2 * PAGE, PAGE));
    assert_eq!(*host.told.lock().unwrap(), told);
    // Where nothing was mapped nothing is said.
    host.say(Kind::Forget, &Forget { version: 2, start: DATA + 32 * PAGE, end: DATA + 48 * PAGE });
    assert_eq!(host.hear().0, Kind::Done as u32);
    assert_eq!(*host.told.lock().unwrap(), told);
}

#[test]
fn a_threads_bases_are_its_own_business() {
    let Some(host) = host_with(code!(
        "mov rbx, rdi",
        "mov esi, 0x1234000",
        "mov edi, 0x1002",
        "mov eax, 158",
        "syscall",
        "mov rsi, rbx",
        "mov edi, 0x1003",
        "mov eax, 158",
        "syscall",
        "mov eax, 24",
        "syscall",
        "mov rsi, -8",
        "mov edi, 0x1003",
        "mov eax, 158",
        "syscall",
    )) else {
        return;
    };
    let thread = host.thread();
    thread.ship(&thread_at_code(), &[]);
    // No call is heard of before the one that cannot be answered here.
    let home = thread.home(Reason::Call);
    assert_eq!((home.registers().rax, home.shipment.fs), (158, 0x123_4000));
    assert_eq!(host.read(DATA), 0x123_4000);
}

/// CLOCK_MONOTONIC here, which is the body process's own too.
fn monotonic() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a clock that every kernel has, and a valid pointer.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) }, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Tells a body what home's clocks are until it makes another call. On a busy computer answers take so long that it knows
/// home's time too badly, and has the deputy read it.
fn until_call(thread: &Thread, questions: &mut u32, clocks: &dyn Fn() -> Clocks) -> Box<Registers> {
    loop {
        match thread.answer_until() {
            Said::Clocks => {
                *questions += 1;
                thread.tell_clocks(&clocks());
            }
            Said::Call(call) if call.rax == 228 => {
                let now = clocks();
                let time = [now.real, now.monotonic, now.boot]
                    [[0, 1, 7].iter().position(|&c| c == call.rdi).unwrap()];
                let bytes = [time / 1_000_000_000, time % 1_000_000_000].map(u64::to_le_bytes).concat();
                thread.result_with_bytes(0, &bytes);
            }
            Said::Call(call) => return call,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn clocks_are_homes() {
    // clock_gettime into the data, again and again; rbx counts, ebp is the clock.
    let Some(host) = host_with(code!(
        "mov rsi, rdi",
        "2:",
        "mov edi, ebp",
        "mov eax, 228",
        "syscall",
        "mov eax, 39",
        "syscall",
        "jmp 2b",
    )) else {
        return;
    };
    const AHEAD: u64 = 5_000_000_000_000;
    const REAL: u64 = 1_700_000_000_000_000_000;
    let home_clocks = |set: u64| {
        let monotonic = monotonic() + AHEAD;
        Clocks { real: (monotonic + REAL).wrapping_add(set), monotonic, boot: monotonic + 7 }
    };
    let read = || host.read(DATA) * 1_000_000_000 + host.read(DATA + 8);
    for (clock, offset) in [(0, AHEAD + REAL), (1, AHEAD), (7, AHEAD + 7)] {
        let thread = host.thread();
        let mut shipment = thread_at_code();
        shipment.context.registers.rbp = clock;
        let mut earliest = monotonic() + offset;
        thread.ship(&shipment, &[]);
        let (mut questions, mut last) = (0, 0);
        for round in 0..2000 {
            let call = until_call(&thread, &mut questions, &|| home_clocks(0));
            assert_eq!(call.rax, 39);
            let (time, latest) = (read(), monotonic() + offset);
            assert!(time >= last, "round {round}: {} back", last - time);
            // Read between the two, and wrong by what the test itself takes to answer.
            const MISTAKE: u64 = 200_000;
            assert!(earliest < time + MISTAKE && time < latest + MISTAKE, "{earliest} {time} {latest}");
            last = time;
            earliest = monotonic() + offset;
            thread.result(0);
        }
        // What it does last is over before the next one reads.
        until_call(&thread, &mut questions, &|| home_clocks(0));
        assert!(questions < 200, "{questions} questions for 2000 answers");
    }

    // A wall clock that is set back is followed.
    let thread = host.thread();
    let mut shipment = thread_at_code();
    shipment.context.registers.rbp = 0;
    std::thread::sleep(Duration::from_millis(150));
    thread.ship(&shipment, &[]);
    let set_back = 0u64.wrapping_sub(3_600_000_000_000);
    let mut questions = 0;
    until_call(&thread, &mut questions, &|| home_clocks(set_back));
    assert!(questions > 0, "an answer is too old by now");
    let hour_ago = monotonic() + AHEAD + REAL - 3_600_000_000_000;
    assert!(read().abs_diff(hour_ago) < 1_000_000_000);
    thread.result(0);

    // Home wants the thread: the call is its own to make.
    std::thread::sleep(Duration::from_millis(150));
    let mut said = thread.answer_until();
    while matches!(&said, Said::Call(call) if call.rax == 39) {
        thread.result(0);
        said = thread.answer_until();
    }
    assert!(matches!(said, Said::Clocks));
    thread.come_home();
    assert_eq!(thread.home(Reason::Call).registers().rax, 228);
}

#[test]
fn other_clocks_are_read_by_the_deputy() {
    let Some(host) = host_with(code!("mov rsi, rdi", "mov edi, 3", "mov eax, 228", "syscall", "int3")) else {
        return;
    };
    let thread = host.thread();
    thread.ship(&thread_at_code(), &[]);
    assert_eq!(thread.call().rax, 228, "CLOCK_THREAD_CPUTIME_ID");
    thread.result(0);
    thread.home(Reason::Fault);
}

#[test]
fn terabytes_cost_nothing_until_they_are_touched() {
    let Some(host) = host_with(code!("2:", "mov [rdi], rdi", "add rdi, rsi", "dec ecx", "jnz 2b", "int3"))
    else {
        return;
    };
    const BYTES: u64 = 16 << 40;
    host.map(DATA, BYTES, READ_WRITE, AreaKind::Space);
    let thread = host.thread();
    let mut shipment = thread_at_code();
    shipment.context.registers.rsi = BYTES / 64;
    shipment.context.registers.rcx = 64;
    let start = Instant::now();
    thread.ship(&shipment, &[]);
    thread.home(Reason::Fault);
    for part in 0..64 {
        let address = DATA + part * (BYTES / 64);
        assert_eq!(host.read(address), address);
    }
    host.layout.lock().unwrap().version = 1;
    host.say(Kind::Forget, &Forget { version: 1, start: DATA, end: DATA + BYTES });
    assert_eq!(host.hear().0, Kind::Done as u32);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn thousands_of_journeys() {
    let Some(host) = host_with(code!("2:", "inc qword ptr [rdi]", "int3", "jmp 2b")) else { return };
    let thread = host.thread();
    let (mut shipment, mut saved) = (thread_at_code(), Vec::new());
    const JOURNEYS: u64 = 5000;
    let start = Instant::now();
    for journey in 1..=JOURNEYS {
        thread.ship(&shipment, &saved);
        let home = thread.home(Reason::Fault);
        assert_eq!(home.registers().rip, CODE + 4);
        (shipment, saved) = (home.shipment, home.saved);
        if journey % 1000 == 0 {
            assert_eq!(host.read(DATA), journey);
        }
    }
    println!("{:.1} us a journey", start.elapsed().as_secs_f64() * 1e6 / JOURNEYS as f64);
}

#[test]
fn calls_in_a_row() {
    let Some(host) = host_with(code!("2:", "mov eax, 39", "syscall", "dec rbx", "jnz 2b", "int3")) else {
        return;
    };
    const CALLS: u64 = 5000;
    let thread = host.thread();
    let mut shipment = thread_at_code();
    shipment.context.registers.rbx = CALLS;
    thread.ship(&shipment, &[]);
    let start = Instant::now();
    for value in 0..CALLS {
        assert_eq!(thread.call().rbx, CALLS - value);
        thread.result(value);
    }
    println!("{:.1} us a call", start.elapsed().as_secs_f64() * 1e6 / CALLS as f64);
    assert_eq!(thread.home(Reason::Fault).registers().rax, CALLS - 1);
}

#[test]
fn threads_share_what_is_mapped_while_it_is_taken_away() {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 100_000;
    let Some(host) = host_with(code!(
        "2:",
        "lock add qword ptr [rdi], 1",
        "add qword ptr [rsi], 1",
        "dec rcx",
        "jnz 2b",
        "int3",
    )) else {
        return;
    };
    host.map(DATA, 64 * PAGE, READ_WRITE, AreaKind::Space);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let host = &host;
                scope.spawn(move || {
                    let thread = host.thread();
                    let mut shipment = thread_at_code();
                    shipment.context.registers.rsi = DATA + (1 + number) * PAGE;
                    shipment.context.registers.rcx = ROUNDS;
                    thread.ship(&shipment, &[]);
                    thread.home(Reason::Fault);
                })
            })
            .collect();
        scope.spawn(|| {
            let mut version = 0;
            while !stop.load(Ordering::Relaxed) {
                version += 1;
                let first = version % 16;
                host.layout.lock().unwrap().version = version;
                host.say(
                    Kind::Forget,
                    &Forget { version, start: DATA + first * PAGE, end: DATA + (first + 1) * PAGE },
                );
                assert_eq!(host.hear().0, Kind::Done as u32);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    assert_eq!(host.read(DATA), THREADS * ROUNDS);
    for number in 0..THREADS {
        assert_eq!(host.read(DATA + (1 + number) * PAGE), ROUNDS);
    }
}

#[test]
fn the_space_channel_is_answered() {
    let Some(host) = host_with(code!("int3")) else { return };
    host.say(Kind::Hello, &Hello { space: SPACE, cpu: 1, version: ship::VERSION });
    let (kind, body) = host.hear();
    let hello: Hello = value_of(&body);
    assert_eq!((kind, hello.space, hello.version), (Kind::Hello as u32, SPACE, ship::VERSION));
    host.say(Kind::Hello, &hello);
    assert_eq!(value_of::<Hello>(&host.hear().1).cpu, hello.cpu, "always the same word");

    host.say(Kind::Clocks, &Clocks { real: 0, monotonic: 0, boot: 0 });
    let clocks: Clocks = value_of(&host.hear().1);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(now.abs_diff(clocks.real) < 10_000_000_000, "this host's own clock");
    assert!(clocks.monotonic > 0 && clocks.boot >= clocks.monotonic);

    // PRIVATE_EXPEDITED, which this process has not registered for.
    host.say(Kind::Barrier, &Barrier { command: 8, flags: 0 });
    assert_eq!(host.hear().0, Kind::Done as u32);
}

#[test]
fn bodies_end_with_their_channels_and_the_process_with_its_own() {
    let Some(mut host) = host_with(code!("2:", "pause", "jmp 2b")) else { return };
    for _ in 0..3 {
        let threads: Vec<_> = (0..40).map(|_| host.thread()).collect();
        wait_until("forty bodies", || host.threads() == 41);
        drop(threads);
        wait_until("no bodies", || host.threads() == 1);
    }
    let running = host.thread();
    running.ship(&thread_at_code(), &[]);
    host.close_space_channel();
    assert_eq!(host.ended().code(), Some(0));

    let Some(mut host) = host_with(code!("int3")) else { return };
    host.close_door();
    assert_eq!(host.ended().code(), Some(0));
}

#[test]
fn a_thread_whose_home_goes_away_ends() {
    let Some(host) = host_with(code!("mov eax, 39", "syscall", "int3")) else { return };
    let thread = host.thread();
    thread.ship(&thread_at_code(), &[]);
    thread.call();
    drop(thread);
    wait_until("the body ends", || host.threads() == 1);
}

#[test]
fn no_call_of_the_program_reaches_this_hosts_kernel() {
    // Whatever the number, but for those that are answered here, and 335 and 336 (uretprobe, uprobe), which seccomp does not see, and which are SIGILL.
    let Some(host) =
        host_with(code!("2:", "mov eax, ebx", "syscall", "inc ebx", "cmp ebx, ebp", "jb 2b", "int3"))
    else {
        return;
    };
    let thread = host.thread();
    for numbers in [0..335, 337..600] {
        let mut shipment = thread_at_code();
        let registers = &mut shipment.context.registers;
        // A null pointer for what is answered here.
        (registers.rdi, registers.rbx, registers.rbp) = (0, numbers.start, numbers.end);
        thread.ship(&shipment, &[]);
        for number in numbers.filter(|number| ![nr::SCHED_YIELD, nr::TIME].contains(&(*number as u32))) {
            let said = loop {
                match thread.answer_until() {
                    Said::Clocks => thread.tell_clocks(&Clocks { real: 1, monotonic: 1, boot: 1 }),
                    // On a busy machine the answers say too little about the clocks.
                    Said::Call(registers) if registers.rax == u64::from(nr::TIME) => thread.result(1),
                    other => break other,
                }
            };
            match said {
                Said::Call(registers) => {
                    assert_eq!(registers.rax, number);
                    thread.result(0);
                }
                Said::Home(home) => {
                    assert_eq!((home.reason, home.registers().rax), (Reason::Call as u64, number));
                    thread.ship(&home.shipment, &home.saved);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(thread.home(Reason::Fault).info().signal, SIGTRAP);
    }
}

/// FUTEX_WAIT, FUTEX_WAKE, private.
const WAIT: u64 = 128;
const WAKE: u64 = 129;

/// A host whose code makes one futex call.
fn host_with_futex() -> Option<Host> {
    host_with(code!("mov eax, 202", "syscall", "int3"))
}

/// A thread that is about to wait for the word at DATA to be something else than 0, or to wake one that does.
fn thread_at_futex(operation: u64) -> Shipment {
    let mut shipment = thread_at_code();
    let registers = &mut shipment.context.registers;
    (registers.rsi, registers.rdx) = (operation, u64::from(operation == WAKE));
    shipment
}

/// What the call has returned to the thread, which has come home after it.
fn returned(thread: &Thread) -> i64 {
    thread.home(Reason::Fault).registers().rax as i64
}

/// A loan of the queue; nobody waits in it at home.
fn loan(turn: u32) -> Lent {
    Lent { turn, others: 0 }
}

/// Gives the host the queue as the answer to the thread's call.
fn lend(thread: &Thread, turn: u32) {
    assert_eq!(thread.call().rax, u64::from(nr::FUTEX));
    thread.lend(loan(turn));
}

/// Takes the queue back, with those who wait in it or without; whether any do.
fn take_back(host: &Host, turn: u32, empty: bool) -> bool {
    host.say(Kind::TakeBack, &TakeBack { queue: queue_of(DATA) as u64, turn, empty: empty.into() });
    let (kind, body) = host.hear();
    assert_eq!(kind, Kind::Waiting as u32);
    value_of::<Waiting>(&body).any != 0
}

/// Answers the thread's questions until its body waits in futex(2).
fn until_it_waits(thread: &Thread, tid: u64) {
    wait_until("it waits", || {
        if thread.has_word() {
            let Said::Query(address) = thread.hear() else { panic!("it is to wait") };
            thread.tell(&thread.area(address));
        }
        std::fs::read_to_string(format!("/proc/{tid}/wchan")).unwrap().contains("futex")
    });
}

/// Another host's thread wakes so many; how many wake.
fn wake(host: &Host, count: u64) -> u64 {
    host.say(Kind::Wake, &Wake { word: DATA, operation: WAKE, count, bitset: 0 });
    let (kind, body) = host.hear();
    assert_eq!(kind, Kind::Waiting as u32);
    value_of::<Waiting>(&body).woken
}

#[test]
fn who_waits_in_a_lent_queue_is_woken_without_a_word() {
    let Some(host) = host_with_futex() else { return };
    let (waiter, waker) = (host.thread(), host.thread());
    waiter.ship(&thread_at_futex(WAKE), &[]);
    assert_eq!(waiter.call().rsi, WAKE, "nothing is lent yet");
    waiter.result_with_loan(0, loan(1));
    assert_eq!(returned(&waiter), 0);
    for _ in 0..50 {
        waiter.ship(&thread_at_futex(WAIT), &[]);
        let woken = loop {
            waker.ship(&thread_at_futex(WAKE), &[]);
            match returned(&waker) {
                // It does not wait yet; perhaps it has to learn first what is at the word.
                0 if waiter.has_word() => {
                    let Said::Query(address) = waiter.hear() else { panic!("it is to wait") };
                    waiter.tell(&waiter.area(address));
                }
                0 => {}
                woken => break woken,
            }
        };
        assert_eq!((woken, returned(&waiter)), (1, 0));
    }
    let mut other_value = thread_at_futex(WAIT);
    other_value.context.registers.rdx = 1;
    waiter.ship(&other_value, &[]);
    assert_eq!(returned(&waiter), -i64::from(libc::EAGAIN));

    // What the host cannot do alone is asked: to wait for some time, for no address, for a shared word.
    let (mut timed, mut nowhere) = (thread_at_futex(WAIT), thread_at_futex(WAIT));
    timed.context.registers.r10 = DATA;
    nowhere.context.registers.rdi = 0;
    for shipment in [timed, nowhere, thread_at_futex(0)] {
        waiter.ship(&shipment, &[]);
        assert_eq!(waiter.call().rax, u64::from(nr::FUTEX));
        waiter.result(5);
        assert_eq!(returned(&waiter), 5);
    }
}

#[test]
fn a_queue_may_be_emptied() {
    let Some(host) = host_with_futex() else { return };
    let threads: Vec<_> = (0..8).map(|_| host.thread()).collect();
    for turn in 1..=50 {
        for thread in &threads {
            thread.ship(&thread_at_futex(WAIT), &[]);
        }
        // The rest sees by itself that the queue is here, unless it has asked already.
        lend(&threads[0], turn);
        if turn % 2 == 0 {
            std::thread::sleep(Duration::from_millis(u64::from(turn) % 5));
        }
        assert!(!take_back(&host, turn, true));
        for thread in &threads {
            match thread.answer_until() {
                Said::Call(_) => {
                    // An answer from before: the queue is no longer here.
                    thread.lend(loan(turn));
                    assert_eq!(thread.call().rax, u64::from(nr::FUTEX));
                    thread.result(0);
                    assert_eq!(returned(thread), 0);
                }
                Said::Home(home) => {
                    assert_eq!((home.reason, home.registers().rax), (Reason::Fault as u64, 0))
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn who_waits_stays_when_the_queue_goes_home_and_is_woken_from_there() {
    let Some(host) = host_with_futex() else { return };
    let (waiter, waker) = (host.thread(), host.thread());
    for turn in 1..=20 {
        let tid = waiter.ship(&thread_at_futex(WAIT), &[]);
        lend(&waiter, turn);
        until_it_waits(&waiter, tid);
        assert!(take_back(&host, turn, false), "it says that it waits");
        assert!(!waiter.has_word(), "and is not woken");
        // The next wake-up is asked at home, which wakes as many as are left to wake.
        waker.ship(&thread_at_futex(WAKE), &[]);
        assert_eq!(waker.call().rsi, WAKE);
        waker.result(wake(&host, 1));
        assert_eq!((returned(&waker), returned(&waiter)), (1, 0));
        assert_eq!(wake(&host, 5), 0);
    }
}

#[test]
fn who_waits_at_home_is_woken_first() {
    let Some(host) = host_with_futex() else { return };
    let (waiter, waker) = (host.thread(), host.thread());
    let mut wakes_two = thread_at_futex(WAKE);
    wakes_two.context.registers.rdx = 2;
    let tid = waiter.ship(&thread_at_futex(WAIT), &[]);
    assert_eq!(waiter.call().rsi, WAIT);
    waiter.lend(Lent { turn: 1, others: 1 });
    until_it_waits(&waiter, tid);
    waker.ship(&thread_at_futex(WAKE), &[]);
    waker.call();
    waker.result_with_loan(1, Lent { turn: 1, others: 1 });
    assert_eq!(returned(&waker), 1);
    assert!(!waiter.has_word(), "one was to be woken, and was");
    waker.ship(&wakes_two, &[]);
    waker.call();
    waker.result_with_loan(1, loan(1));
    assert_eq!((returned(&waker), returned(&waiter)), (2, 0), "one there, one here");
    waker.ship(&wakes_two, &[]);
    assert_eq!(returned(&waker), 0, "nobody waits at home: it is not asked");
}

#[test]
fn a_thread_that_waits_here_comes_when_it_is_recalled() {
    let Some(host) = host_with_futex() else { return };
    let (waiter, waker) = (host.thread(), host.thread());
    for turn in 1..=50 {
        let tid = waiter.ship(&thread_at_futex(WAIT), &[]);
        if turn == 1 {
            lend(&waiter, turn);
        }
        std::thread::sleep(Duration::from_millis(u64::from(turn) % 3));
        host.say(Kind::Recall, &Recall { tid });
        let Said::Home(home) = waiter.answer_until() else { panic!("it is to come home") };
        let (rip, rax) = (home.registers().rip, home.registers().rax);
        if home.reason == Reason::Interrupted as u64 {
            assert_eq!((rip, rax), (CODE + 7, u64::from(nr::FUTEX)));
        } else {
            assert_eq!((home.reason, rip), (Reason::Recalled as u64, CODE), "before it could wait");
        }
        // Nobody waits any more.
        waker.ship(&thread_at_futex(WAKE), &[]);
        assert_eq!(returned(&waker), 0);
    }
}
