#!/usr/bin/env bash
# engine-private.sh DIR [DOCKERD-ARG…]: becomes a dockerd with all that it has in DIR, listening on DIR/sock: an engine
# that a test may kill. By `exec`, so the caller's child is the dockerd itself. Run again on the same DIR it finds its
# containers again. It has a network namespace of its own, anew each time: two engines in one take each other's bridge
# away. So the networks of its containers have no way out, and who wants to reach one enters that namespace:
# `nsenter --net=/proc/$(cat DIR/pid)/ns/net CMD…`.
# To be rid of it: `docker rm -f` of all of its containers, TERM, wait, remove DIR; each dockerd that was killed has left
# a mount on DIR/data, to be unmounted first. Keep DIR short: the paths of sockets beneath it are limited.
set -euo pipefail

[ "$(id -u)" -eq 0 ] || { echo "${0##*/}: only root can start an engine" >&2; exit 1; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
# What a killed predecessor left: dockerd waits in vain for processes of these pids, be they zombies or anyone's. Its
# containerd died with it.
rm -f "$dir/pid" "$dir/exec/containerd/containerd.pid"
# Its loopback is up, where there is a program for it: the tests that run in it listen there.
# shellcheck disable=SC2016  # the inner shell's own
exec unshare --net sh -c 'ip link set lo up 2>/dev/null || busybox ip link set lo up 2>/dev/null; exec dockerd "$@"' - \
    --host="unix://$dir/sock" --data-root="$dir/data" --exec-root="$dir/exec" --pidfile="$dir/pid" "$@" </dev/null
