#!/usr/bin/env bash
# Measures which lines the tests run: those of Rust by crate, under `cargo test`, and of Python by package, under tests/unit, tests/executors and tests/python (what runs in their own process).
#
#   scripts/coverage.sh [rust|python]...      default: both
#
# Rust needs the compiler's own llvm-cov (rustup component add llvm-tools), Python coverage.py in .venv (pip install coverage). Arguments for
# `cargo test` come from COVERAGE_TESTS (default: all crates but the runtime, which is freestanding: the counters need a libc).
set -uo pipefail
cd "$(dirname "$0")/.."

readonly OUT=target/coverage
fail() { printf 'coverage: %s\n' "$*" >&2; exit 1; }

parts=("$@")
[ $# -gt 0 ] || parts=(rust python)
python=${PYTHON:-.venv/bin/python}
tools=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
for part in "${parts[@]}"; do
    case $part in
        rust) [ -x "$tools/llvm-cov" ] || fail "llvm-cov is missing: rustup component add llvm-tools" ;;
        python) "$python" -m coverage --version >/dev/null 2>&1 || fail "coverage.py is missing: $python -m pip install coverage" ;;
        *) fail "there is no part $part: rust, python" ;;
    esac
done
mkdir -p "$OUT"

table() { "$python" scripts/coverage_table.py "$@"; }

measure_rust() {
    local profiles=$OUT/profiles words=()
    rm -rf "$profiles"
    read -r -a words <<<"${COVERAGE_TESTS:---workspace --exclude megalith-runtime}"
    # %m: processes of one binary share a file, in which their counters are added up. A process that a signal ends counts nothing.
    LLVM_PROFILE_FILE="$PWD/$profiles/%m.profraw" RUSTFLAGS="-Cinstrument-coverage" \
        cargo test "${words[@]}" --no-fail-fast --target-dir "$OUT/target" >"$OUT/rust.log" 2>&1
    local ended=$?
    local binaries=()
    mapfile -t binaries < <(sed -nE 's/^ +Running .*\((.*)\)$/\1/p' "$OUT/rust.log")
    [ ${#binaries[@]} -gt 0 ] || { tail -5 "$OUT/rust.log" >&2; return 1; }
    "$tools/llvm-profdata" merge --sparse --failure-mode=all -o "$OUT/rust.profdata" "$profiles"/*.profraw || return 1
    "$tools/llvm-cov" export --summary-only --instr-profile "$OUT/rust.profdata" "${binaries[0]}" "${binaries[@]/#/--object=}" \
        >"$OUT/rust.json" 2>>"$OUT/rust.log" || return 1
    table rust "$OUT/rust.json"
    [ $ended = 0 ] || { grep -m 5 -E '^error|panicked at' "$OUT/rust.log" >&2; return 1; }
}

measure_python() {
    "$python" -m coverage run --data-file "$OUT/python.data" --source python/megalith -m pytest --quiet tests/unit tests/executors tests/python >"$OUT/python.log" 2>&1
    local ended=$?
    "$python" -m coverage json --quiet --data-file "$OUT/python.data" -o "$OUT/python.json" || return 1
    table python "$OUT/python.json"
    [ $ended = 0 ] || { tail -5 "$OUT/python.log" >&2; return 1; }
}

code=0
for part in "${parts[@]}"; do
    "measure_$part" || { echo "coverage: $part FAILED (log: $OUT/$part.log)" >&2; code=1; }
done
exit $code
