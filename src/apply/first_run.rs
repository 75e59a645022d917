//! What an agent is to find at its first start, since nobody is there: its questions answered, and its skills where
//! it looks for them. What is there already stays as it is, and stays when the role goes: it is the agent's own.

use std::collections::BTreeSet;

use super::provision::Provision;
use super::settings::{self, Found, had, make_folders};
use super::upload::{Owner, Tar};
use crate::backend::{Backend, Identity, Scope, Upload};
use crate::model::first_run::{self, Answers};
use crate::model::policy::RouteRole;
use crate::model::supervise::guest::{CLAUDE_STATE, claude_state};

/// Where agents look for skills that have no folder of Claude Code's: below the home folder.
const SKILLS: &str = ".agents/skills";

/// The roles of such agents.
const OTHERS: [RouteRole; 2] = [RouteRole::OpenaiBaseUrl, RouteRole::GeminiBaseUrl];

/// Puts what a role that is new to the machine wants into the files of its agent.
pub(super) async fn put(
    backend: &dyn Backend,
    scope: &Scope,
    files: &mut Upload,
    tar: &mut Tar,
    work: &Provision<'_>,
    identity: &Identity,
    skills_dir: &str,
) -> anyhow::Result<()> {
    let home = identity.home.trim_end_matches('/');
    let mut written: BTreeSet<&str> = BTreeSet::new();
    let state = state_of_claude(work);
    let mut all = answers(work, home);
    if state.is_some() && all.iter().all(|answers| answers.path != CLAUDE_STATE) {
        all.push(Answers { path: CLAUDE_STATE, wanted: serde_json::json!({}) });
    }
    for Answers { path: place, wanted } in all {
        let path = format!("{home}/{place}");
        let (theirs, mode, owner) = match found(backend, scope, work, identity, &path).await {
            Some(Found::Nothing) => (String::new(), 0o600, Owner::of(identity)),
            Some(Found::File { text, mode, owner }) => (text, mode, owner),
            Some(Found::Other(_)) | None => continue,
        };
        // Where there is none it begins with the door at which the agent asks; what is the user's own has it by
        // another way.
        let begun = state.as_ref().filter(|_| place == CLAUDE_STATE && theirs.is_empty());
        let theirs = begun.map_or(theirs.as_str(), String::as_str);
        if let Some(text) = first_run::answered(theirs, &wanted).or(begun.cloned()) {
            tar.file(&path, mode, owner, text.as_bytes())?;
            written.insert(place);
        }
    }
    if wants_skills(work) {
        let path = format!("{home}/{SKILLS}");
        if let Some(Found::Nothing) = found(backend, scope, work, identity, &path).await {
            tar.symlink(&path, skills_dir, Owner::of(identity))?;
            written.insert(SKILLS);
        }
    }
    make_folders(files, &written, home, identity);
    Ok(())
}

/// What stands there. An agent that has to ask is better than none: what cannot be read is left alone.
async fn found(
    backend: &dyn Backend,
    scope: &Scope,
    work: &Provision<'_>,
    identity: &Identity,
    path: &str,
) -> Option<Found> {
    match settings::read(backend, scope, work.instance, identity, path).await {
        Ok(found) => Some(found),
        Err(error) => {
            tracing::warn!(path, error = %format!("{error:#}"), "left as it is: it cannot be read");
            None
        }
    }
}

/// What the state of Claude Code begins with, if the machine is new to the door at which its agent asks.
fn state_of_claude(work: &Provision<'_>) -> Option<String> {
    let asks = work.guest.asks.as_ref().filter(|_| !super::asks::had(work.prior))?;
    Some(claude_state(asks.backend))
}

fn roles(work: &Provision<'_>) -> BTreeSet<RouteRole> {
    let routes = work.guest.access.iter().flat_map(|access| &access.routes);
    routes.flat_map(|route| route.roles.iter().copied()).collect()
}

/// Whether a provisioning before this one has seen to the role.
fn is_new(work: &Provision<'_>, role: RouteRole) -> bool {
    work.prior.is_none_or(|prior| !had(prior, role))
}

fn answers(work: &Provision<'_>, home: &str) -> Vec<Answers> {
    let workdir = work.guest.workdir.as_deref();
    let folders: Vec<&str> = workdir.into_iter().chain([home]).collect();
    let new = roles(work).into_iter().filter(|role| is_new(work, *role));
    new.flat_map(|role| first_run::answers(role, &folders)).collect()
}

fn wants_skills(work: &Provision<'_>) -> bool {
    let had_skills = work.prior.is_some_and(|prior| !prior.skills.is_empty());
    let of_others =
        |role: &RouteRole| OTHERS.contains(role) && (!had_skills || is_new(work, *role));
    !work.guest.skills.is_empty() && roles(work).iter().any(of_others)
}
