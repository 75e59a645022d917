//! A tree's files → its sandboxes: agents in their bottles, with their skills, and the overlay.

mod files;
mod overlay;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::files::{open_folder, open_part, parse, pointer, unreadable};
use self::overlay::keep_bottle;
use super::agent::{self, Agent, Named, Settings};
use super::bottle::{self, AskedBackend, Bottle};
use super::field::{Section, shorten};
use super::guard::{Guard, resolved};
use super::inputs::Inputs;
use super::keys::nearest;
use super::source::{At, Findings, Problem, Source, Span};
use super::tree::{Dir, MAX_MANIFEST};
use super::{LoadError, LoadOptions, frontmatter, skill, yaml};
use crate::model::{
    AgentsFolder, BackendChoice, Desired, Diagnostic, Fields, NetworkSpec, OwnerId, SandboxId,
    SandboxSpec, Severity, SidecarSpec, SkillFiles, SpecHash, Tree,
};

const SETTINGS_FILE: &str = "bottle.yaml";
const BOTTLES: &str = "bottles";
const AGENTS: &str = "agents";
const SKILLS: &str = "skills";

/// One file of a bottle.
struct BottleFile {
    /// As diagnostics name it.
    file: String,
    /// The bottle, or where the first thing stands that is wrong with it.
    bottle: Result<Arc<Bottle>, String>,
}

/// What the tree itself says of an agent that an overlay stands over.
struct Underlying {
    /// `None`: its file does not say.
    bottle: Option<String>,
    suspend: bool,
}

/// Where an agent comes from.
#[derive(Clone, Copy)]
struct Origin<'a> {
    /// The overlay's folder; `None`: the tree.
    overlay: Option<&'a str>,
    /// As diagnostics name the folder of its file, with a `/` at the end.
    prefix: &'a str,
}

/// Reads one tree.
pub(super) struct Loader<'o> {
    options: &'o LoadOptions,
    path: PathBuf,
    dir: Dir,
    /// Canonical, when there is one and it is not the tree.
    overlay: Option<PathBuf>,
    /// What no sandbox may be given.
    trees: Vec<(PathBuf, &'static str)>,
    inputs: Inputs,
    settings: Settings,
    bottles: BTreeMap<String, BottleFile>,
    /// Why `bottles/` could not be listed.
    bottles_unreadable: Option<String>,
    skills: BTreeMap<String, Result<Arc<SkillFiles>, String>>,
    underlying: BTreeMap<SandboxId, Underlying>,
    sandboxes: BTreeMap<SandboxId, SandboxSpec>,
    held: BTreeMap<SandboxId, Vec<Diagnostic>>,
    diagnostics: Vec<Diagnostic>,
}

impl<'o> Loader<'o> {
    pub(super) fn open(options: &'o LoadOptions) -> Result<Self, LoadError> {
        let (path, dir) = open_folder(&options.tree)
            .map_err(|reason| LoadError::Tree { path: options.tree.clone(), reason })?;
        let overlay = match &options.overlay {
            None => None,
            Some(named) => {
                let (overlay, _) = open_folder(named)
                    .map_err(|reason| LoadError::Overlay { path: named.clone(), reason })?;
                // The same folder as the tree counts once.
                (overlay != path).then_some(overlay)
            }
        };
        let mut trees =
            vec![(path.clone(), "the tree"), (resolved(&options.state_dir), "the state folder")];
        trees.extend(overlay.clone().map(|overlay| (overlay, "an overlay")));
        Ok(Self {
            options,
            path,
            dir,
            overlay,
            trees,
            inputs: Inputs::new(options.inputs_cache()),
            settings: Settings::default(),
            bottles: BTreeMap::new(),
            bottles_unreadable: None,
            skills: BTreeMap::new(),
            underlying: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            held: BTreeMap::new(),
            diagnostics: Vec::new(),
        })
    }

    pub(super) fn load(mut self) -> Result<Desired, LoadError> {
        let settings_hold = self.read_settings();
        self.read_bottles();
        let agents = self.read_agents();
        let overlays = self.read_overlay();
        self.inputs.save();
        self.diagnostics
            .sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        if !settings_hold {
            return Err(LoadError::Settings { diagnostics: self.diagnostics });
        }
        Ok(Desired {
            tree: tree(self.path, self.settings),
            sandboxes: self.sandboxes,
            held: self.held,
            diagnostics: self.diagnostics,
            agents,
            overlays,
        })
    }

