end() {
	[ -n "$pid" ] || return 0
	family=$pid more=$pid
	while [ -n "$more" ]; do
		found=
		for status in /proc/[0-9]*/status; do
			number=${status#/proc/}
			while read -r key value; do
				[ "$key" = PPid: ] || continue
				for one in $more; do [ "$one" != "$value" ] || found="$found ${number%/status}"; done
				break
			done <"$status"
		done 2>/dev/null
		family="$family$found" more=$found
	done
	kill -TERM $family 2>/dev/null
	{
		tries=0
		while [ "$tries" -lt 100 ]; do
			left=
			for one in $family; do ! kill -0 "$one" || left=1; done
			[ -n "$left" ] || exit 0
			sleep 0.1 || sleep 1 || exit 0
			tries=$((tries + 1))
		done
		kill -KILL $family
	} 2>/dev/null &
	killer=$!
}
