//! `image: {build: DIR, args: {…}}`: a folder with a Dockerfile, of which the engine builds the image.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::field::{Field, shorten};
use super::guard::Guard;
use super::host;
use super::inputs::{self, Inputs};
use super::keys::{Key, Shape, Table};
use super::source::{Findings, Problem, shorten_path};
use super::tree::{self, Dir, Kind, Links, ReadError, Stat};
use super::trust::Trust;
use crate::model::build::{Content, DOCKERFILE, IGNORE, Ignore, MOST_BYTES, MOST_TEXT, Part};
use crate::model::{ImageRef, SpecHash, Use};

/// The keys of `image`, where it is built.
pub(super) static TABLE: Table = Table {
    what: "`image`",
    keys: &[
        Key::required("build", Shape::Text(None), "the folder that holds the Dockerfile"),
        Key::new(
            "args",
            Shape::Names { key: host::ENV_NAME, value: &Shape::Text(None) },
            "values for the `ARG`s of the Dockerfile; they stay readable in the image",
        ),
    ],
    removed: &[],
    instead: &[
        ("context", "write `build: ./FOLDER`"),
        ("dockerfile", "the file is called `Dockerfile`, in the folder that `build` names"),
        ("target", "the last stage of the Dockerfile is built"),
    ],
};

/// Deepest nesting of folders.
const MAX_DEPTH: usize = 64;

/// Most files and folders.
const MAX_ENTRIES: usize = 100_000;

/// Reads it, with the digest of all that the engine would be sent.
pub(super) fn read(
    field: &Field<'_>,
    guard: &Guard<'_>,
    inputs: &mut Inputs,
    findings: &mut Findings<'_>,
) -> Option<ImageRef> {
    let section = field.section(&TABLE, findings)?;
    let args = section.get("args").map(|args| read_args(&args, findings)).unwrap_or_default();
    let field = section.get("build")?;
    let named = guard.path(&field, findings)?;
    let shown = shorten_path(&named);
    let hint = "name a folder with a Dockerfile in it";
    let path = match guard.resolve(&field, &named, Use::Define, findings) {
        Ok(path) => path,
        Err(error) => {
            let message = format!("`{shown}`: {}", tree::describe(&error));
            findings.add(field.error(message).hint(hint));
            return None;
        }
    };
    if let Some(reason) = guard.refuses_image(&path) {
        let reason = reason.replace("that is no root file system", "name a folder of its own");
        findings.add(field.error(format!("`{}` {reason}", shorten_path(&path))));
        return None;
    }
    match inputs.context(&path, guard.trust) {
        Ok(content) => Some(ImageRef::built(path, args, content)),
        Err(error) => {
            findings.add(field.error(format!("`{shown}`: {error}")).hint(hint));
            None
        }
    }
}

fn read_args(field: &Field<'_>, findings: &mut Findings<'_>) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for entry in field.entries(findings).unwrap_or_default() {
        let value = field.entry(entry);
        if !host::is_env_name(&entry.key) {
            let message = format!("`{}` cannot name an argument", shorten(&entry.key));
            let problem = Problem::error(entry.key_span, message).field(&value.at);
            findings.add(problem.hint("expected letters, digits and `_`, not a digit first"));
            continue;
        }
        match value.text(findings) {
            Some("?") => findings.add(
                value
                    .error("the value of an argument is not asked for: it would stay in the image")
                    .hint("give the agent a secret by `cred_proxy.routes` or `env`"),
            ),
            Some(text) => {
                args.insert(entry.key.clone(), text.to_owned());
            }
            None => {}
        }
    }
    args
}

/// What a file or folder of it is, to whoever visits.
pub(super) type Visit<'v> = dyn FnMut(&Dir, &OsStr, &[u8], &Stat) -> Result<(), ReadError> + 'v;

/// A folder that an image is built of.
pub(super) struct Context<'a> {
    path: &'a Path,
    root: Dir,
    ignore: Ignore,
    trust: &'a Trust,
}

