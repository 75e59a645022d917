//! Running commands in a machine. A failure of the program is never taken for the command's end.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::command::{self, Call, Ended};
use super::guest::{self, Becoming, Guest};
use super::labels::Set;
use super::version::Version;
use super::{Smolmachines, observe, parse};
use crate::backend::{
    Attach, BackendError, ExecOutput, ExecSpec, ExecUser, Scope, TarSink, TarStream,
};
use crate::model::Instance;

/// A guest that powers itself off leaves its caller waiting for ever.
const DEADLINE: Duration = Duration::from_secs(600);

/// Of a command that is fed: whoever feeds it looks after it.
const ENDLESS: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the program ends with when it could not even start our shell in a container.
const NOT_STARTED: i32 = 255;

/// `PIDS WORKDIR COMMAND…`. The shell gives a command that cannot be run its usual codes, on machines
/// of every kind.
const EXEC_SH: &str = r#"[ -z "$2" ] || cd "$2" || exit 126
export "LANG=${LANG:-C.UTF-8}"
shift 2
exec "$@""#;

/// The start of an `exec`: how errors are told, and where it happens.
pub(super) fn begin(version: Version, name: &str) -> Vec<String> {
    let json: &[&str] = if version.json_errors() { &["--error-format", "json"] } else { &[] };
    let words = json.iter().copied().chain(["machine", "exec", "--name", name]);
    words.map(str::to_owned).collect()
}

/// The options and the command line by which the sandbox's user runs `argv`. Pure.
pub(super) fn as_user(
    guest: &Guest,
    set: &Set,
    becoming: &Becoming,
    argv: &[String],
) -> (Vec<String>, Vec<String>) {
    let mut options = Vec::new();
    let home = if set.home.is_none() { Some(&guest.home) } else { None };
    match becoming {
        Becoming::Flag(user) => options.extend(["--user".to_owned(), user.clone()]),
        Becoming::Nothing => {}
        // It sets HOME by itself.
        Becoming::Su(account) => {
            let line: Vec<String> = argv.iter().map(|word| quoted(word)).collect();
            let home = set.home.as_ref().unwrap_or(&guest.home);
            let line = format!("HOME={}; export HOME; exec {}", quoted(home), line.join(" "));
            let su = ["su", "-s", "/bin/sh", account, "-c", &line].map(str::to_owned);
            return (options, su.into());
        }
    }
    if let Some(home) = home {
        options.extend(["--env".to_owned(), format!("HOME={home}")]);
    }
    (options, argv.to_vec())
}

/// A word of POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A machine that is to run a command.
struct Target {
    instance: Instance,
    set: Set,
    guest: Guest,
    version: Version,
}

