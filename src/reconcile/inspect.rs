//! Before anything is removed it is looked at. What that shows is joined into the plan, for people: the plan was
//! made without it, and stays as it is.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt as _;

use super::pass::Reconciler;
use super::view::View;
use crate::model::work::{Looked, Work};
use crate::model::{Fields, Instance, InstanceState, ResourceKind};
use crate::plan::{Action, Verdict};
use crate::work::inspect;

/// How many sandboxes are looked at at once.
const AT_ONCE: usize = 8;

/// How long all of them may take.
const ALL: Duration = Duration::from_secs(20);

impl Reconciler {
    /// Looks at the sandboxes that the view's plan removes, and says in it what they have. A plan that removes
    /// nothing asks nobody.
    pub async fn inspect(&self, view: &mut View) {
        let going: Vec<(usize, Instance)> = going(view);
        if going.is_empty() {
            return;
        }
        let looks = going.iter().map(|(change, machine)| {
            let source = source(view, machine);
            let idles = idles(view, machine);
            let scope = &view.scope;
            async move {
                let looked = match self.backends.get(&machine.backend) {
                    None => Err("this bottle does not have its backend".to_owned()),
                    Some(backend) => {
                        inspect(backend.as_ref(), scope, machine, source.as_deref(), idles).await
                    }
                };
                (*change, looked)
            }
        });
        // Not the closure but what it makes is held over an await: so it can be moved to another thread.
        let looks: Vec<_> = looks.collect();
        let mut looks = Box::pin(futures_util::stream::iter(looks).buffer_unordered(AT_ONCE));
        let late = tokio::time::sleep(ALL);
        tokio::pin!(late);
        let mut found = Vec::new();
        loop {
            tokio::select! {
                biased;
                one = looks.next() => match one {
                    Some(one) => found.push(one),
                    None => break,
                },
                () = &mut late => break,
            }
        }
        drop(looks);
        let ending = view.ends();
        for (index, _) in going {
            let looked = found.iter().find(|(change, _)| *change == index);
            let no_time = || Err("there was no time for it beside the others".to_owned());
            let looked = looked.map_or_else(no_time, |(_, looked)| looked.clone());
            let change = &mut view.plan.changes[index];
            // What this machine holds it knows, whatever the sandbox says.
            let held = ending.iter().any(|(sandbox, _)| *sandbox == change.sandbox);
            change.work = Some(match looked {
                Ok(work) => Looked::Found(Work { running: work.running || held, ..work }),
                Err(why) => {
                    change.notes.push(format!("what is in it could not be looked at: {why}"));
                    Looked::Unknown
                }
            });
        }
    }
}

/// The machines that go, each with the change that says so.
fn going(view: &View) -> Vec<(usize, Instance)> {
    let changes = view.plan.changes.iter().enumerate();
    let removed = changes.filter(|(_, change)| {
        change.resource == ResourceKind::Machine
            && matches!(change.verdict, Verdict::Replace | Verdict::Teardown)
    });
    let mut going: Vec<(usize, Instance)> = Vec::new();
    for (index, change) in removed {
        let machine = view.plan.steps.iter().find_map(|step| match &step.action {
            Action::Teardown { instance, .. }
                if instance.sandbox == change.sandbox
                    && instance.resource == ResourceKind::Machine
                    && instance.state != InstanceState::Aside
                    && (change.verdict == Verdict::Replace
                        || Some(instance.backend) == change.backend)
                    && going.iter().all(|(_, known)| known.id != instance.id) =>
            {
                Some((**instance).clone())
            }
            _ => None,
        });
        going.extend(machine.map(|machine| (index, machine)));
    }
    going
}

/// Whether it was given no `command`. An earlier version made machines with theirs.
fn idles(view: &View, machine: &Instance) -> bool {
    let given = view.observed.receipts.get(&machine.id).filter(|receipt| receipt.guest.is_some());
    let none = |fields: &Fields| !fields.0.contains_key("command");
    given.is_some_and(|receipt| none(&receipt.fields)) && none(&machine.fields)
}

/// The folder of the host that its workspace is a copy of.
fn source(view: &View, machine: &Instance) -> Option<PathBuf> {
    let receipt = view.observed.receipts.get(&machine.id);
    let copied = receipt.and_then(|receipt| receipt.copied_from.clone());
    let named = || {
        let spec = view.desired.sandboxes.get(&machine.sandbox)?;
        Some(spec.workspace.as_ref()?.path.clone())
    };
    copied.or_else(named)
}