    /// Reads what holds for the tree as a whole, and no bottle, agent or skill.
    pub(super) fn identify(mut self) -> Result<Tree, LoadError> {
        if !self.read_settings() {
            return Err(LoadError::Settings { diagnostics: self.diagnostics });
        }
        Ok(tree(self.path, self.settings))
    }

    /// Reads `bottle.yaml`; false when it is there and does not hold.
    fn read_settings(&mut self) -> bool {
        if self.dir.stat_entry(OsStr::new("bottle.yml")).is_ok() {
            let warning = Diagnostic::warning("bottle.yml", "this file is not read");
            self.diagnostics.push(warning.with_hint("the settings of a tree are in `bottle.yaml`"));
        }
        let bytes = match self.dir.read(OsStr::new(SETTINGS_FILE), MAX_MANIFEST) {
            Ok((bytes, _)) => bytes,
            Err(error) if error.is_not_found() => return true,
            Err(error) => {
                self.diagnostics.push(unreadable(SETTINGS_FILE, &error));
                return false;
            }
        };
        let (text, bad) = frontmatter::decode(bytes);
        let source = Source::new(SETTINGS_FILE, text);
        let mut findings = Findings::new(&source);
        if let Some(span) = bad {
            findings.add(frontmatter::not_utf8(span, source.text()));
        } else {
            let (start, end) = (frontmatter::start(&source), source.text().len());
            let clean = frontmatter::check_characters(&mut findings, start..end);
            if let Some(node) = clean.and_then(|()| yaml::parse(&mut findings, start, end))
                && let Some(section) = Section::open(
                    &node,
                    &agent::SETTINGS,
                    &At::Root,
                    Span::at(start),
                    &mut findings,
                )
            {
                self.settings = agent::settings(&section, &mut findings);
            }
        }
        let holds = !findings.has_errors();
        self.diagnostics.extend(findings.finish());
        holds
    }

    fn read_bottles(&mut self) {
        let dir = match open_part(&self.dir, BOTTLES) {
            Ok(Some(dir)) => dir,
            Ok(None) => return,
            Err(reason) => {
                self.diagnostics.push(Diagnostic::error(
                    BOTTLES,
                    format!("this folder cannot be read: {reason}"),
                ));
                self.bottles_unreadable = Some(reason);
                return;
            }
        };
        let names = match self.entities(&dir, "bottles/", "a bottle") {
            Ok(names) => names,
            Err(reason) => {
                self.bottles_unreadable = Some(reason);
                return;
            }
        };
        let base = self.path.join(BOTTLES);
        for (name, file_name) in names {
            let file = format!("bottles/{name}.md");
            let mut read = Err(format!("{file} cannot be read"));
            let found = match dir.read(&file_name, MAX_MANIFEST) {
                Err(error) => vec![unreadable(&file, &error)],
                Ok((bytes, _)) => {
                    let (text, bad) = frontmatter::decode(bytes);
                    let source = Source::new(&file, text);
                    let mut findings = Findings::new(&source);
                    let home = self.options.home.as_deref();
                    let guard = Guard { base: &base, home, trees: &self.trees };
                    let inputs = &mut self.inputs;
                    let bottle = parse(bad, &bottle::TABLE, &mut findings, |section, findings| {
                        bottle::read(section, &guard, inputs, findings)
                    });
                    if let Some((bottle, _)) = bottle.filter(|_| !findings.has_errors()) {
                        read = Ok(Arc::new(bottle));
                    }
                    findings.finish()
                }
            };
            if read.is_err()
                && let Some(first) = found.iter().find(|d| d.severity == Severity::Error)
            {
                read = Err(pointer(first));
            }
            self.diagnostics.extend(found);
            self.bottles.insert(name, BottleFile { file, bottle: read });
        }
    }

