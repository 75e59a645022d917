//! What a run of a machine needs before anything else happens in it: its user is known, the
//! volatile folder is mounted, the main process is up. Done once for each run, by whoever comes
//! first; that it was done is remembered on the host, because the guest is not trusted.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::command::{self, Call, Ended};
use super::labels::Set;
use super::version::Version;
use super::{Smolmachines, locked, observe, parse, record};
use crate::backend::docker::user::{Accounts, User, parse_group, parse_passwd};
use crate::backend::{BackendError, Identity, Scope};
use crate::model::Instance;

/// What the guest's own programs may take, on a slow machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// The main process, the same as in a container.
const MAIN_SH: &str = include_str!("../docker/main.sh");

/// Where the main process writes: a pipe that the workload reads, or a file.
pub(super) const PIPE: &str = "/run/bottle.out";
pub(super) const FILE: &str = "/var/log/bottle-main";

/// Who may be in the machine, and who its programs are when nobody says so.
const PROBE_SH: &str = "id -u; id -g; echo ---; cat /etc/passwd; echo ---; cat /etc/group";

/// How a shell and all that it becomes is bounded to `$pids` processes. Root is bound by the control
/// group that [`SETUP_SH`] made, everybody else by a limit on the user, which may only be lowered;
/// shells name that one by either letter.
pub(super) const LIMIT_SH: &str = r#"[ "$pids" = 0 ] ||
{ echo $$ >/sys/fs/cgroup/bottle/cgroup.procs; } 2>/dev/null ||
ulimit -u "$pids" 2>/dev/null || ulimit -p "$pids" 2>/dev/null
"#;

/// As root: `UID GID WORKDIR OWN LOG PIDS`. All of it may have been done before.
const SETUP_SH: &str = r#"umask 022
uid=$1 gid=$2 workdir=$3 own=$4 log=$5 pids=$6
if [ "$uid" = 0 ] && [ "$pids" != 0 ]; then
group=/sys/fs/cgroup/bottle
{ mkdir -p "$group" && echo "$pids" >"$group/pids.max"; } || exit
fi
mkdir -p /run/bottle || exit
if ! grep -q ' /run/bottle ' /proc/mounts; then
mount -t tmpfs -o "rw,noexec,nosuid,nodev,size=16m,mode=0700,uid=$uid,gid=$gid" tmpfs /run/bottle || exit
fi
if [ -n "$workdir" ]; then
[ -d "$workdir" ] || { mkdir -p "$workdir" && chown "$uid:$gid" "$workdir"; } || exit
[ "$own" = 0 ] || chown "$uid:$gid" "$workdir" || exit
fi
if [ "$log" = /run/bottle.out ]; then
[ -p "$log" ] || mkfifo "$log" || exit
chmod 666 "$log"
else
mkdir -p "${log%/*}" && touch "$log" && chown "$uid:$gid" "$log"
fi"#;

/// As the sandbox's user, after [`LIMIT_SH`]: `PIDS LOG WORKDIR SCRIPT…`. A second one in the same run has nothing to do.
/// Opened for reading too, a pipe that nobody reads yet holds nobody up.
const MAIN_SH_START: &str = r#"mkdir /run/bottle/.main 2>/dev/null || exit 0
log=$2 workdir=$3
shift 3
[ -z "$workdir" ] || cd "$workdir" || exit
export "LANG=${LANG:-C.UTF-8}"
if [ -p "$log" ]; then exec 1<>"$log"; else exec >>"$log"; fi
exec /bin/sh -c "$@" 2>&1"#;

/// As the sandbox's user: asks the main process to end, which asks the command and waits for it; for ten seconds.
const END_SH: &str = r#"read -r main </run/bottle/main.pid && kill "$main" || exit 0
tries=0
while [ "$tries" -lt 100 ] && kill -0 "$main"; do
sleep 0.1 || sleep 1 || exit 0
tries=$((tries+1))
done"#;

/// For that, in a guest that may do as it likes.
const ENDING: Duration = Duration::from_secs(20);

