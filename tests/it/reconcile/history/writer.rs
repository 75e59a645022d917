//! What a sandbox's command does all the time: it writes, and says what it has written.
//!
//! A line is `l3.h.1b4e28ba.17`: whose it is, under which of the kept paths, by which run of the command, and its
//! number. Now and then there is a folder `x.LINE` with files that have more to them than their content.

use super::tree::OWN;

/// What all files of a folder `x.LINE` and itself have for a time of their last change.
pub(super) const TIME: u64 = 981_173_106;

/// How large the file with a hole in it is.
pub(super) const HOLE: u64 = 1 << 20;

/// One in so many rounds makes such folders.
const RARELY: u32 = 16;

/// The command of a sandbox.
pub(super) fn script(life: usize, version: usize, workspace: Option<&str>) -> String {
    let workspace = workspace.map(|target| format!("w:{target} ")).unwrap_or_default();
    // Each is said once it is there. What a full disk has cut off has an end before the next line.
    format!(
        "# {version}
r=$(cut -c1-8 /proc/sys/kernel/random/uuid); n=0; umask 022; mkdir -p {OWN}
special() {{
  x=$1/x.$2; mkdir $x && echo $2 > $x/a && chmod 640 $x/a && ln $x/a $x/b && ln -s a $x/c &&
  echo begin > $x/s && truncate -s {HOLE} $x/s && chmod 600 $x/s && touch -d @{TIME} $x/a $x/s &&
  chmod 750 $x && touch -d @{TIME} $x && echo special $2
}}
while :; do
  n=$((n+1))
  for p in {workspace}h:\"$HOME\" k:{OWN}; do
    d=${{p#*:}}; l=l{life}.${{p%%:*}}.$r.$n
    printf '\\n%s\\n' $l >> \"$d/lines\" && echo wrote $l
    [ $((n % {RARELY})) != 1 ] || special \"$d\" $l
  done
  sleep 0.1
done"
    )
}

/// A line's parts: whose it is, and under which path.
pub(super) fn parse(line: &str) -> Option<(usize, char)> {
    let mut parts = line.strip_prefix('l')?.split('.');
    let life = parts.next()?.parse().ok()?;
    let root = parts.next()?.parse().ok()?;
    (parts.next()?.len() == 8 && parts.next()?.parse::<u32>().is_ok() && parts.next().is_none())
        .then_some((life, root))
}

/// Looks, inside, at all that was written: the lines below `= R`, and of each folder `x.LINE` one line that
/// [`special`] makes.
pub(super) fn look() -> String {
    format!(
        "u=$(id -u)
for p in w:/workspace w:/work h:\"$HOME\" k:{OWN}; do
  d=${{p#*:}}; echo \"= ${{p%%:*}}\"; cat \"$d/lines\" 2>/dev/null
  for x in \"$d\"/x.*; do
    [ -e $x/c ] || continue
    m=$(stat -c '%a:%Y:%h:%s' $x $x/a $x/s | sed '1s/:[0-9]*:[0-9]*$//;2s/:[0-9]*$//')
    o=$(stat -c %u $x $x/a $x/s $x/c | sort -u); [ \"$o\" = $u ] || o=\"not $u: $o\"
    [ $x/a -ef $x/b ] || o='two files'
    [ \"$o\" != $u ] || o=own
    echo special ${{x##*/x.}} $(cat $x/a) $(readlink $x/c) $m $o
  done
done"
    )
}

/// What [`look`] says of a folder in which all is as it was.
pub(super) fn special(line: &str) -> String {
    format!("special {line} {line} a 750:{TIME} 640:{TIME}:2 600:{TIME}:1:{HOLE} own")
}
