//! Looks at a sandbox before it goes: what it has that nobody else has.
//!
//! The guest's own shell and git do it, as the sandbox's user, and only inside. All that they say is counted and
//! nothing of it is run, shown or believed: whoever works there may say what it likes of its own work.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::git::{SWITCHED_OFF, git_at, settle};
use crate::backend::{
    Backend, BackendError, ExecOutput, ExecSpec, MainState, Process, Scope, guest_path,
};
use crate::model::{BackendKind, Instance, InstanceState, Work};

/// How long a sandbox may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How long the operator's repository may take to say which commits it has, and how many of them count.
const COMMITS: (Duration, usize) = (Duration::from_secs(2), 5000);

/// Of files without git, those count that came to be what they are after the copy was complete. The clock has seconds: in
/// that of the copy itself those count that were written then, for what was copied has the time of its original.
///
/// What is run inside: `WORKSPACE`, or nothing where there is no copy of one. Its input are commits that are
/// known outside, each with `^` before it. Nothing that the repository names is run, and nothing is written.
const LOOK_SH: &str = r#"echo "self $$"
for file in /proc/[0-9]*/stat; do { read -r line <"$file" && echo "process $line"; } 2>/dev/null; done
[ -n "$1" ] || { echo done; exit 0; }
cd "$1" 2>/dev/null || exit 3
export GIT_OPTIONAL_LOCKS=0 GIT_TERMINAL_PROMPT=0 GIT_NO_LAZY_FETCH=1
g() { git -c core.fsmonitor=false -c core.hooksPath=/dev/null -c core.untrackedCache=false "$@" 2>/dev/null; }
sum() { n=0 b=0; while read -r s; do n=$((n + 1)) b=$((b + s)); done; echo "$1 $n"; echo "bytes $b"; }
if command -v git >/dev/null 2>&1 && up=$(g rev-parse --show-prefix) && [ -z "$up" ]; then
g rev-list --count --ignore-missing --stdin --branches HEAD --not --remotes | { read -r n && echo "unpushed $n"; }
g rev-list -g --count refs/stash | { read -r n && echo "stashes $n"; }
if command -v xargs >/dev/null 2>&1; then g ls-files -z -m -o --exclude-standard | xargs -0 stat -c %s --
else g ls-files -m -o --exclude-standard | while IFS= read -r f; do [ ! -f "$f" ] || stat -c %s -- "$f"; done
fi 2>/dev/null | sum files
g status --porcelain --no-renames --untracked-files=all --ignore-submodules=none | {
c=0 u=0
while IFS= read -r line; do case $line in '?? '*) u=$((u + 1)) ;; ?*) c=$((c + 1)) ;; esac; done
echo "untracked $u"
echo "changed $c"
}
else
at=$(stat -c %Z "$2" 2>/dev/null) || exit 4
find . -xdev -type f -exec stat -c '%Z %Y %s' {} + 2>/dev/null | {
while read -r when written s; do
[ "$when" -lt "$at" ] || { [ "$when" -eq "$at" ] && [ "$written" -lt "$at" ]; } || echo "$s"
done; } | sum changed
fi
echo done"#;

