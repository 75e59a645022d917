//! Where asked-for values come from: the `--env-file`, else `BOTTLE_ENV_<NAME>`, else whoever can
//! be asked. They are never written to a disk.
#![expect(clippy::disallowed_methods, reason = "reads the environment and the --env-file")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use zeroize::Zeroizing;

use super::state::State;
use super::tokens::Hung;
use crate::apply::{Secret, Secrets};
use crate::manifest;
use crate::model::{Desired, HostSource, Observed, SandboxSpec};
use crate::plan;

/// Where to look for values, in this order.
#[derive(Default)]
pub struct Sources {
    /// `--env-file`.
    pub env_file: Option<EnvFile>,
    /// Values that a person typed.
    pub typed: BTreeMap<String, Zeroizing<String>>,
    /// Commands that gave no token in time.
    pub hung: Hung,
}

/// Values by name.
pub(super) type Values = BTreeMap<String, Zeroizing<String>>;

/// An `--env-file`. A regular file is read on every look, so that a changed value is delivered; a
/// pipe (`--env-file <(pass show …)`) yields its content once, which is then kept.
pub struct EnvFile {
    path: PathBuf,
    once: Arc<Mutex<Option<Values>>>,
}

impl EnvFile {
    /// The file at this path. Nothing is read yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, once: Arc::default() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it leads to, if nobody but the operator and root can change what is read.
    ///
    /// # Errors
    /// When it cannot be looked at, or others can change it.
    pub(super) fn judge(&self) -> anyhow::Result<HostSource> {
        let judged = manifest::operators_file("--env-file", &self.path);
        judged.with_context(|| format!("reading the --env-file {}", self.path.display()))
    }

    /// Reads what was judged, on a thread of its own: a pipe may have nobody who writes to it.
    async fn read(&self, judged: PathBuf) -> anyhow::Result<Values> {
        let (path, once) = (self.path.clone(), self.once.clone());
        let read = move || {
            let mut once = once.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(values) = &*once {
                return Ok(values.clone());
            }
            let values = read_env_file(&path, &judged)?;
            if !std::fs::metadata(&judged).is_ok_and(|found| found.is_file()) {
                *once = Some(values.clone());
            }
            Ok(values)
        };
        tokio::task::spawn_blocking(read).await.context("reading the --env-file")?
    }
}

/// The `--env-file`, if it is one that no sandbox can write.
///
/// # Errors
/// When it is one that others can change.
pub(super) fn trusted<'a>(
    sources: &'a Sources,
    desired: &Desired,
    observed: &Observed,
) -> anyhow::Result<Option<(&'a EnvFile, PathBuf)>> {
    let Some(file) = &sources.env_file else { return Ok(None) };
    let source = file.judge()?;
    let writer =
        plan::sources::writer_of(&source, desired, &observed.accepted, &observed.elsewhere);
    if let Some(writer) = writer {
        anyhow::bail!("the --env-file {} {writer}; move it out of there", file.path.display());
    }
    Ok(Some((file, source.path)))
}

/// What the `--env-file` says, where the tree asks for a value or a token.
///
/// # Errors
/// When it cannot be read, or holds a line that is not `NAME=value`.
pub(super) async fn read(
    desired: &Desired,
    trusted: Option<(&EnvFile, PathBuf)>,
) -> anyhow::Result<Values> {
    let asks = |spec: &SandboxSpec| {
        let proxy = spec.sidecar.as_ref().and_then(|sidecar| sidecar.proxy.as_ref());
        let login = proxy.is_some_and(|proxy| proxy.login.name().is_some());
        login || !spec.asked_env.is_empty() || !spec.policy.routes.is_empty()
    };
    let asked = desired.sandboxes.values().any(asks);
    // A mistake in a file is told before anybody needs it. A pipe may have nobody who writes to it.
    let is_file = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.is_file());
    match trusted.filter(|(_, judged)| asked || is_file(judged)) {
        Some((file, judged)) => file.read(judged).await,
        None => Ok(Values::new()),
    }
}

