//! From arguments and the environment to a reconciler: the one place of this layer that reads the
//! environment.
#![expect(clippy::disallowed_methods, reason = "reads the environment")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::args::{Global, LookArgs, ReadArgs, SelectArgs};
use super::error::{CliError, Kind};
use crate::apply::Deadlines;
use crate::backend::docker::Docker;
#[cfg(target_os = "linux")]
use crate::backend::native::Native;
use crate::backend::smolmachines::Smolmachines;
use crate::backend::{Backend, Backends, Depth, Placed};
use crate::manifest::{self, LoadOptions, Location, Surroundings};
use crate::model::{Desired, InstanceState, Observed, SandboxId};
use crate::plan::{Discard, Options};
use crate::reconcile::pass::canonical;
use crate::reconcile::values::EnvFile;
use crate::reconcile::{Reconciler, Sources, State};

/// The backends of this run. Making one asks nothing of anyone.
pub(super) fn backends() -> Backends {
    let all: [Arc<dyn Backend>; _] = [
        Arc::new(Docker::from_env()),
        #[cfg(target_os = "linux")]
        Arc::new(Native::new()),
        Arc::new(Smolmachines::from_env()),
    ];
    all.into_iter().map(|backend| (backend.kind(), Placed::around(backend))).collect()
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

pub(super) fn home() -> Option<PathBuf> {
    variable("HOME")
}

/// Who the caller is, as far as the environment says.
pub(super) fn user() -> String {
    let named = ["USER", "LOGNAME"].into_iter().find_map(|name| {
        let name = std::env::var(name).ok()?;
        let plain = crate::model::text::first_unseen(&name, "").is_none();
        (!name.is_empty() && name.len() <= 64 && plain).then_some(name)
    });
    named.unwrap_or_else(|| format!("uid {}", rustix::process::geteuid().as_raw()))
}

/// What the caller's terminal says of its colours, for a program that is to draw on it: a word such as `truecolor`.
pub(super) fn colours() -> Option<(String, String)> {
    const NAME: &str = "COLORTERM";
    let value = std::env::var(NAME).ok()?;
    let word = (1..=32).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_alphanumeric());
    word.then(|| (NAME.to_owned(), value))
}

/// Whether the terminal has more than ASCII, as far as the locale says.
pub(super) fn has_unicode() -> bool {
    let named = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let named = named.unwrap_or_default().to_ascii_lowercase();
    named.ends_with("utf-8") || named.ends_with("utf8")
}

/// Whether the terminal can be drawn on, as far as its name says.
pub(super) fn moves_cursor() -> bool {
    std::env::var("TERM").is_ok_and(|name| !name.is_empty() && name != "dumb")
}

/// Where the state folder is.
pub(super) fn state_dir(global: &Global) -> Result<PathBuf, CliError> {
    let named = global.state_dir.clone().or_else(|| variable("BOTTLE_STATE_DIR"));
    let folder = named
        .or_else(|| Some(variable("XDG_STATE_HOME")?.join("bottle")))
        .or_else(|| Some(home()?.join(".local/state/bottle")));
    let folder = folder.ok_or_else(|| {
        CliError::failed("there is no place for the state folder: HOME is not set")
            .hint("name one with `--state-dir DIR` or BOTTLE_STATE_DIR")
    })?;
    absolute(folder)
}

/// The tree that was named on the command line.
pub(super) fn named_tree<'a>(
    global: &'a Global,
    positional: Option<&'a Path>,
) -> Result<Option<&'a Path>, CliError> {
    match (positional, global.tree.as_deref()) {
        (Some(path), Some(tree)) if canonical(path) != canonical(tree) => {
            Err(CliError::failed(format!(
                "two trees were named: {} and, with --tree, {}",
                path.display(),
                tree.display()
            )))
        }
        (path, tree) => Ok(path.or(tree)),
    }
}

