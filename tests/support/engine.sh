# shellcheck shell=bash
# A Docker engine to test on. Sourced, after packages.sh:
#   engine_up LOG       leaves a running engine alone, else installs and starts one that logs to LOG
#   engine_purge RUN    removes what the tests of this run made
#   engine_down         stops the engine that engine_up started, and no other

ENGINE_PID=     # of the dockerd that we started
ENGINE_UNIT=    # or the systemd unit

engine_answers() { docker version >/dev/null 2>&1; }

# The dockerd of this network namespace: two in one take each other's bridge away.
engine_pid() {
    local pid
    { grep -lsx dockerd /proc/[0-9]*/comm || true; } | cut -d/ -f3 | while read -r pid; do
        [ ! "/proc/$pid/ns/net" -ef /proc/self/ns/net ] || echo "$pid"
    done
}

# A dockerd that was killed has left pid files, and a new one waits in vain for whoever has those pids by now.
engine_unstale() {
    local file name
    for file in /var/run/docker.pid:dockerd /var/run/docker/containerd/containerd.pid:containerd; do
        name=${file##*:} file=${file%:*}
        if [ -f "$file" ] && ! grep -qsx "$name" "/proc/$(cat "$file")/comm"; then rm -f "$file"; fi
    done
}

engine_up() {
    local log=$1 why="the Docker tests cannot run: no engine answers"
    if have docker && engine_answers; then return; fi
    # A local engine in place of the one that was named would be a surprise.
    [ -z "${DOCKER_HOST:-}" ] || die "$why at DOCKER_HOST=$DOCKER_HOST"
    [ "$(id -u)" -eq 0 ] || die "$why, and only root can start one. What needs no engine: cargo test"

    local fresh=''
    have dockerd || fresh=1
    packages_need dockerd:docker.io || die "$why, and there is none to start. What needs no engine: cargo test"
    # Newer Debians have the client in a package of its own.
    packages_need docker:docker-cli || die "the Docker tests cannot run: there is no docker client"
    if [ -z "$fresh" ]; then
        if engine_answers; then return; fi # it was only the client that was missing
        [ -z "$(engine_pid)" ] || die "$why, although dockerd runs as process $(engine_pid): stop or repair it first"
    fi

    say "starting a Docker engine, log in $log"
    if [ -d /run/systemd/system ]; then
        ENGINE_UNIT=docker
        systemctl start docker >"$log" 2>&1 || true # judged below, by whether it answers
    else
        # Without systemd there may be no control groups yet, or installing the package has started it already.
        mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
        ENGINE_PID=$(engine_pid)
        if [ -z "$ENGINE_PID" ]; then
            engine_unstale
            # Its own session, so that Ctrl-C leaves it to engine_down.
            setsid dockerd >"$log" 2>&1 </dev/null &
            ENGINE_PID=$!
        fi
    fi

    local deadline=$((SECONDS + 60))
    until engine_answers; do
        if [ "$SECONDS" -ge "$deadline" ] || { [ -n "$ENGINE_PID" ] && ! kill -0 "$ENGINE_PID" 2>/dev/null; }; then
            [ -z "$ENGINE_UNIT" ] || journalctl -qu docker -n 20 >>"$log" 2>&1 || true
            tail -n 20 "$log" >&2
            die "the Docker engine did not come up; the end of $log is above"
        fi
        sleep 0.2
    done
}

engine_started() { [ -n "$ENGINE_PID$ENGINE_UNIT" ]; }

engine_down() {
    if [ -n "$ENGINE_UNIT" ]; then
        systemctl stop "$ENGINE_UNIT.service" "$ENGINE_UNIT.socket" >/dev/null 2>&1 || true
    elif [ -n "$ENGINE_PID" ]; then
        kill "$ENGINE_PID" 2>/dev/null || true
        local deadline=$((SECONDS + 30)) # it gives its containers 15 s
        while kill -0 "$ENGINE_PID" 2>/dev/null; do
            [ "$SECONDS" -lt "$deadline" ] || kill -KILL "$ENGINE_PID" 2>/dev/null || true
            sleep 0.2
        done
        wait "$ENGINE_PID" 2>/dev/null || true
    fi
    ENGINE_PID='' ENGINE_UNIT=''
}

# Of this run only: a person's own sandboxes, and other runs, live on the same engine. The tests name their trees
# test-<run>-…, and label with io.bottle.test=<run> what they make beside bottle.
engine_purge() {
    engine_purge_kind "$1" container Id .Config.Labels --all rm --force --volumes
    engine_purge_kind "$1" network Id .Labels --no-trunc rm
    engine_purge_kind "$1" volume Name .Labels --quiet rm --force
    engine_purge_kind "$1" image Id .Config.Labels --all rm --force
    # Sidecars' images carry no labels. Those that something stands on stay, and any other is loaded again when needed.
    docker image ls --quiet bottle-sidecar 2>/dev/null | sort -u | xargs -r -n 1 docker image rm >/dev/null 2>&1 || true
}

# engine_purge_kind RUN KIND ID LABELS LS-FLAG REMOVE…
engine_purge_kind() {
    local run=$1 kind=$2 id=$3 labels=$4 flag=$5
    shift 5
    # What goes away between the calls is no failure.
    docker "$kind" ls --quiet "$flag" 2>/dev/null | sort -u |
        xargs -r docker "$kind" inspect --format \
            "{{.$id}}|{{index $labels \"io.bottle.owner\"}}|{{index $labels \"io.bottle.test\"}}" 2>/dev/null |
        awk -F'|' -v run="$run" 'index($2, "test-" run "-") == 1 || $3 == run { print $1 }' | sort -u |
        xargs -r docker "$kind" "$@" >/dev/null 2>&1 || true
}