/// Says what is wrong with an `--env-file`, whoever needs it.
///
/// # Errors
/// When others can change it, it cannot be read, or it holds a line that is not `NAME=value`.
pub async fn check_env_file(path: PathBuf) -> anyhow::Result<()> {
    let file = EnvFile::new(path);
    let judged = file.judge()?.path;
    file.read(judged).await.map(drop)
}

/// The values that are at hand of those that the tree asks for; `from_file` is what the `--env-file` says.
///
/// # Errors
/// When a value holds a NUL byte, which no environment can, or is not UTF-8.
pub(super) fn gather(
    desired: &Desired,
    sources: &Sources,
    mut from_file: Values,
    state: &State,
) -> anyhow::Result<Secrets> {
    let names: BTreeSet<&String> =
        desired.sandboxes.values().flat_map(|spec| &spec.asked_env).collect();
    let mut secrets = Secrets::default();
    for name in names {
        let value = match from_file.remove(name) {
            Some(value) => Some(value),
            None => match std::env::var(format!("BOTTLE_ENV_{name}")) {
                Ok(value) => Some(Zeroizing::new(value)),
                Err(std::env::VarError::NotPresent) => sources.typed.get(name).cloned(),
                Err(std::env::VarError::NotUnicode(_)) => {
                    anyhow::bail!("the value of BOTTLE_ENV_{name} is not UTF-8")
                }
            },
        };
        if let Some(value) = value {
            anyhow::ensure!(!value.contains('\0'), "the value of {name} holds a NUL byte");
            let digest = state.digest(name, &value);
            secrets.0.insert(name.clone(), Secret { value, digest });
        }
    }
    Ok(secrets)
}

/// Lines of `NAME=value`; empty lines and those that begin with `#` are skipped. The value is what
/// stands after the first `=`, as it stands; one pair of surrounding quotes is taken off.
fn read_env_file(path: &Path, judged: &Path) -> anyhow::Result<Values> {
    let text = open(judged).and_then(std::io::read_to_string).map(Zeroizing::new);
    let text = text.with_context(|| format!("reading the --env-file {}", path.display()))?;
    parse_env_file(&text).with_context(|| format!("in the --env-file {}", path.display()))
}

/// Opens what was judged: no link that came since is followed.
fn open(judged: &Path) -> std::io::Result<File> {
    let links = if manifest::is_descriptor(judged) { 0 } else { libc::O_NOFOLLOW };
    File::options().read(true).custom_flags(links).open(judged)
}