impl<'a> Context<'a> {
    pub(super) fn open(path: &'a Path, trust: &'a Trust) -> Result<Self, ReadError> {
        let root = Dir::open(path, Links::Follow)?.with_links(Links::Refuse);
        let refused = |what: String| ReadError::Refused(what);
        if let Err(error) = root.read(OsStr::new(DOCKERFILE), MOST_TEXT) {
            return Err(match error.is_not_found() {
                true => refused(format!("there is no {DOCKERFILE} in it")),
                false => refused(format!("{DOCKERFILE}: {error}")),
            });
        }
        let ignore = match root.read(OsStr::new(IGNORE), MOST_TEXT) {
            Ok((bytes, _)) => Ignore::parse(&String::from_utf8_lossy(&bytes))
                .map_err(|error| refused(format!("{IGNORE} {error}")))?,
            Err(error) if error.is_not_found() => Ignore::default(),
            Err(error) => return Err(refused(format!("{IGNORE}: {error}"))),
        };
        Ok(Self { path, root, ignore, trust })
    }

    /// Visits all that is sent, in the order of names, a folder before what is in it.
    pub(super) fn visit(&self, visit: &mut Visit<'_>) -> Result<(), ReadError> {
        let mut seen = Seen::default();
        self.folder(&self.root, &mut Vec::new(), 0, &mut seen, visit)
    }

    fn folder(
        &self,
        dir: &Dir,
        path: &mut Vec<u8>,
        depth: usize,
        seen: &mut Seen,
        visit: &mut Visit<'_>,
    ) -> Result<(), ReadError> {
        if depth > MAX_DEPTH {
            return Err(ReadError::Refused(format!("more than {MAX_DEPTH} folders deep")));
        }
        let length = path.len();
        for name in dir.names().map_err(|error| at(path, &tree::describe(&error)))? {
            path.truncate(length);
            if length > 0 {
                path.push(b'/');
            }
            path.extend(name.as_bytes());
            let left_out = self.ignore.leaves_out(path);
            if left_out && !self.ignore.has_exceptions() {
                continue;
            }
            let io = |path: &[u8], error: io::Error| at(path, &tree::describe(&error));
            let stat = dir.stat_entry(&name).map_err(|error| io(path, error))?;
            if left_out && stat.kind == Kind::Folder {
                self.own(path, &stat)?;
            }
            if !left_out {
                self.check(path, &stat, seen)?;
                visit(dir, &name, path, &stat).map_err(|error| at(path, &error.to_string()))?;
            }
            if stat.kind == Kind::Folder {
                let inner = dir.open_dir(&name).map_err(|error| io(path, error))?;
                self.folder(&inner, path, depth + 1, seen, visit)?;
            }
        }
        path.truncate(length);
        Ok(())
    }

    fn check(&self, path: &[u8], stat: &Stat, seen: &mut Seen) -> Result<(), ReadError> {
        let less = format!("name in {IGNORE} what is not needed");
        seen.entries += 1;
        if seen.entries > MAX_ENTRIES {
            let most = format!("it holds more than {MAX_ENTRIES} files: {less}");
            return Err(ReadError::Refused(most));
        }
        match stat.kind {
            Kind::Folder | Kind::Symlink => {}
            Kind::File => {
                seen.bytes = seen.bytes.saturating_add(stat.size);
                if seen.bytes > MOST_BYTES {
                    let most = format!("it holds more than {} GiB: {less}", MOST_BYTES >> 30);
                    return Err(ReadError::Refused(most));
                }
            }
            other => return Err(at(path, &format!("it is {}; {less}", other.describe()))),
        }
        self.own(path, stat)
    }

    /// What others can change is not what the operator wrote; nor is what lies in a folder that they can change.
    fn own(&self, path: &[u8], stat: &Stat) -> Result<(), ReadError> {
        match self.trust.own(&self.path.join(OsStr::from_bytes(path)), stat) {
            Some(found) => {
                let what = format!("others can change it: it {} ({})", found.who, found.mend);
                Err(at(path, &what))
            }
            None => Ok(()),
        }
    }

    /// The digest of all that is sent.
    pub(super) fn digest(&self) -> Result<SpecHash, ReadError> {
        let mut content = Content::default();
        self.visit(&mut |dir, name, path, stat| {
            match stat.kind {
                Kind::File => {
                    let (file, stat) = dir.open_file(name)?;
                    content.add(path, stat.mode, Part::File(inputs::stream(file)?));
                }
                Kind::Symlink => {
                    content.add(path, 0, Part::Symlink(dir.read_link(name)?.as_bytes()));
                }
                _ => content.add(path, stat.mode, Part::Folder),
            }
            Ok(())
        })?;
        Ok(content.digest())
    }
}

#[derive(Default)]
struct Seen {
    entries: usize,
    bytes: u64,
}

fn at(path: &[u8], what: &str) -> ReadError {
    ReadError::Refused(format!("{}: {what}", String::from_utf8_lossy(path)))
}
