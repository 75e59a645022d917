//! `image`: where a machine's root file system comes from.

use std::path::Path;

use super::build;
use super::field::{Field, shorten};
use super::guard::Guard;
use super::inputs::Inputs;
use super::source::{Findings, shorten_path};
use super::tree::{self, Kind};
use super::yaml::Value;
use crate::model::{ImageRef, Use};

/// Reads `image`, with the digest of what it names on the host.
pub(super) fn read(
    field: &Field<'_>,
    guard: &Guard<'_>,
    inputs: &mut Inputs,
    findings: &mut Findings<'_>,
) -> Option<ImageRef> {
    if matches!(field.node.value, Value::Map(_)) {
        return build::read(field, guard, inputs, findings);
    }
    let text = field.word(findings)?;
    if text == "host" {
        return Some(ImageRef::Host);
    }
    if text.starts_with(['/', '~', '.']) {
        return local(field, guard, inputs, findings);
    }
    let (name, local) = match text.strip_prefix("docker:") {
        // The image that is itself called `docker` is written `library/docker:TAG`.
        Some(name) => (name, true),
        None => (text, false),
    };
    if let Err(reason) = check_reference(name) {
        let problem = field.refused(text, &reason);
        let path = Path::new(text);
        let known = ["tar", "tgz", "gz", "smolmachine"];
        let file = path.extension().is_some_and(|end| known.iter().any(|known| end == *known));
        let hint = if text.contains("://") {
            "leave the scheme out: `registry.example/name:tag`".to_owned()
        } else if file {
            format!("a path starts with `/` or `./`: `./{}`", shorten(text))
        } else {
            "expected `name:tag`, `registry.example/name:tag`, or a path that starts with `./`"
                .into()
        };
        findings.add(problem.hint(hint));
        return None;
    }
    let name = name.to_owned();
    Some(if local { ImageRef::DockerLocal(name) } else { ImageRef::Registry(name) })
}

/// A tar, a pack or a folder of the host.
fn local(
    field: &Field<'_>,
    guard: &Guard<'_>,
    inputs: &mut Inputs,
    findings: &mut Findings<'_>,
) -> Option<ImageRef> {
    let named = guard.path(field, findings)?;
    let fail = |reason: String| field.error(format!("`{}`: {reason}", shorten_path(&named)));
    let path = match guard.resolve(field, &named, Use::Define, findings) {
        Ok(path) => path,
        Err(error) => {
            findings.add(fail(tree::describe(&error)).hint("name an image tar or a root folder"));
            return None;
        }
    };
    let kind = match tree::stat(&path) {
        Ok(stat) => stat.kind,
        Err(error) => {
            findings.add(fail(tree::describe(&error)));
            return None;
        }
    };
    if kind == Kind::Folder
        && let Some(reason) = guard.refuses_image(&path)
    {
        findings.add(field.error(format!("`{}` {reason}", shorten_path(&path))));
        return None;
    }
    let digest = match kind {
        Kind::File => inputs.file(&path),
        Kind::Folder => inputs.folder(&path),
        other => Err(tree::ReadError::Kind(other)),
    };
    match (digest, kind) {
        (Err(error), _) => {
            findings.add(fail(error.to_string()).hint("name an image tar or a root folder"));
            None
        }
        (Ok(digest), Kind::Folder) => Some(ImageRef::Folder { path, digest }),
        (Ok(digest), _) if path.extension().is_some_and(|end| end == "smolmachine") => {
            Some(ImageRef::Pack { path, digest })
        }
        (Ok(digest), _) => Some(ImageRef::Tar { path, digest }),
    }
}

/// The grammar of an image reference: `[host[:port]/]name[:tag][@sha256:…]`.
fn check_reference(text: &str) -> Result<(), &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let good_digest = |digest: &str| {
        digest.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    if digest.is_some_and(|digest| !good_digest(digest)) {
        return Err("has a digest that is not `sha256:` and 64 hexadecimal digits");
    }
    let last = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[last..].split_once(':') {
        Some((name, tag)) => (&rest[..last + name.len()], Some(tag)),
        None => (rest, None),
    };
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good_tag = |tag: &str| {
        tag.len() <= 128
            && tag.bytes().next().is_some_and(word)
            && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
    };
    if tag.is_some_and(|tag| !good_tag(tag)) {
        return Err("has a tag that is not one");
    }
    let mut parts = name.split('/').peekable();
    if name.contains('/')
        && parts.peek().is_some_and(|first| first.contains(['.', ':']) || *first == "localhost")
    {
        let first = parts.next().unwrap_or_default();
        let (host, port) = first.split_once(':').map_or((first, None), |(h, p)| (h, Some(p)));
        if super::host::host_name(host).is_err()
            || port.is_some_and(|port| super::host::port(port).is_none())
        {
            return Err("names no registry: expected `host/name` or `host:port/name`");
        }
    }
    if name.len() > 255 {
        return Err("is longer than 255 characters");
    }
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good_part = |part: &str| {
        let ends = |b: Option<u8>| b.is_some_and(lower);
        ends(part.bytes().next())
            && ends(part.bytes().last())
            && part.bytes().all(|b| lower(b) || b"._-".contains(&b))
            && !part.contains("..")
    };
    if parts.all(good_part) { Ok(()) } else { Err("is not an image reference") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let digest = format!("node@sha256:{}", "0a".repeat(32));
        for good in [
            "node",
            "node:22-slim",
            "library/node",
            "ghcr.io/a/b:v1.2_3",
            "localhost:5000/x",
            "reg.example:443/a/b/c",
            "a__b/c-d",
            digest.as_str(),
            "10.0.0.1:5000/x",
        ] {
            assert_eq!(check_reference(good), Ok(()), "{good}");
        }
        let long = "a/".repeat(130) + "b";
        for bad in [
            "",
            "Node",
            "node:",
            "node:-x",
            "a//b",
            "/a",
            "a/",
            "https://x/y",
            "a b",
            "node@sha256:00",
            "node@",
            "-a",
            "a..b",
            "reg.example:0/x",
            "reg.example:x/y",
            "a:b:c",
            "ä",
            long.as_str(),
        ] {
            assert!(check_reference(bad).is_err(), "{bad}");
        }
    }
}