/// Looks at a machine. `source` is the folder of the host that its workspace is a copy of; `idles`: it was given no
/// `command`.
///
/// # Errors
/// Why it could not be looked at, in a few words for people.
pub async fn inspect(
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
    source: Option<&Path>,
    idles: bool,
) -> Result<Work, String> {
    if machine.state != InstanceState::Running {
        return Err("it does not run".to_owned());
    }
    let workspace = machine.copied_workspace();
    if workspace.is_none()
        && let Some(running) = running(backend, scope, machine, idles).await
    {
        return Ok(Work { running, ..Work::default() });
    }
    let known = match source.filter(|_| workspace.is_some()) {
        Some(source) => known(source).await,
        None => Bytes::new(),
    };
    let argv =
        ["sh", "-c", LOOK_SH, "sh", workspace.unwrap_or_default(), guest_path::WORKSPACE_DONE];
    let spec = ExecSpec::new(argv);
    let asking = async {
        let command = backend.main_state(scope, machine).await.ok().flatten();
        let looked = backend.exec(scope, machine, &spec, known).await;
        (command, looked)
    };
    let Ok((command, looked)) = tokio::time::timeout(ANSWER, asking).await else {
        return Err(format!("it gave no answer in {} s", ANSWER.as_secs()));
    };
    let output = looked.map_err(|error| match error {
        BackendError::NotRunning { .. } => "it does not run".to_owned(),
        error => format!("{:#}", anyhow::Error::from(error)),
    })?;
    let command = command == Some(MainState::Running);
    read(machine.backend, workspace.is_some(), command, &output)
}

/// Whether anything runs in a machine of an agent that has no files of its own there to look at, where that can be told
/// without anybody inside.
async fn running(
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
    idles: bool,
) -> Option<bool> {
    let looking = async {
        let all = backend.processes(scope, machine).await.ok().flatten()?;
        if runs(machine.backend, &all, None) {
            return Some(true);
        }
        if idles {
            return Some(false);
        }
        // Its command runs where what keeps the machine up sleeps otherwise.
        let command = backend.main_state(scope, machine).await.ok().flatten()?;
        Some(command == MainState::Running)
    };
    tokio::time::timeout(ANSWER, looking).await.ok().flatten()
}

/// What the guest's answer comes to.
fn read(
    backend: BackendKind,
    copied: bool,
    command: bool,
    output: &ExecOutput,
) -> Result<Work, String> {
    match output.code {
        0 => {}
        3 => return Err("its workspace cannot be entered by its user".to_owned()),
        4 => {
            return Err(
                "its workspace is no repository, and nothing says when it was copied".to_owned()
            );
        }
        127 => return Err("there is no shell in it".to_owned()),
        code => return Err(format!("its shell ended with {code}")),
    }
    let text = String::from_utf8_lossy(&output.stdout);
    if !text.lines().any(|line| line == "done") {
        return Err("its answer has no end".to_owned());
    }
    let number = |name: &str| {
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(value)
    };
    let changed = match (copied, number("changed")) {
        (false, _) => 0,
        (true, Some(changed)) => changed,
        (true, None) => return Err("what tells of its files is not in it".to_owned()),
    };
    let (all, own) = seen(&text);
    let or_none = |name: &str| number(name).unwrap_or_default();
    Ok(Work {
        changed,
        untracked: or_none("untracked"),
        unpushed: or_none("unpushed"),
        stashes: or_none("stashes"),
        running: command || runs(backend, &all, own),
        bytes: or_none("bytes"),
    })
}

/// Whether anything runs beside what keeps the machine up and what looks at it, whose number is `own`.
fn runs(backend: BackendKind, all: &[Process], own: Option<u32>) -> bool {
    // A microVM has processes of its own that look like any other.
    if backend == BackendKind::Smolmachines {
        return false;
    }
    // What keeps a container up is the first that its process 1 has started, and has one child that sleeps.
    let first = all.iter().filter(|process| process.parent == 1).map(|process| process.pid).min();
    let keeper = first.filter(|_| backend == BackendKind::Docker);
    let known = |process: &Process| {
        let ours = [Some(1), own, keeper];
        ours.contains(&Some(process.pid))
            || (keeper == Some(process.parent) && keeper.is_some())
            || (own == Some(process.parent) && own.is_some())
    };
    all.iter().any(|process| !process.ended && !known(process))
}

