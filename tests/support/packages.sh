# shellcheck shell=bash
# What the test scripts need on the machine, from Debian's own packages. Sourced.

ME=${ME:-${0##*/}} # who speaks
say() { printf '%s: %s\n' "$ME" "$*" >&2; }
die() {
    say "$*"
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# packages_add PACKAGE…: quiet unless it fails. Fails, saying why, where it cannot install.
packages_add() {
    local log
    if ! have apt-get; then
        say "cannot install $*: this is not a Debian machine"
        return 1
    elif [ "$(id -u)" -ne 0 ]; then
        say "cannot install $*: not root"
        return 1
    fi
    say "installing $*"
    log=$(mktemp)
    # A fresh machine has no package lists and an old one has stale ones; either way the first try fails.
    if apt_install "$@" >"$log" 2>&1 || { apt-get -q update && apt_install "$@"; } >>"$log" 2>&1; then
        rm -f "$log"
        return
    fi
    tail -n 15 "$log" >&2
    rm -f "$log"
    say "could not install $*"
    return 1
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -qy -o DPkg::Lock::Timeout=120 \
        install --no-install-recommends "$@" </dev/null
}

# packages_need COMMAND:PACKAGE…: installs, in one go, the packages of those commands that are missing.
packages_need() {
    local pair missing=()
    for pair in "$@"; do
        have "${pair%%:*}" || missing+=("${pair#*:}")
    done
    [ "${#missing[@]}" -eq 0 ] || packages_add "${missing[@]}"
}

# Rust is the one thing expected of the machine; the linker that it needs is not.
packages_rust() {
    have cargo || [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH=$HOME/.cargo/bin:$PATH
    have cargo || die "cargo is missing: install Rust with rustup (rust-lang.org tells how), then run this again"
    have cc || packages_add gcc libc6-dev || die "Rust needs a C compiler to link with"
}
