# The machine's main process: sh -c THIS bottle RESTART WAITS_FOR_ENV [COMMAND…], as the sandbox's user.
# An engine repeats it in every listing, so it only waits for the supervisor, which comes with what lets a command start.
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'exit 129' HUP
trap 'exit 131' QUIT
trap : USR1
# runc gives the tmpfs another mode on every start but the first.
chmod 0700 /run/bottle 2>/dev/null
state=waiting
# Without a command there is nothing to wait for, until provisioning brings one and says so by USR1.
[ $# -gt 2 ] || state=idle
{ echo $$ >/run/bottle/main.pid; echo $state >/run/bottle/main; } 2>/dev/null
n=0
# The supervisor comes before the marker.
until [ -e /etc/bottle/ready ] && [ -f /etc/bottle/main ]; do
	t=0.1
	n=$((n+1))
	[ $n -lt 300 ] || t=1
	[ $state = waiting ] || t=3600
	# In the background, for the traps. Not every sleep knows fractions. 127: there is none.
	sleep $t &
	wait $!
	case $? in 127) exit 127 ;; 1) sleep 1 & wait $! ;; esac
done
. /etc/bottle/main