/// What is known of a machine's guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Guest {
    pub uid: u32,
    pub gid: u32,
    pub home: String,
    /// The user's name, where it has one.
    pub account: Option<String>,
    /// The run of the machine in which all is set up.
    pub boot: Option<String>,
    /// In that run its command does not start: it is there for its files to be read. Without a run: in the next one, and
    /// nobody but whoever reads them sets it up.
    #[serde(default)]
    pub quiet: bool,
}

impl Guest {
    pub(super) fn identity(&self) -> Identity {
        Identity { uid: self.uid, gid: self.gid, home: self.home.clone() }
    }

    fn of(user: &User, accounts: &Accounts) -> Self {
        let Identity { uid, gid, home } = user.identity.clone();
        let account = accounts.accounts.iter().find(|account| account.uid == uid);
        Self {
            uid,
            gid,
            home,
            account: account.map(|account| account.name.clone()),
            boot: None,
            quiet: false,
        }
    }
}

/// How a command becomes the sandbox's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Becoming {
    /// It is already.
    Nothing,
    /// By the program's own option.
    Flag(String),
    /// By the guest's `su`.
    Su(String),
}

/// How to become the user `uid:gid` in a machine of this kind. Pure.
pub(super) fn becoming(guest: &Guest, set: &Set, version: Version) -> Result<Becoming, String> {
    if set.image && version.exec_user() {
        return Ok(Becoming::Flag(format!("{}:{}", guest.uid, guest.gid)));
    }
    match &guest.account {
        _ if guest.uid == 0 => Ok(Becoming::Nothing),
        Some(account) => Ok(Becoming::Su(account.clone())),
        None if set.image => Err(format!(
            "smolvm {version} runs commands as root, and the image has no account of uid {} to \
             change to: install smolvm 1.32 or later, or add the account",
            guest.uid
        )),
        None => Err(format!(
            "a bare microVM has no account of uid {}: name an image, or `user: root`",
            guest.uid
        )),
    }
}

/// Images, as manifests name them, whose machines run as root because nothing else is named.
pub(super) fn root_images(scope: &Scope) -> BTreeSet<String> {
    record::read(&record::folder(scope).join("root-images.json")).unwrap_or_default()
}

/// So that the next plan can say it.
fn note_root(scope: &Scope, instance: &Instance, root: bool) {
    let image = instance.fields.0.get("image").map_or("", String::as_str);
    // A manifest that names none means the bare machine.
    let image = if image == "bare" { "" } else { image };
    let mut known = root_images(scope);
    let news = if root { known.insert(image.to_owned()) } else { known.remove(image) };
    if news {
        record::write(&record::folder(scope).join("root-images.json"), &known);
    }
}

fn place(scope: &Scope, instance: &Instance) -> PathBuf {
    let nonce = instance.id.0.rsplit('@').next().unwrap_or_default();
    record::folder(scope).join(format!("guest-{nonce}.json"))
}

/// What is known of it, whether or not it runs.
pub(super) fn known(backend: &Smolmachines, scope: &Scope, instance: &Instance) -> Option<Guest> {
    // Another process may have set it up since.
    let kept = record::read(&place(scope, instance));
    kept.or_else(|| locked(&backend.guests).get(&instance.id).cloned())
}

/// Nothing of it is needed any more.
pub(super) fn forget(backend: &Smolmachines, scope: &Scope, instance: &Instance) {
    locked(&backend.guests).remove(&instance.id);
    record::forget(&place(scope, instance));
}

/// Whether its command does not start in this run of the machine.
pub(super) fn is_quiet(backend: &Smolmachines, scope: &Scope, instance: &Instance) -> bool {
    let quiet = |guest: Guest| guest.quiet && (guest.boot.is_none() || guest.boot == instance.boot);
    known(backend, scope, instance).is_some_and(quiet)
}

/// From the next run on its command does not start, or does again.
pub(super) fn keep_quiet(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    quiet: bool,
) -> Result<(), BackendError> {
    // One of which nothing is known was never set up: nothing starts in it by itself.
    let Some(guest) = known(backend, scope, instance) else { return Ok(()) };
    let guest = Guest { boot: None, quiet, ..guest };
    record::keep(&place(scope, instance), &guest).map_err(|error| {
        let what = format!("remembering whether the command of {} runs", instance.name);
        BackendError::failed(what, anyhow::Error::from(error))
    })?;
    locked(&backend.guests).insert(instance.id.clone(), guest);
    Ok(())
}

