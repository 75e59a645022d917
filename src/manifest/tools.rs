//! `tools` of a bottle: programs of the operator's `PATH`, and what of the host has to be shown for each.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::field::{Field, shorten};
use super::guard::{Guard, resolved};
use super::keys::Shape;
use super::source::{Findings, Problem, printable, shorten_path};
use super::tree::{self, Dir, Kind, Links, Stat};
use super::trust::Walked;
use crate::model::tool::{self, is_of_the_system};
use crate::model::{HostSource, Located, Place, Tool, Tools, Use};

/// What `tools` may be.
pub(super) const SHAPE: Shape = Shape::List(&Shape::Text(Some(NAME)));

/// For editors.
pub(super) const DOC: &str = "programs of your PATH, shown read-only with the folders that they need, and first on PATH \
                              inside (native `host` image)";

const NAME: &str = "^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}$";

/// More than anybody names.
const MOST: usize = 64;

/// Where a sandbox looks for programs that no bottle names.
const USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a project, or a tool's settings, has its keys in: a folder with one of these is not shown.
const KEYS: [&str; 9] =
    [".git", ".hg", ".jj", ".env", ".env.local", ".npmrc", ".netrc", ".pypirc", ".git-credentials"];

/// What starts the program that is meant, by files of its own that lie elsewhere.
const SHIMS: [&str; 6] = ["rustup", "volta-shim", "pyenv", "asdf", "mise", "rbenv"];

/// Folders of agents and keys, below the home folder: nothing in them is shown.
const SECRETS: [&str; 5] = [".ssh", ".aws", ".claude", ".codex", ".gemini"];

/// Where each program has a folder of its own, which may hold its keys.
const STATES: [&str; 4] = [".config", ".cache", ".local/share", ".local/state"];

/// A script that is run by a script, and so on.
const DEEPEST: usize = 4;

/// What is wrong with a tool, and what to do.
struct Wrong {
    what: String,
    hint: String,
}

impl Wrong {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

/// One tool, while it is looked at.
struct Search<'a> {
    guard: &'a Guard<'a>,
    host_paths: &'a [PathBuf],
    folders: BTreeSet<PathBuf>,
    /// Programs that are looked for on `PATH` by what was found.
    needs: BTreeSet<String>,
    /// What decides what the tool is.
    led: RefCell<Vec<Walked>>,
}

/// Says that `tools` is of no use with this backend or image.
pub(super) fn elsewhere(field: &Field<'_>) -> Problem {
    let message = "`tools` works with the `host` image of the native backend only";
    Problem::error(field.key_span, message).field(&field.at).hint(
        "put the programs into the image: `image: {build: ./FOLDER}` with a Dockerfile that installs them, or install \
         them by `setup:`",
    )
}

/// Reads it; `host_paths` are those of the same bottle.
pub(super) fn read(
    field: &Field<'_>,
    guard: &Guard<'_>,
    host_paths: &[PathBuf],
    findings: &mut Findings<'_>,
) -> Tools {
    let mut tools = Tools::new();
    let items = field.list(findings).unwrap_or_default();
    if items.len() > MOST {
        findings.add(field.error(format!("`tools` has {} items, and takes {MOST}", items.len())));
        return tools;
    }
    let mut needed = Vec::new();
    for (index, node) in items.iter().enumerate() {
        let item = field.item(index, node);
        let Some(name) = item.word(findings) else { continue };
        if !is_name(name) {
            let hint = "write its name, as you type it: `tools: [claude, node]`; what has no name on PATH goes \
                        into `host_paths`";
            findings.add(item.refused(name, "is not the name of a program").hint(hint));
            continue;
        }
        if tools.contains_key(name) {
            findings.add(item.warning("this program stands here twice"));
            continue;
        }
        let mut search = Search {
            guard,
            host_paths,
            folders: BTreeSet::new(),
            needs: BTreeSet::new(),
            led: RefCell::default(),
        };
        match search.tool(name) {
            Ok(program) => {
                let (line, column) = findings.source().position(item.span().start);
                let place = Place { file: findings.source().name().to_owned(), line, column };
                remember(guard, name, &search.led.take(), &place);
                needed.extend(search.needs.into_iter().map(|need| (index, name.to_owned(), need)));
                tools.insert(name.to_owned(), Tool { program, folders: search.folders });
            }
            Err(Wrong { what, hint }) => {
                findings.add(item.error(format!("`{name}` {what}")).hint(hint));
            }
        }
    }
    for (index, name, need) in needed {
        let path = guard.search_path.unwrap_or_default();
        if !tools.contains_key(&need) && !is_usual(&need, path, host_paths) {
            let names: Vec<&str> =
                tools.keys().map(String::as_str).chain([need.as_str()]).collect();
            let what =
                format!("`{name}` is run by `{}`, which the sandbox does not have", shorten(&need));
            let hint = format!("write `tools: [{}]`", names.join(", "));
            findings.add(field.item(index, &items[index]).error(what).hint(printable(&hint)));
        }
    }
    tools
}

