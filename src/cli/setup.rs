//! From arguments and the environment to a reconciler: the one place of this layer that reads the
//! environment.
#![expect(clippy::disallowed_methods, reason = "reads the environment")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{Global, LookArgs, ReadArgs, SelectArgs};
use super::error::CliError;
use crate::apply::Deadlines;
use crate::backend::docker::Docker;
use crate::backend::{Backend, Backends, Depth};
use crate::manifest::LoadOptions;
use crate::model::{Desired, Observed, SandboxId};
use crate::plan::Options;
use crate::reconcile::pass::canonical;
use crate::reconcile::{Reconciler, Sources, State};

/// The backends of this run.
pub(super) fn backends() -> Backends {
    let docker: Arc<dyn Backend> = Arc::new(Docker::from_env());
    [docker].into_iter().map(|backend| (backend.kind(), backend)).collect()
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

pub(super) fn home() -> Option<PathBuf> {
    variable("HOME")
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
    absolute(&folder)
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

fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(|error| {
        CliError::new(
            super::error::Kind::Failed,
            anyhow::Error::from(error).context(format!("resolving {}", path.display())),
        )
    })
}

/// How the tree is read.
pub(super) fn load_options(
    global: &Global,
    positional: Option<&Path>,
    read: &ReadArgs,
) -> Result<LoadOptions, CliError> {
    let home = home();
    let named = named_tree(global, positional)?;
    let tree = match named {
        Some(path) => path.to_owned(),
        None => variable("BOTTLE_TREE")
            .or_else(|| Some(home.as_ref()?.join(".bottle")))
            .ok_or_else(|| CliError::failed("no tree was named, and HOME is not set"))?,
    };
    Ok(LoadOptions {
        tree: absolute(&tree)?,
        overlay: read.overlay.clone(),
        default_backend: global.backend.map(Into::into),
        home,
        state_dir: state_dir(global)?,
        skills_dir_override: std::env::var("BOTTLE_GUEST_SKILLS_DIR").ok(),
    })
}

/// What works on the tree.
pub(super) fn reconciler(
    global: &Global,
    load: LoadOptions,
    look: &LookArgs,
    jobs: Option<u16>,
) -> Result<Reconciler, CliError> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    Ok(Reconciler {
        state: State::open(&load.state_dir)?,
        load,
        backends: backends(),
        sources: Sources { env_file: look.env_file.clone(), typed: BTreeMap::new() },
        depth: if look.deep { Depth::Deep } else { Depth::Listing },
        jobs: jobs.map_or_else(|| cores.clamp(2, 16), usize::from),
        deadlines: Deadlines::default(),
    })
    .inspect(|_| tracing::debug!(tree = ?global.tree, "reconciler set up"))
}

/// What the operator says beside the tree.
pub(super) fn options(select: &SelectArgs) -> Result<Options, CliError> {
    let mut only = BTreeSet::new();
    for name in &select.only {
        let id = SandboxId::new(name).map_err(|error| {
            let hint = "a tree stands before the options: `bottle plan TREE --only NAME…`";
            CliError::new(
                super::error::Kind::Failed,
                anyhow::Error::from(error).context("in --only"),
            )
            .hint(hint)
        })?;
        only.insert(id);
    }
    Ok(Options {
        only: (!only.is_empty()).then_some(only),
        allow_teardown: select.allow_teardown.unwrap_or_default(),
        ..Options::default()
    })
}

/// Names of `--only` that neither the tree nor a backend knows are a mistake.
pub(super) fn check_only(
    options: &Options,
    desired: &Desired,
    observed: &Observed,
) -> Result<(), CliError> {
    let Some(only) = &options.only else { return Ok(()) };
    let known: BTreeSet<&SandboxId> = desired
        .sandboxes
        .keys()
        .chain(desired.held.keys())
        .chain(observed.instances.iter().map(|instance| &instance.sandbox))
        .chain(observed.receipts.values().map(|receipt| &receipt.sandbox))
        .collect();
    let unknown: Vec<&str> =
        only.iter().filter(|id| !known.contains(id)).map(SandboxId::as_str).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let error = CliError::failed(format!("there is no sandbox {}", unknown.join(", ")));
    let known: Vec<&str> = known.into_iter().map(SandboxId::as_str).collect();
    Err(match known.len() {
        0 => error.hint("the tree declares none, and none exists"),
        1..=30 => error.hint(format!("there are: {}", known.join(", "))),
        more => error.hint(format!("there are {more}, from {} on", known[..30].join(", "))),
    })
}
