# The machine's main process: sh -c THIS bottle RESTART WAITS_FOR_ENV [COMMAND…], as the sandbox's user.
# POSIX sh and sleep are all that it needs of the image. Comments are stripped before it is sent.
restart=$1 waits=$2
shift 2
child=
# runc gives the tmpfs another mode on every start but the first. Without chmod its files still have theirs.
chmod 0700 /run/bottle 2>/dev/null
# TERM and not the signal itself: sh starts background jobs with INT ignored.
stop() {
	trap '' TERM INT HUP QUIT
	if [ -n "$child" ]; then
		kill -TERM "$child" 2>/dev/null
		wait "$child" 2>/dev/null
	fi
	exit "$1"
}
trap 'stop 143' TERM
trap 'stop 130' INT
trap 'stop 129' HUP
trap 'stop 131' QUIT
# In the background, because a trap runs only while sh waits. 127: there is no sleep, and a busy loop is worse than an end.
nap() {
	sleep "$1" &
	child=$!
	wait "$child"
	code=$?
	child=
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
	while :; do nap 3600; done
}
[ $# -gt 0 ] || idle idle
# How the command ended outlives a restart of the machine; /run/bottle does not.
mark=
for dir in /var/tmp "$HOME" /tmp; do
	if [ -d "$dir" ] && [ -w "$dir" ]; then
		mark=$dir/.bottle-main
		break
	fi
done
if [ -n "$mark" ] && [ -f "$mark" ]; then
	read -r ended <"$mark"
	case $ended in completed | "failed "*) idle "$ended" ;; esac
fi
finish() {
	[ -z "$mark" ] || { echo "$*" >"$mark"; } 2>/dev/null
	idle "$*"
}
ready() { [ -e /etc/bottle/ready ] && { [ "$waits" = 0 ] || [ -e /run/bottle/env ]; }; }
# Not every image has a date.
now() {
	now=0
	{ read -r now rest </proc/uptime; } 2>/dev/null
	now=${now%%.*}
}
times=0 delay=1
while :; do
	if ! ready; then
		say waiting
		tries=0
		until ready; do
			tries=$((tries + 1))
			if [ "$tries" -gt 300 ]; then nap 1; else nap 0.1 || nap 1; fi
		done
	fi
	say running
	now
	began=$now
	(
		[ "$waits" = 0 ] || . /run/bottle/env
		[ ! -f /etc/bottle/env ] || . /etc/bottle/env
		exec "$@"
	) &
	child=$!
	wait "$child"
	code=$?
	child=
	case $restart:$code in
	on-failure:0 | never:0) finish completed ;;
	never:*) finish "failed $code" ;;
	esac
	now
	if [ $((now - began)) -ge 10 ]; then times=0 delay=1; fi
	times=$((times + 1))
	say "backoff $code $times"
	nap "$delay"
	delay=$((delay * 2))
	[ "$delay" -le 60 ] || delay=60
done