/// Which tree and which overlay are meant.
fn locate(
    global: &Global,
    positional: Option<&Path>,
    overlay: Option<&Path>,
) -> Result<Location, CliError> {
    let around = surroundings(global, positional, overlay)?;
    manifest::locate(&around).map_err(|error| {
        let hint = agent_named(&around).unwrap_or_else(|| error.hint());
        CliError::new(Kind::Failed, error).hint(hint)
    })
}

fn surroundings(
    global: &Global,
    positional: Option<&Path>,
    overlay: Option<&Path>,
) -> Result<Surroundings, CliError> {
    Ok(Surroundings {
        path: named_tree(global, positional)?.map(Path::to_owned),
        overlay: overlay.map(Path::to_owned),
        bottle_tree: std::env::var_os("BOTTLE_TREE"),
        home: home(),
        current: std::env::current_dir().ok(),
    })
}

/// What to write where an agent was named in the place of the tree.
fn agent_named(around: &Surroundings) -> Option<String> {
    let name = around.path.as_ref().filter(|path| !path.exists())?;
    let name = SandboxId::new(name.to_str()?).ok()?;
    let tree = manifest::locate(&Surroundings { path: None, ..around.clone() }).ok()?.tree;
    tree.join(format!("agents/{name}.md")).is_file().then(|| {
        let tree = tree.display();
        format!("{name} is an agent of {tree}, and a tree stands here: `--only {name}` names it")
    })
}

/// How the tree is read.
pub(super) fn load_options(
    global: &Global,
    positional: Option<&Path>,
    read: &ReadArgs,
) -> Result<LoadOptions, CliError> {
    let located = locate(global, positional, read.overlay.as_deref())?;
    load_options_of(global, located)
}

/// How this tree is read.
pub(super) fn load_options_of(global: &Global, from: Location) -> Result<LoadOptions, CliError> {
    Ok(LoadOptions {
        overlay: from.overlay,
        default_backend: global.backend.map(Into::into),
        home: home(),
        search_path: std::env::var_os("PATH"),
        skills_dir_override: std::env::var("BOTTLE_GUEST_SKILLS_DIR").ok(),
        ..LoadOptions::new(from.tree, state_dir(global)?)
    })
}

/// The tree as it was named, whether or not it is there.
pub(super) fn tree_path(global: &Global, positional: Option<&Path>) -> Result<PathBuf, CliError> {
    if let Some(hint) = agent_named(&surroundings(global, positional, None)?) {
        return Err(CliError::failed("there is no such tree").hint(hint));
    }
    let named = match named_tree(global, positional)? {
        Some(path) => Some(path.to_owned()),
        None => variable("BOTTLE_TREE").or_else(|| Some(home()?.join(".bottle"))),
    };
    let named = named.ok_or_else(|| {
        CliError::failed("no tree was named, and HOME is not set").hint("name a folder")
    })?;
    absolute(named)
}

/// The whole path. Only a relative one needs a current folder: that may have been removed.
fn absolute(path: PathBuf) -> Result<PathBuf, CliError> {
    if path.is_absolute() {
        return Ok(path);
    }
    let current = std::env::current_dir().context("finding out the current folder")?;
    Ok(current.join(path))
}

/// What works on the tree.
pub(super) fn reconciler(
    load: LoadOptions,
    look: &LookArgs,
    jobs: Option<u16>,
) -> Result<Reconciler, CliError> {
    Ok(with_state(State::open(&load.state_dir)?, load, look, jobs))
}

/// What only looks: it writes nothing, not even where the state folder would be.
pub(super) fn onlooker(
    load: LoadOptions,
    look: &LookArgs,
    jobs: Option<u16>,
) -> Result<Reconciler, CliError> {
    Ok(with_state(State::look(&load.state_dir)?, load, look, jobs))
}