impl Target {
    async fn of(
        backend: &Smolmachines,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Self, BackendError> {
        let (instance, set) = observe::running(backend, scope, instance).await?;
        let guest = guest::ready(backend, scope, &instance, &set).await?;
        let version = super::version::of(&backend.settings, scope).await?;
        Ok(Self { instance, set, guest, version })
    }

    /// The arguments of the program.
    fn args(&self, spec: &ExecSpec, options: &[&str]) -> Result<Vec<String>, BackendError> {
        let unsupported = |why| BackendError::Unsupported(format!("{}: {why}", self.instance.name));
        let workdir = spec.workdir.as_deref().or(self.set.workdir.as_deref()).unwrap_or_default();
        // What sets the machine up is not to fail because the sandbox's user has filled it.
        let pids = if spec.user == ExecUser::Sandbox { self.set.pids } else { 0 };
        let script = format!("pids=$1\n{}{EXEC_SH}", guest::LIMIT_SH);
        let mut argv = vec!["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()];
        argv.extend([pids.to_string(), workdir.to_owned()]);
        argv.extend(spec.loading());
        let becoming =
            guest::becoming(&self.guest, &self.set, self.version).map_err(unsupported)?;
        let (user, argv) = match (spec.user, &becoming) {
            (ExecUser::Sandbox, _) => as_user(&self.guest, &self.set, &becoming, &argv),
            (ExecUser::Root, Becoming::Flag(_)) => {
                (vec!["--user".to_owned(), "0:0".to_owned()], argv)
            }
            (ExecUser::Root, _) => (Vec::new(), argv),
        };
        let mut args = begin(self.version, &self.instance.name);
        args.extend(options.iter().map(|word| (*word).to_owned()));
        args.extend(user);
        for (name, value) in &spec.env {
            args.extend(["--env".to_owned(), format!("{name}={value}")]);
        }
        args.push("--".to_owned());
        args.extend(argv);
        Ok(args)
    }
}

/// The arguments of the program that run a command with these options.
pub(super) async fn args(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    spec: &ExecSpec,
    options: &[&str],
) -> Result<Vec<String>, BackendError> {
    Target::of(backend, scope, instance).await?.args(spec, options)
}

/// Runs a command, up to `keep` bytes of its stdout.
pub(super) async fn captured(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    spec: &ExecSpec,
    stdin: Bytes,
    keep: usize,
) -> Result<Ended, BackendError> {
    let target = Target::of(backend, scope, instance).await?;
    let options: &[&str] = if stdin.is_empty() { &[] } else { &["-i"] };
    let what = format!("running a command in {}", target.instance.name);
    let mut call = Call::new(what, DEADLINE, target.args(spec, options)?);
    call.stdin = stdin;
    call.keep = keep;
    let ended = command::run(&backend.settings, call).await?;
    judge(backend, scope, &target, ended.code, &ended.stderr).await?;
    Ok(ended)
}

/// Runs a command whose stdout goes to `out`, piece by piece.
pub(super) async fn drained(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    spec: &ExecSpec,
    out: TarSink,
) -> Result<Ended, BackendError> {
    let target = Target::of(backend, scope, instance).await?;
    let what = format!("running a command in {}", target.instance.name);
    let mut call = Call::new(what, ENDLESS, target.args(spec, &["--stream"])?);
    call.out = Some(out);
    let ended = command::run(&backend.settings, call).await?;
    judge(backend, scope, &target, ended.code, &ended.stderr).await?;
    Ok(ended)
}

/// Runs a command with a stream as its stdin.
pub(super) async fn fed(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    spec: &ExecSpec,
    stdin: TarStream,
) -> Result<Ended, BackendError> {
    let target = Target::of(backend, scope, instance).await?;
    let what = format!("running a command in {}", target.instance.name);
    let mut call = Call::new(what, ENDLESS, target.args(spec, &["-i"])?);
    call.stream = Some(Arc::new(Mutex::new(Some(stdin))));
    let ended = command::run(&backend.settings, call).await?;
    judge(backend, scope, &target, ended.code, &ended.stderr).await?;
    Ok(ended)
}

pub(super) async fn exec(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    spec: &ExecSpec,
    stdin: Bytes,
) -> Result<ExecOutput, BackendError> {
    let ended = captured(backend, scope, instance, spec, stdin, command::KEPT).await?;
    Ok(ExecOutput { code: ended.code, stdout: ended.stdout, stderr: ended.stderr })
}

/// Whether it was the command that ended so, or the program that failed.
async fn judge(
    backend: &Smolmachines,
    scope: &Scope,
    target: &Target,
    code: i32,
    stderr: &[u8],
) -> Result<(), BackendError> {
    let Some(why) = trouble(target.version, code, stderr) else { return Ok(()) };
    // A machine that went away meanwhile is told apart by the listing, and by no text.
    observe::running(backend, scope, &target.instance).await?;
    let what = format!("running a command in {}", target.instance.name);
    Err(BackendError::failed(what, anyhow::anyhow!(why)))
}

/// What went wrong, where it was not the command. Pure.
fn trouble(version: Version, code: i32, stderr: &[u8]) -> Option<String> {
    if code == 0 {
        return None;
    }
    if let Some(message) = parse::failure(stderr) {
        return Some(message);
    }
    let words = parse::words(stderr);
    if code == NOT_STARTED && words.contains("`sh`") {
        return Some(format!("the image has no shell, which every command needs: {words}"));
    }
    // Older releases know no other way to say it.
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    (!version.json_errors() && code == 1 && last.starts_with("Error: ")).then_some(words)
}

/// Runs a command on our own stdio.
pub(super) async fn attach(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    spec: &ExecSpec,
    attach: Attach,
) -> Result<i32, BackendError> {
    let target = Target::of(backend, scope, instance).await?;
    let options: &[&str] = match (attach.tty, attach.stdin) {
        (true, _) => &["-i", "-t"],
        (false, true) => &["-i", "--stream"],
        (false, false) => &["--stream"],
    };
    let args = target.args(spec, options)?;
    let program = backend.settings.find().map_err(command::unreachable)?;
    let mut command = command::command(&backend.settings, &program, &args);
    command.stdin(if attach.stdin || attach.tty { Stdio::inherit() } else { Stdio::null() });
    // Its own last words are read before they are shown.
    command.stdout(Stdio::inherit()).stderr(Stdio::piped());
    let mut child = command::spawn(&mut command, &program)?;
    let what = || format!("running a command in {}", target.instance.name);
    let failed = |e: std::io::Error| BackendError::failed(what(), e);
    let last = pass_on(child.stderr.take()).await.map_err(failed)?;
    let status = child.wait().await.map_err(failed)?;
    let Some(code) = status.code() else {
        return Err(BackendError::failed(what(), anyhow::anyhow!("smolvm ended with {status}")));
    };
    let judged = judge(backend, scope, &target, code, &last).await;
    if judged.is_ok() || parse::failure(&last).is_none() {
        tokio::io::stderr().write_all(&last).await.map_err(failed)?;
        tokio::io::stderr().flush().await.map_err(failed)?;
    }
    judged.map(|()| code)
}

/// Passes stderr on, but for a last line that could be the program's own: that is returned.
async fn pass_on(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let (mut held, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    let Some(mut stream) = stream else { return Ok(held) };
    let mut out = tokio::io::stderr();
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(held);
        }
        held.extend_from_slice(&buffer[..count]);
        let shown = passable(&held);
        out.write_all(&held[..shown]).await?;
        out.flush().await?;
        held.drain(..shown);
    }
}

/// How much of this can be shown at once: all but a last line that may become an error in JSON.
/// Pure.
fn passable(held: &[u8]) -> usize {
    const LONGEST: usize = 64 * 1024;
    const START: &[u8] = b"{\"error\":";
    let end = held.strip_suffix(b"\n").unwrap_or(held);
    let line = end.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let last = &held[line..];
    let common = last.len().min(START.len());
    let could_be = last[..common] == START[..common];
    if could_be && last.len() <= LONGEST { line } else { held.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Version = Version { major: 1, minor: 32, patch: 2 };
    const OLD: Version = Version { major: 1, minor: 9, patch: 2 };

    fn target(set: Set, version: Version) -> Target {
        let guest = Guest {
            uid: 1000,
            gid: 50,
            home: "/home/node".into(),
            account: Some("node".into()),
            boot: None,
            quiet: false,
        };
        let name = "bottle-team-ada".to_owned();
        let row = parse::Row {
            labels: super::super::labels::of_machine(
                &super::super::labels::tests::scope(),
                &super::super::labels::tests::machine("ada"),
                &set,
                "7f",
                None,
            ),
            name,
            ..Default::default()
        };
        let instance = observe::instance(&super::super::labels::tests::scope(), &row).unwrap();
        Target { instance, set, guest, version }
    }

    #[test]
    fn a_command_line_is_passed_word_by_word() {
        let workdir = Some("/work".into());
        let set = Set { image: true, workdir, pids: 64, ..Set::default() };
        let spec = ExecSpec {
            env: vec![("A".into(), "b c\n".into())],
            ..ExecSpec::new(["echo", "a b", "$HOME", ""])
        };
        let args = target(set, NEW).args(&spec, &["-i"]).unwrap();
        let head = "--error-format json machine exec --name bottle-team-ada -i --user 1000:50 --env \
                    HOME=/home/node --env";
        assert_eq!(args[..12].join(" "), head);
        assert_eq!(args[12..16], ["A=b c\n", "--", "sh", "-c"]);
        assert_eq!(args[17..], ["sh", "64", "/work", "echo", "a b", "$HOME", ""]);
        let root = ExecSpec { user: ExecUser::Root, workdir: Some("/etc".into()), ..spec };
        let set = Set { image: true, ..Set::default() };
        let args = target(set, NEW).args(&root, &[]).unwrap();
        assert_eq!(args[6..8], ["--user", "0:0"]);
        assert!(args.contains(&"/etc".to_owned()) && !args.iter().any(|a| a.starts_with("HOME=")));
    }

    #[test]
    fn where_the_program_takes_no_user_the_guest_changes_it() {
        let spec = ExecSpec::new(["echo", "it's"]);
        let args = target(Set { image: true, ..Set::default() }, OLD).args(&spec, &[]).unwrap();
        assert_eq!(args[..5], ["machine", "exec", "--name", "bottle-team-ada", "--"]);
        assert_eq!(args[5..10], ["su", "-s", "/bin/sh", "node", "-c"]);
        assert!(args[10].starts_with("HOME='/home/node'; export HOME; exec 'sh' '-c' "));
        assert!(args[10].ends_with(r"'echo' 'it'\''s'"), "{}", args[10]);
        let args = target(Set::default(), NEW).args(&spec, &[]).unwrap();
        assert!(args.contains(&"su".to_owned()), "a bare machine takes no user either");
    }

    #[test]
    fn the_programs_failure_is_not_the_commands_end() {
        let json = br#"{"error":{"code":"SMOLVM_ERROR","message":"connect: not running"}}"#;
        assert_eq!(trouble(NEW, 1, json).as_deref(), Some("connect: not running"));
        assert_eq!(trouble(NEW, 0, json), None);
        assert_eq!(trouble(NEW, 1, b"Error: said the command"), None);
        assert_eq!(trouble(OLD, 1, b"Error: no such vm").as_deref(), Some("no such vm"));
        assert_eq!(trouble(OLD, 7, b"Error: said the command"), None);
        let missing = b"executable file `sh` not found in $PATH: No such file or directory";
        assert!(trouble(NEW, 255, missing).is_some_and(|why| why.contains("no shell")));
        assert_eq!(trouble(NEW, 255, b"exit 255 of its own"), None);
    }

    #[test]
    fn only_what_may_be_an_error_is_held_back() {
        for (text, shown) in [
            ("plain", 5),
            ("line\n", 5),
            ("line\n{\"er", 5),
            ("line\n{\"error\":{}}\n", 5),
            ("{\"error\":1}\nmore\n", 17),
            ("{\"errand\"", 9),
            ("", 0),
        ] {
            assert_eq!(passable(text.as_bytes()), shown, "{text:?}");
        }
    }
}
