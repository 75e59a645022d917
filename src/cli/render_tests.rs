//! The plan's text, compared with exact text at 80 columns and without colour.

use std::collections::BTreeMap;

use super::render::{Around, plan};
use crate::model::{BackendKind, Class, Diagnostic, FieldChange, ResourceKind, SandboxId};
use crate::plan::diff::FileDiff;
use crate::plan::document::{PlanDocument, StepDocument, TreeDocument, VERSION};
use crate::plan::{Change, Reason, Refusal, Summary, Verdict};

fn id(name: &str) -> SandboxId {
    SandboxId::new(name).unwrap()
}

fn change(name: &str, resource: ResourceKind, verdict: Verdict, reason: Reason) -> Change {
    Change {
        sandbox: id(name),
        resource,
        backend: Some(BackendKind::Docker),
        verdict,
        reason,
        class: None,
        why: Vec::new(),
        fields: Vec::new(),
        keeps: None,
        loses: None,
        work: None,
        notes: Vec::new(),
    }
}

fn machine(name: &str, verdict: Verdict, reason: Reason) -> Change {
    change(name, ResourceKind::Machine, verdict, reason)
}

fn guest(name: &str, verdict: Verdict, reason: Reason) -> Change {
    change(name, ResourceKind::Guest, verdict, reason)
}

fn keep(name: &str) -> [Change; 2] {
    [machine, guest].map(|of| of(name, Verdict::Keep, Reason::UpToDate))
}

fn field(path: &str, from: &str, to: &str) -> FieldChange {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    FieldChange { path: path.to_owned(), from: some(from), to: some(to) }
}

fn step(action: &'static str) -> StepDocument {
    StepDocument {
        id: 0,
        action,
        sandbox: None,
        resource: ResourceKind::Machine,
        after: Vec::new(),
        undoes: Vec::new(),
    }
}

fn teardown_of(sandbox: &str) -> StepDocument {
    StepDocument { sandbox: Some(sandbox.to_owned()), ..step("teardown") }
}

fn document(changes: Vec<Change>, summary: Summary) -> PlanDocument {
    let any = summary.create + summary.reprovision + summary.replace + summary.teardown > 0;
    PlanDocument {
        version: VERSION,
        tree: TreeDocument {
            name: "team".to_owned(),
            path: "/trees/team".to_owned(),
            commit: Some("3f2c1a9d".to_owned()),
            branch: Some("main".to_owned()),
            dirty: false,
            overlays: Vec::new(),
        },
        changes,
        steps: if any { vec![step("create")] } else { Vec::new() },
        diagnostics: Vec::new(),
        summary,
        refused: None,
        fingerprint: None,
    }
}

fn around() -> Around {
    Around {
        about: BTreeMap::from([("ada".to_owned(), "bottle dev, image node:22-slim".to_owned())]),
        backends: vec!["docker 28.5".to_owned(), "native".to_owned()],
        width: 80,
        ..Around::default()
    }
}

