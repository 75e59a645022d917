//! `bottles/<name>.md`: what a sandbox is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::field::{Field, Section, shorten};
use super::guard::Guard;
use super::host;
use super::inputs::Inputs;
use super::keys::{Key, Shape, Table};
use super::source::{Findings, Problem};
use super::yaml::Value;
use super::{
    build, cred_proxy, egress, git, image, keep, limits, services, setup, tools, workspace,
};
use crate::model::policy::{Policy, SERVICES_ELSEWHERE, SERVICES_WITH_DOCKER};
use crate::model::{BackendKind, HostSource, ImageRef, Keep, Resources, Setup, Tools, Workspace};

/// The keys of a bottle.
pub(super) static TABLE: Table = Table {
    what: "a bottle",
    keys: &[
        Key::new(
            "backend",
            Shape::Word(&["auto", "native", "docker", "smolmachines"]),
            "what makes the machine; `auto` (default) decides once, at creation",
        ),
        Key::new(
            "image",
            Shape::Either(&[Shape::Text(None), Shape::Section(&build::TABLE)]),
            "a registry reference, an absolute or `./` path of an image tar or root folder, `host`, or `build` \
             with a folder that holds a Dockerfile",
        ),
        Key::new(
            "host_paths",
            Shape::List(&Shape::Text(None)),
            "folders of the host that are shown read-only (native `host` image)",
        ),
        Key::new("tools", tools::SHAPE, tools::DOC),
        Key::new("setup", setup::SHAPE, setup::DOC),
        Key::new("overlay", Shape::Flag, "agents of a project's overlay may use this bottle"),
        Key::new(
            "env",
            Shape::Names { key: host::ENV_NAME, value: &Shape::Text(None) },
            "environment variables; the value \"?\" is asked for and never written down",
        ),
        Key::new("resources", Shape::Section(&limits::TABLE), "limits"),
        Key::new("workspace", Shape::Section(&workspace::TABLE), "the host folder to work on"),
        Key::new("keep", keep::SHAPE, keep::DOC),
        Key::new(
            "user",
            Shape::Either(&[Shape::Text(Some(USER)), Shape::Whole { min: 0, max: MAX_UID }]),
            "the user that the agent runs as: a name or a uid",
        ),
        Key::new(
            "git",
            Shape::List(&Shape::Section(&git::TABLE)),
            "git upstreams that the git gate may talk to",
        ),
        Key::new(
            "cred_proxy",
            Shape::Section(&cred_proxy::TABLE),
            "credentials that the agent can use but never sees",
        ),
        Key::new("egress", Shape::Section(&egress::TABLE), "what the machine can reach"),
        Key::new("services", services::SHAPE, services::DOC),
        Key::new("supervise", Shape::Flag, "the agent may ask the operator for a change"),
    ],
    removed: &[
        (
            "runtime",
            "gVisor is found by itself: `runsc` is used where the engine has it registered",
        ),
        ("ssh", "use `git`: the git gate holds the key, and the agent never sees it"),
        (
            "tokens",
            "use `cred_proxy.routes`: the proxy adds the token, and the agent never sees it",
        ),
    ],
    instead: &[
        ("environment", "use `env`: NAME: value"),
        (
            "env_file",
            "name the variables in `env` with the value \"?\", and give `--env-file` to `apply`",
        ),
        (
            "volumes",
            "use `workspace` for the folder to work on, and `host_paths` for what is only read",
        ),
        (
            "mounts",
            "use `workspace` for the folder to work on, and `host_paths` for what is only read",
        ),
        (
            "ports",
            "a sandbox opens no port of this machine; `bottle forward NAME PORT` leads one of 127.0.0.1 into it",
        ),
        (
            "expose",
            "a sandbox opens no port of this machine; `bottle forward NAME PORT` leads one of 127.0.0.1 into it",
        ),
        ("network", "use `egress.allowlist`: without one, a sandbox reaches nothing"),
        ("networks", "use `egress.allowlist`: without one, a sandbox reaches nothing"),
        ("network_mode", "use `egress.allowlist`: without one, a sandbox reaches nothing"),
        ("allowed_domains", "use `egress.allowlist`"),
        (
            "dockerfile",
            "write `image: {build: ./FOLDER}` with the folder that the Dockerfile is in",
        ),
        ("build", "write `image: {build: ./FOLDER}` with the folder that the Dockerfile is in"),
        (
            "secrets",
            "use `cred_proxy.routes`: the proxy adds the token, and the agent never sees it",
        ),
        ("working_dir", "use `workspace.target`"),
        ("entrypoint", "use `command` in the agent's file, agents/NAME.md"),
        ("name", "leave it out: a bottle is named after its file, bottles/NAME.md"),
        ("description", "write it below the front matter, which says nothing to `bottle`"),
        ("container_name", "leave it out: a sandbox is named after its agent's file"),
        ("hostname", "leave it out: the host name inside is the sandbox's name"),
        ("links", "sandboxes do not reach each other: use `egress.allowlist` for what one needs"),
        (
            "depends_on",
            "sandboxes do not wait for each other: `command` has to bear what is not there yet",
        ),
        (
            "healthcheck",
            "leave it out: `bottle status` says whether `command` runs, completed or failed",
        ),
        ("logging", "leave it out: `bottle logs` shows what `command` writes"),
        ("labels", "leave it out: `bottle` labels what it makes"),
        ("init", "leave it out: every machine has an init that starts `command`"),
        ("stdin_open", "leave it out: `bottle run` and `bottle exec -it` bring a terminal"),
        ("tty", "leave it out: `bottle run` and `bottle exec -it` bring a terminal"),
        ("privileged", "leave it out: a sandbox has no capabilities, and none can be added"),
        ("cap_add", "leave it out: a sandbox has no capabilities, and none can be added"),
        ("cap_drop", "leave it out: a sandbox has no capabilities"),
        ("devices", "a sandbox has no device of this machine but null, zero, random and the like"),
        ("security_opt", "leave it out: seccomp and no-new-privileges are always on"),
        (
            "read_only",
            "leave it out: what is written goes with the machine, but for what `keep` names",
        ),
        ("tmpfs", "leave it out: /tmp and /run are there and writable"),
        ("shm_size", "leave it out: shared memory counts towards `resources.memory`"),
        ("ulimits", "use `resources`: cpus, memory, pids and disk"),
        ("deploy", "use `resources`: cpus, memory, pids and disk"),
        ("mem_limit", "use `resources.memory`"),
        ("pids_limit", "use `resources.pids`"),
        (
            "extra_hosts",
            "the sidecar resolves names: use `egress.allowlist`, with `cidr` for a private address",
        ),
        ("dns", "the sidecar resolves names, with the name servers of this machine"),
        ("configs", "use a skill, or the image, for files, and `env` for values"),
        ("platform", "leave it out: an image is pulled for the engine's own platform"),
        ("pull_policy", "leave it out: an image is pulled when the engine does not have it"),
        ("scale", "write one file in agents/ for each sandbox"),
        ("profiles", "use `suspend` in the agent's file, or `--only NAME`"),
    ],
};

