//! A tree's files → its sandboxes: agents in their bottles, with their skills, and the overlay.

mod files;
mod overlay;
mod renamed;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
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
use super::source::{At, Findings, Problem, Source, Span, shorten_path};
use super::tree::{self, Dir, MAX_MANIFEST, ReadError, Stat};
use super::trust::{Exposed, Trust, Walked};
use super::{LoadError, LoadOptions, frontmatter, proxy, skill, yaml};
use crate::model::policy::Policy;
use crate::model::supervise::guest::Asks;
use crate::model::{
    AgentsFolder, BackendChoice, Desired, Diagnostic, Fields, GateSpec, HostSource, Located,
    MountTable, NetworkSpec, OwnerId, Place, SandboxId, SandboxSpec, Severity, SidecarSpec,
    SkillFiles, SpecHash, Tree, Use,
};

const SETTINGS_FILE: &str = "bottle.yaml";
const BOTTLES: &str = "bottles";
const AGENTS: &str = "agents";
const SKILLS: &str = "skills";

/// A skill's files and where they lie, or why it cannot be used.
type Skill = Result<(Arc<SkillFiles>, Walked), String>;

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
    /// Of the tree, and of the overlay when there is one.
    ways: Vec<Walked>,
    trust: Trust,
    inputs: Inputs,
    settings: Settings,
    /// What `bottle.yaml` names of the host.
    settings_sources: Vec<HostSource>,
    bottles: BTreeMap<String, BottleFile>,
    /// Why `bottles/` could not be listed.
    bottles_unreadable: Option<String>,
    /// By name, and whether the operator's own count as well.
    skills: BTreeMap<(String, bool), Skill>,
    underlying: BTreeMap<SandboxId, Underlying>,
    sandboxes: BTreeMap<SandboxId, SandboxSpec>,
    held: BTreeMap<SandboxId, Vec<Diagnostic>>,
    unread: BTreeMap<SandboxId, Diagnostic>,
    /// The names that agents had, by those that they have.
    renamed: BTreeMap<SandboxId, renamed::Said>,
    /// Limits that agents' files state and `bottle` does not keep, with who states them.
    /// Keys of which is said once for the tree that they do nothing here, and who has them.
    told: BTreeMap<&'static str, BTreeSet<SandboxId>>,
    diagnostics: Vec<Diagnostic>,
}

impl<'o> Loader<'o> {
    pub(super) fn open(options: &'o LoadOptions, mounts: MountTable) -> Result<Self, LoadError> {
        let (path, dir) = open_folder(&options.tree)
            .map_err(|reason| LoadError::Tree { path: options.tree.clone(), reason })?;
        let trust = Trust::among(mounts);
        // The links by which it was named count as well as where they lead.
        let named = std::path::absolute(&options.tree).unwrap_or_else(|_| path.clone());
        let mut ways = vec![trusted(&trust, &named, "the tree")?];
        trusted(&trust, &path, "the tree")?;
        for part in [AGENTS, BOTTLES] {
            let part = path.join(part);
            if tree::stat(&part).is_ok() {
                trusted(&trust, &part, "the tree")?;
            }
        }
        let overlay = match &options.overlay {
            None => None,
            Some(named) => {
                let (overlay, _) = open_folder(named)
                    .map_err(|reason| LoadError::Overlay { path: named.clone(), reason })?;
                let named = std::path::absolute(named).unwrap_or_else(|_| overlay.clone());
                ways.push(trusted(&trust, &named, "the overlay")?);
                trusted(&trust, &overlay, "the overlay")?;
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
            ways,
            trust,
            inputs: Inputs::new(options.inputs_cache()),
            settings: Settings::default(),
            settings_sources: Vec::new(),
            bottles: BTreeMap::new(),
            bottles_unreadable: None,
            skills: BTreeMap::new(),
            underlying: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            held: BTreeMap::new(),
            unread: BTreeMap::new(),
            renamed: BTreeMap::new(),
            told: BTreeMap::new(),
            diagnostics: Vec::new(),
        })
    }

