//! A saved plan: the document, and the options with which to look again.
#![expect(clippy::disallowed_methods, reason = "reads and writes the file that the operator names")]

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::args::{Backend, Global, LookArgs, ReadArgs, SelectArgs};
use super::error::{CliError, Kind};
use super::look;
use crate::backend::Depth;
use crate::model::BackendKind;
use crate::plan::{AllowTeardown, document};
use crate::reconcile::{Reconciler, View};

/// With what the plan was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedOptions {
    tree: PathBuf,
    overlay: Option<PathBuf>,
    backend: Option<BackendKind>,
    env_file: Option<PathBuf>,
    deep: bool,
    only: Vec<String>,
    allow_teardown: Option<String>,
}

/// A plan on its way to or from a file.
#[derive(Debug)]
pub(super) struct Saved {
    options: SavedOptions,
    fingerprint: String,
    document: serde_json::Value,
}

impl Saved {
    pub(super) fn new(
        global: &Global,
        reconciler: &Reconciler,
        view: &View,
    ) -> Result<Self, CliError> {
        let options = SavedOptions {
            tree: view.desired.tree.path.clone(),
            overlay: reconciler.load.overlay.clone(),
            backend: global.backend.map(Into::into),
            env_file: match &reconciler.sources.env_file {
                Some(file) => Some(std::path::absolute(file)?),
                None => None,
            },
            deep: reconciler.depth == Depth::Deep,
            only: view.options.only.iter().flatten().map(ToString::to_string).collect(),
            allow_teardown: match view.options.allow_teardown {
                AllowTeardown::Guarded => None,
                AllowTeardown::Upto(limit) => Some(limit.to_string()),
                AllowTeardown::All => Some("all".to_owned()),
            },
        };
        let mut document = look::json(view)?;
        document["options"] = serde_json::to_value(&options).context("saving the plan")?;
        Ok(Self { options, fingerprint: view.fingerprint().to_string(), document })
    }

    pub(super) fn write(&self, file: &Path) -> Result<(), CliError> {
        let mut text = serde_json::to_string_pretty(&self.document).context("saving the plan")?;
        text.push('\n');
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
        Ok(())
    }

    /// The plan that `path` holds, when it is a file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, CliError> {
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the plan {}", path.display()))?;
        let parse = || -> anyhow::Result<Self> {
            let document: serde_json::Value = serde_json::from_str(&text)?;
            let version = document["version"].as_u64();
            anyhow::ensure!(
                version == Some(document::VERSION.into()),
                "it has version {}, and this bottle writes version {}",
                version.map_or_else(|| "none".to_owned(), |version| version.to_string()),
                document::VERSION
            );
            let options = serde_json::from_value(document["options"].clone())
                .context("reading its `options`")?;
            let fingerprint = document["fingerprint"].as_str().context("it has no fingerprint")?;
            Ok(Self { options, fingerprint: fingerprint.to_owned(), document: document.clone() })
        };
        parse().map(Some).map_err(|error| {
            let error = error.context(format!("{} is no saved plan", path.display()));
            CliError::new(Kind::Failed, error)
                .hint("a tree is a folder; a plan is what `bottle plan --out FILE` wrote")
        })
    }

    /// The options of the look that the plan was made from. What was said again counts.
    pub(super) fn restore(
        &self,
        global: &Global,
        look: &LookArgs,
        select: &SelectArgs,
    ) -> Result<(Global, LookArgs, SelectArgs), CliError> {
        let saved = &self.options;
        let again = !select.only.is_empty() || select.allow_teardown.is_some();
        if again || look.deep || look.read.overlay.is_some() || global.tree.is_some() {
            return Err(CliError::failed(
                "a saved plan carries its own tree, --overlay, --only, --allow-teardown and --deep",
            )
            .hint("make a new plan with these options"));
        }
        let global = Global {
            tree: Some(saved.tree.clone()),
            backend: match saved.backend {
                Some(BackendKind::Native) => Some(Backend::Native),
                Some(BackendKind::Docker) => Some(Backend::Docker),
                Some(BackendKind::Smolmachines) => Some(Backend::Smolmachines),
                #[cfg(feature = "testing")]
                Some(BackendKind::Memory) => None,
                None => None,
            },
            ..global.clone()
        };
        let look = LookArgs {
            read: ReadArgs { overlay: saved.overlay.clone() },
            env_file: look.env_file.clone().or_else(|| saved.env_file.clone()),
            deep: saved.deep,
        };
        let select = SelectArgs {
            only: saved.only.clone(),
            jobs: select.jobs,
            allow_teardown: match saved.allow_teardown.as_deref() {
                None => None,
                Some("all") => Some(AllowTeardown::All),
                Some(limit) => {
                    Some(AllowTeardown::Upto(limit.parse().context("reading the saved plan")?))
                }
            },
        };
        Ok((global, look, select))
    }

    /// A plan is void once anything that it was made from has moved.
    pub(super) fn check(&self, view: &View) -> Result<(), CliError> {
        if view.fingerprint().to_string() == self.fingerprint {
            return Ok(());
        }
        Err(CliError::refused(
            "the tree, what exists, or an asked-for value has moved since this plan was saved; \
             nothing was changed",
        )
        .hint("make a new plan: `bottle plan --out FILE`"))
    }
}