/// What is remembered of machines whose command does not start.
pub(super) fn any_quiet(scope: &Scope) -> bool {
    let files = std::fs::read_dir(record::folder(scope)).into_iter().flatten().flatten();
    files
        .filter(|file| file.file_name().to_string_lossy().starts_with("guest-"))
        .any(|file| record::read::<Guest>(&file.path()).is_some_and(|guest| guest.quiet))
}

/// Sees to it that a running machine is set up, and says what is known of its guest.
pub(super) async fn ready(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    set: &Set,
) -> Result<Guest, BackendError> {
    prepared(backend, scope, instance, set, false).await
}

/// The same of a machine that was just booted for its files to be read: nothing of its own starts in it.
pub(super) async fn ready_to_be_read(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    set: &Set,
) -> Result<Guest, BackendError> {
    prepared(backend, scope, instance, set, true).await
}

async fn prepared(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    set: &Set,
    quiet: bool,
) -> Result<Guest, BackendError> {
    if let Some(guest) = is_set_up(known(backend, scope, instance), instance, quiet)? {
        return Ok(guest);
    }
    let lock = backend.lock(&format!("guest of {}", instance.id));
    let _one = lock.lock().await;
    let known = known(backend, scope, instance);
    if let Some(guest) = is_set_up(known.clone(), instance, quiet)? {
        return Ok(guest);
    }
    let version = super::version::of(&backend.settings, scope).await?;
    let work = SetUp { backend, scope, instance, set, version };
    let guest = match known {
        Some(guest) => guest,
        None => work.probe().await?,
    };
    if quiet {
        // First, so that whoever comes after this was cut short knows why its command does not run.
        let guest = Guest { boot: instance.boot.clone(), quiet, ..guest.clone() };
        record::keep(&place(scope, instance), &guest).map_err(|error| {
            work.failed(format!("remembering that nothing runs in it: {error}"))
        })?;
    }
    work.set_up(&guest, quiet).await?;
    let guest = Guest { boot: instance.boot.clone(), quiet, ..guest };
    record::write(&place(scope, instance), &guest);
    locked(&backend.guests).insert(instance.id.clone(), guest.clone());
    Ok(guest)
}

/// The guest, if it is set up in this run of its machine as it is to be.
fn is_set_up(
    known: Option<Guest>,
    instance: &Instance,
    quiet: bool,
) -> Result<Option<Guest>, BackendError> {
    let Some(guest) = known else { return Ok(None) };
    let up = guest.boot.is_some() && guest.boot == instance.boot;
    let refused = |why: &str| {
        Err(BackendError::failed(format!("setting {} up", instance.name), anyhow::anyhow!("{why}")))
    };
    match (up, quiet) {
        (true, true) if !guest.quiet => refused("its command was started meanwhile"),
        (false, false) if guest.quiet && guest.boot.is_none() => {
            refused("its work is being kept, and nothing starts in it meanwhile")
        }
        (true, _) => Ok(Some(guest)),
        (false, _) => Ok(None),
    }
}

/// Asks the command of a running machine to end, and has the guest write what it has in memory. Whatever comes of it,
/// its machine is stopped next.
pub(super) async fn ask_to_end(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    set: &Set,
) {
    let Ok(version) = super::version::of(&backend.settings, scope).await else { return };
    let up = |guest: &Guest| guest.boot.is_some() && guest.boot == instance.boot;
    let guest = known(backend, scope, instance).filter(up);
    let becoming = guest.as_ref().and_then(|guest| becoming(guest, set, version).ok());
    let as_root: Vec<String> = match becoming {
        Some(Becoming::Flag(_)) => vec!["--user".to_owned(), "0:0".to_owned()],
        _ => Vec::new(),
    };
    let mut steps = Vec::new();
    if let Some((guest, becoming)) = guest.zip(becoming) {
        let script = ["sh", "-c", END_SH].map(str::to_owned);
        steps.push(super::exec::as_user(&guest, set, &becoming, &script));
    }
    steps.push((as_root, vec!["sync".to_owned()]));
    for (options, argv) in steps {
        let mut args = super::exec::begin(version, &instance.name);
        args.extend(options.into_iter().chain(["--".to_owned()]).chain(argv));
        let mut call = Call::new(format!("ending what runs in {}", instance.name), ENDING, args);
        call.stdin = Bytes::new();
        if let Err(error) = command::run(&backend.settings, call).await {
            tracing::warn!(machine = %instance.name, %error, "it did not end what runs in it by itself");
        }
    }
}