/// What tells later whether somebody else could put another program in its place.
fn remember(guard: &Guard<'_>, name: &str, led: &[Walked], place: &Place) {
    for Walked { path, via, .. } in led {
        let mut source = HostSource {
            field: tool::field(name),
            text: path.display().to_string(),
            base: None,
            path: path.clone(),
            via: via.clone(),
            usage: Use::Define,
            place: place.clone(),
            located: Located::default(),
        };
        source.locate(&guard.trust.mounts);
        guard.sources.borrow_mut().push(source);
    }
}

fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.+-".contains(&b);
    let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 64 && text.bytes().all(inner) && text.bytes().next().is_some_and(first)
}

fn is_program(stat: &Stat) -> bool {
    stat.kind == Kind::File && stat.mode & 0o111 != 0
}

/// The first program of that name on a path of folders.
fn on_path(path: &OsStr, name: &str) -> Option<PathBuf> {
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    let mut all = folders.map(|folder| folder.join(name));
    all.find(|path| tree::stat(path).is_ok_and(|stat| is_program(&stat)))
}

/// Whether a sandbox finds the program of that name, and the same as the operator does, without any tool.
fn is_usual(name: &str, path: &OsStr, host_paths: &[PathBuf]) -> bool {
    let real = |path: PathBuf| tree::canonical(&path).ok();
    let inside = on_path(OsStr::new(USUAL), name).and_then(real);
    let own = on_path(path, name).and_then(real);
    inside.is_some_and(|inside| is_seen(&inside, host_paths) && own.is_none_or(|own| own == inside))
}

/// Whether a sandbox sees this path anyway.
fn is_seen(path: &Path, host_paths: &[PathBuf]) -> bool {
    is_of_the_system(path) || host_paths.iter().any(|shown| path.starts_with(shown))
}

