# The machine's main process: sh -c THIS bottle RESTART WAITS_FOR_ENV [COMMAND…], as the sandbox's user.
# An engine repeats it in every listing, so it only waits for the supervisor, which comes with what lets a command start.
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'exit 129' HUP
trap 'exit 131' QUIT
trap : USR1
# runc gives the tmpfs another mode on every start but the first.
chmod 0700 /run/bottle 2>/dev/null
[ $# -gt 2 ] && set waiting "$@" || set idle "$@"
{ echo $$ >/run/bottle/main.pid; echo "$1" >/run/bottle/main; } 2>/dev/null
shift
n=0
until [ -f /etc/bottle/main ]; do
	t=0.1
	n=$((n+1))
	[ $n -lt 300 ] || t=1
	# In the background, for the traps. Not every sleep knows fractions. 127: there is none.
	sleep $t &
	wait $!
	case $? in 127) exit 127 ;; 1) sleep 1 & wait $! ;; esac
done
. /etc/bottle/main
