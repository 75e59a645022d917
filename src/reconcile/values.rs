//! Where asked-for values come from: the `--env-file`, else `BOTTLE_ENV_<NAME>`, else whoever can
//! be asked. They are never written to a disk.
#![expect(clippy::disallowed_methods, reason = "reads the environment and the --env-file")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use zeroize::Zeroizing;

use super::state::State;
use crate::apply::{Secret, Secrets};
use crate::model::Desired;

/// Where to look for values, in this order.
#[derive(Default)]
pub struct Sources {
    /// `--env-file`.
    pub env_file: Option<EnvFile>,
    /// Values that a person typed.
    pub typed: BTreeMap<String, Zeroizing<String>>,
}

type Values = BTreeMap<String, Zeroizing<String>>;

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

    /// Reads it on a thread of its own: a pipe may have nobody who writes to it.
    async fn read(&self) -> anyhow::Result<Values> {
        let (path, once) = (self.path.clone(), self.once.clone());
        let read = move || {
            let mut once = once.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(values) = &*once {
                return Ok(values.clone());
            }
            let values = read_env_file(&path)?;
            if !std::fs::metadata(&path).is_ok_and(|found| found.is_file()) {
                *once = Some(values.clone());
            }
            Ok(values)
        };
        tokio::task::spawn_blocking(read).await.context("reading the --env-file")?
    }
}

/// The values that are at hand of those that the tree asks for.
///
/// # Errors
/// When the `--env-file` cannot be read or holds a line that is not `NAME=value`; or when a value
/// holds a NUL byte, which no environment can.
pub async fn gather(
    desired: &Desired,
    sources: &Sources,
    state: &State,
) -> anyhow::Result<Secrets> {
    let names: BTreeSet<&String> =
        desired.sandboxes.values().flat_map(|spec| &spec.asked_env).collect();
    if names.is_empty() {
        return Ok(Secrets::default());
    }
    let mut from_file = match &sources.env_file {
        Some(file) => file.read().await?,
        None => BTreeMap::new(),
    };
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
fn read_env_file(path: &Path) -> anyhow::Result<Values> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.with_context(|| format!("reading the --env-file {}", path.display()))?;
    parse_env_file(&text).with_context(|| format!("in the --env-file {}", path.display()))
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
        let value = ['"', '\'']
            .iter()
            .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
            .unwrap_or(value);
        values.insert(name.trim().to_owned(), Zeroizing::new(value.to_owned()));
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
        assert_eq!(file.read().await.unwrap()["A"].as_str(), "1");
        std::fs::write(&path, "A=2").unwrap();
        assert_eq!(file.read().await.unwrap()["A"].as_str(), "2");

        let (read, mut write) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut write, b"A=3\n").unwrap();
        drop(write);
        let number = std::os::fd::AsRawFd::as_raw_fd(&read);
        let pipe = EnvFile::new(format!("/proc/self/fd/{number}").into());
        for _ in 0..2 {
            assert_eq!(pipe.read().await.unwrap()["A"].as_str(), "3");
        }
    }

    #[test]
    fn a_bad_line_is_named_and_not_shown() {
        let error = parse_env_file("A=1\nhunter2\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
    }
}
