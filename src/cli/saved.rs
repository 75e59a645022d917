//! A saved plan: the document, and the options with which to look again.
#![expect(clippy::disallowed_methods, reason = "reads and writes the file that the operator names")]

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::args::{Backend, Global, LookArgs, ReadArgs, SelectArgs};
use super::documents::ReportDocument;
use super::error::{CliError, Kind};
use crate::backend::Depth;
use crate::model::{BackendKind, SpecHash};
use crate::plan::document::VERSION;
use crate::plan::{AllowTeardown, Discard};
use crate::reconcile::{Reconciler, View};

/// With what a plan was made.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(super) struct SavedOptions {
    /// The tree.
    tree: PathBuf,
    /// `--overlay`.
    overlay: Option<PathBuf>,
    /// `--backend`.
    backend: Option<BackendKind>,
    /// `--env-file`.
    env_file: Option<PathBuf>,
    /// `--deep`.
    deep: bool,
    /// `--only`.
    only: Vec<String>,
    /// `--allow-teardown`.
    allow_teardown: Option<String>,
    /// `--discard`.
    #[serde(default)]
    discard: Vec<String>,
    /// `--replace-unknown`.
    #[serde(default)]
    replace_unknown: Vec<String>,
}

/// What of a saved plan matters for carrying it out.
#[derive(Debug, Deserialize)]
pub(super) struct Saved {
    version: u32,
    fingerprint: SpecHash,
    options: SavedOptions,
}

/// Saves the plan of this view.
pub(super) fn write(
    file: &Path,
    global: &Global,
    reconciler: &Reconciler,
    view: &View,
) -> Result<(), CliError> {
    let options = SavedOptions {
        tree: view.desired.tree.path.clone(),
        overlay: reconciler.load.overlay.as_deref().map(std::path::absolute).transpose()?,
        backend: global.backend.map(Into::into),
        env_file: match &reconciler.sources.env_file {
            Some(file) => Some(std::path::absolute(file.path())?),
            None => None,
        },
        deep: reconciler.depth == Depth::Deep,
        only: view.options.only.iter().flatten().map(ToString::to_string).collect(),
        allow_teardown: match view.options.allow_teardown {
            AllowTeardown::Guarded => None,
            AllowTeardown::Upto(limit) => Some(limit.to_string()),
            AllowTeardown::All => Some("all".to_owned()),
        },
        discard: match &view.options.discard {
            Discard::Nothing => Vec::new(),
            Discard::Of(names) => names.iter().map(ToString::to_string).collect(),
            Discard::All => vec!["all".to_owned()],
        },
        replace_unknown: view.options.replace_unknown.iter().map(ToString::to_string).collect(),
    };
    let document = ReportDocument { options: Some(options), ..view.document().into() };
    let mut text = serde_json::to_string_pretty(&document).context("saving the plan")?;
    text.push('\n');
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    Ok(())
}

impl Saved {
    /// The plan that `path` holds, when it is a file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, CliError> {
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the plan {}", path.display()))?;
        let parsed = serde_json::from_str::<Self>(&text).map_err(anyhow::Error::from);
        let saved = parsed.and_then(|saved| {
            let version = saved.version;
            let ours = version == VERSION;
            anyhow::ensure!(ours, "it has version {version}; this bottle knows version {VERSION}");
            Ok(saved)
        });
        saved.map(Some).map_err(|error| {
            let error = error.context(format!("{} is no saved plan", path.display()));
            CliError::new(Kind::Failed, error)
                .hint("a tree is a folder; a plan is what `bottle plan --out FILE` wrote")
        })
    }

    /// The options of the look that the plan was made from.
    pub(super) fn restore(
        &self,
        global: &Global,
        look: &LookArgs,
        select: &SelectArgs,
    ) -> Result<(Global, LookArgs, SelectArgs), CliError> {
        let saved = &self.options;
        let again = !select.only.is_empty()
            || select.allow_teardown.is_some()
            || !select.discard.is_empty()
            || !select.replace_unknown.is_empty()
            || look.deep
            || look.read.overlay.is_some()
            || global.tree.is_some()
            || global.backend.is_some();
        if again {
            let told = "a saved plan carries --tree, --overlay, --backend, --only, --deep, \
                        --allow-teardown, --discard and --replace-unknown of its own";
            return Err(CliError::failed(told).hint("make a new plan with the options you want"));
        }
        let allow_teardown = saved.allow_teardown.as_deref().map(super::args::allow_teardown);
        Ok((
            Global {
                tree: Some(saved.tree.clone()),
                backend: saved.backend.and_then(Backend::of),
                ..global.clone()
            },
            LookArgs {
                read: ReadArgs { overlay: saved.overlay.clone() },
                env_file: look.env_file.clone().or_else(|| saved.env_file.clone()),
                deep: saved.deep,
            },
            SelectArgs {
                only: saved.only.clone(),
                jobs: select.jobs,
                allow_teardown: allow_teardown.transpose().map_err(CliError::failed)?,
                discard: saved.discard.clone(),
                replace_unknown: saved.replace_unknown.clone(),
            },
        ))
    }

    /// A plan is void once anything that it was made from has moved.
    pub(super) fn check(&self, view: &View) -> Result<(), CliError> {
        if view.fingerprint() == self.fingerprint {
            return Ok(());
        }
        let told = "the tree, what exists, or an asked-for value has moved since this plan was \
                    saved; nothing was changed";
        Err(CliError::refused(told).hint("make a new plan: `bottle plan --out FILE`"))
    }
}
