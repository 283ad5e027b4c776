#!/usr/bin/env bash
# Builds the Rust half and installs the package into .venv, in place. `make build` calls it when it is needed.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "build: maturin develop --release"
if ! VIRTUAL_ENV="$PWD/.venv" .venv/bin/maturin develop --release >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi
touch .venv/built
