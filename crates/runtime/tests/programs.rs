//! Real programs, unmodified: their output under the runtime is their native output.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::agent::{Agent, permitted};
use common::{bare, compiled, finish, installed, path_text, runtime, same_as_native, spread, text};

const LIMIT: Duration = Duration::from_secs(120);

fn same(program: &str, arguments: &[&str]) {
    let Some(program) = installed(program) else { return };
    same_as_native(&program, arguments, bare);
    same_as_native(&program, arguments, spread);
    if permitted() {
        let agent = Agent::start(64 << 30);
        same_as_native(&program, arguments, |program, arguments| agent.command(program, arguments));
    }
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()))
}

/// Lines of pseudo-random numbers.
fn numbers(name: &str, count: u64) -> PathBuf {
    let path = scratch(name);
    let mut state = 88_172_645_463_325_252u64;
    let mut lines = String::new();
    for _ in 0..count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        lines.push_str(&format!("{state}\n"));
    }
    std::fs::write(&path, lines).expect("a file");
    path
}

#[test]
fn exit_status_and_output() {
    same("true", &[]);
    same("false", &[]);
    same("echo", &["one", "", "two words"]);
    same("cat", &["/nonexistent"]);
    same("env", &["-i", "A=1", "/usr/bin/env"]);
    same("busybox", &["sha256sum", "/bin/true"]);
}

#[test]
fn the_environment_shows_nothing_of_megalith() {
    let Some(env) = installed("env") else { return };
    let shown = text(&finish(bare(&env, &[]), LIMIT).stdout);
    assert!(shown.contains("PATH=") && !shown.contains("MEGALITH"), "{shown}");
    let through = text(&finish(bare(&env, &[path_text(&env)]), LIMIT).stdout);
    assert!(through.contains("PATH=") && !through.contains("MEGALITH"), "{through}");
}

#[test]
fn sort_with_threads() {
    let file = numbers("sort", 200_000);
    same("sort", &["--parallel=4", "-S", "20M", "-n", path_text(&file)]);
    std::fs::remove_file(file).expect("written above");
}

#[test]
fn xz_with_threads() {
    let file = numbers("xz", 100_000);
    same("xz", &["-T2", "-3", "--block-size=300KiB", "-k", "-c", path_text(&file)]);
    std::fs::remove_file(file).expect("written above");
}

#[test]
fn python() {
    let script = r#"
import ctypes, mmap, os, signal, subprocess, sys, tempfile, threading, time
out = []
threads = [threading.Thread(target=lambda i=i: out.append(sum(range(i * 1000)))) for i in range(16)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sorted(out))
seen = []
signal.signal(signal.SIGUSR1, lambda n, f: seen.append(n))
signal.signal(signal.SIGALRM, lambda n, f: seen.append(n))
os.kill(os.getpid(), signal.SIGUSR1)
signal.setitimer(signal.ITIMER_REAL, .05)
time.sleep(.3)
print(seen)
print(subprocess.run(["/bin/echo", "child"], capture_output=True))
print(subprocess.run([sys.executable, "-c", "import os, sys; print(os.path.basename(os.readlink('/proc/self/exe'))); sys.exit(3)"]).returncode)
big = [bytearray(1 << 20) for _ in range(64)]
del big
with tempfile.TemporaryFile() as f:
    f.write(b"x" * 10000); f.flush()
    m = mmap.mmap(f.fileno(), 10000); m[5] = 65; m.flush(); f.seek(0); print(f.read(10)); m.close()
try:
    ctypes.string_at(0)
except Exception as e:
    print(e)
"#;
    // The last lines of the script crash the interpreter: its status must be the native one too.
    same("python3", &["-c", script]);
}

#[test]
fn perl() {
    same(
        "perl",
        &[
            "-e",
            r#"my %h; $h{$_ % 97} .= $_ for 1..100000; print join(",", map { length $h{$_} } sort keys %h), "\n"; $SIG{USR1} = sub { print "got @_\n" }; kill USR1 => $$; sleep 0; print "end\n""#,
        ],
    );
}

#[test]
fn a_compiler_and_its_children() {
    let Some(gcc) = installed("gcc") else { return };
    let output = scratch("compiled");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/memory.c");
    let arguments = ["-O1", "-w", "-o", path_text(&output), path_text(&source)];
    let done = finish(bare(&gcc, &arguments), LIMIT);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(finish(Command::new(&output), LIMIT).status.success());
    std::fs::remove_file(output).expect("compiled above");
}

#[test]
fn go() {
    let Some(go) = installed("go") else { return };
    let program = scratch("go");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go/main.go");
    let built =
        Command::new(go).args(["build", "-o"]).arg(&program).arg(source).env("CGO_ENABLED", "0").status();
    assert!(built.expect("go runs").success());
    same_as_native(&program, &[], bare);
    same_as_native(&program, &[], spread);
    if permitted() {
        let agent = Agent::start(64 << 30);
        same_as_native(&program, &[], |program, arguments| agent.command(program, arguments));
    }
    std::fs::remove_file(program).expect("built above");
}