fn with_state(state: State, load: LoadOptions, look: &LookArgs, jobs: Option<u16>) -> Reconciler {
    Reconciler {
        state,
        load,
        backends: backends(),
        sources: Sources {
            env_file: look.env_file.clone().map(EnvFile::new),
            ..Sources::default()
        },
        depth: if look.deep { Depth::Deep } else { Depth::Listing },
        jobs: jobs.map(usize::from),
        deadlines: Deadlines::default(),
    }
}

/// What the operator says beside the tree.
pub(super) fn options(select: &SelectArgs) -> Result<Options, CliError> {
    let mut only = BTreeSet::new();
    for name in &select.only {
        let id = SandboxId::new(name).map_err(|error| {
            let hint = "a tree stands before the options: `bottle plan TREE --only NAME…`";
            CliError::new(Kind::Failed, anyhow::Error::from(error).context("in --only")).hint(hint)
        })?;
        only.insert(id);
    }
    let mut replace_unknown = BTreeSet::new();
    for name in &select.replace_unknown {
        let id = SandboxId::new(name).map_err(|error| {
            let error = anyhow::Error::from(error).context("in --replace-unknown");
            CliError::new(Kind::Failed, error).hint("name the sandboxes one by one")
        })?;
        replace_unknown.insert(id);
    }
    let discard = match select.discard.as_slice() {
        [] => Discard::Nothing,
        names if names.iter().any(|name| name == "all") => Discard::All,
        names => {
            let ids: Result<BTreeSet<_>, _> = names.iter().map(SandboxId::new).collect();
            Discard::Of(ids.map_err(|error| {
                let error = anyhow::Error::from(error).context("in --discard");
                CliError::new(Kind::Failed, error).hint("name the sandboxes, or `all` of them")
            })?)
        }
    };
    Ok(Options {
        only: (!only.is_empty()).then_some(only),
        discard,
        allow_teardown: select.allow_teardown.unwrap_or_default(),
        replace_unknown,
        ..Options::default()
    })
}

/// Names of `--only` and `--discard` that neither the tree nor a backend knows are a mistake, and so are those of
/// `--replace-unknown` that are known well.
pub(super) fn check_only(
    options: &Options,
    desired: &Desired,
    observed: &Observed,
) -> Result<(), CliError> {
    for id in &options.replace_unknown {
        let unknown = observed
            .instances
            .iter()
            .any(|i| i.sandbox == *id && matches!(i.state, InstanceState::Unknown(_)));
        if !unknown && !options.lost_cas.contains_key(id) {
            let told = format!("nothing of {id} is unreadable, so --replace-unknown is not for it");
            return Err(CliError::failed(told)
                .hint("`bottle plan` names what cannot be read; leave the option out"));
        }
    }
    let discarded = match &options.discard {
        Discard::Of(names) => Some(names),
        Discard::Nothing | Discard::All => None,
    };
    let named: Vec<&SandboxId> = options.only.iter().chain(discarded).flatten().collect();
    if named.is_empty() {
        return Ok(());
    }
    let known: BTreeSet<&SandboxId> = desired
        .sandboxes
        .keys()
        .chain(desired.held.keys())
        .chain(observed.instances.iter().map(|instance| &instance.sandbox))
        .chain(observed.receipts.values().map(|receipt| &receipt.sandbox))
        .collect();
    let unknown: Vec<&str> =
        named.iter().filter(|id| !known.contains(**id)).map(|id| id.as_str()).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let error = CliError::failed(format!("there is no sandbox {}", unknown.join(", ")));
    let known: Vec<&str> = known.into_iter().map(SandboxId::as_str).collect();
    Err(error.hint(there_are(&known)))
}

/// Which sandboxes there are, for a hint.
pub(super) fn there_are(names: &[&str]) -> String {
    match names.len() {
        0 => "the tree declares none, and none exists".to_owned(),
        1..=30 => format!("there are: {}", names.join(", ")),
        more => format!("there are {more}, from {} on", names[..30].join(", ")),
    }
}
