//! The tokens of credential routes: from the `--env-file`, the environment, a command or a file. They are
//! had anew for every pass, kept in memory only, and what becomes of one that cannot be used is decided here.
#![expect(
    clippy::disallowed_methods,
    reason = "reads the environment and files, and runs commands"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use super::state::State;
use super::values::Values;
use crate::apply::Secret;
use crate::manifest;
use crate::model::policy::{AuthScheme, CredentialRoute, TokenFrom, TokenSource};
use crate::model::text::harmless_line;
use crate::model::{Desired, Diagnostic, Observed, SandboxId, SandboxSpec};
use crate::plan;
use crate::sidecar::dlp::SHORTEST;

/// Where a program is looked for that is named without a folder. The operator's own `PATH` says nothing here:
/// a pass may be made by a service that has another one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What of the environment a command gets, beside [`PATH`] and a language.
const PASSED_ON: [&str; 4] = ["HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR"];

/// So long a command may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A command that has not ended in time is not asked again so soon: every pass would wait for it.
const PAUSE: Duration = Duration::from_secs(300);

/// No token is longer.
const LARGEST: usize = 16 << 10;

const GRAPHIC: &str = "set it to the token alone: printable ASCII, no blanks, no line end";

/// The tokens that routes refer to, by name, as far as they are at hand.
#[derive(Default)]
pub struct Credentials(BTreeMap<String, Secret>);

/// Commands that did not end in time, and when.
#[derive(Default)]
pub struct Hung(Mutex<BTreeMap<TokenSource, Instant>>);

impl Hung {
    fn is(&self, source: &TokenSource) -> bool {
        let hung = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hung.get(source).is_some_and(|at| at.elapsed() < PAUSE)
    }

    fn note(&self, source: &TokenSource) {
        let mut hung = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hung.insert(source.clone(), Instant::now());
    }
}

/// What is wrong with a token.
struct Trouble {
    /// As the end of a sentence.
    what: String,
    hint: String,
}

impl Trouble {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

impl Credentials {
    /// Has those that the tree refers to, and settles what only they can tell. One that cannot be used holds its
    /// sandboxes; one that is not set is left to the plan. Without `ask`, no command and no file is asked.
    pub(super) async fn gather(
        desired: &mut Desired,
        observed: &Observed,
        given: &Values,
        ask: Option<&Hung>,
        state: &State,
    ) -> Self {
        let routes = desired.sandboxes.values().flat_map(|spec| &spec.policy.routes);
        let wanted: BTreeMap<String, Option<TokenFrom>> =
            routes.map(|route| (route.token_ref.clone(), route.token_from.clone())).collect();
        let sources: BTreeMap<&TokenSource, &TokenFrom> = wanted
            .values()
            .flatten()
            .filter(|_| ask.is_some())
            .map(|from| (&from.source, from))
            .collect();
        let tree = &*desired;
        let asked = sources.into_values().map(async |from| {
            let token = match judged(from, tree, observed) {
                Ok(judged) => had(from, judged, ask.unwrap_or(&Hung::default())).await,
                Err(trouble) => Err(trouble),
            };
            (from.source.clone(), token)
        });
        let asked: BTreeMap<TokenSource, Result<Zeroizing<String>, Trouble>> =
            join_all(asked).await.into_iter().collect();
        let mut found = BTreeMap::new();
        for (name, from) in &wanted {
            let value = match from {
                None => Ok(by_name(name, given)),
                Some(from) => match asked.get(&from.source) {
                    None => continue,
                    Some(Ok(token)) => Ok(Some(token.clone())),
                    Some(Err(trouble)) => {
                        let cannot = "is not to be had: ".to_owned() + &trouble.what;
                        hold(desired, name, from.into(), &Trouble::new(cannot, &*trouble.hint));
                        continue;
                    }
                },
            };
            match value.and_then(|value| value.map(usable).transpose()) {
                Ok(None) => {}
                Ok(Some(value)) => {
                    let digest = state.digest(name, &value);
                    found.insert(name.clone(), Secret { value, digest });
                }
                Err(trouble) => hold(desired, name, from.as_ref(), &trouble),
            }
        }
        settle(desired, observed, &found);
        Self(found)
    }

    /// One of them.
    pub(super) fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// Their keyed digests, by name.
    #[must_use]
    pub fn digests(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(name, secret)| (name.clone(), secret.digest.clone())).collect()
    }
}

/// The token that has this name: as a line of the `--env-file`, else as a variable, else as a variable of the
/// names that asked-for values have.
fn by_name(name: &str, given: &Values) -> Option<Zeroizing<String>> {
    let variable = |name: &str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
        // What is not UTF-8 is told as what no header can hold, which it is.
        Some(Zeroizing::new(value.to_string_lossy().into_owned()))
    };
    let given = given.get(name).filter(|value| !value.is_empty()).cloned();
    given.or_else(|| variable(name)).or_else(|| variable(&format!("BOTTLE_ENV_{name}")))
}

