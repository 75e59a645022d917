//! `was` of agents: what the files of a tree say of names that agents had, beside each other.

use std::collections::BTreeMap;

use super::Loader;
use crate::manifest::source::{At, Findings, Problem, Source, Span};
use crate::model::{Diagnostic, Place, SandboxId, Was};

/// That a file says which name its agent had.
pub(super) struct Said {
    was: SandboxId,
    overlay: Option<String>,
    /// A finding of that place, without words.
    finding: Diagnostic,
}

impl Said {
    pub(super) fn new(source: &Source, was: SandboxId, span: Span, overlay: Option<&str>) -> Self {
        let mut findings = Findings::new(source);
        findings.add(Problem::error(span, "").field(&At::Key(&At::Root, "was")));
        let whole = || Diagnostic::error(source.name(), "");
        let finding = findings.finish().pop().unwrap_or_else(whole);
        Self { was, overlay: overlay.map(str::to_owned), finding }
    }

    fn told(&self, message: String, hint: &str) -> Diagnostic {
        Diagnostic { message, ..self.finding.clone() }.with_hint(hint)
    }
}

/// An agent was never called what it is called.
pub(super) fn check(id: &SandboxId, was: Option<&(SandboxId, Span)>, findings: &mut Findings<'_>) {
    if let Some((name, span)) = was.filter(|(name, _)| name == id) {
        let problem = Problem::error(*span, format!("`was: {name}` is the name that it has"));
        findings.add(problem.field(&At::Key(&At::Root, "was")).hint("leave it out"));
    }
}

/// The name that a file says its agent had, where the rest of it cannot be read.
pub(super) fn scan(source: &Source) -> Option<(SandboxId, Span)> {
    let mut from = 0;
    let mut begun = false;
    for line in source.text().split_inclusive('\n') {
        let (start, text) = (from, line.trim_end());
        from += line.len();
        if text == "---" && std::mem::replace(&mut begun, true) {
            return None;
        }
        let Some(value) = text.strip_prefix("was:") else { continue };
        let word = value.split('#').next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        if let Ok(name) = SandboxId::new(word) {
            let start = start + "was:".len() + value.find(word).unwrap_or_default();
            return Some((name, Span { start, end: start + word.len() }));
        }
    }
    None
}

impl Loader<'_> {
    /// Holds agents that cannot both have had a name, or that say one which another still has: what exists under
    /// such a name is nobody's to remove. Returns what the others were called.
    pub(super) fn check_renamed(&mut self) -> BTreeMap<SandboxId, Was> {
        let renamed = std::mem::take(&mut self.renamed);
        let mut all = BTreeMap::new();
        for (id, said) in &renamed {
            let was = &said.was;
            let mut others =
                renamed.iter().filter(|(other, said)| said.was == *was && *other != id);
            let told = if self.sandboxes.contains_key(was) || self.held.contains_key(was) {
                let file = self.file_of(was);
                let message = format!("`was: {was}`, and {file} still declares {was}");
                said.told(message, &format!("remove {file}, or leave `was` out"))
            } else if let Some((_, other)) = others.next() {
                let (file, line) = (&other.finding.file, other.finding.line);
                let message = format!(
                    "`was: {was}` stands in {file}:{line} too, and one sandbox cannot be both"
                );
                said.told(message, "keep it in the one that is to have the sandbox")
            } else {
                let Diagnostic { file, line, column, .. } = said.finding.clone();
                let place = Place { file, line, column };
                let was = Was { name: was.clone(), overlay: said.overlay.clone(), place };
                all.insert(id.clone(), was);
                continue;
            };
            self.unread.entry(was.clone()).or_insert_with(|| told.clone());
            // Else what the name is taken for anew would have what is there, and be made of it.
            if self.sandboxes.remove(was).is_some() {
                self.held.entry(was.clone()).or_default().push(told.clone());
            }
            self.sandboxes.remove(id);
            self.held.entry(id.clone()).or_default().push(told.clone());
            self.diagnostics.push(told);
        }
        all
    }

    /// The file that declares an agent, as diagnostics name it.
    fn file_of(&self, id: &SandboxId) -> String {
        let spec = self.sandboxes.get(id).map(|spec| spec.source.clone());
        let held = || Some(self.held.get(id)?.first()?.file.clone());
        spec.or_else(held).unwrap_or_else(|| format!("agents/{id}.md"))
    }
}
