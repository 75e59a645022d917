#!/bin/sh
# smolvm 1.9.2, as far as it was measured: what it lacks it refuses like the command line parser that it has. No machine
# ever runs: the guest is a few canned answers. Its machines are folders beside it, and so is the record of its calls.
here=$(dirname "$0")
printf '%s\n' "$*" >>"$here/calls"
refuse() {
    printf 'error: unexpected argument %s found\n\nUsage: smolvm [OPTIONS] <COMMAND>\n' "'$1'" >&2
    exit 2
}
fail() {
    echo "Error: $*" >&2
    exit 1
}
# The options that only later releases have; what follows `--` is the guest's.
for word; do
    case $word in
    --) break ;;
    --error-format | --state-dir | --user | -u | -q | --stop-signal | --block-private) refuse "$word" ;;
    esac
done
if [ "$1" = --version ]; then
    echo "smolvm 1.9.2"
    exit
fi
[ "$1" = machine ] || refuse "$1"
verb=$2
shift 2
case $verb in
create | start | stop | delete | exec | ls) ;;
*) printf "error: unrecognized subcommand '%s'\n" "$verb" >&2 && exit 2 ;;
esac
name='' labels='' cpus=4 memory=8192 image=null detached=''
while [ $# -gt 0 ]; do
    case $1 in
    --name) name=$2 && shift ;;
    --cpus) cpus=$2 && shift ;;
    --mem) memory=$2 && shift ;;
    --image) image="\"$2\"" && shift ;;
    --label)
        escaped=$(printf '%s' "$2" | sed 's/\\/\\\\/g; s/"/\\"/g; s/=/": "/')
        labels="$labels${labels:+, }\"$escaped\""
        shift
        ;;
    --env | --storage | --volume) shift ;;
    -d) detached=1 ;;
    --) shift && break ;;
    esac
    shift
done
machine=$here/machines/$name
if [ "$verb" = ls ]; then
    between=''
    echo '['
    for machine in "$here"/machines/*/; do
        [ -d "$machine" ] || continue
        printf '%s{ %s, "state": "%s", "pid": %s }\n' "$between" "$(cat "$machine/row")" "$(cat "$machine/state")" \
            "$(cat "$machine/pid")"
        between=', '
    done
    echo ']'
    exit
fi
if [ "$verb" = create ]; then
    mkdir -p "$here/machines"
    mkdir "$machine" 2>/dev/null || fail "config operation failed: create machine: machine '$name' already exists"
    # No state_reason, no parent_machine: those came later.
    printf '"name": "%s", "cpus": %s, "memory_mib": %s, "image": %s, "mounts": 0, "ports": 0, "network": false, ' \
        "$name" "$cpus" "$memory" "$image" >"$machine/row"
    printf '"created_at": 1795145601, "labels": { %s }' "$labels" >>"$machine/row"
    echo created >"$machine/state"
    echo null >"$machine/pid"
    exit
fi
[ -d "$machine" ] || fail "vm not found: $name"
case $verb in
start)
    # As often as the test asks for, it dies in its boot, in the way that the line says.
    if [ -s "$here/dies" ]; then
        how=$(head -n 1 "$here/dies")
        sed -i 1d "$here/dies"
        echo stopped >"$machine/state"
        [ "$how" = ends ] || fail "agent operation failed: start machine: agent operation failed: wait for ready: \
agent did not become ready within 30 seconds: no boot progress for 30 seconds"
        fail "agent operation failed: monitor agent: boot process exited (code 0) before the agent was ready"
    fi
    echo running >"$machine/state" && echo 1 >"$machine/pid" ;;
stop) echo stopped >"$machine/state" && echo null >"$machine/pid" ;;
delete) rm -r "$machine" ;;
exec)
    [ "$(cat "$machine/state")" = running ] || fail "agent operation failed: connect: machine '$name' is not running"
    [ -z "$detached" ] || { echo 77 && exit; }
    case "$*" in
    *'cat /etc/passwd'*)
        printf '0\n0\n---\nroot:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n---\nnode:x:1000:\n'
        ;;
    *broken*) fail "agent operation failed: the connection was reset" ;;
    *bottle-main*) echo "the log" ;;
    *seven*) exit 7 ;;
    'su -s /bin/sh node '*) echo node ;;
    *) echo root ;;
    esac
    ;;
esac
