#!/usr/bin/env bash
# Prepares a Debian 12 host to build, test and demonstrate Megalith.
#
#   scripts/setup.sh [build] [demo] [test]      default: all three
#
# Does only what is missing, says what it does, and is silent if nothing is. Installing packages takes root;
# without it, the command to run is printed instead.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly RUST_MIN=1.88
sections=("${@:-build}")
[ $# -gt 0 ] || sections=(build demo test)

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

packages_of() {
    awk -v wanted="[$1]" '/^\[/ { on = ($0 == wanted) } on && !/^(\[|#|$)/' scripts/packages.txt
}

installed() { dpkg-query --show --showformat='${db:Status-Abbrev}' "$1" 2>/dev/null | grep -q '^ii'; }

install() {
    local missing=() package
    for package; do installed "$package" || missing+=("$package"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "this is no Debian; install these by other means: ${missing[*]}"
    [ "$(id -u)" = 0 ] || fail "as root: apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    # Services that come with packages (redis) are not to run: tests start their own.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; made=$policy; fi
    local log code=0
    log=$(mktemp)
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}"; } \
        >"$log" 2>&1 || code=$?
    [ -z "$made" ] || rm -f "$made"
    [ $code = 0 ] || { tail -20 "$log" >&2; rm -f "$log"; fail "apt-get failed"; }
    rm -f "$log"
}

# True if version $1 is at least $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -1)" = "$2" ]; }

rust() {
    local version
    version=$(cargo --version 2>/dev/null | awk '{ print $2 }') || true
    if [ -n "$version" ] && at_least "$version" "$RUST_MIN"; then return; fi
    if [ -n "$version" ] && command -v rustup >/dev/null; then
        fail "cargo $version is older than $RUST_MIN: rustup update"
    fi
    # Debian 12's own cargo is 0.66; its security archive carries a current one for Firefox and Chromium. It
    # takes the place of /usr/bin/cargo. There is no clippy of that version: `make lint` says so.
    install cargo-web rustc-web rustfmt-web
    version=$(/usr/bin/cargo --version | awk '{ print $2 }')
    at_least "$version" "$RUST_MIN" || fail "cargo $version is older than $RUST_MIN"
}

venv() {
    local python=python3
    for python in python3.11 python3.12 python3.13 python3.14 python3; do
        command -v $python >/dev/null && break
    done
    if ! .venv/bin/python -c '' 2>/dev/null; then
        say "making .venv with $($python --version)"
        rm -rf .venv
        $python -m venv .venv
    fi
    local lists=(scripts/requirements.txt docs/requirements.txt)
    if ! cat "${lists[@]}" | cmp -s - .venv/requirements.txt; then
        say "installing ${lists[*]} into .venv"
        .venv/bin/pip install --quiet --disable-pip-version-check "${lists[@]/#/--requirement=}"
        cat "${lists[@]}" >.venv/requirements.txt
    fi
}

wanted=()
for section in "${sections[@]}"; do
    mapfile -t -O ${#wanted[@]} wanted < <(packages_of "$section")
done
[ ${#wanted[@]} -gt 0 ] || fail "no packages in: ${sections[*]} (known: build, demo, test)"
install "${wanted[@]}"
rust
venv