struct SetUp<'a> {
    backend: &'a Smolmachines,
    scope: &'a Scope,
    instance: &'a Instance,
    set: &'a Set,
    version: Version,
}

impl SetUp<'_> {
    fn failed(&self, why: String) -> BackendError {
        let what = format!("setting {} up", self.instance.name);
        BackendError::failed(what, anyhow::anyhow!(why))
    }

    async fn run(&self, options: &[&str], argv: &[&str]) -> Result<Ended, BackendError> {
        let mut args = super::exec::begin(self.version, &self.instance.name);
        args.extend(options.iter().chain(&["--"]).chain(argv).map(|word| (*word).to_owned()));
        let what = format!("setting {} up", self.instance.name);
        let mut call = Call::new(what, DEADLINE, args);
        call.stdin = Bytes::new();
        let ended = command::run(&self.backend.settings, call).await?;
        if ended.code == 0 {
            return Ok(ended);
        }
        // It may have been stopped meanwhile: the listing says so, and no text.
        observe::running(self.backend, self.scope, self.instance).await?;
        let words = parse::words(&ended.stderr);
        Err(self.failed(format!("the guest's shell ended with {}: {words}", ended.code)))
    }

    async fn probe(&self) -> Result<Guest, BackendError> {
        let ended = self.run(&[], &["sh", "-c", PROBE_SH]).await?;
        let text = String::from_utf8_lossy(&ended.stdout);
        let accounts = accounts(&text, self.set.image)
            .ok_or_else(|| self.failed(format!("its users are not to be told from `{text}`")))?;
        let user = accounts
            .resolve(self.set.user.as_deref(), self.set.home.as_deref())
            .map_err(|why| self.failed(format!("the image does not fit the bottle: {why}")))?;
        if self.set.user.is_none() {
            note_root(self.scope, self.instance, user.root_by_default);
        }
        Ok(Guest::of(&user, &accounts))
    }

    async fn set_up(&self, guest: &Guest, quiet: bool) -> Result<(), BackendError> {
        let becoming = becoming(guest, self.set, self.version).map_err(|why| self.failed(why))?;
        let (uid, gid) = (guest.uid.to_string(), guest.gid.to_string());
        let workdir = self.set.workdir.as_deref().unwrap_or_default();
        // What is mounted belongs to the host, and a folder of the image to the image; but
        // `/workspace` is made by the program, for nobody.
        let own = self.set.mount.is_none() && workdir == "/workspace";
        let log = if self.set.kept_log { PIPE } else { FILE };
        let own = if own { "1" } else { "0" };
        let root: &[&str] = match becoming {
            Becoming::Flag(_) => &["--user", "0:0"],
            _ => &[],
        };
        let pids = self.set.pids.to_string();
        self.run(root, &["sh", "-c", SETUP_SH, "sh", &uid, &gid, workdir, own, log, &pids]).await?;
        if self.set.mount.is_some() {
            self.check_mount(guest, &becoming).await?;
        }
        if quiet {
            return Ok(());
        }
        let waits = if self.set.waits_for_env { "1" } else { "0" };
        let script = main_script();
        let start = format!("pids=$1\n{LIMIT_SH}{MAIN_SH_START}");
        let argv = ["sh", "-c", &start, "sh", &pids, log, workdir, &script, "bottle"];
        let argv = argv.into_iter().chain([self.set.restart.as_str(), waits]);
        let argv: Vec<String> =
            argv.chain(self.set.command.iter().map(String::as_str)).map(str::to_owned).collect();
        let (options, argv) = self.as_user(guest, &becoming, &argv);
        let options: Vec<&str> =
            ["-d"].into_iter().chain(options.iter().map(String::as_str)).collect();
        self.run(&options, &argv.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        Ok(())
    }

    fn as_user(
        &self,
        guest: &Guest,
        becoming: &Becoming,
        argv: &[String],
    ) -> (Vec<String>, Vec<String>) {
        super::exec::as_user(guest, self.set, becoming, argv)
    }

    /// The owners of a mounted workspace are the host's own; whether they suit the sandbox's user
    /// shows only here.
    async fn check_mount(&self, guest: &Guest, becoming: &Becoming) -> Result<(), BackendError> {
        let Some(target) = &self.set.mount else { return Ok(()) };
        let test = ["sh", "-c", "[ -w \"$1\" ] && echo yes || echo no", "sh", target];
        let (options, argv) = self.as_user(guest, becoming, &test.map(str::to_owned));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let ended = self.run(&options, &argv).await?;
        if ended.stdout.starts_with(b"yes") {
            return Ok(());
        }
        let uid = guest.uid;
        Err(BackendError::Unsupported(format!(
            "the sandbox's user (uid {uid}) cannot write the mounted workspace {target}: a microVM \
             shows a folder with the host's own owners; name the owner of the folder as `user`, or \
             use `mode: copy`"
        )))
    }
}

