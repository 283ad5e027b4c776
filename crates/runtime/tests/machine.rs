//! Spread mode shows the machine, not the home host.

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{bare, compiled, finish, path_text, text};

const EXPECTED: &str = "\
given: 3f
mask of 8 bytes: 6 CPUs, word 3f
short: -1 1
bad pointer: -1 1
nobody: -1 1
none: -1 1
beyond: -1 1
over hosts: 0
read back: 9
at home: 1 0
inherited: 9
/proc/cpuinfo: six processors
/proc/meminfo: much
/proc/stat: busy
/sys/devices/system/cpu/online: 0-5
stat 0 -1
access 0, real 0
entries 3, inside 0-5
chdir 0
online: 0-5
processors 6 6
memory 4096 1024
barrier 0
usage 0 1
";

fn view() -> std::path::PathBuf {
    let view = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("view-{}", std::process::id()));
    let write = |path: &str, contents: &str| {
        let path = view.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder of ours");
        fs::write(path, contents).expect("a file of ours");
    };
    write("proc/cpuinfo", "six processors\n");
    write("proc/meminfo", "much\n");
    write("proc/stat", "busy\n");
    write("sysinfo", "4294967296 1073741824\n");
    write("sys/devices/system/cpu/online", "0-5\n");
    write("sys/devices/system/cpu/possible", "0-5\n");
    write("sys/devices/system/cpu/cpu5/online", "1\n");
    write("sys/devices/system/node/online", "0-2\n");
    view
}

#[test]
fn programs_see_the_machine() {
    let (program, view) = (compiled("machine", &[]), view());
    let mut command = bare(&program, &[]);
    command
        .env("MEGALITH_SPREAD", "1,2,0")
        .env("MEGALITH_CPUS", "2,3,1")
        .env("MEGALITH_VIEW", path_text(&view));
    let output = finish(command, Duration::from_secs(60));
    // A child starts with the CPUs of its parent, and shows the same otherwise.
    let child = format!("{EXPECTED}{}child 0\n", EXPECTED.replace("given: 3f", "given: 9"));
    assert_eq!(text(&output.stdout), child, "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    fs::remove_file(program).expect("compiled above");
    fs::remove_dir_all(view).expect("made above");
}

#[test]
fn a_list_that_is_none_ends_the_run() {
    let program = compiled("limits", &["-DLIST"]);
    for (name, value) in [
        ("MEGALITH_SPREAD", "1,x"),
        ("MEGALITH_SPREAD", "999"),
        ("MEGALITH_CPUS", "2,0"),
        ("MEGALITH_CPUS", "2000"),
    ] {
        let mut command = bare(&program, &[]);
        command.env("MEGALITH_SPREAD", "0").env(name, value);
        let output = finish(command, Duration::from_secs(20));
        assert_eq!(output.status.code(), Some(125), "{name}={value}");
        assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
    }
    fs::remove_file(program).expect("compiled above");
}
