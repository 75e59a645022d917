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

# packages_unpack [--whole] SUITE DIR PACKAGE…: packages of another release, from the machine's own apt mirror, unpacked
# into DIR and not installed; --whole: with all that they depend on, down to the C library. Lists and caches are its own:
# the machine's apt does not learn of the other release.
packages_unpack() {
    local how=(download) suite dir own mirror apt options
    if [ "$1" = --whole ]; then
        shift
        how=(install --yes --no-install-recommends --download-only --target-release "$1")
    fi
    suite=$1 dir=$2
    shift 2
    have apt-get || die "$* come from Debian's packages: this is not a Debian machine"
    own=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016  # apt's own placeholders
    mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        awk -v own="$own" '$1 == own { print $2; exit }')
    [ -n "$mirror" ] || die "apt has no source for this release: no mirror to take $* from"
    apt=$(mktemp -d)
    mkdir -p "$apt"/{lists,cache/archives}/partial "$dir"
    # What a release's backports depend on is in the release itself.
    printf '%s\n' "$suite" "${suite%-backports}" | sort -u |
        sed "s|.*|deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror & main|" >"$apt/sources.list"
    : >"$apt/status" # it shall know of nothing that is installed
    options=(-q -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::Etc::PreferencesParts=/dev/null -o "Dir::State::Lists=$apt/lists" -o "Dir::State::Status=$apt/status"
        -o "Dir::Cache=$apt/cache" -o Acquire::Languages=none -o "APT::Sandbox::User=$(id -un)")
    if ! (cd "$apt" && apt-get "${options[@]}" update && apt-get "${options[@]}" "${how[@]}" "$@") >"$apt/log" 2>&1; then
        tail -n 15 "$apt/log" >&2
        rm -rf "$apt"
        say "could not fetch $*"
        return 1
    fi
    find "$apt" -name '*.deb' -exec dpkg-deb -x {} "$dir" \;
    rm -rf "$apt"
}

# packages_wheel DIR WHEEL: a Python wheel without what it depends on, in a virtual environment DIR of its own. Fails,
# saying why, where it cannot.
packages_wheel() {
    packages_need python3:python3-minimal || return
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then packages_add python3-venv || return; fi
    python3 -m venv "$1" || return
    timeout -k 10 300 "$1/bin/pip" install -q --disable-pip-version-check --no-deps "$2" >&2
}

# Rust is the one thing expected of the machine; the linker that it needs is not.
packages_rust() {
    have cargo || [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH=$HOME/.cargo/bin:$PATH
    have cargo || die "cargo is missing: install Rust with rustup (rust-lang.org tells how), then run this again"
    have cc || packages_add gcc libc6-dev || die "Rust needs a C compiler to link with"
}
