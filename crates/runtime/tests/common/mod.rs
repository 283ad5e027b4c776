//! Runs programs under the runtime, and compares with running them natively.
#![allow(dead_code)] // Each test file uses its own part.

use std::ffi::OsStr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

pub mod agent;

/// The executable.
pub fn runtime() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_megalith-runtime"))
}

/// A C program of `tests/c`, compiled.
pub fn compiled(name: &str, flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(name).with_extension("c");
    // A name of its own per process: tests compile at the same time.
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "{name}-{}-{}",
        std::process::id(),
        flags.concat()
    ));
    let status = Command::new("gcc")
        .args(["-O1", "-w", "-pthread"])
        .args(flags)
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .status();
    assert!(status.expect("gcc runs").success(), "{name} does not compile");
    program
}

/// Where a program is installed; prints why a test is skipped if it is not.
pub fn installed(name: &str) -> Option<PathBuf> {
    let found = ["/usr/local/go/bin", "/usr/bin", "/bin"]
        .iter()
        .map(|room| Path::new(room).join(name))
        .find(|path| path.exists());
    if found.is_none() {
        println!("skipped: {name} is not installed");
    }
    found
}

/// A command that runs `program` under the runtime, in bare mode.
pub fn bare(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(runtime());
    command.arg0(program).args(arguments).env("MEGALITH_PROGRAM", program);
    command
}

/// A command that runs `program` in spread mode, without another host.
pub fn spread(program: &Path, arguments: &[&str]) -> Command {
    let mut command = bare(program, arguments);
    command.env("MEGALITH_SPREAD", "0");
    command
}

/// Runs to the end, or kills it after `limit` and panics.
pub fn finish(mut command: Command, limit: Duration) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("it starts");
    let id = child.id() as i32;
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let start = Instant::now();
        if wait.recv_timeout(limit).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout) {
            // SAFETY: ends the group of the child started above, which has not been waited for.
            unsafe { libc::kill(-id, libc::SIGKILL) };
            return Some(start.elapsed());
        }
        None
    });
    let mut output = Output { status: ExitStatusExt::from_raw(0), stdout: Vec::new(), stderr: Vec::new() };
    let mut errors = child.stderr.take().expect("piped");
    let read = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut errors, &mut bytes).map(|_| bytes)
    });
    std::io::Read::read_to_end(&mut child.stdout.take().expect("piped"), &mut output.stdout)
        .expect("readable");
    output.stderr = read.join().expect("no panic").expect("readable");
    // A program may close its outputs and go on: the watch is told only once it can be waited for.
    // SAFETY: siginfo_t is plain; WNOWAIT leaves the child to `wait`.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_PID, id as u32, &mut info, libc::WEXITED | libc::WNOWAIT);
    }
    // The watch may have given up already.
    let _ = done.send(());
    let late = watch.join().expect("no panic");
    output.status = child.wait().expect("it ends");
    assert!(
        late.is_none(),
        "still running after {limit:?}; output so far:\n{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// Bytes as text, for messages.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts that `program` does the same natively and in `under`.
pub fn same_as_native(program: &Path, arguments: &[&str], under: impl FnOnce(&Path, &[&str]) -> Command) {
    let limit = Duration::from_secs(120);
    let mut native = Command::new(program);
    native.args(arguments);
    let native = finish(native, limit);
    let ours = finish(under(program, arguments), limit);
    let seen = |output: &Output| {
        (output.status.code(), output.status.signal(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(seen(&ours), seen(&native), "{} {arguments:?}", program.display());
}

/// `value` as a string slice.
pub fn path_text(path: &impl AsRef<OsStr>) -> &str {
    path.as_ref().to_str().expect("a path of ours")
}