impl Search<'_> {
    /// The file of a tool.
    fn tool(&mut self, name: &str) -> Result<PathBuf, Wrong> {
        let path = self.guard.search_path.unwrap_or_default();
        let Some(found) = on_path(path, name) else {
            let searched = printable(&path.to_string_lossy());
            return Err(Wrong::new(
                "is not on your PATH",
                format!(
                    "install it, or start bottle where `command -v {name}` finds it; PATH was `{searched}`"
                ),
            ));
        };
        self.gather(&found, 0)
    }

    /// Finds out what a file needs to run, and returns it without links.
    fn gather(&mut self, path: &Path, depth: usize) -> Result<PathBuf, Wrong> {
        let walked = self.walk(path)?;
        let real = walked.path.clone();
        let plain = |path: &Path| {
            path.to_str().is_some_and(|text| !text.contains(|c: char| c == ':' || c.is_control()))
        };
        if !plain(&real) {
            return Err(Wrong::new(
                format!("leads to `{}`, which cannot be shown", shorten_path(&real)),
                "expected a path in UTF-8 without `:` and control characters",
            ));
        }
        let file = real.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let shim = path.components().any(|part| part.as_os_str() == "shims");
        let other = path.file_name() != real.file_name() && SHIMS.contains(&file);
        if depth == 0 && (shim || other) {
            return Err(Wrong::new(
                format!("is `{}`, which only starts another program", shorten_path(&real)),
                "put the folder of that program first on PATH where you start bottle: `rustup which`, `pyenv which` \
                 or `mise which` say where it is",
            ));
        }
        self.led.borrow_mut().push(walked);
        if !is_seen(&real, self.host_paths) {
            let folder = self.folder_of(&real);
            if let Some(why) = self.refuses(&folder) {
                return Err(Wrong::new(
                    format!("lies in `{}`, which {why}", shorten_path(&folder)),
                    "install it where only programs are: a prefix of npm (`npm config set prefix ~/.npm-global`), \
                     `~/.local/bin`, or a folder of the system",
                ));
            }
            if !self.folders.contains(&folder) {
                let walked = self.walk(&folder)?;
                self.led.borrow_mut().push(walked);
                self.folders.insert(folder);
            }
        }
        if depth < DEEPEST {
            self.interpreter(&real, depth)?;
        }
        Ok(real)
    }

    /// Follows a path, which nobody else may be able to lead elsewhere.
    fn walk(&self, path: &Path) -> Result<Walked, Wrong> {
        let trust = self.guard.trust;
        let unseen = |error: &std::io::Error| {
            let what =
                format!("cannot be used: `{}`: {}", shorten_path(path), tree::describe(error));
            Wrong::new(what, "name a program that can be read")
        };
        let walked = trust.walk(path).map_err(|error| unseen(&error))?;
        let stat = tree::stat_link(&walked.path).map_err(|error| unseen(&error))?;
        match walked.exposed.clone().or_else(|| trust.own(&walked.path, &stat)) {
            None => Ok(walked),
            Some(exposed) => Err(Wrong::new(
                format!(
                    "is `{}`, and others can replace that: `{}` {}",
                    shorten_path(path),
                    shorten_path(&exposed.path),
                    exposed.who
                ),
                format!(
                    "only you and root may be able to change what is shown: {}, or install it elsewhere",
                    exposed.mend
                ),
            )),
        }
    }

    /// Looks at the first line of a script.
    fn interpreter(&mut self, script: &Path, depth: usize) -> Result<(), Wrong> {
        let Some(line) = first_line(script) else { return Ok(()) };
        let mut words = line.split_whitespace();
        let Some(program) = words.next() else { return Ok(()) };
        if !program.starts_with('/') {
            return Ok(());
        }
        if Path::new(program).file_name().is_some_and(|name| name == "env") {
            let assigns = |word: &&str| word.starts_with('-') || word.contains('=');
            if let Some(name) = words.find(|word| !assigns(word)) {
                self.needs.insert(name.to_owned());
            }
            return Ok(());
        }
        // What is no program runs nothing, and is not shown either.
        if tree::stat(Path::new(program)).is_ok_and(|stat| !is_program(&stat)) {
            return Ok(());
        }
        self.gather(Path::new(program), depth + 1).map(drop)
    }

    /// The smallest folder that holds a program and what it loads.
    fn folder_of(&self, program: &Path) -> PathBuf {
        let parts: Vec<&OsStr> = program.components().map(|part| part.as_os_str()).collect();
        let first = |count: usize| parts[..count.min(parts.len())].iter().collect::<PathBuf>();
        let at = |name: &str| parts.iter().position(|part| *part == name);
        let own = program.parent().unwrap_or(program);
        // Its programs load libraries of each other.
        if let Some(brew) = at(".linuxbrew") {
            return first(brew + 1);
        }
        // Packages there are links to each other.
        if let Some(pnpm) = at(".pnpm") {
            return first(pnpm);
        }
        if let Some(modules) = at("node_modules") {
            if modules == 0 || parts[modules - 1] != "lib" {
                return first(modules + 1);
            }
            let version = first(modules - 1);
            if tree::stat(&version.join("bin/node")).is_ok_and(|stat| is_program(&stat)) {
                return version;
            }
            let scoped = parts
                .get(modules + 1)
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"@"));
            return first(modules + 2 + usize::from(scoped));
        }
        let prefix = own.file_name().filter(|name| *name == "bin").and_then(|_| own.parent());
        let is_one = |prefix: &&Path| {
            let has = |name: &str| tree::stat_link(&prefix.join(name)).is_ok();
            has("lib") && self.refuses(prefix).is_none()
        };
        prefix.filter(is_one).unwrap_or(own).to_owned()
    }

    /// Why a folder is not shown, after its name.
    fn refuses(&self, folder: &Path) -> Option<String> {
        if let Some(reason) = self.guard.refuses(folder) {
            return Some(reason);
        }
        let parent = folder.parent().unwrap_or(folder);
        if parent == Path::new("/") {
            return Some("holds more than programs".to_owned());
        }
        if parent == Path::new("/home") {
            return Some("is the home folder of a user".to_owned());
        }
        if let Some(name) = KEYS.iter().find(|name| tree::stat_link(&folder.join(name)).is_ok()) {
            return Some(format!("has `{name}` in it, which may hold secrets"));
        }
        let home = self.guard.home.map(resolved).filter(|home| home != Path::new("/"))?;
        let below = folder.strip_prefix(&home).ok()?;
        if let Some(secret) = SECRETS.iter().find(|secret| below.starts_with(secret)) {
            return Some(format!("lies in `~/{secret}`, which holds secrets"));
        }
        let direct = below.components().count() == 1 && below != Path::new("bin");
        let state = STATES.iter().any(|state| {
            below.starts_with(state)
                && below.components().count() <= Path::new(state).components().count() + 1
        });
        (direct || state).then(|| "may hold secrets, and holds more than programs".to_owned())
    }
}

/// What follows `#!` in a script.
fn first_line(path: &Path) -> Option<String> {
    /// The kernel reads no more.
    const LONGEST: usize = 256;
    use std::io::Read as _;
    let (parent, name) = (path.parent()?, path.file_name()?);
    let (file, _) = Dir::open(parent, Links::Follow).ok()?.open_file(name).ok()?;
    let mut bytes = Vec::with_capacity(LONGEST);
    file.take(LONGEST as u64).read_to_end(&mut bytes).ok()?;
    let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    Some(String::from_utf8_lossy(line).trim().to_owned())
}