fn parse_env_file(text: &str) -> anyhow::Result<Values> {
    let mut values = BTreeMap::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        // The line itself may be a secret: it is never shown.
        let Some((name, value)) = line.split_once('=') else {
            anyhow::bail!("line {}: expected NAME=value, found no `=`", index + 1);
        };
        let name = name.trim();
        anyhow::ensure!(
            !name.is_empty() && !name.contains(char::is_whitespace),
            "line {}: expected NAME=value, and what stands before the `=` is no name",
            index + 1
        );
        let value = ['"', '\'']
            .iter()
            .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
            .unwrap_or(value);
        values.insert(name.to_owned(), Zeroizing::new(value.to_owned()));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_are_parsed() {
        let values = parse_env_file("# c\n\nA=1\nexport B=\"x y\"\nC='a=b'\nD=\n").unwrap();
        let plain: Vec<(&str, &str)> =
            values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(plain, [("A", "1"), ("B", "x y"), ("C", "a=b"), ("D", "")]);
    }

    /// The example of the manifest reference, and what stands below it.
    #[test]
    fn env_files_are_read_as_the_manual_says() {
        let manual = include_str!("../../docs/manifest.md");
        let (_, rest) = manual.split_once("An env file has a line").unwrap();
        let (_, rest) = rest.split_once("```text\n").unwrap();
        let (example, rules) = rest.split_once("```").unwrap();
        let values = parse_env_file(example).unwrap();
        let plain = |values: &Values| -> Vec<(String, String)> {
            let pairs = values.iter();
            pairs.map(|(name, value)| (name.clone(), value.as_str().to_owned())).collect()
        };
        let expected = [("API_KEY", "abc#1=2"), ("EMPTY", ""), ("GREETING", "hello $USER")];
        assert_eq!(plain(&values), expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        for rule in ["blanks", "the last counts", "A line without `=` is an error"] {
            assert!(rules.contains(rule), "{rule}");
        }
        let more = "  A = x \nB=\"one\"two\"\nC='it's'\nD=\"half\nE=a\\nb\nF=1\nF=2\n";
        let more = plain(&parse_env_file(more).unwrap());
        let expected = [
            ("A", " x "),
            ("B", "one\"two"),
            ("C", "it's"),
            ("D", "\"half"),
            ("E", "a\\nb"),
            ("F", "2"),
        ];
        assert_eq!(more, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }

    #[test]
    fn a_line_that_is_no_value_is_refused_and_not_shown() {
        for (text, line) in [
            ("A=1\nhunter2\n", 2),
            ("# c\n\nAPI KEY=hunter2\n", 3),
            ("API_KEY: x=hunter2\n", 1),
            ("=hunter2\n", 1),
            ("set A=hunter2\n", 1),
        ] {
            let error = parse_env_file(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("line {line}: expected NAME=value")), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_editors_mark_and_line_ends_are_no_part_of_a_name_or_value() {
        let values = parse_env_file("\u{feff}A=1\r\nB=2\r\n").unwrap();
        assert_eq!((values["A"].as_str(), values["B"].as_str()), ("1", "2"));
    }

    #[tokio::test]
    async fn a_pipe_is_read_once_and_a_file_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        std::fs::write(&path, "A=1").unwrap();
        let file = EnvFile::new(path.clone());
        let read = async |file: &EnvFile| file.read(file.judge().unwrap().path).await.unwrap();
        assert_eq!(read(&file).await["A"].as_str(), "1");
        std::fs::write(&path, "A=2").unwrap();
        assert_eq!(read(&file).await["A"].as_str(), "2");

        let (reader, mut write) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut write, b"A=3\n").unwrap();
        drop(write);
        let number = std::os::fd::AsRawFd::as_raw_fd(&reader);
        let pipe = EnvFile::new(format!("/proc/self/fd/{number}").into());
        for _ in 0..2 {
            assert_eq!(read(&pipe).await["A"].as_str(), "3");
        }
    }

    #[test]
    fn a_file_that_others_can_change_is_no_source() {
        use std::os::unix::fs::{PermissionsExt, chown, symlink};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        let file = EnvFile::new(path.clone());
        std::fs::write(&path, "A=1").unwrap();
        let mode = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let refused = |file: &EnvFile, what: &str| {
            let error = format!("{:#}", file.judge().unwrap_err());
            assert!(error.contains("--env-file") && error.contains(what), "{error}");
        };
        mode(&path, 0o600);
        file.judge().unwrap();
        mode(&path, 0o666);
        refused(&file, "chmod o-w");
        mode(&path, 0o644);
        let open = folder.path().join("open");
        std::fs::create_dir(&open).unwrap();
        symlink(&path, open.join("link")).unwrap();
        mode(&open, 0o777);
        refused(&EnvFile::new(open.join("link")), "can be written by everyone");
        mode(&open, 0o755);
        EnvFile::new(open.join("link")).judge().unwrap();
        // A link to what this process has open is judged where it stands.
        symlink("/proc/self/fd/0", open.join("fd")).unwrap();
        mode(&open, 0o777);
        refused(&EnvFile::new(open.join("fd")), "can be written by everyone");
        // And so is a file that was opened before, by whatever name.
        std::fs::write(open.join("env"), "A=1").unwrap();
        let opened = std::fs::File::open(open.join("env")).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&opened);
        refused(&EnvFile::new(format!("/proc/self/fd/{number}").into()), "open` can be written");
        if rustix::process::geteuid().is_root() {
            chown(&path, Some(4242), None).unwrap();
            refused(&file, "belongs to user 4242");
        }
        // What was judged is what is read.
        std::fs::remove_file(&path).unwrap();
        symlink("/etc/passwd", &path).unwrap();
        assert!(read_env_file(&path, &path).is_err());
    }

    #[test]
    fn a_bad_line_is_named_and_not_shown() {
        let error = parse_env_file("A=1\nhunter2\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
    }
}