const USER: &str = "^[A-Za-z_][A-Za-z0-9_.-]{0,31}$";
const MAX_UID: u64 = 65_534;

/// What the bottle says of its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedBackend {
    Auto,
    Fixed(BackendKind),
}

/// A bottle without its agent.
#[derive(Debug, Clone)]
pub(super) struct Bottle {
    pub(super) backend: AskedBackend,
    pub(super) image: Option<ImageRef>,
    pub(super) host_paths: Vec<PathBuf>,
    pub(super) tools: Tools,
    pub(super) setup: Setup,
    /// Everything of the host that it names.
    pub(super) sources: Vec<HostSource>,
    pub(super) overlay: bool,
    pub(super) env: BTreeMap<String, String>,
    pub(super) asked_env: BTreeSet<String>,
    pub(super) resources: Resources,
    pub(super) workspace: Option<Workspace>,
    pub(super) keep: Keep,
    pub(super) user: Option<String>,
    pub(super) policy: Policy,
}

/// Names of backends in manifests.
pub(super) fn backends() -> Vec<(&'static str, AskedBackend)> {
    let mut kinds = vec![BackendKind::Native, BackendKind::Docker, BackendKind::Smolmachines];
    #[cfg(feature = "testing")]
    kinds.push(BackendKind::Memory);
    kinds.sort();
    let fixed = kinds.into_iter().map(|kind| (kind.as_str(), AskedBackend::Fixed(kind)));
    std::iter::once(("auto", AskedBackend::Auto)).chain(fixed).collect()
}