/// The processes that the guest's shell has seen, and its own number.
fn seen(text: &str) -> (Vec<Process>, Option<u32>) {
    let own = text.lines().find_map(|line| line.strip_prefix("self ")?.parse().ok());
    let process = |line: &str| {
        let (pid, rest) = line.strip_prefix("process ")?.split_once(' ')?;
        // The name of a program may hold anything, also a parenthesis.
        let mut rest = rest.rsplit_once(')')?.1.split_ascii_whitespace();
        let (state, parent) = (rest.next()?, rest.next()?);
        Some(Process { pid: pid.parse().ok()?, parent: parent.parse().ok()?, ended: state == "Z" })
    };
    (text.lines().filter_map(process).collect(), own)
}

/// The newest commits of the operator's repository, as the guest's git is told of them: also those that `sync`
/// has brought. The tips alone would not do, which may be newer than the copy.
async fn known(source: &Path) -> Bytes {
    let mut list = git_at(source);
    let settings: Vec<(String, &str)> =
        SWITCHED_OFF.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    settle(&mut list, &settings);
    list.args(["rev-list", &format!("--max-count={}", COMMITS.1), "--all", "HEAD"]);
    // Where that is no repository, or has no time, more commits count.
    let Ok(Ok(output)) = tokio::time::timeout(COMMITS.0, list.output()).await else {
        return Bytes::new();
    };
    let all = String::from_utf8_lossy(&output.stdout);
    all.lines().map(|commit| format!("^{commit}\n")).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stdout: &str) -> ExecOutput {
        ExecOutput { code: 0, stdout: stdout.as_bytes().to_vec(), stderr: Vec::new() }
    }

    #[test]
    fn it_counts_what_the_guest_says() {
        let all = "self 7\nprocess 1 (init) S 0 1\nprocess 7 (sh) R 0 7\nunpushed 2\nstashes 1\nfiles 3\nbytes 99\n\
                   untracked 4\nchanged 5\ndone\n";
        let work = read(BackendKind::Native, true, false, &said(all)).unwrap();
        let expected =
            Work { changed: 5, untracked: 4, unpushed: 2, stashes: 1, running: false, bytes: 99 };
        assert_eq!(work, expected);
        assert!(read(BackendKind::Native, true, true, &said(all)).unwrap().running);
        // A guest that says odd things of itself harms nobody.
        for odd in ["changed -1", "changed 99999999999999999999999", "changed x", "\u{1b}[2J", ""] {
            let why = read(BackendKind::Native, true, false, &said(&format!("{odd}\ndone\n")));
            assert_eq!(why.unwrap_err(), "what tells of its files is not in it", "{odd}");
        }
        let cut = read(BackendKind::Native, true, false, &said("changed 1\n"));
        assert_eq!(cut.unwrap_err(), "its answer has no end");
        for (code, says) in
            [(3, "entered"), (4, "no repository"), (127, "no shell"), (9, "ended with 9")]
        {
            let output = ExecOutput { code, ..said("") };
            let why = read(BackendKind::Docker, true, false, &output).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn what_keeps_a_machine_up_is_no_program_of_its_agent() {
        let busy = |backend, text: &str| {
            let (all, own) = seen(text);
            runs(backend, &all, own)
        };
        let native =
            "self 9\nprocess 1 (bottle-init) S 0 1\nprocess 9 (sh) R 0 9\nprocess 10 (sh) R 9 9\n";
        assert!(!busy(BackendKind::Native, native));
        let docker = "self 11\nprocess 1 (docker-init) S 0 1\nprocess 10 (sleep) S 6 6\nprocess 11 (sh) R 0 11\n\
                      process 6 (sh) S 1 6\n";
        assert!(!busy(BackendKind::Docker, docker));
        for more in
            ["process 20 (a) b) S 0 20\n", "process 20 (x) S 1 20\n", "process 20 (x) S 19 3\n"]
        {
            assert!(busy(BackendKind::Native, &format!("{native}{more}")), "{more}");
            assert!(busy(BackendKind::Docker, &format!("{docker}{more}")), "{more}");
        }
        assert!(!busy(BackendKind::Native, &format!("{native}process 20 (x) Z 1 20\n")));
    }
}
