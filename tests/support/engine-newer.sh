# shellcheck shell=bash
# The engine of a newer Debian, beside the one that runs. Sourced, after packages.sh:
#   newer_up CACHE LOG   unpacks it into CACHE, once, and starts it; NEWER says what it is. Fails where it cannot, and
#                        then NEWER_WHY says why
#   newer_in CMD…        runs it in the engine's network namespace, speaking to it
#   newer_down           stops it, and takes away all that it had
# It is unpacked and not installed. Its runc wants a newer C library, so this machine's own runs its containers; the
# rest runs with any. What it has lies in a folder of its own with a short name: the paths of sockets are limited.

NEWER_SUITE=testing
NEWER= NEWER_WHY= NEWER_PID= NEWER_DIR= NEWER_BIN=

newer_up() {
    local cache=$1 log=$2 file deadline
    if [ "$(id -u)" -ne 0 ] || ! have apt-get; then
        NEWER_WHY="only root on Debian can bring one"
        return 1
    fi
    if [ ! -x "$cache/bin/dockerd" ]; then
        say "unpacking a newer Docker engine, once"
        rm -rf "$cache"
        if ! packages_unpack "$NEWER_SUITE" "$cache/root" docker.io containerd; then
            NEWER_WHY="its packages could not be fetched"
            return 1
        fi
        mkdir "$cache/new"
        for file in usr/sbin/dockerd usr/sbin/docker-proxy usr/bin/containerd usr/bin/containerd-shim-runc-v2; do
            ln "$cache/root/$file" "$cache/new/"
        done
        rm -rf "$cache/root"
        mv "$cache/new" "$cache/bin" # last: it vouches for the rest
    fi
    NEWER_BIN=$(cd "$cache/bin" && pwd)
    NEWER_DIR=$(mktemp -d /tmp/bte.XXXXXX)
    # Its own session, so that Ctrl-C leaves it to newer_down. By `exec` our child is the dockerd itself.
    PATH=$NEWER_BIN:$PATH setsid tests/support/engine-private.sh "$NEWER_DIR" >"$log" 2>&1 </dev/null &
    NEWER_PID=$!
    deadline=$((SECONDS + 60))
    until NEWER=$(newer_client version --format '{{.Server.Version}}' 2>/dev/null); do
        if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$NEWER_PID" 2>/dev/null; then
            tail -n 20 "$log" >&2
            NEWER_WHY="it did not come up; the end of $log is above"
            newer_down
            return 1
        fi
        sleep 0.2
    done
}

newer_client() { DOCKER_HOST=unix://$NEWER_DIR/sock docker "$@"; }

# Programs that are looked for on the way are the newer engine's too: a test starts engines of its own.
newer_in() {
    DOCKER_HOST=unix://$NEWER_DIR/sock PATH=$NEWER_BIN:$PATH nsenter --net="/proc/$NEWER_PID/ns/net" "$@"
}

newer_down() {
    local deadline
    if [ -n "$NEWER_PID" ]; then
        newer_client ps -aq 2>/dev/null | xargs -r env "DOCKER_HOST=unix://$NEWER_DIR/sock" \
            docker rm --force --volumes >/dev/null 2>&1 || true
        kill "$NEWER_PID" 2>/dev/null || true
        deadline=$((SECONDS + 30))
        while kill -0 "$NEWER_PID" 2>/dev/null; do
            [ "$SECONDS" -lt "$deadline" ] || kill -KILL "$NEWER_PID" 2>/dev/null || true
            sleep 0.2
        done
        wait "$NEWER_PID" 2>/dev/null || true
    fi
    if [ -n "$NEWER_DIR" ]; then
        # One that had to be killed has left mounts.
        awk -v dir="$NEWER_DIR/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
            xargs -r -n 1 umount -l 2>/dev/null || true
        rm -rf "$NEWER_DIR"
    fi
    NEWER_PID='' NEWER_DIR=''
}