/// The main process, as it is sent: without its comments.
fn main_script() -> String {
    let lines = MAIN_SH.lines().map(str::trim_start);
    lines.filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// Reads what [`PROBE_SH`] prints. Who a bare machine's programs are is no choice of an image's.
fn accounts(text: &str, image: bool) -> Option<Accounts> {
    let mut parts = text.split("---\n");
    let mut ids = parts.next()?.lines().map(str::parse::<u32>);
    let (uid, gid) = (ids.next()?.ok()?, ids.next()?.ok()?);
    Some(Accounts {
        user: (image && uid != 0).then(|| format!("{uid}:{gid}")),
        home: None,
        accounts: parse_passwd(parts.next()?),
        groups: parse_group(parts.next().unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Version = Version { major: 1, minor: 32, patch: 2 };
    const OLD: Version = Version { major: 1, minor: 9, patch: 2 };

    fn guest(uid: u32, account: Option<&str>) -> Guest {
        let account = account.map(str::to_owned);
        Guest { uid, gid: uid, home: "/".into(), account, boot: None, quiet: false }
    }

    #[test]
    fn users_are_told_from_what_the_guest_prints() {
        let passwd = "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n";
        let text = |ids: &str| format!("{ids}---\n{passwd}---\nroot:x:0:\nnode:x:1000:\n");
        let user = |text: &str, wanted| {
            let accounts = accounts(text, true).unwrap();
            Guest::of(&accounts.resolve(wanted, None).unwrap(), &accounts)
        };
        let found = user(&text("0\n0\n"), None);
        assert_eq!((found.uid, found.home.as_str()), (1000, "/home/node"));
        assert_eq!(found.account.as_deref(), Some("node"));
        assert_eq!(user(&text("7\n8\n"), None).identity().gid, 8, "the image's own user");
        assert_eq!(user(&text("0\n0\n"), Some("4321:55")).account, None);
        assert_eq!(accounts("no shell here", true), None);
        assert_eq!(accounts(&text("7\n8\n"), false).unwrap().user, None);
    }

    #[test]
    fn who_a_command_becomes_depends_on_the_machine_and_the_program() {
        let image = Set { image: true, ..Set::default() };
        let bare = Set::default();
        let node = guest(1000, Some("node"));
        assert_eq!(becoming(&node, &image, NEW), Ok(Becoming::Flag("1000:1000".into())));
        assert_eq!(becoming(&node, &image, OLD), Ok(Becoming::Su("node".into())));
        assert_eq!(becoming(&guest(0, Some("root")), &image, OLD), Ok(Becoming::Nothing));
        assert_eq!(becoming(&guest(0, Some("root")), &bare, NEW), Ok(Becoming::Nothing));
        assert_eq!(becoming(&node, &bare, NEW), Ok(Becoming::Su("node".into())));
        let why = becoming(&guest(4321, None), &image, OLD).unwrap_err();
        assert!(why.contains("1.9.2") && why.contains("1.32"), "{why}");
        assert!(becoming(&guest(4321, None), &bare, NEW).unwrap_err().contains("name an image"));
    }
}