#[track_caller]
fn reads(document: &PlanDocument, around: &Around, expected: &str) {
    let text = plan(document, around);
    let text = anstream::adapter::strip_str(&text).to_string();
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn the_look() {
    let mut grace = guest("grace", Verdict::Reprovision, Reason::SpecChanged);
    grace.fields = vec![
        field("prompt", "sha256:1", "sha256:2"),
        field("skills.review", "sha256:1", "sha256:2"),
        field("skills.notes", "sha256:1", ""),
        field("env.TOKEN", "hmac:1", "hmac:2"),
    ];
    let mut linus = machine("linus", Verdict::Replace, Reason::SpecChanged);
    linus.fields = vec![field("resources.memory", "1G", "2G")];
    let on_machine = Reason::StandsOnReplaced { on: ResourceKind::Machine };
    let mut ken =
        machine("ken", Verdict::Teardown, Reason::NotDeclared { file: "agents/ken.md".to_owned() });
    ken.backend = Some(BackendKind::Native);
    let message = "agents/dennis.md:4:1: unknown key `skils`".to_owned();
    let mut dennis = machine("dennis", Verdict::Hold, Reason::ManifestInvalid { message });
    dennis.backend = None;
    let mut changes = vec![
        machine("ada", Verdict::Create, Reason::NotFound),
        guest("ada", Verdict::Create, Reason::NotFound),
        dennis,
        machine("grace", Verdict::Keep, Reason::UpToDate),
        grace,
        ken,
        linus,
        guest("linus", Verdict::Replace, on_machine),
    ];
    changes.extend(keep("rob"));
    let summary = Summary { create: 1, reprovision: 1, replace: 1, teardown: 1, hold: 1, keep: 1 };
    let mut document = document(changes, summary);
    document.steps.push(teardown_of("ken"));
    let found = Diagnostic::error("agents/dennis.md", "unknown key `skils`");
    document.diagnostics = vec![Diagnostic {
        line: 4,
        column: 1,
        width: 5,
        source_line: Some("skils: [review]".to_owned()),
        label: Some("did you mean `skills`?".to_owned()),
        ..found.with_hint("allowed: bottle, skills")
    }];
    let diffs = vec![FileDiff {
        sandbox: id("grace"),
        path: "prompt.md".to_owned(),
        added: 3,
        removed: 1,
        unified: Some("--- a\n+++ b\n@@ -1 +1 @@\n-old\n+new \u{1b}[31m\n".to_owned()),
    }];
    let mut around = Around { diffs, ..around() };
    let head = "\
tree team · main@3f2c1a9 · 6 sandboxes on docker 28.5, native

  + ada     create       docker  bottle dev, image node:22-slim
  ~ grace   reprovision  docker  prompt +3 −1 lines
                                 skill review changed
                                 skill notes removed
                                 the value of TOKEN changed
  ± linus   replace      docker  resources.memory 1G → 2G
                                 loses what was written inside the sandbox
  - ken     teardown     native  agents/ken.md is gone
  ! dennis  hold                 agents/dennis.md:4:1 (below)
  1 as it should be

note: ken: its files are lost
";
    let found = "
error: unknown key `skils`
  ┌─ agents/dennis.md:4:1
4 │ skils: [review]
  │ ^^^^^ did you mean `skills`?
  = allowed: bottle, skills
";
    let last = "
plan: 1 create, 1 reprovision, 1 replace, 1 teardown, 1 hold, 1 keep
";
    reads(&document, &around, &format!("{head}{found}{last}"));
    around.show_diffs = true;
    // What would move a terminal's cursor is taken out.
    let diff = "\n--- a\n+++ b\n@@ -1 +1 @@\n-old\n+new \u{fffd}[31m\n";
    reads(&document, &around, &format!("{head}{diff}{found}{last}"));
}

#[test]
fn with_nothing_to_do_it_says_so() {
    let summary = Summary { keep: 2, ..Summary::default() };
    let changes = keep("ada").into_iter().chain(keep("bob")).collect();
    let expected = "\
tree team · main@3f2c1a9 · 2 sandboxes on docker 28.5, native

no changes: 2 sandboxes are as they should be
";
    reads(&document(changes, summary), &around(), expected);
    let expected = "\
tree team · main@3f2c1a9 · 0 sandboxes

no changes: there is nothing to do
";
    let around = Around { backends: Vec::new(), ..around() };
    reads(&document(Vec::new(), Summary::default()), &around, expected);
}

#[test]
fn suspended_is_not_held() {
    let changes = vec![machine("ada", Verdict::Keep, Reason::Suspended)];
    let expected = "\
tree team · main@3f2c1a9 · 1 sandbox on docker 28.5, native

note: suspended, left as it is: ada

no changes: 1 suspended
";
    let summary = Summary { keep: 1, ..Summary::default() };
    reads(&document(changes, summary), &around(), expected);
}

#[test]
fn what_was_stopped_is_no_drift_unless_it_runs() {
    let stopped = |name, verdict| machine(name, verdict, Reason::Stopped);
    let changes = vec![stopped("ada", Verdict::Keep)];
    let expected = "\
tree team · main@3f2c1a9 · 1 sandbox on docker 28.5, native

note: stopped by you, and stays so: ada

no changes: 1 stopped by you
";
    let summary = Summary { keep: 1, ..Summary::default() };
    reads(&document(changes, summary), &around(), expected);
    let runs = document(vec![stopped("ada", Verdict::Reprovision)], summary);
    let text = plan(&runs, &around());
    assert!(text.contains("you stopped it, and it runs: is stopped again"), "{text}");
    assert!(!text.contains("stays so"), "{text}");
}

#[test]
fn what_many_share_is_said_once() {
    let unreachable = || Reason::BackendUnreachable {
        backend: BackendKind::Docker,
        error: "no answer at unix:///var/run/docker.sock".to_owned(),
    };
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut changes: Vec<Change> =
        names.iter().map(|name| machine(name, Verdict::Hold, unreachable())).collect();
    for change in &mut changes {
        change.notes = vec!["no network: egress is not enforced yet".to_owned()];
    }
    changes.truncate(2);
    let mut waits = machine(
        "z",
        Verdict::Hold,
        Reason::NeedsInput { names: vec!["API_KEY".into()], tokens: Vec::new() },
    );
    waits.notes = vec!["no network: egress is not enforced yet".to_owned()];
    changes.push(waits);
    let expected = "\
tree team · main@3f2c1a9 · 3 sandboxes on docker 28.5, native

  ! a  hold  docker  docker cannot be reached (below)
  ! b  hold  docker  docker cannot be reached (below)
  ! z  hold  docker  waits for a value of API_KEY

note: a, b, z: no network: egress is not enforced yet
warning: docker cannot be reached, so nothing is done for a, b: no answer at
  unix:///var/run/docker.sock
hint: values come from lines of NAME=value in `--env-file FILE`, else from
  BOTTLE_ENV_API_KEY

no changes: 3 held
";
    let summary = Summary { hold: 3, ..Summary::default() };
    reads(&document(changes, summary), &around(), expected);
}

#[test]
fn a_refused_plan_says_what_permits_it() {
    let gone = |name: &str| {
        machine(name, Verdict::Teardown, Reason::NotDeclared { file: format!("agents/{name}.md") })
    };
    let summary = Summary { teardown: 1, ..Summary::default() };
    let mut document = document(vec![gone("ada")], summary);
    document.steps.push(teardown_of("ada"));
    document.refused =
        Some(Refusal::NoAgents { found: "agents/ holds no agent".to_owned(), removed: 1 });
    let expected = "\
tree team · main@3f2c1a9 · 1 sandbox on docker 28.5, native

  - ada  teardown  docker  agents/ada.md is gone

note: ada: its files are lost

refused: agents/ holds no agent, and 1 would be removed
  hint: if that is meant, `--allow-teardown 1` permits it, here or in `bottle down`

plan: 1 teardown
";
    reads(&document, &around(), expected);
}

#[test]
fn what_waits_for_a_second_reading_is_not_said_to_be_lost() {
    let gone =
        machine("ada", Verdict::Teardown, Reason::NotDeclared { file: "agents/ada.md".to_owned() });
    let mut document = document(vec![gone], Summary { teardown: 1, ..Summary::default() });
    document.steps.clear();
    let text = anstream::adapter::strip_str(&plan(&document, &around())).to_string();
    assert!(text.contains("- ada  teardown"), "{text}");
    assert!(!text.contains("lost"), "{text}");
}

#[test]
fn down_speaks_of_itself() {
    let gone =
        machine("ada", Verdict::Teardown, Reason::NotDeclared { file: "agents/ada.md".to_owned() });
    let mut document = document(vec![gone], Summary { teardown: 1, ..Summary::default() });
    document.steps.push(teardown_of("ada"));
    document.steps.push(step("prune"));
    let expected = "\
tree team · main@3f2c1a9 · 1 sandbox on docker 28.5, native

  - ada  teardown  docker
  - 1 leftover of earlier runs goes

note: ada: its files are lost

down: 1 teardown, 1 leftover
";
    reads(&document, &Around { down: true, ..around() }, expected);
}

#[test]
fn the_rest_of_the_reasons() {
    let stopped = Reason::NotRunning { state: "stopped (137)".to_owned() };
    let broken = Reason::NotRunning { state: "broken: half made".to_owned() };
    let taken = Reason::Conflict {
        name: "bottle-team-d".to_owned(),
        holder: "something that bottle did not make".to_owned(),
    };
    let changes = vec![
        machine("a", Verdict::Reprovision, stopped.clone()),
        guest("a", Verdict::Reprovision, Reason::NotRunning { state: "its machine".to_owned() }),
        machine("b", Verdict::Replace, broken),
        machine("c", Verdict::Teardown, Reason::Duplicate { keeps: "0123456789abcdef".to_owned() }),
        machine("c", Verdict::Keep, Reason::UpToDate),
        machine("d", Verdict::Hold, taken),
        guest("e", Verdict::Reprovision, Reason::HashMissing),
        machine("f-with-a-name-that-is-far-too-long", Verdict::Replace, Reason::HashMissing),
    ];
    let summary = Summary { reprovision: 3, replace: 2, hold: 1, ..Summary::default() };
    let expected = "\
tree team · main@3f2c1a9 · 6 sandboxes on docker 28.5, native

  ~ a                   reprovision  docker  stopped (137): is started again
  ~ c                   reprovision  docker  a duplicate machine goes;
                                             0123456789ab stays
  ~ e                   reprovision  docker  what is inside is not known: is put
                                             in again
  ± b                   replace      docker  the machine is broken: half made
                                             loses what was written inside the
                                             sandbox
  ± f-with-a-name-that-is-far-too-long
                        replace      docker  what the machine was made from is
                                             not known
                                             loses what was written inside the
                                             sandbox
  ! d                   hold         docker  bottle-team-d is taken by something
                                             that bottle did not make

plan: 3 reprovision, 2 replace, 1 hold
";
    reads(&document(changes, summary), &around(), expected);
}

#[test]
fn what_an_edit_costs_is_said() {
    let mut ada = guest("ada", Verdict::Reprovision, Reason::SpecChanged);
    ada.class = Some(Class::Hot);
    ada.fields = vec![
        field("env.GREETING", "'hello there'", "hi"),
        field("env.NEW", "", "1"),
        field("env.GONE", "1", ""),
        field("env.TOKEN", "", "asked for"),
        field("env.OLD", "asked for", ""),
    ];
    let mut bob = machine("bob", Verdict::Replace, Reason::SpecChanged);
    bob.class = Some(Class::Replace);
    bob.why = vec!["the image is what a machine is made from".to_owned()];
    bob.fields = vec![field("image", "a:1", "a:2")];
    let summary = Summary { reprovision: 1, replace: 1, ..Summary::default() };
    let document = document(vec![ada, bob], summary);
    let text = |hot: &str| {
        format!(
            "\
tree team · main@3f2c1a9 · 2 sandboxes on docker 28.5, native

  ~ ada  reprovision  docker  env.GREETING 'hello there' → hi
                              env.NEW none → 1
                              env.GONE 1 → none
                              TOKEN is asked for
                              OLD is no longer asked for
{hot}  ± bob  replace      docker  image a:1 → a:2
                              takes a new machine: the image is what a machine
                              is made from
                              loses what was written inside the sandbox

plan: 1 reprovision, 1 replace
"
        )
    };
    reads(&document, &around(), &text(""));
    let hot = "                              hot: nothing restarts\n";
    reads(&document, &Around { classes: true, ..around() }, &text(hot));
}

#[test]
fn a_part_that_is_missing_beside_a_machine_that_stays_is_said() {
    let sidecar = |verdict, reason| {
        let mut change = change("ada", ResourceKind::Sidecar, verdict, reason);
        change.backend = None;
        change
    };
    let shown = |change: Change| {
        let [machine, guest] = keep("ada");
        let summary = Summary { reprovision: 1, ..Summary::default() };
        plan(
            &document(vec![machine, change, guest], summary),
            &Around { width: 80, ..Around::default() },
        )
    };
    let missing = shown(sidecar(Verdict::Create, Reason::NotFound));
    assert!(missing.contains("docker  the sidecar is missing: is made again"), "{missing}");
    let reason = Reason::NotRunning { state: "paused".to_owned() };
    let paused = shown(sidecar(Verdict::Reprovision, reason));
    assert!(paused.contains("the sidecar is paused: is started again"), "{paused}");
}

/// Held by a bottle: the place is that of the finding that is drawn, and many share a line.
#[test]
fn what_one_finding_holds_is_said_once() {
    let held = |name: &str| {
        let message = format!("agents/{name}.md:2:9: the bottle `p` does not validate");
        let mut change = machine(name, Verdict::Hold, Reason::ManifestInvalid { message });
        change.backend = None;
        change
    };
    let of = |names: &[&str]| {
        let summary = Summary { hold: names.len(), ..Summary::default() };
        let mut document = document(names.iter().map(|name| held(name)).collect(), summary);
        document.diagnostics = names
            .iter()
            .map(|name| Diagnostic {
                line: 2,
                column: 9,
                cause: Some("bottles/p.md".to_owned()),
                ..Diagnostic::error(format!("agents/{name}.md"), "the bottle `p` does not validate")
            })
            .collect();
        let cause = Diagnostic::error("bottles/p.md", "unknown key `x`");
        document.diagnostics.push(Diagnostic { line: 3, column: 1, ..cause });
        anstream::adapter::strip_str(&plan(&document, &around())).to_string()
    };
    let few = of(&["a", "b", "c"]);
    assert!(few.contains("  ! a  hold  bottles/p.md:3:1 (below)\n  ! b  hold  "), "{few}");
    let many = of(&["a", "b", "c", "d", "e"]);
    assert!(
        many.contains("  ! a  hold  bottles/p.md:3:1 (below); it also holds b, c, d, e\n"),
        "{many}"
    );
    assert!(!many.contains("! b") && many.contains("5 held"), "{many}");
    assert_eq!(many.matches("unknown key").count(), 1, "{many}");
}