/// Reads a bottle's front matter. What it returns counts only if nothing was found wrong.
pub(super) fn read(
    section: &Section<'_>,
    guard: &Guard<'_>,
    inputs: &mut Inputs,
    findings: &mut Findings<'_>,
) -> Bottle {
    let backend = section
        .get("backend")
        .and_then(|field| field.choice(&backends(), findings))
        .unwrap_or(AskedBackend::Auto);
    let image = section.get("image").and_then(|field| image::read(&field, guard, inputs, findings));
    let (env, asked_env) =
        section.get("env").map(|field| read_env(&field, findings)).unwrap_or_default();
    let policy = Policy {
        git: section.get("git").map(|f| git::read(&f, guard, findings)).unwrap_or_default(),
        routes: section
            .get("cred_proxy")
            .map(|f| cred_proxy::read(&f, guard, findings))
            .unwrap_or_default(),
        egress: section
            .get("egress")
            .map(|f| egress::read(&f, guard, findings))
            .unwrap_or_default(),
        services: section
            .get("services")
            .map(|field| services::read(&field, findings))
            .unwrap_or_default(),
        supervise: section.get("supervise").and_then(|f| f.flag(findings)).unwrap_or(false),
        asks: None,
    };
    let mut bottle = Bottle {
        backend,
        image,
        host_paths: section
            .get("host_paths")
            .map(|field| workspace::host_paths(&field, guard, findings))
            .unwrap_or_default(),
        tools: Tools::new(),
        setup: section.get("setup").map(|field| setup::read(&field, findings)).unwrap_or_default(),
        sources: Vec::new(),
        overlay: section.get("overlay").and_then(|f| f.flag(findings)).unwrap_or(false),
        env,
        asked_env,
        resources: section
            .get("resources")
            .map(|field| limits::read(&field, findings))
            .unwrap_or_default(),
        workspace: section
            .get("workspace")
            .and_then(|field| workspace::read(&field, guard, findings)),
        keep: Keep::default(),
        user: section.get("user").and_then(|field| read_user(&field, findings)),
        policy,
    };
    if let Some(field) = section.get("tools") {
        let native = matches!(bottle.image, None | Some(ImageRef::Host))
            && matches!(
                bottle.backend,
                AskedBackend::Auto | AskedBackend::Fixed(BackendKind::Native)
            );
        match native {
            true => bottle.tools = tools::read(&field, guard, &bottle.host_paths, findings),
            false => findings.add(tools::elsewhere(&field)),
        }
    }
    bottle.sources = guard.sources.take();
    if let Some(field) = section.get("keep") {
        bottle.keep = keep::read(&field, bottle.workspace.as_ref(), &bottle.host_paths, findings);
    }
    check_backend(section, &bottle, findings);
    check_credentials(section, &bottle, findings);
    bottle
}

/// A credential that the sidecar adds is not asked for a second time, for the agent itself.
fn check_credentials(section: &Section<'_>, bottle: &Bottle, findings: &mut Findings<'_>) {
    let Some(env) = section.get("env") else { return };
    let refs = bottle.policy.routes.iter().map(|route| &route.token_ref);
    let both: BTreeSet<&String> = refs.filter(|name| bottle.asked_env.contains(*name)).collect();
    for name in both {
        let problem = Problem::error(
            env.key_span,
            format!("`{name}` is asked for here and is the `token_ref` of a route"),
        );
        findings.add(problem.field(&env.at).hint(
            "leave it out: the sidecar adds the token to requests, and the agent never has it",
        ));
    }
}

