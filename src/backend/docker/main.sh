# The supervisor of a machine's command, sourced by its main process, as the sandbox's user: its arguments are
# RESTART WAITS_FOR_ENV [COMMAND…].
# POSIX sh and sleep are all that it needs of the image. Comments are stripped before it is sent.
main_restart=$1 main_waits=$2 main_id=made
shift 2
[ $# -gt 0 ] || main_id=idle
main() { exec "$@"; }
pid= id= again=
# runc gives the tmpfs another mode on every start but the first. Without chmod its files still have theirs.
chmod 0700 /run/bottle 2>/dev/null
# TERM and not the signal itself: sh starts background jobs with INT ignored.
stop() {
	trap '' TERM INT HUP QUIT
	[ -z "$pid" ] || { kill "$pid" && wait "$pid"; } 2>/dev/null
	exit "$1"
}
trap 'stop 143' TERM
trap 'stop 130' INT
trap 'stop 129' HUP
trap 'stop 131' QUIT
# What provisioning has put in stands over what the machine was made with. It brings what ends a command with all that
# it started, and the id comes last: half of a file is none.
load() {
	[ ! -f /etc/bottle/command ] || ! (. /etc/bottle/command) 2>/dev/null || . /etc/bottle/command
}
# Provisioning has put something in. What runs for the same command runs on.
trap 'load; [ "$main_id" = "$id" ] || { again=1; [ -z "$pid" ] || end; }' USR1
# Whom to send it: not before it is heard.
{ echo $$ >/run/bottle/main.pid; } 2>/dev/null
# A trap runs only while sh waits, and ends the wait.
await() {
	[ -z "$again" ] || end
	wait "$pid"
	code=$?
	while [ "$code" -gt 128 ] && kill -0 "$pid"; do
		wait "$pid"
		code=$?
	done 2>/dev/null
}
# In the background, for the traps. 127: there is no sleep, and a busy loop is worse than an end.
nap() {
	sleep "$1" &
	pid=$!
	await
	pid=
	[ "$code" -ne 127 ] || exit 127
	return "$code"
}
# Into nothing that stands there already: a fifo would keep this waiting.
say() {
	{
		rm -rf /run/bottle/main.new
		[ ! -e /run/bottle/main.new ] && echo "$*" >/run/bottle/main.new && mv -f /run/bottle/main.new /run/bottle/main
	} 2>/dev/null
}
idle() {
	say "$*"
	while [ -z "$again" ]; do nap 3600; done
}
# How the command ended outlives a restart of the machine; /run/bottle does not.
mark=
for dir in /var/tmp "$HOME" /tmp; do
	[ -d "$dir" ] && [ -w "$dir" ] && mark=$dir/.bottle-main && break
done
finish() {
	[ -z "$mark" ] || { { echo "$*" && echo "$id"; } >"$mark"; } 2>/dev/null
	idle "$*"
}
ready() {
	[ -e /etc/bottle/ready ] || return 1
	load
	[ "$main_id" = "$id" ] || again=1
	[ "$main_waits" = 0 ] || [ -e /run/bottle/env ]
}
# Not every image has a date.
now() {
	now=0
	{ read -r now _ </proc/uptime; } 2>/dev/null
	now=${now%%.*}
}
# One command, until there is another.
work() {
	[ "$id" != idle ] || idle idle
	ended= of=
	[ ! -f "$mark" ] || { read -r ended && read -r of; } <"$mark"
	case ${of:-$id}:$ended in "$id:completed" | "$id:failed "*) idle "$ended" ;; esac
	times=0 delay=1
	while [ -z "$again" ]; do
		ready || say waiting
		n=0
		until ready || [ -n "$again" ]; do
			n=$((n+1))
			if [ "$n" -gt 300 ]; then nap 1; else nap 0.1 || nap 1; fi
		done
		[ -z "$again" ] || return
		say running
		now
		began=$now
		(
			[ "$main_waits" = 0 ] || . /run/bottle/env
			[ ! -f /etc/bottle/env ] || . /etc/bottle/env
			main "$@"
		) &
		pid=$!
		await
		pid=
		if [ -n "$again" ]; then
			say waiting
			wait "$killer"
			return
		fi
		case $main_restart:$code in
		on-failure:0 | never:0) finish completed ;;
		never:*) finish "failed $code" ;;
		*)
			now
			[ $((now-began)) -lt 10 ] || times=0 delay=1
			times=$((times+1))
			say "backoff $code $times"
			nap "$delay"
			delay=$((delay*2))
			[ "$delay" -le 60 ] || delay=60
			;;
		esac
	done
}
load
while :; do
	again=
	id=$main_id
	work "$@"
done
