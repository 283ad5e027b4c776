#!/usr/bin/env bash
# Runs tests under tools that watch what the compiler cannot check: the unsafe parts, and what threads share.
#
#   scripts/sanitize.sh [loom|miri|address|thread]...      default: all four
#
# loom     every order of steps of the runtime's lock
# miri     undefined behaviour, in what needs no kernel: tables, parsers, layouts, the protocol
# address  memory errors, with real userfaultfds and sockets (AddressSanitizer)
# thread   data races, in what needs no process of a space (ThreadSanitizer, with a standard library that is built for it)
#
# All but loom need a nightly compiler; miri its component `miri`, thread its component `rust-src`. Each tool has
# SANITIZE_MINUTES (15), after which it has failed. Prints a table; what a tool said is in target/sanitize.
set -uo pipefail
cd "$(dirname "$0")/.."

readonly MINUTES=${SANITIZE_MINUTES:-15} # for each tool, building included
readonly LOGS=target/sanitize
readonly REAL=(-p megalith-pager -p megalith-fabric -p megalith-client -p megalith-agent)

fail() { printf 'sanitize: %s\n' "$*" >&2; exit 1; }

tools=("$@")
[ $# -gt 0 ] || tools=(loom miri address thread)
for tool in "${tools[@]}"; do
    case $tool in
        loom) ;;
        miri | address | thread)
            cargo +nightly --version >/dev/null 2>&1 || fail "$tool needs a nightly compiler: rustup toolchain install nightly" ;;&
        miri)
            cargo +nightly miri --version >/dev/null 2>&1 || fail "miri is missing: rustup component add miri rust-src --toolchain nightly" ;;
        thread)
            [ -d "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library" ] ||
                fail "thread builds the standard library: rustup component add rust-src --toolchain nightly" ;;
        address) ;;
        *) fail "there is no tool $tool: loom, miri, address, thread" ;;
    esac
done
host=$(rustc -vV | sed -n 's/^host: //p')
mkdir -p "$LOGS"

bounded() { timeout --kill-after=10 "${MINUTES}m" "$@"; }

run_loom() {
    RUSTFLAGS="--cfg loom" bounded cargo test --release --target-dir target/loom -p megalith-runtime --lib word
}

run_miri() {
    # Models visit millions of states, which are a thousand times slower here, and are checked elsewhere.
    MIRIFLAGS="-Zmiri-disable-isolation" bounded cargo +nightly miri test --target-dir target/miri --lib \
        -p megalith-coherence -p megalith-client -p megalith-runtime -p megalith-pager -p megalith-parsers
}

run_address() {
    local tests=(cargo +nightly test --target "$host" --target-dir target/address)
    export RUSTFLAGS=-Zsanitizer=address
    # Leaks are looked for where agents end in order. Tests of links leave some of them, tests of processes their programs, to the end of the
    # process; and planted bugs unwind out of the middle of everything.
    ASAN_OPTIONS=detect_leaks=0 bounded "${tests[@]}" "${REAL[@]}" &&
        bounded "${tests[@]}" -p megalith-agent --lib --test machine --test simulation
    local ended=$?
    unset RUSTFLAGS
    return $ended
}

run_thread() {
    # With "abort" there would be two standard libraries: tests unwind. Tests with processes of a space do not run: it lies where
    # ThreadSanitizer wants to be. Threads of links are left to the end of the process.
    TSAN_OPTIONS=report_thread_leaks=0 CARGO_PROFILE_DEV_PANIC=unwind RUSTFLAGS=-Zsanitizer=thread \
        bounded cargo +nightly test -Zbuild-std --target "$host" --target-dir target/thread --lib "${REAL[@]}"
}

row() { printf '%-8s %8s %8s %8s\n' "$@"; }
code=0
rows=()
for tool in "${tools[@]}"; do
    echo "sanitize: $tool (log: $LOGS/$tool)" >&2
    begun=$SECONDS
    ended=0
    "run_$tool" >"$LOGS/$tool" 2>&1 || ended=$?
    passed=$(awk '/^test result:/ { n += $4 } END { print n + 0 }' "$LOGS/$tool")
    failed=$(awk '/^test result:/ { n += $6 } END { print n + 0 }' "$LOGS/$tool")
    rows+=("$(row "$tool" "$passed" "$failed" $((SECONDS - begun)))")
    if [ $ended != 0 ] || [ "$passed" = 0 ]; then
        code=1
        [ $ended != 124 ] && [ $ended != 137 ] || echo "sanitize: $tool has not ended within $MINUTES minutes" >&2
        grep -m 5 -E '^error|panicked at|ERROR: |WARNING: ThreadSanitizer|SUMMARY:' "$LOGS/$tool" >&2 || tail -5 "$LOGS/$tool" >&2
    fi
done
row tool passed failed seconds
printf '%s\n' "${rows[@]}"
exit $code