/// A value that can be sent as a credential, and looked for.
fn usable(value: Zeroizing<String>) -> Result<Zeroizing<String>, Trouble> {
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Trouble::new("cannot stand in a header", GRAPHIC));
    }
    if value.len() < SHORTEST {
        let length = value.len();
        let what = format!(
            "has {length} bytes: in less than {SHORTEST} nobody can tell a leak from chance"
        );
        return Err(Trouble::new(what, "use a longer token"));
    }
    Ok(value)
}

/// Writes into each route what its token decides, and holds where the two do not fit. Without the token it is
/// taken to be of the kind that was loaded last: that it is waited for is no change.
fn settle(desired: &mut Desired, observed: &Observed, found: &BTreeMap<String, Secret>) {
    let mut misfits = BTreeMap::new();
    for spec in desired.sandboxes.values_mut() {
        let mut settled = false;
        for route in &mut spec.policy.routes {
            let open = route.auth_scheme == AuthScheme::OfToken;
            let Some(secret) = found.get(&route.token_ref) else {
                if open && let Some(scheme) = loaded(&spec.id, route, observed) {
                    route.auth_scheme = scheme;
                    settled = true;
                }
                continue;
            };
            match route.settle(&secret.value) {
                Ok(()) => settled |= open,
                Err(misfit) => {
                    misfits.insert(route.token_ref.clone(), (route.token_from.clone(), misfit));
                }
            }
        }
        if let Some(sidecar) = spec.sidecar.as_mut().filter(|_| settled) {
            sidecar.policy = Arc::new(spec.policy.clone());
        }
    }
    for (name, (from, misfit)) in misfits {
        hold(desired, &name, from.as_ref(), &Trouble::new(misfit.what, misfit.mend));
    }
}

/// How a route's last token was written that this sandbox's sidecar was loaded with.
fn loaded(sandbox: &SandboxId, route: &CredentialRoute, observed: &Observed) -> Option<AuthScheme> {
    let path = format!("cred_proxy.routes.{}.auth_scheme", route.path);
    let own = observed.receipts.values().filter(|receipt| receipt.sandbox == *sandbox);
    let schemes = [AuthScheme::Bearer, AuthScheme::ApiKey];
    own.filter_map(|receipt| receipt.fields.0.get(&path))
        .find_map(|word| schemes.iter().find(|scheme| scheme.as_str() == word).cloned())
}

/// Nothing is done for the sandboxes that use a token that cannot be used.
fn hold(desired: &mut Desired, name: &str, from: Option<&TokenFrom>, trouble: &Trouble) {
    let uses = |spec: &&SandboxSpec| spec.policy.routes.iter().any(|r| r.token_ref == name);
    let users: Vec<SandboxId> =
        desired.sandboxes.values().filter(uses).map(|spec| spec.id.clone()).collect();
    for id in users {
        let Some(spec) = desired.sandboxes.remove(&id) else { continue };
        let (bottle, what) = (&spec.bottle, &trouble.what);
        let diagnostic = match from {
            None => {
                let message = format!(
                    "the value of {name}, which a route of bottle {bottle} refers to, {what}"
                );
                Diagnostic::error(spec.source, message)
            }
            Some(TokenFrom { place, .. }) => Diagnostic {
                line: place.line,
                column: place.column,
                field: Some("cred_proxy.routes.token_from".to_owned()),
                ..Diagnostic::error(
                    place.file.clone(),
                    format!("the token of a route of bottle {bottle} {what}"),
                )
            },
        };
        let diagnostic = diagnostic.with_hint(trouble.hint.clone());
        // Agents share a bottle, and then its findings.
        if !desired.diagnostics.contains(&diagnostic) {
            desired.diagnostics.push(diagnostic.clone());
        }
        desired.held.insert(id, vec![diagnostic]);
    }
}

/// What is to be read or run: the path that was judged, which is the one that is used.
struct Judged {
    path: PathBuf,
    /// The path as it was found: some programs are what they are called.
    called: PathBuf,
}

/// Looks who else can change what the token comes from.
fn judged(from: &TokenFrom, desired: &Desired, observed: &Observed) -> Result<Judged, Trouble> {
    let trusted = |path: &Path| {
        let judged = manifest::operators_file("token_from", path);
        let source = judged.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Trouble::new(
                format!("there is no `{}`", harmless_line(&path.display().to_string())),
                "make it, or name another one",
            ),
            _ => Trouble::new(error.to_string(), "what gives a token is yours alone"),
        })?;
        let writer =
            plan::sources::writer_of(&source, desired, &observed.accepted, &observed.elsewhere);
        match writer {
            None => Ok(source.path),
            Some(writer) => Err(Trouble::new(
                format!("`{}` {writer}", harmless_line(&path.display().to_string())),
                "move it out of there",
            )),
        }
    };
    match &from.source {
        TokenSource::File(path) => Ok(Judged { path: trusted(path)?, called: path.clone() }),
        TokenSource::Command(argv) => {
            let name = argv.first().map_or("", String::as_str);
            let called = program(name).ok_or_else(|| {
                let hint =
                    format!("install it, or write its whole path; it is looked for in {PATH}");
                Trouble::new(format!("there is no program `{}`", harmless_line(name)), hint)
            })?;
            for word in argv.iter().skip(1).filter(|word| word.contains('/')) {
                let file = from.tree.join(word);
                if file.is_file() {
                    trusted(&file)?;
                }
            }
            Ok(Judged { path: trusted(&called)?, called })
        }
    }
}

