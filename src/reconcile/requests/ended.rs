//! Grants that have ended, and how they leave the tree.

use super::change::{self, Edited};
use super::decide::read_text;
use super::delta;
use super::review::{Refused, bottle_file};
use super::store::now;
use crate::manifest::edit::{self, Edit, Item};
use crate::model::Moment;
use crate::reconcile::pass::{Reconciler, canonical};

impl Reconciler {
    /// Takes out of bottles what has ended, as a commit. Returns the files and how many entries of each went.
    ///
    /// # Errors
    /// [`Refused`] or [`ChangeError`](super::ChangeError): nothing was changed.
    pub async fn tidy_grants(
        &mut self,
        no_commit: bool,
    ) -> anyhow::Result<(Vec<(String, usize)>, Option<String>)> {
        let desired = self.desired().await?;
        let memory = self.state.tree(&desired.tree.owner)?;
        let _lock = memory.decider(&self.load.tree).await?;
        let tree = canonical(&self.load.tree);
        let bottles: std::collections::BTreeSet<&str> =
            desired.sandboxes.values().map(|spec| &*spec.bottle).collect();
        let mut edited = Vec::new();
        let today = now();
        for bottle in bottles {
            let file = bottle_file(bottle);
            let text = read_text(&tree, &file)?;
            let mut edits = Vec::new();
            let mut fields = std::collections::BTreeSet::new();
            for path in [["egress", "allowlist"], ["cred_proxy", "routes"], ["egress", "dlp_allow"]]
            {
                let listed = edit::look(&text, &path)
                    .map_err(|error| Refused::Blocked(format!("{file}: {error}")))?;
                let Item::List(items) = listed else { continue };
                for item in items.into_iter().filter(|item| has_ended(item, today)) {
                    fields.insert(field_of(&path, &item));
                    if let Some(Item::Text(role)) = item.get("role") {
                        fields.insert(format!("{role}."));
                    }
                    edits.push(Edit::remove(&path, item));
                }
            }
            if edits.is_empty() {
                continue;
            }
            let after = edit::edit(&text, &edits).map_err(|error| {
                Refused::Blocked(format!("{file}: {error}: nothing was changed"))
            })?;
            let one = Edited { file, before: text, after, edits };
            let expected = delta::Expected { fields, variables: true };
            self.only_that(&desired, std::slice::from_ref(&one), bottle, &expected).await?;
            edited.push(one);
        }
        let told = edited.iter().map(|one| (one.file.clone(), one.edits.len())).collect();
        if edited.is_empty() {
            return Ok((told, None));
        }
        let scratch = memory.dir().join("requests");
        let names: Vec<&str> = edited.iter().map(|one| &*one.file).collect();
        let message = format!("Remove grants that have ended\n\nIn {}.\n", names.join(", "));
        let mut prepared = change::prepare(&tree, &scratch, edited, message, no_commit).await?;
        prepared.write()?;
        prepared.point(&scratch).await?;
        Ok((told, prepared.commit))
    }
}

/// The field that an entry of one of these lists is.
fn field_of(path: &[&str; 2], item: &Item) -> String {
    let text = |key: &str| match item.get(key) {
        Some(Item::Text(text) | Item::Number(text)) => text.clone(),
        _ => String::new(),
    };
    match path[1] {
        "allowlist" => {
            let port = text("port");
            let port = if port.is_empty() { "443" } else { &port };
            format!("egress.allowlist.{}:{port}", text("host").to_ascii_lowercase())
        }
        "routes" => format!("cred_proxy.routes.{}.", text("path")),
        _ => "egress.dlp_allow.".to_owned(),
    }
}

/// Whether an entry says that it has ended.
fn has_ended(item: &Item, now: Moment) -> bool {
    let Some(Item::Text(expires)) = item.get("expires") else { return false };
    match Moment::parse(expires) {
        Some(end) => end <= now,
        // The last day on which it holds.
        None => Moment::parse(&format!("{expires}T23:59:59Z")).is_some_and(|end| end < now),
    }
}
