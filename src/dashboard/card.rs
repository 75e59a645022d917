//! What a yes to a request would change, as plain data. Pure.

use std::collections::BTreeMap;

use crate::model::Moment;
use crate::model::supervise::{Ask, RequestId};
use crate::plan::Verdict;
use crate::reconcile::requests::review::{Review, ago};
use crate::reconcile::requests::{Edited, Record};

/// A request, and all that a person has to see before a yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Which.
    pub id: RequestId,
    /// Whose agent asks.
    pub sandbox: String,
    /// Stands for all that is shown here.
    pub token: String,
    /// Why a yes is not possible, if it is not.
    pub blocked: Option<String>,
    /// What is shown, from top to bottom.
    pub parts: Vec<Part>,
    /// What a yes does: `edits bottles/dev.md`, `commits on main`, `ada, grace: in place`.
    pub does: Vec<String>,
}

/// A line or a block of a card. What is in it is as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The agent's own words, which are not checked.
    Said(String),
    /// What the sidecar has seen, or how it stands.
    Fact(String),
    /// The name of a file that is edited.
    File(String),
    /// A line of it that stays.
    Same(usize, String),
    /// A line that comes.
    Added(usize, String),
    /// A line that goes.
    Removed(usize, String),
    /// Lines between are left out.
    Gap,
    /// `reach`, `creds` or `machine`: what changes.
    Delta(&'static str, char, String),
    /// What becomes of sandboxes.
    Plan(char, Vec<String>, String),
    /// Nothing.
    Blank,
}

impl Card {
    /// Of what a review has found.
    #[must_use]
    pub fn of(review: &Review, now: Moment) -> Option<Self> {
        let record = review.records.first()?;
        let mut parts = head(record, now);
        for edited in &review.edited {
            parts.push(Part::Blank);
            parts.extend(diff(edited));
        }
        parts.push(Part::Blank);
        parts.extend(
            review.delta.iter().map(|line| Part::Delta(line.what, line.sign, line.text.clone())),
        );
        let plan = plan(review);
        parts.extend(
            plan.iter().map(|(verdict, says, names)| {
                Part::Plan(sign(*verdict), names.clone(), says.clone())
            }),
        );
        let does = does(review, &plan);
        Some(Self {
            id: record.id.clone(),
            sandbox: record.sandbox.to_string(),
            token: review.token.clone(),
            blocked: review.blocked.clone(),
            parts,
            does,
        })
    }
}

fn head(record: &Record, now: Moment) -> Vec<Part> {
    let mut parts = vec![Part::Said(record.reason.clone())];
    let mut asked = format!("asked {}", ago(record.received, now));
    if record.asked > 1 {
        asked.push_str(&format!(", {} times", record.asked));
    }
    let evidence = &record.evidence;
    if evidence.denied > 0 {
        let codes: Vec<&str> = evidence.codes.keys().map(String::as_str).collect();
        let last = evidence.last.map(|last| format!(", last {}", ago(last, now)));
        let times =
            if evidence.denied == 1 { "once" } else { &format!("{} times", evidence.denied) };
        let last = last.unwrap_or_default();
        parts.push(Part::Fact(format!("refused {times}{last}: {}", codes.join(", "))));
    } else if matches!(record.ask, Ask::Egress(_)) {
        parts.push(Part::Fact("nothing to that host was refused yet".to_owned()));
    }
    parts.push(Part::Fact(asked));
    parts.push(Part::Fact(format!("asks for {}", record.ask)));
    parts
}

/// The lines of a file that change, with a few around them.
fn diff(edited: &Edited) -> Vec<Part> {
    let mut parts = vec![Part::File(edited.file.clone())];
    let diff = similar::TextDiff::from_lines(&edited.before, &edited.after);
    for (index, group) in diff.grouped_ops(2).iter().enumerate() {
        if index > 0 {
            parts.push(Part::Gap);
        }
        for op in group {
            for change in diff.iter_changes(op) {
                let number = change.new_index().or(change.old_index()).unwrap_or(0) + 1;
                let line = change.value().trim_end_matches(['\n', '\r']).to_owned();
                parts.push(match change.tag() {
                    similar::ChangeTag::Equal => Part::Same(number, line),
                    similar::ChangeTag::Insert => Part::Added(number, line),
                    similar::ChangeTag::Delete => Part::Removed(number, line),
                });
            }
        }
    }
    parts
}

type Planned = Vec<(Verdict, String, Vec<String>)>;

/// What becomes of whom, those with the same fate together.
fn plan(review: &Review) -> Planned {
    let Some(view) = &review.view else { return Vec::new() };
    let mut all: BTreeMap<(Verdict, String), Vec<String>> = BTreeMap::new();
    for (sandbox, verdict) in review.verdicts() {
        let changes = view.plan.changes.iter().filter(|change| change.sandbox == sandbox);
        let loses: Vec<String> = changes.filter_map(|it| it.loses.clone()).flatten().collect();
        let says = match verdict {
            Verdict::Keep if review.edited.is_empty() => "the policy is loaded anew".to_owned(),
            Verdict::Keep => "nothing is to be done".to_owned(),
            Verdict::Reprovision => "in place; nothing restarts, nothing is lost".to_owned(),
            Verdict::Create => "is made".to_owned(),
            Verdict::Hold => "is held: see `bottle plan`".to_owned(),
            Verdict::Teardown => "is torn down".to_owned(),
            Verdict::Replace if loses.is_empty() => "a new machine".to_owned(),
            Verdict::Replace => format!("a new machine; loses {}", loses.join(", ")),
        };
        all.entry((verdict, says)).or_default().push(sandbox.to_string());
    }
    all.into_iter().map(|((verdict, says), names)| (verdict, says, names)).collect()
}

/// The sign of a verdict, as plans have it.
#[must_use]
pub fn sign(verdict: Verdict) -> char {
    match verdict {
        Verdict::Keep => ' ',
        Verdict::Hold => '!',
        Verdict::Reprovision => '~',
        Verdict::Create => '+',
        Verdict::Replace => '±',
        Verdict::Teardown => '-',
    }
}

fn does(review: &Review, plan: &Planned) -> Vec<String> {
    let mut does: Vec<String> =
        review.edited.iter().map(|edited| format!("edits {}", edited.file)).collect();
    let revision = review.view.as_ref().map(|view| &view.revision);
    match revision {
        _ if does.is_empty() => does.push("loads the credential anew".to_owned()),
        Some(revision) if revision.commit.is_some() => does.push(match &revision.branch {
            Some(branch) => format!("commits on {branch}"),
            None => "commits it".to_owned(),
        }),
        _ => {}
    }
    does.extend(plan.iter().map(|(_, says, names)| format!("{}: {says}", some_of(names))));
    does
}

/// A few of the names, and how many more there are.
fn some_of(names: &[String]) -> String {
    match names {
        [first, second, third, more @ ..] if !more.is_empty() => {
            format!("{first}, {second}, {third} and {} more", more.len())
        }
        names => names.join(", "),
    }
}