/// What no backend of the bottle's choice could make.
fn check_backend(section: &Section<'_>, bottle: &Bottle, findings: &mut Findings<'_>) {
    let fixed = match bottle.backend {
        AskedBackend::Fixed(kind) => Some(kind),
        AskedBackend::Auto => None,
    };
    let elsewhere = fixed.filter(|kind| *kind != BackendKind::Native);
    if let (Some(image), Some(kind), Some(field)) = (&bottle.image, fixed, section.get("image"))
        && let Some((why, fitting)) = image.unsuited(kind)
    {
        let message = format!("`image: {image}` {why}, and `backend` is {kind}");
        findings.add(field.error(message).hint(match kind {
            BackendKind::Native => format!(
                "name an image tar (`docker save`), a root folder or `host`, or `backend: {fitting}`"
            ),
            _ => format!("name another image, or `backend: {fitting}`"),
        }));
    }
    if fixed == Some(BackendKind::Docker)
        && section.get("image").is_none()
        && let Some(field) = section.get("backend")
    {
        findings.add(
            field
                .error("the docker backend needs the key `image`")
                .hint("name a registry reference, or the path of an image tar or root folder"),
        );
    }
    if fixed == Some(BackendKind::Docker)
        && !bottle.policy.services.is_empty()
        && let Some(field) = section.get("services")
    {
        let problem = Problem::error(field.key_span, SERVICES_ELSEWHERE);
        findings.add(problem.field(&field.at).hint(SERVICES_WITH_DOCKER));
    }
    let host_image = matches!(bottle.image, None | Some(ImageRef::Host)) && elsewhere.is_none();
    if let Some(field) = section.get("host_paths").filter(|_| !host_image) {
        let message = "`host_paths` works with the `host` image of the native backend only";
        findings.add(Problem::error(field.key_span, message).field(&field.at));
    }
}

fn read_env(
    field: &Field<'_>,
    findings: &mut Findings<'_>,
) -> (BTreeMap<String, String>, BTreeSet<String>) {
    let (mut plain, mut asked) = (BTreeMap::new(), BTreeSet::new());
    for entry in field.entries(findings).unwrap_or_default() {
        let value = field.entry(entry);
        if !host::is_env_name(&entry.key) {
            let message = format!("`{}` cannot name an environment variable", shorten(&entry.key));
            let problem = Problem::error(entry.key_span, message).field(&value.at);
            findings.add(problem.hint("expected letters, digits and `_`, not a digit first"));
            continue;
        }
        if entry.value.value == Value::Null {
            let problem = Problem::error(entry.key_span, format!("`{}` has no value", entry.key));
            let hint = "quote it (\"\" for an empty value), or write \"?\" to be asked for it";
            findings.add(problem.field(&value.at).hint(hint));
            continue;
        }
        match value.text(findings) {
            Some("?") => {
                asked.insert(entry.key.clone());
            }
            Some(text) => {
                plain.insert(entry.key.clone(), text.to_owned());
            }
            None => {}
        }
    }
    (plain, asked)
}

fn read_user(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let uid =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let name = |text: &str| {
        let mut bytes = text.bytes();
        text.len() <= 32
            && bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    };
    let text = match &field.node.value {
        Value::Text(text) | Value::Number(text) => text,
        _ => {
            findings.add(field.mismatch("a user name or a uid"));
            return None;
        }
    };
    match uid(text) {
        Some(uid) if uid <= MAX_UID => return Some(uid.to_string()),
        None if name(text) => return Some(text.clone()),
        _ => {}
    }
    let problem = field.error(format!("`{}` is neither a user name nor a uid", shorten(text)));
    findings.add(
        problem.hint(format!("a uid is a number up to {MAX_UID}; the group follows the user")),
    );
    None
}