#[test]
fn what_cannot_run_says_why() {
    let expect = |path: &str, code: i32, message: &str| {
        let output = finish(bare(Path::new(path), &[]), LIMIT);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}");
        assert!(
            line.starts_with("megalith: ") && line.contains(message) && line.lines().count() == 1,
            "{line}"
        );
    };
    expect("/nonexistent/program", 127, "not found");
    expect("/etc/passwd", 126, "not an executable file");
    expect("/", 126, "not an executable file");
    let file = scratch("broken");
    let write = |bytes: &[u8]| {
        std::fs::write(&file, bytes).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&file, mode).expect("our file");
    };
    write(b"hello");
    expect(path_text(&file), 126, "neither ELF nor a script");
    write(b"#!/nonexistent/interpreter\n");
    expect(path_text(&file), 127, "/nonexistent/interpreter");
    let mut elf = std::fs::read("/bin/true").expect("a program");
    elf[18] = 183;
    write(&elf);
    expect(path_text(&file), 126, "another machine than x86-64");
    (elf[4], elf[18]) = (1, 3);
    write(&elf);
    expect(path_text(&file), 126, "i386");
    std::fs::remove_file(file).expect("written above");
}

#[test]
fn refused_calls_say_so_once() {
    let program = compiled("refused", &[]);
    let output = finish(bare(&program, &[]), LIMIT);
    let lines = text(&output.stderr);
    for name in [
        "fork",
        "io_uring_setup",
        "userfaultfd",
        "vmsplice",
        "seccomp",
        "mmap of MAP_GROWSDOWN",
        "modify_ldt",
    ] {
        let said =
            lines.lines().filter(|line| line.contains(&format!(": {name} is not supported yet ("))).count();
        assert_eq!(said, 1, "{name} in\n{lines}");
    }
    assert_eq!(
        text(&output.stdout),
        "fork ENOSYS\nfork ENOSYS\nio_uring_setup ENOSYS\nuserfaultfd ENOSYS\nvmsplice ENOSYS\nseccomp EINVAL\nMAP_GROWSDOWN EINVAL\nmodify_ldt ENOSYS\nrseq ENOSYS\n"
    );
    std::fs::remove_file(program).expect("compiled above");
}

#[test]
fn large_and_small_limits() {
    let Some(sh) = installed("bash") else { return };
    let ours = path_text(&runtime()).to_owned();
    for limit in ["-s unlimited", "-s 1024", "-Sn 64"] {
        let mut command = Command::new(&sh);
        command
            .args(["-c", &format!("ulimit {limit} && exec {ours}")])
            .env("MEGALITH_PROGRAM", compiled("limits", &[]));
        let output = finish(command, LIMIT);
        let mut native = Command::new(&sh);
        native.args(["-c", &format!("ulimit {limit} && exec {}", path_text(&compiled("limits", &[])))]);
        assert_eq!(
            text(&output.stdout),
            text(&finish(native, LIMIT).stdout),
            "{limit}: {}",
            text(&output.stderr)
        );
    }
}

#[test]
fn faults_go_to_the_agent() {
    if !permitted() {
        return;
    }
    let agent = Agent::start(64 << 30);
    let Some(echo) = installed("echo") else { return };
    assert!(finish(agent.command(&echo, &["hello"]), LIMIT).status.success());
    let count = |number: &std::sync::atomic::AtomicU64| number.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(count(&agent.counts.spaces), 1);
    assert!(count(&agent.counts.faults) > 20, "the program's pages are first touched through the agent");
    assert!(count(&agent.counts.backed) >= 8, "segments of the program, its interpreter and libc");
    let Some(env) = installed("env") else { return };
    assert!(finish(agent.command(&env, &[path_text(&echo)]), LIMIT).status.success());
    assert_eq!(count(&agent.counts.spaces), 3, "every executed program opens its own space");
}

#[test]
fn more_than_the_machine_has_is_refused() {
    if !permitted() {
        return;
    }
    let Some(python) = installed("python3") else { return };
    let agent = Agent::start(1 << 30);
    let script = "import mmap\nmmap.mmap(-1, 1 << 29, mmap.MAP_PRIVATE)\ntry:\n mmap.mmap(-1, 1 << 31, mmap.MAP_PRIVATE)\nexcept OSError as e: print(e.errno)";
    assert_eq!(text(&finish(agent.command(&python, &["-c", script]), LIMIT).stdout), "12\n");
}

#[test]
fn without_an_agent_it_ends_with_one_line() {
    let Some(echo) = installed("echo") else { return };
    let mut command = bare(&echo, &["x"]);
    command
        .env("MEGALITH_CLIENT_SOCKET", "/nonexistent/client.sock")
        .env("MEGALITH_MACHINE", "0000000000000001");
    let output = finish(command, LIMIT);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
}
