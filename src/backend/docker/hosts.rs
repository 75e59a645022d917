//! The line of a machine's `/etc/hosts` by which it finds its sidecar. The engine writes it when it starts
//! the container, and leaves it out once it has taken that off its network and put it on again.
#![expect(clippy::disallowed_methods, reason = "the engine keeps the file on this machine")]

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;

use super::engine::{Engine, Traits};
use super::labels::Set;
use super::{copy, exec};
use crate::backend::{BackendError, ExecSpec, ExecUser};
use crate::model::{FieldChange, Instance};

/// The field of a machine that lacks the line.
pub(super) const FIELD: &str = "hosts";

/// No such file is longer.
const LONGEST: u64 = 1 << 20;

/// As root, where the file cannot be written from outside: `LINE`.
const APPEND_SH: &str = r#"PATH=/usr/sbin:/usr/bin:/sbin:/bin; printf '%s\n' "$1" >>/etc/hosts"#;

/// The same to read it. What the user may write is in no path.
const READ_SH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin; cat /etc/hosts";

/// The names that the machine was made to know, each with its address.
fn wanted(set: &Set) -> impl Iterator<Item = (&str, &str)> {
    let all = set.settings.get("extra_hosts").map(String::as_str).unwrap_or_default();
    all.split_whitespace().filter_map(|entry| entry.split_once(':'))
}

/// Lines for those names that `text` does not have.
fn missing(text: &str, set: &Set) -> Vec<String> {
    let known = |name: &str, address: &str| {
        text.lines().any(|line| {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            words.next() == Some(address) && words.any(|word| word == name)
        })
    };
    let lines = wanted(set).filter(|(name, address)| !known(name, address));
    lines.map(|(name, address)| format!("{address}\t{name}")).collect()
}

/// The file as the engine keeps it, where that is on this machine.
fn path(engine: &Engine, traits: &Traits, instance: &Instance) -> Option<PathBuf> {
    engine.endpoint.socket()?;
    let root = traits.root.as_deref().map(Path::new)?;
    Some(root.join("containers").join(&instance.id.0).join("hosts"))
}

/// `None`: it cannot be read from here.
fn read(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    let file = File::open(path).ok()?;
    file.take(LONGEST).read_to_end(&mut text).ok()?;
    if text.len() as u64 == LONGEST {
        return None;
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// What a machine that runs lacks, as far as that can be seen from here.
pub(super) fn lost(
    engine: &Engine,
    traits: &Traits,
    instance: &Instance,
    set: &Set,
) -> Option<FieldChange> {
    wanted(set).next()?;
    let text = read(&path(engine, traits, instance)?)?;
    change(&missing(&text, set))
}

fn change(missing: &[String]) -> Option<FieldChange> {
    (!missing.is_empty()).then(|| FieldChange {
        path: FIELD.to_owned(),
        from: None,
        to: Some(missing.join(", ").replace('\t', " ")),
    })
}

/// The same as the engine tells it, for whoever may not read its files. That costs a call for each machine.
pub(super) async fn lost_by_engine(
    engine: &Engine,
    instance: &Instance,
    set: &Set,
) -> Option<FieldChange> {
    wanted(set).next()?;
    let traits = engine.traits().await.ok()?;
    if path(engine, &traits, instance).is_some_and(|path| read(&path).is_some()) {
        return None;
    }
    let archive = copy::copy_out(engine, instance, "/etc/hosts", LONGEST).await.ok()?;
    let mut archive = tar::Archive::new(archive.as_ref());
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    let mut text = Vec::new();
    entry.read_to_end(&mut text).ok()?;
    change(&missing(&String::from_utf8_lossy(&text), set))
}

/// Puts the lines back that are missing.
pub(super) async fn restore(
    engine: &Engine,
    instance: &Instance,
    set: &Set,
) -> Result<(), BackendError> {
    if wanted(set).next().is_none() {
        return Ok(());
    }
    let what = || format!("writing to the hosts file of {}", instance.name);
    let traits = engine.traits().await?;
    let path = path(engine, &traits, instance);
    if let Some((path, text)) = path.and_then(|path| Some((path.clone(), read(&path)?))) {
        let lines = missing(&text, set);
        if lines.is_empty() {
            return Ok(());
        }
        // In its place: another file would not be the one that is mounted inside.
        let written = OpenOptions::new().append(true).open(&path).and_then(|mut file| {
            let begin = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            file.write_all(format!("{begin}{}\n", lines.join("\n")).as_bytes())
        });
        if written.is_ok() {
            return Ok(());
        }
    }
    // The folder that it works in may be gone.
    let root = |script: [&str; 5]| {
        let workdir = Some("/".to_owned());
        ExecSpec { user: ExecUser::Root, workdir, ..ExecSpec::new(script) }
    };
    let look = root(["/bin/sh", "-c", READ_SH, "sh", ""]);
    let said = exec::exec(engine, instance, &look, Bytes::new()).await?;
    // What nobody missed is no reason to leave the rest; and of one without end the line may be anywhere.
    let missed = instance.mendable.iter().any(|change| change.path == FIELD);
    if (said.code != 0 && !missed) || said.stdout.len() as u64 >= LONGEST {
        return Ok(());
    }
    for line in missing(&String::from_utf8_lossy(&said.stdout), set) {
        let append = root(["/bin/sh", "-c", APPEND_SH, "sh", &line]);
        let said = exec::exec(engine, instance, &append, Bytes::new()).await?;
        if said.code != 0 {
            let words = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            let failed = Err(anyhow::Error::msg(words)).context("its own shell cannot");
            return failed.map_err(|error| BackendError::failed(what(), error));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(extra: &str) -> Set {
        Set {
            uid: 1000,
            gid: 1000,
            home: "/".to_owned(),
            address: None,
            image: None,
            settings: [("extra_hosts".to_owned(), extra.to_owned())].into(),
        }
    }

    #[test]
    fn a_line_that_is_gone_is_known() {
        let set = set("sidecar:198.18.7.10");
        let line = ["198.18.7.10\tsidecar"];
        for (text, lacks) in [
            ("127.0.0.1\tlocalhost\n198.18.7.10\tsidecar\n", false),
            ("198.18.7.10 other sidecar # ours", false),
            ("127.0.0.1\tlocalhost\n", true),
            ("198.18.7.11\tsidecar\n", true),
            ("# 198.18.7.10 sidecar\n198.18.7.10 sidecars\n", true),
            ("", true),
        ] {
            assert_eq!(missing(text, &set) == line, lacks, "{text}");
        }
        assert!(missing("", &self::set("")).is_empty());
    }
}
