#!/usr/bin/env bash
# Gives every parser of bytes from outside (crates/parsers) bytes that libFuzzer thinks of.
#
#   scripts/fuzz.sh SECONDS [PARSER...]      default: all of fuzz/fuzz_targets
#
# Prints a table, and fails if one did what it must not; the bytes that made it do so are then in fuzz/artifacts. What was found to
# lead somewhere new stays in fuzz/corpus for the next time. Neither is the repository's.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly CARGO_FUZZ=0.13.2
readonly TOOLS=$PWD/target/tools
readonly BUILT=target/fuzz
readonly INPUT_BYTES_MAX=8192

fail() { printf 'fuzz: %s\n' "$*" >&2; exit 1; }

[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || fail "say for how many seconds each: scripts/fuzz.sh 60"
time_s=$1
shift
parsers=("$@")
[ $# -gt 0 ] || mapfile -t parsers < <(cd fuzz/fuzz_targets && printf '%s\n' *.rs | sed 's/\.rs$//')

cargo +nightly --version >/dev/null 2>&1 || fail "libFuzzer needs a nightly compiler: rustup toolchain install nightly"
command -v c++ >/dev/null || fail "libFuzzer is built with a C++ compiler: apt-get install g++"
if ! "$TOOLS/bin/cargo-fuzz" --version 2>/dev/null | grep -qF " $CARGO_FUZZ"; then
    echo "fuzz: installing cargo-fuzz $CARGO_FUZZ into target/tools"
    cargo install --quiet cargo-fuzz --version "$CARGO_FUZZ" --locked --root "$TOOLS"
fi
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
PATH=$TOOLS/bin:$PATH cargo +nightly fuzz build --target-dir "$BUILT"

row() { printf '%-20s %14s %10s %8s\n' "$@"; }
code=0
row parser executions seconds crashes
for parser in "${parsers[@]}"; do
    program=$BUILT/$host/release/$parser
    [ -x "$program" ] || fail "no parser is named $parser"
    artifacts=fuzz/artifacts/$parser
    mkdir -p "$artifacts" "fuzz/corpus/$parser" fuzz/logs
    log=fuzz/logs/$parser
    before=$(find "$artifacts" -type f | wc -l)
    ended=0
    "$program" -max_total_time="$time_s" -max_len=$INPUT_BYTES_MAX -timeout=10 -malloc_limit_mb=64 -print_final_stats=1 \
        -artifact_prefix="$artifacts/" "fuzz/corpus/$parser" "fuzz/seeds/$parser" >"$log" 2>&1 || ended=$?
    crashes=$(($(find "$artifacts" -type f | wc -l) - before))
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    took=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p' "$log")
    row "$parser" "${executions:-?}" "${took:-?}" "$crashes"
    if [ "$ended" != 0 ] || [ "$crashes" != 0 ]; then
        code=1
        grep -m 3 -A 1 -E 'panicked at|ERROR:' "$log" || tail -5 "$log"
    fi
done
[ $code = 0 ] || fail "see fuzz/logs; the bytes are in fuzz/artifacts. Once mended, keep them in fuzz/seeds"
