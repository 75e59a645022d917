//! How what a run has started is known in its sandbox, where all is the guest's word. Whoever there changes what
//! tells of its own processes keeps them running, and can have no others ended than it could end itself.

/// The variable that has a run's id.
pub const MARK: &str = "BOTTLE_RUN";

/// Where a run's session is noted, before its id: the folder is the user's own, and on no disk.
const NOTE: &str = "/run/bottle/run.";

/// `NOTE COMMAND…`. Notes the session of which this is the leader, and when it was started: a shell that is
/// no leader has a session with others in it. Notes of what is gone are removed.
const BEGIN_SH: &str = r#"note=$1
shift
of() { echo "$4 ${20}"; }
{ for old in /run/bottle/run.*; do
[ -f "$old" ] && read -r pid at <"$old" && [ ! -d "/proc/$pid" ] && rm -f "$old"
done
read -r line <"/proc/$$/stat" && own=$(of ${line##*) })
case $own in "$$ "*) echo "$own" >"$note" ;; esac; } 2>/dev/null
exec "$@""#;

/// The command line of a run, by a shell that notes its session.
#[must_use]
pub fn marked(id: &str, argv: &[String]) -> Vec<String> {
    let begin = ["sh", "-c", BEGIN_SH, "sh"].map(str::to_owned);
    begin.into_iter().chain([format!("{NOTE}{id}")]).chain(argv.iter().cloned()).collect()
}

/// Ends what the run with this id has started and is left of it: its session, and what has its mark. First it is
/// asked, then killed. Not everywhere may one process see the variables of another.
pub const END_SH: &str = r#"id=$1 note=/run/bottle/run.$1 sid='' at=''
[ -f "$note" ] && [ ! -L "$note" ] && read -r sid at <"$note"
case $sid in *[!0-9]*) sid='' ;; esac
left() {
if [ -n "$sid" ] && { read -r line <"/proc/$sid/stat"; } 2>/dev/null; then
set -- ${line##*) }
[ "${20}" = "$at" ] || sid=''
fi
[ -z "$sid" ] || for file in /proc/[0-9]*/stat; do
{ read -r line <"$file"; } 2>/dev/null || continue
set -- ${line##*) }
[ "$1" = Z ] || [ "$4" != "$sid" ] || { pid=${file#/proc/}; echo "${pid%/stat}"; }
done
for file in $(grep -ls "BOTTLE_RUN=$id" /proc/[0-9]*/environ); do pid=${file#/proc/}; echo "${pid%/environ}"; done
}
for signal in HUP TERM KILL; do
for pid in $(left 2>/dev/null); do kill -s $signal "$pid" 2>/dev/null; done
for second in 1 2 3; do
[ -n "$(left 2>/dev/null)" ] || { rm -f "$note"; exit 0; }
sleep 1
done
done
exit 1"#;