/// Where the program of this name is.
fn program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(name.into());
    }
    let runs = |path: &PathBuf| {
        let found = std::fs::metadata(path);
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    PATH.split(':').map(|folder| Path::new(folder).join(name)).find(runs)
}

/// Has a token from where it was judged.
async fn had(from: &TokenFrom, judged: Judged, hung: &Hung) -> Result<Zeroizing<String>, Trouble> {
    let bytes = match &from.source {
        TokenSource::File(path) => {
            let read = tokio::task::spawn_blocking(move || read(&judged.path)).await;
            let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
            read.map_err(|error| {
                let shown = harmless_line(&path.display().to_string());
                Trouble::new(
                    format!("reading `{shown}`: {error}"),
                    "make it a file that you can read",
                )
            })?
        }
        TokenSource::Command(argv) => {
            let shown = harmless_line(argv.first().map_or("", String::as_str));
            if hung.is(&from.source) {
                let what = format!("`{shown}` has not ended in {} s", DEADLINE.as_secs());
                let hint = format!(
                    "run it by hand, in {}; it is asked again within {} minutes, or when bottle is \
                     started anew",
                    from.tree.display(),
                    PAUSE.as_secs() / 60
                );
                return Err(Trouble::new(what, hint));
            }
            let ran = run(argv, &from.tree, &judged, DEADLINE).await;
            ran.map_err(|failure| {
                let error = match failure {
                    Failure::Hangs => {
                        hung.note(&from.source);
                        format!("has not ended in {} s", DEADLINE.as_secs())
                    }
                    Failure::Other(what) => what,
                };
                let hint = format!(
                    "run it by hand, in {}; what it says on its standard error is not shown here, because \
                     it may be the token",
                    from.tree.display()
                );
                Trouble::new(format!("`{shown}` {error}"), hint)
            })?
        }
    };
    let nothing = || Trouble::new("it is empty", "it has to give the token and nothing else");
    if bytes.len() > LARGEST {
        let what = format!("it is longer than {LARGEST} bytes");
        return Err(Trouble::new(what, "it has to give the token and nothing else"));
    }
    let text = std::str::from_utf8(&bytes);
    let text = text.map_err(|_| Trouble::new("it is not UTF-8", GRAPHIC))?;
    let token = text.trim_end_matches(['\n', '\r']);
    if token.is_empty() { Err(nothing()) } else { Ok(Zeroizing::new(token.to_owned())) }
}

/// Reads a file that was judged: no link that came since is followed, and nothing is waited for.
fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST + 1));
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Runs a command and returns what it wrote. What it has started goes with it.
async fn run(
    argv: &[String],
    folder: &Path,
    judged: &Judged,
    deadline: Duration,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut command = tokio::process::Command::new(&judged.path);
    command
        .arg0(&judged.called)
        .args(argv.iter().skip(1))
        .current_dir(folder)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let start = command.spawn();
    let mut child = start.map_err(|error| Failure::Other(format!("cannot be started: {error}")))?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
    let wait = async {
        let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST + 1));
        if let Some(stdout) = child.stdout.take() {
            let mut stdout = stdout.take(LARGEST as u64 + 1);
            let read = stdout.read_to_end(&mut bytes).await;
            read.map_err(|error| Failure::Other(error.to_string()))?;
        }
        if bytes.len() > LARGEST {
            return Ok(bytes);
        }
        match child.wait().await {
            Ok(status) if status.success() => Ok(bytes),
            Ok(status) => Err(Failure::Other(format!("ended with {status}"))),
            Err(error) => Err(Failure::Other(format!("cannot be waited for: {error}"))),
        }
    };
    let waited = tokio::time::timeout(deadline, wait).await;
    drop(group);
    waited.unwrap_or(Err(Failure::Hangs))
}

/// Why a command gave nothing.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// It has not ended in time.
    Hangs,
    /// As the end of a sentence.
    Other(String),
}

/// The process group of a command: what is left of it is killed.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// The files that tokens come from; `None` where a command has to be asked.
pub(super) fn files(desired: &Desired) -> Option<BTreeSet<PathBuf>> {
    let routes = desired.sandboxes.values().flat_map(|spec| &spec.policy.routes);
    let from = routes.filter_map(|route| route.token_from.as_ref());
    from.map(|from| match &from.source {
        TokenSource::File(path) => Some(path.clone()),
        TokenSource::Command(_) => None,
    })
    .collect()
}

#[cfg(test)]
mod tests;
