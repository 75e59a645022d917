//! An older layout becomes a tree: what is sure is converted, what is not is told.
#![expect(clippy::disallowed_methods, reason = "reads the files of an older layout")]

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Map, Value};

use super::error::CliError;
use super::init::File;
use crate::model::SandboxId;

/// The file of the older layout.
const OLD_FILE: &str = "claude-bottle.json";

/// Keys of a bottle, and of an agent, that mean what they meant.
const BOTTLE_KEYS: [&str; 12] = [
    "backend",
    "image",
    "host_paths",
    "env",
    "resources",
    "workspace",
    "user",
    "git",
    "cred_proxy",
    "egress",
    "supervise",
    "overlay",
];
const AGENT_KEYS: [&str; 10] = [
    "bottle",
    "skills",
    "command",
    "restart",
    "run",
    "suspend",
    "name",
    "description",
    "model",
    "color",
];

/// Keys that are gone, and what stands in their place.
const GONE: [(&str, &str); 3] = [
    ("runtime", "gVisor is found by itself: `runsc` registered with the engine is used"),
    ("ssh", "upstreams are now listed under `git`, and the gate holds the key"),
    ("tokens", "credentials are now `cred_proxy.routes`"),
];

/// Largest file that is taken over.
const MAX_FILE: u64 = 16 << 20;

/// The files of the new tree, and what was not converted, a line each.
pub(super) fn convert(old: &Path) -> Result<(Vec<File>, Vec<String>), CliError> {
    let kind = std::fs::metadata(old).with_context(|| format!("reading {}", old.display()))?;
    if !kind.is_dir() {
        return from_json(old);
    }
    let file = old.join(OLD_FILE);
    if file.is_file() {
        return from_json(&file);
    }
    from_folder(old)
}

/// A folder has the shape of a tree already: its files are taken as they are, and `check` tells
/// what no longer holds.
fn from_folder(old: &Path) -> Result<(Vec<File>, Vec<String>), CliError> {
    let (mut files, mut untold) = (Vec::new(), Vec::new());
    for part in ["bottle.yaml", "bottles", "agents", "skills"] {
        take(old, Path::new(part), &mut files, &mut untold)?;
    }
    for entry in std::fs::read_dir(old).with_context(|| format!("reading {}", old.display()))? {
        let name = entry?.file_name();
        let known = ["bottle.yaml", "bottles", "agents", "skills"];
        if !known.iter().any(|known| name == *known) {
            untold.push(format!("{}: no part of a tree", name.to_string_lossy()));
        }
    }
    if files.is_empty() {
        let told =
            format!("{} holds neither {OLD_FILE} nor `bottles/` and `agents/`", old.display());
        return Err(CliError::failed(told));
    }
    untold.sort();
    Ok((files, untold))
}

fn take(
    root: &Path,
    path: &Path,
    files: &mut Vec<File>,
    untold: &mut Vec<String>,
) -> Result<(), CliError> {
    let whole = root.join(path);
    let Ok(found) = std::fs::symlink_metadata(&whole) else { return Ok(()) };
    if found.is_dir() {
        let mut names = Vec::new();
        for entry in
            std::fs::read_dir(&whole).with_context(|| format!("reading {}", whole.display()))?
        {
            names.push(entry?.file_name());
        }
        names.sort();
        for name in names {
            take(root, &path.join(name), files, untold)?;
        }
    } else if !found.is_file() {
        untold.push(format!("{}: a link, a device or the like", path.display()));
    } else if found.len() > MAX_FILE {
        untold.push(format!("{}: larger than {} MiB", path.display(), MAX_FILE >> 20));
    } else {
        let content =
            std::fs::read(&whole).with_context(|| format!("reading {}", whole.display()))?;
        files.push((path.to_owned(), content));
    }
    Ok(())
}

fn from_json(file: &Path) -> Result<(Vec<File>, Vec<String>), CliError> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let old: Value = serde_json::from_str(&text)
        .with_context(|| format!("reading {} as JSON", file.display()))?;
    let (files, untold) = entities(&old);
    if files.is_empty() {
        let told = format!("{} names neither bottles nor agents", file.display());
        return Err(CliError::failed(told)
            .hint("expected an object with `bottles` and `agents`, each an object by name"));
    }
    Ok((files, untold))
}

/// Every bottle and agent as a file of its own.
fn entities(old: &Value) -> (Vec<File>, Vec<String>) {
    let (mut files, mut untold) = (Vec::new(), Vec::new());
    let empty = Map::new();
    for (section, content) in old.as_object().unwrap_or(&empty) {
        let keys: &[&str] = match section.as_str() {
            "bottles" => &BOTTLE_KEYS,
            "agents" => &AGENT_KEYS,
            _ => {
                untold.push(format!("{section}: no part of a tree"));
                continue;
            }
        };
        let Some(content) = content.as_object() else {
            untold.push(format!("{section}: expected an object by name"));
            continue;
        };
        for (name, entity) in content {
            let place = format!("{section}.{name}");
            match (SandboxId::new(name.as_str()), entity.as_object()) {
                (Err(error), _) => untold.push(format!("{place}: {error}")),
                (_, None) => untold.push(format!("{place}: expected an object")),
                (Ok(name), Some(entity)) => {
                    let text = markdown(&place, entity, keys, &mut untold);
                    files.push((PathBuf::from(format!("{section}/{name}.md")), text.into_bytes()));
                }
            }
        }
    }
    (files, untold)
}

/// Front matter and body. JSON is YAML, so values stand as they stood.
fn markdown(
    place: &str,
    entity: &Map<String, Value>,
    keys: &[&str],
    untold: &mut Vec<String>,
) -> String {
    let mut text = "---\n".to_owned();
    let mut body = String::new();
    for (key, value) in entity {
        let gone = GONE.iter().find(|(old, _)| old == key);
        if let Some((_, instead)) = gone {
            untold.push(format!("{place}.{key}: {instead}"));
        } else if let (true, Some(prompt)) = (key == "prompt", value.as_str()) {
            body = format!("\n{}\n", prompt.trim());
        } else if keys.contains(&key.as_str()) {
            text.push_str(&format!("{key}: {value}\n"));
        } else {
            untold.push(format!("{place}.{key}: not known any more"));
        }
    }
    text.push_str("---\n");
    text.push_str(&body);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sure_is_converted_and_the_rest_is_told() {
        let old = serde_json::json!({
            "version": 3,
            "bottles": { "dev": { "image": "node:22", "runtime": "runsc", "env": { "A": "1" } } },
            "agents": {
                "ada": { "bottle": "dev", "prompt": " You are ada. ", "skills": ["x"] },
                "Bob": { "bottle": "dev" },
            },
        });
        let (files, untold) = entities(&old);
        let files: Vec<(String, String)> = files
            .into_iter()
            .map(|(path, text)| (path.display().to_string(), String::from_utf8(text).unwrap()))
            .collect();
        let ada = "---\nbottle: \"dev\"\nskills: [\"x\"]\n---\n\nYou are ada.\n";
        let dev = "---\nenv: {\"A\":\"1\"}\nimage: \"node:22\"\n---\n";
        assert_eq!(
            files,
            [
                ("agents/ada.md".to_owned(), ada.to_owned()),
                ("bottles/dev.md".to_owned(), dev.to_owned())
            ]
        );
        assert_eq!(untold.len(), 3, "{untold:?}");
        assert!(untold[0].starts_with("agents.Bob: `Bob` is not a name"), "{untold:?}");
        assert!(untold[1].starts_with("bottles.dev.runtime: gVisor"), "{untold:?}");
        assert_eq!(untold[2], "version: no part of a tree");
    }
}