    fn read_agents(&mut self) -> AgentsFolder {
        let unreadable_folder = |loader: &mut Self, reason: String| {
            let message = format!("this folder cannot be read: {reason}");
            loader.diagnostics.push(Diagnostic::error(AGENTS, message));
            AgentsFolder::Unreadable(reason)
        };
        let dir = match open_part(&self.dir, AGENTS) {
            Ok(Some(dir)) => dir,
            Ok(None) => {
                let warning = Diagnostic::warning(AGENTS, "the tree has no folder `agents`");
                self.diagnostics
                    .push(warning.with_hint("`bottle init` writes a small tree to start from"));
                return AgentsFolder::Missing;
            }
            Err(reason) => return unreadable_folder(self, reason),
        };
        let names = match self.entities(&dir, "agents/", "an agent") {
            Ok(names) => names,
            Err(reason) => return AgentsFolder::Unreadable(reason),
        };
        if names.is_empty() {
            return AgentsFolder::Empty;
        }
        let origin = Origin { overlay: None, prefix: "agents/" };
        for (name, file_name) in names {
            self.read_agent(&dir, &name, &file_name, origin);
        }
        AgentsFolder::Present
    }

    fn read_agent(&mut self, dir: &Dir, name: &str, file_name: &OsStr, origin: Origin<'_>) {
        let Ok(id) = SandboxId::new(name) else { return };
        let file = format!("{}{name}.md", origin.prefix);
        // The project wins, also where its file does not hold: nobody knows what it wants.
        self.sandboxes.remove(&id);
        self.held.remove(&id);
        let mut spec = None;
        let mut said = Underlying { bottle: None, suspend: false };
        let found = match dir.read(file_name, MAX_MANIFEST) {
            Err(error) => vec![unreadable(&file, &error)],
            Ok((bytes, _)) => {
                let (text, bad) = frontmatter::decode(bytes);
                let source = Source::new(&file, text);
                let mut findings = Findings::new(&source);
                let read = parse(bad, &agent::TABLE, &mut findings, |section, findings| {
                    agent::read(section, findings)
                });
                if let Some((agent, body)) = read {
                    said.bottle = agent.bottle.as_ref().map(|bottle| bottle.name.clone());
                    said.suspend = agent.suspend;
                    let prompt = source.text()[body].trim();
                    spec = self.resolve(&id, agent, prompt, origin, &mut findings);
                }
                spec = spec.filter(|_| !findings.has_errors());
                findings.finish()
            }
        };
        if origin.overlay.is_none() {
            self.underlying.insert(id.clone(), said);
        }
        match spec {
            Some(spec) => {
                self.sandboxes.insert(id, spec);
            }
            None => {
                let errors = found.iter().filter(|d| d.severity == Severity::Error).cloned();
                self.held.insert(id, errors.collect());
            }
        }
        self.diagnostics.extend(found);
    }

