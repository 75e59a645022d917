#!/usr/bin/env bash
# debian.sh: a minimal Debian with the user node (uid 1000) as bottle-test-debian:1, from the machine's own apt mirror
# and without a registry. It takes about a minute, so it is made only where a test needs a real userland; the root is
# kept in cargo's target folder. Prints the image's name if it was not there before.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/support/packages.sh
. tests/support/packages.sh

name=bottle-test-debian:1
suite=bookworm
cache=${CARGO_TARGET_DIR:-target}/test-debian
tar=$cache/$suite.tar

if docker image inspect "$name" >/dev/null 2>&1; then exit; fi

# The mirror that serves this machine's release serves the others too.
mirror() {
    local own
    own=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016  # apt's own placeholders
    apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        awk -v suite="$suite" -v own="$own" '$1 == suite || $1 == own { print $2; exit }'
}

if [ ! -f "$tar" ]; then
    [ "$(id -u)" -eq 0 ] || die "only root can make a Debian root"
    have apt-get || die "a Debian root can be made only on Debian"
    packages_need debootstrap:debootstrap || die "a Debian root needs debootstrap"
    from=$(mirror)
    [ -n "$from" ] || die "apt has no source for this release to make a Debian root from"
    say "making a Debian $suite root, once"
    rm -rf "$cache"
    mkdir -p "$cache"
    trap 'rm -rf "$cache/root"' EXIT
    if ! debootstrap --variant=minbase "$suite" "$cache/root" "$from" >"$cache/log" 2>&1; then
        tail -n 15 "$cache/log" >&2
        die "debootstrap failed; the end of $cache/log is above"
    fi
    chroot "$cache/root" useradd --create-home --uid 1000 --shell /bin/bash node
    rm -rf "$cache/root"/var/{cache/apt,lib/apt/lists}/*
    tar --numeric-owner --exclude='./dev/*' -C "$cache/root" -cf "$tar.part" .
    mv "$tar.part" "$tar"
fi

docker import "$tar" "$name" >/dev/null
echo "$name"
