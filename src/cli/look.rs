//! What `plan`, `apply` and `down` share: one look, its text and its document.

use std::collections::{BTreeMap, BTreeSet};

use super::render::{self, Around};
use super::ui::Ui;
use crate::model::{BackendKind, ImageRef, SandboxSpec};
use crate::plan::diff;
use crate::reconcile::View;

/// The plan of this view as text.
pub(super) fn text(ui: &Ui, view: &View, show_diffs: bool) -> String {
    let classes = ui.verbose();
    let around = Around { show_diffs, classes, width: ui.width(), ..around(view) };
    render::plan(&view.text_document(), &around)
}

fn around(view: &View) -> Around {
    Around {
        about: view
            .desired
            .sandboxes
            .iter()
            .map(|(id, spec)| (id.to_string(), about(spec)))
            .collect(),
        backends: backends(view),
        diffs: diff::diffs(&view.plan, &view.old_texts()),
        show_diffs: false,
        classes: false,
        down: view.options.remove_all,
        width: 80,
    }
}

/// What a new sandbox is: `bottle dev, image node:22-slim`.
fn about(spec: &SandboxSpec) -> String {
    let mut text = format!("bottle {}", spec.bottle);
    match &spec.image {
        None => {}
        Some(
            ImageRef::Tar { path, .. }
            | ImageRef::Folder { path, .. }
            | ImageRef::Built { path, .. }
            | ImageRef::Pack { path, .. },
        ) => {
            text.push_str(&format!(", image {}", path.display()));
        }
        Some(image) => text.push_str(&format!(", image {image}")),
    }
    text
}

/// The backends that this plan speaks of, with their versions where they answered.
fn backends(view: &View) -> Vec<String> {
    let kinds: BTreeSet<BackendKind> =
        view.plan.changes.iter().filter_map(|change| change.backend).collect();
    let version = |kind: BackendKind| match view.observed.facts.get(&kind) {
        Some(facts) if facts.version.starts_with(kind.as_str()) => facts.version.clone(),
        _ => kind.to_string(),
    };
    kinds.into_iter().map(version).collect()
}

/// Names of values that this plan waits for and that a person could type.
pub(super) fn askable(view: &View) -> BTreeMap<String, Vec<String>> {
    let missing = view.plan.missing_input();
    let mut askable: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (id, spec) in &view.desired.sandboxes {
        for name in spec.asked_env.iter().filter(|name| missing.contains(name.as_str())) {
            askable.entry(name.clone()).or_default().push(id.to_string());
        }
    }
    askable
}