    pub(super) fn load(mut self) -> Result<Desired, LoadError> {
        let settings_hold = self.read_settings()?;
        self.read_bottles();
        let agents = self.read_agents();
        let overlays = self.read_overlay();
        self.inputs.save();
        let was = self.check_renamed();
        self.diagnostics.extend(told(&self.told));
        self.diagnostics
            .sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        if !settings_hold {
            return Err(LoadError::Settings { diagnostics: self.diagnostics });
        }
        Ok(Desired {
            tree: tree(self.path, self.settings),
            sandboxes: self.sandboxes,
            held: self.held,
            unread: self.unread,
            diagnostics: self.diagnostics,
            agents,
            overlays,
            was,
        })
    }

    /// Reads what holds for the tree as a whole, and no bottle, agent or skill.
    pub(super) fn identify(mut self) -> Result<Tree, LoadError> {
        if !self.read_settings()? {
            return Err(LoadError::Settings { diagnostics: self.diagnostics });
        }
        Ok(tree(self.path, self.settings))
    }

    /// Reads `bottle.yaml`; false when it is there and does not hold.
    fn read_settings(&mut self) -> Result<bool, LoadError> {
        if self.dir.stat_entry(OsStr::new("bottle.yml")).is_ok() {
            let warning = Diagnostic::warning("bottle.yml", "this file is not read");
            self.diagnostics.push(warning.with_hint("the settings of a tree are in `bottle.yaml`"));
        }
        let bytes = match self.content(&self.dir, "", OsStr::new(SETTINGS_FILE)) {
            Ok((bytes, stat)) => match self.own_file(&self.path.join(SETTINGS_FILE), &stat) {
                Ok(_) => bytes,
                Err(exposed) => {
                    self.diagnostics.push(changed_by_others(SETTINGS_FILE, &exposed));
                    return Ok(false);
                }
            },
            Err(error) if error.is_not_found() => return Ok(true),
            // Nothing is wrong with what stands in it: this machine cannot read it now.
            Err(ReadError::Io(error)) => {
                let reason = format!("{SETTINGS_FILE}: {}", super::tree::describe(&error));
                return Err(LoadError::Tree { path: self.path.clone(), reason });
            }
            Err(error) => {
                self.diagnostics.push(unreadable(SETTINGS_FILE, &error));
                return Ok(false);
            }
        };
        let (text, bad) = frontmatter::decode(bytes);
        let source = Source::new(SETTINGS_FILE, text);
        let mut findings = Findings::new(&source);
        for login in proxy::logins(source.text()) {
            findings.conceal(Span { start: login.start, end: login.end });
        }
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
                let guard = Guard {
                    base: &self.path,
                    home: self.options.home.as_deref(),
                    trees: &self.trees,
                    search_path: self.options.search_path.as_deref(),
                    trust: &self.trust,
                    sources: RefCell::default(),
                };
                self.settings = agent::settings(&section, &guard, &mut findings);
                self.settings_sources = guard.sources.into_inner();
            }
        }
        let holds = !findings.has_errors();
        self.diagnostics.extend(findings.finish());
        Ok(holds)
    }

    /// A file of the tree, or what is to be read in its place.
    fn content(&self, dir: &Dir, folder: &str, name: &OsStr) -> Result<(Vec<u8>, Stat), ReadError> {
        let (bytes, stat) = dir.read(name, MAX_MANIFEST)?;
        let instead = match self.options.instead.is_empty() {
            true => None,
            false => self.options.instead.get(&Path::new(folder).join(name)),
        };
        Ok((instead.cloned().unwrap_or(bytes), stat))
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
            let found = match self.content(&dir, BOTTLES, &file_name) {
                Err(error) => vec![unreadable(&file, &error)],
                Ok((bytes, stat)) => {
                    let (text, bad) = frontmatter::decode(bytes);
                    let source = Source::new(&file, text);
                    let mut findings = Findings::new(&source);
                    let lies = self.own_file(&base.join(&file_name), &stat);
                    let home = self.options.home.as_deref();
                    let guard = Guard {
                        base: &base,
                        home,
                        trees: &self.trees,
                        search_path: self.options.search_path.as_deref(),
                        trust: &self.trust,
                        sources: RefCell::default(),
                    };
                    let inputs = &mut self.inputs;
                    let bottle = parse(bad, &bottle::TABLE, &mut findings, |section, findings| {
                        bottle::read(section, &guard, inputs, findings)
                    });
                    let holds = !findings.has_errors();
                    let mut found = findings.finish();
                    match (bottle.filter(|_| holds), lies) {
                        (_, Err(exposed)) => found.insert(0, changed_by_others(&file, &exposed)),
                        (Some((mut bottle, _)), Ok(lies)) => {
                            bottle.sources.extend(outside(&self.path, &file, lies, &self.trust));
                            read = Ok(Arc::new(bottle));
                        }
                        (None, Ok(_)) => {}
                    }
                    found
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
        self.told.values_mut().for_each(|agents| {
            agents.remove(&id);
        });
        self.sandboxes.remove(&id);
        self.held.remove(&id);
        self.renamed.remove(&id);
        let mut spec = None;
        let mut said = Underlying { bottle: None, suspend: false };
        let read = match origin.overlay {
            // Of a project nothing is edited.
            Some(_) => dir.read(file_name, MAX_MANIFEST),
            None => self.content(dir, AGENTS, file_name),
        };
        let found = match read {
            Err(error) => vec![unreadable(&file, &error)],
            Ok((bytes, stat)) => {
                let (text, bad) = frontmatter::decode(bytes);
                let source = Source::new(&file, text);
                let mut findings = Findings::new(&source);
                let folder = match origin.overlay {
                    Some(overlay) => Path::new(overlay).join(AGENTS),
                    None => self.path.join(AGENTS),
                };
                let lies = self.own_file(&folder.join(file_name), &stat);
                let read = parse(bad, &agent::TABLE, &mut findings, |section, findings| {
                    agent::read(section, findings)
                });
                let mut was = None;
                if let Some((agent, body)) = read {
                    said.bottle = agent.bottle.as_ref().map(|bottle| bottle.name.clone());
                    said.suspend = agent.suspend;
                    renamed::check(&id, agent.was.as_ref(), &mut findings);
                    was = Some(agent.was.clone());
                    for key in &agent.told {
                        self.told.entry(key).or_default().insert(id.clone());
                    }
                    let prompt = source.text()[body].trim();
                    spec = self.resolve(&id, agent, prompt, origin, &mut findings);
                }
                spec = spec.filter(|_| !findings.has_errors());
                let was = was.unwrap_or_else(|| renamed::scan(&source));
                if let Some((name, span)) = was.filter(|(name, _)| *name != id) {
                    let said = renamed::Said::new(&source, name, span, origin.overlay);
                    self.renamed.insert(id.clone(), said);
                }
                let mut found = findings.finish();
                match (lies, &mut spec) {
                    (Err(exposed), spec) => {
                        *spec = None;
                        found.insert(0, changed_by_others(&file, &exposed));
                    }
                    (Ok(lies), Some(spec)) => {
                        let top = origin.overlay.map_or(self.path.as_path(), Path::new);
                        spec.sources.extend(outside(top, &file, lies, &self.trust));
                    }
                    (Ok(_), None) => {}
                }
                found
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
        let mut skill_sources = Vec::new();
        let own_skills = origin.overlay.is_none();
        for named in &agent.skills {
            match self.skill(&named.name, own_skills) {
                Ok((files, lies)) => {
                    skills.insert(named.name.clone(), files);
                    let file = findings.source().name();
                    let source = outside(&self.path, file, lies, &self.trust);
                    skill_sources.extend(source.map(|source| HostSource {
                        field: format!("skills.{}", named.name),
                        ..source
                    }));
                }
                Err(reason) => {
                    let message = format!("the skill `{}` cannot be used: {reason}", named.name);
                    let problem = Problem::error(named.span, message)
                        .field(&At::Key(&At::Root, "skills"))
                        .hint(match own_skills {
                            true => format!(
                                "looked for skills/{0}/ in the tree, then ~/.claude/skills/{0}/",
                                named.name
                            ),
                            false => format!(
                                "looked for skills/{}/ in your own tree: a project's agent has no \
                                 other skills",
                                named.name
                            ),
                        });
                    findings.add(problem);
                }
            }
        }
        let (name, bottle) = bottle?;
        let enforced = bottle.policy.needs_sidecar();
        let asks = bottle
            .policy
            .supervise
            .then(|| Asks::of(bottle.image.as_ref(), &bottle.resources, bottle.workspace.as_ref()));
        let policy = Policy { asks, ..bottle.policy.clone() };
        let gate = GateSpec::of(id, &bottle.policy);
        let leads = enforced || gate.is_some();
        let mut sources = bottle.sources.clone();
        sources.extend(skill_sources);
        sources.extend(self.settings_sources.iter().filter(|_| enforced).cloned());
        let overlay = origin.overlay.and(self.ways.get(1));
        for (field, way) in [("the tree", self.ways.first()), ("the overlay", overlay)] {
            let Some(way) = way else { continue };
            sources.push(HostSource {
                field: field.to_owned(),
                ..manifest_source(findings.source().name(), way.clone(), &self.trust)
            });
        }
        Some(SandboxSpec {
            id: id.clone(),
            host_name: id.clone(),
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
            tools: bottle.tools.clone(),
            setup: bottle.setup.clone(),
            sources,
            env: bottle.env.clone(),
            asked_env: bottle.asked_env.clone(),
            resources: bottle.resources,
            workspace: bottle.workspace.clone(),
            keep: bottle.keep.clone(),
            user: bottle.user.clone(),
            policy: policy.clone(),
            command: agent.command,
            restart: agent.restart,
            network: leads.then(|| NetworkSpec {
                sandbox: id.clone(),
                fields: Fields::default(),
                pool: self.settings.network_pool.clone(),
            }),
            sidecar: leads.then(|| SidecarSpec {
                sandbox: id.clone(),
                fields: Fields::default(),
                policy: Arc::new(policy.clone()),
                // One that lets nothing but git through dials nobody.
                proxy: self.settings.proxy.clone().filter(|_| enforced),
            }),
            gate,
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
                findings.add(fail(message).hint(format!("see {pointer}")).cause(&file.file));
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

    /// The files of a skill, read once. A project's agents get those of the tree only: what else
    /// the operator has is nothing that a project may hand on.
    fn skill(&mut self, name: &str, own: bool) -> Skill {
        let key = (name.to_owned(), own);
        if let Some(known) = self.skills.get(&key) {
            return known.clone();
        }
        let home = self.options.home.as_ref().filter(|_| own);
        let own = home.map(|home| home.join(".claude").join(SKILLS).join(name));
        let places = [Some(self.path.join(SKILLS).join(name)), own];
        let mut read = Err("there is no such folder".to_owned());
        for place in places.into_iter().flatten() {
            match skill::read(&place, &self.trust) {
                Err(skill::SkillError::Missing) => {}
                Ok(files) => {
                    read = match self.trust.walk(&place) {
                        Ok(walked) => Ok((Arc::new(files), walked)),
                        Err(error) => Err(tree::describe(&error)),
                    };
                    break;
                }
                Err(error) => {
                    read = Err(error.to_string());
                    break;
                }
            }
        }
        self.skills.insert(key, read.clone());
        read
    }

    /// Where a file of the tree lies, when nobody but the operator can change it or what leads to it.
    fn own_file(&self, path: &Path, stat: &Stat) -> Result<Walked, Exposed> {
        let walked = self.trust.walk(path).map_err(|error| Exposed {
            path: path.to_owned(),
            who: format!("cannot be looked at: {}", tree::describe(&error)),
            mend: "look again".to_owned(),
        })?;
        match walked.exposed.clone().or_else(|| self.trust.own(&walked.path, stat)) {
            Some(exposed) => Err(exposed),
            None => Ok(walked),
        }
    }
}

/// A folder that others can change, or put another one in the place of, is no tree.
fn trusted(trust: &Trust, path: &Path, what: &'static str) -> Result<Walked, LoadError> {
    let look = || -> std::io::Result<(Walked, Option<Exposed>)> {
        let walked = trust.walk(path)?;
        let stat = tree::stat_link(&walked.path)?;
        let exposed = walked.exposed.clone().or_else(|| trust.own(&walked.path, &stat));
        Ok((walked, exposed))
    };
    match look() {
        Ok((walked, None)) => Ok(walked),
        Ok((_, Some(Exposed { path, who, mend }))) => {
            Err(LoadError::Untrusted { what, path, who, mend })
        }
        Err(error) => {
            Err(LoadError::Tree { path: path.to_owned(), reason: tree::describe(&error) })
        }
    }
}

/// Says that others can change a file of the tree.
fn changed_by_others(file: &str, exposed: &Exposed) -> Diagnostic {
    let shown = shorten_path(&exposed.path);
    let message = format!("others can change this file: `{shown}` {}", exposed.who);
    Diagnostic::error(file, message).with_hint(exposed.mend.clone())
}

/// What a manifest is read from, where it lies outside its tree, which is a source by itself, or a
/// link outside leads to it.
fn outside(top: &Path, file: &str, lies: Walked, trust: &Trust) -> Option<HostSource> {
    let outside = |path: &PathBuf| !path.starts_with(top);
    let any = outside(&lies.path) || lies.via.iter().any(outside);
    any.then(|| manifest_source(file, lies, trust))
}

fn manifest_source(file: &str, lies: Walked, trust: &Trust) -> HostSource {
    let mut source = HostSource {
        field: "this file".to_owned(),
        text: lies.path.display().to_string(),
        base: None,
        path: lies.path,
        via: lies.via,
        usage: Use::Define,
        place: Place { file: file.to_owned(), line: 0, column: 0 },
        located: Located::default(),
    };
    source.locate(&trust.mounts);
    source
}

/// Says once for the whole tree which limits of Claude Code's stand in its files and are not kept, and which
/// keys nobody reads.
fn told(found: &BTreeMap<&'static str, BTreeSet<SandboxId>>) -> Vec<Diagnostic> {
    let (limits, idle): (Vec<_>, Vec<_>) = found
        .iter()
        .filter(|(_, who)| !who.is_empty())
        .partition(|(key, _)| agent::NOT_ENFORCED.contains(key));
    let say = |found: Vec<(&&'static str, &BTreeSet<SandboxId>)>, what: &dyn Fn(&str) -> String| {
        /// So many agents are named.
        const NAMED: usize = 2;
        let keys: Vec<String> = found.iter().map(|(key, _)| format!("`{key}`")).collect();
        let agents: BTreeSet<&SandboxId> = found.iter().flat_map(|(_, who)| who.iter()).collect();
        let mut who: Vec<String> = agents.iter().take(NAMED).map(ToString::to_string).collect();
        if agents.len() > NAMED {
            who.push(format!("{} more", agents.len() - NAMED));
        }
        let message = format!("{}: {}", what(&keys.join(", ")), who.join(", "));
        (!keys.is_empty()).then(|| Diagnostic::warning(AGENTS, message))
    };
    let limits = say(limits, &|keys| format!("`bottle` does not enforce Claude Code's {keys}"));
    let idle = say(idle, &|keys| format!("neither Claude Code nor `bottle` reads {keys}"));
    let why = "Claude Code itself applies them; the sandbox is limited by its bottle";
    let limits = limits.map(|found| found.with_hint(why));
    let idle =
        idle.map(|found| found.with_hint("they mean nothing here; remove them, or leave them"));
    limits.into_iter().chain(idle).collect()
}

fn tree(path: PathBuf, settings: Settings) -> Tree {
    let owner = settings.name.unwrap_or_else(|| owner_of(&path));
    let Settings { network_pool, snapshots, proxy, notify, .. } = settings;
    Tree { owner, path, network_pool, snapshots, proxy, notify }
}

/// The owner of a tree that has no name: `t` and twelve digits of a digest of its path.
fn owner_of(path: &Path) -> OwnerId {
    use std::os::unix::ffi::OsStrExt;
    let digest = SpecHash::of_bytes(path.as_os_str().as_bytes()).short();
    OwnerId::new(format!("t{digest}")).expect("a letter and hexadecimal digits are a name")
}