    /// Puts an agent into its bottle. `None` where that cannot be, which was then told.
    fn resolve(
        &mut self,
        id: &SandboxId,
        mut agent: Agent,
        prompt: &str,
        origin: Origin<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<SandboxSpec> {
        let mut named = agent.bottle.take();
        if origin.overlay.is_some()
            && let Some(below) = self.underlying.get(id)
        {
            agent.suspend |= below.suspend;
            named = keep_bottle(named, below, id, findings);
        }
        let bottle = named.and_then(|named| {
            self.bottle(&named, origin.overlay.is_some(), findings)
                .map(|bottle| (named.name, bottle))
        });
        let mut skills = BTreeMap::new();
        for named in &agent.skills {
            match self.skill(&named.name) {
                Ok(files) => {
                    skills.insert(named.name.clone(), files);
                }
                Err(reason) => {
                    let message = format!("the skill `{}` cannot be used: {reason}", named.name);
                    let problem = Problem::error(named.span, message)
                        .field(&At::Key(&At::Root, "skills"))
                        .hint(format!(
                            "looked for skills/{0}/ in the tree, then ~/.claude/skills/{0}/",
                            named.name
                        ));
                    findings.add(problem);
                }
            }
        }
        let (name, bottle) = bottle?;
        let enforced = bottle.policy.needs_sidecar();
        Some(SandboxSpec {
            id: id.clone(),
            bottle: name,
            source: findings.source().name().to_owned(),
            overlay: origin.overlay.map(str::to_owned),
            backend: match bottle.backend {
                AskedBackend::Fixed(kind) => BackendChoice::Fixed(kind),
                AskedBackend::Auto => BackendChoice::Auto {
                    default: self.options.default_backend.or(self.settings.backend),
                },
            },
            image: bottle.image.clone(),
            host_paths: bottle.host_paths.clone(),
            env: bottle.env.clone(),
            asked_env: bottle.asked_env.clone(),
            resources: bottle.resources,
            workspace: bottle.workspace.clone(),
            user: bottle.user.clone(),
            policy: bottle.policy.clone(),
            command: agent.command,
            restart: agent.restart,
            network: enforced.then(|| NetworkSpec {
                sandbox: id.clone(),
                fields: Fields::default(),
                pool: self.settings.network_pool.clone(),
            }),
            sidecar: enforced.then(|| SidecarSpec {
                sandbox: id.clone(),
                fields: Fields::default(),
                policy: Arc::new(bottle.policy.clone()),
            }),
            run: agent.run,
            suspend: agent.suspend,
            prompt: Arc::from(prompt),
            skills,
            skills_dir: self.options.skills_dir_override.clone(),
        })
    }

    fn bottle(
        &self,
        named: &Named,
        for_overlay: bool,
        findings: &mut Findings<'_>,
    ) -> Option<Arc<Bottle>> {
        let at = At::Key(&At::Root, "bottle");
        let fail = |message: String| Problem::error(named.span, message).field(&at);
        if let Some(reason) = &self.bottles_unreadable {
            findings.add(fail(format!("the folder `bottles` cannot be read: {reason}")));
            return None;
        }
        let Some(file) = self.bottles.get(&named.name) else {
            let usable = |file: &BottleFile| {
                !for_overlay || file.bottle.as_ref().is_ok_and(|bottle| bottle.overlay)
            };
            let names: Vec<&str> = self
                .bottles
                .iter()
                .filter(|(_, file)| usable(file))
                .map(|(name, _)| name.as_str())
                .collect();
            let problem = fail(format!("there is no bottle `{}`", shorten(&named.name)));
            let problem = match nearest(&named.name, names.iter().copied()) {
                Some(name) => problem.label(format!("did you mean `{name}`?")),
                None => problem,
            };
            findings.add(problem.hint(match names[..] {
                [] => "the tree has no bottles: write one as bottles/NAME.md".to_owned(),
                _ => format!("bottles: {}", names.join(", ")),
            }));
            return None;
        };
        match &file.bottle {
            Err(pointer) => {
                let message = format!("the bottle `{}` does not validate", named.name);
                findings.add(fail(message).hint(format!("see {pointer}")));
                None
            }
            Ok(bottle) if for_overlay && !bottle.overlay => {
                let message =
                    format!("the bottle `{}` is not for the agents of an overlay", named.name);
                let hint = format!("write `overlay: true` in {} if projects may use it", file.file);
                findings.add(fail(message).hint(hint));
                None
            }
            Ok(bottle) => Some(bottle.clone()),
        }
    }

    /// The files of a skill, read once.
    fn skill(&mut self, name: &str) -> Result<Arc<SkillFiles>, String> {
        if let Some(known) = self.skills.get(name) {
            return known.clone();
        }
        let own =
            self.options.home.as_ref().map(|home| home.join(".claude").join(SKILLS).join(name));
        let places = [Some(self.path.join(SKILLS).join(name)), own];
        let mut read = Err("there is no such folder".to_owned());
        for place in places.into_iter().flatten() {
            match skill::read(&place) {
                Err(skill::SkillError::Missing) => {}
                Ok(files) => {
                    read = Ok(Arc::new(files));
                    break;
                }
                Err(error) => {
                    read = Err(error.to_string());
                    break;
                }
            }
        }
        self.skills.insert(name.to_owned(), read.clone());
        read
    }
}

fn tree(path: PathBuf, settings: Settings) -> Tree {
    let owner = settings.name.unwrap_or_else(|| owner_of(&path));
    Tree { owner, path, network_pool: settings.network_pool }
}

/// The owner of a tree that has no name: `t` and twelve digits of a digest of its path.
fn owner_of(path: &Path) -> OwnerId {
    use std::os::unix::ffi::OsStrExt;
    let digest = SpecHash::of_bytes(path.as_os_str().as_bytes()).short();
    OwnerId::new(format!("t{digest}")).expect("a letter and hexadecimal digits are a name")
}
