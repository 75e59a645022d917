//! The sidecar's image: one program in an empty root, loaded through the engine's API. The same
//! program makes the same image, to the byte, so that all trees of an engine share one; it carries no
//! label, and containers are made from its id and never from its name.

use std::sync::Arc;

use bollard::body_full;
use bollard::query_parameters::ImportImageOptionsBuilder;
use serde_json::json;

use super::Docker;
use super::engine::Engine;
use super::image::{self, follow, inspect};
use super::program::Program;
use crate::backend::{BackendError, Progress, Scope};
use crate::model::SpecHash;

/// The repository of sidecars' images, of all owners.
pub(super) const REPOSITORY: &str = "bottle-sidecar";

/// Where the program stands in it.
pub(super) const PROGRAM_PATH: &str = "/bottle";

/// Where the sidecar's control socket is: a tmpfs of its own user's.
pub(super) const RUN: &str = "/run/bottle";

/// The user and group that a sidecar runs as.
pub(super) const USER: u32 = 65532;

/// When the version of bottle that lays this image out was made, for those who list images. It moves
/// with the version only: the same program is the same image, whoever built it and when.
const MADE: &str = "2026-11-29T00:00:00Z";

/// The name of the image of a program.
pub(super) fn name(program: SpecHash) -> String {
    format!("{REPOSITORY}:{}", program.short())
}

/// Whether an image of this name is one of sidecars'.
pub(super) fn is_name(name: &str) -> bool {
    name.strip_prefix(REPOSITORY).is_some_and(|tag| tag.starts_with(':'))
}

/// The image's id on the engine. Where it is not there, or is not what it should be, it is loaded.
pub(super) async fn ready(
    docker: &Docker,
    engine: &Engine,
    scope: &Scope,
    program: &Arc<Program>,
    progress: &Progress,
) -> Result<String, BackendError> {
    let name = name(program.digest);
    let traits = engine.traits().await?;
    if traits.architecture != program.architecture {
        return Err(BackendError::Unsupported(format!(
            "the engine runs on {}, and this bottle is made for {}: name one that is made for the \
             engine with BOTTLE_SIDECAR_PROGRAM",
            traits.architecture, program.architecture
        )));
    }
    let lock = docker.image_lock(&name);
    let _one = lock.lock().await;
    let loaded = docker.with_cache(scope, |cache| cache.import(program.digest).map(str::to_owned));
    if let Some(found) = inspect(engine, &name).await?
        && found.id.is_some()
        && found.id == loaded
    {
        return Ok(loaded.unwrap_or_default());
    }
    progress.say("loading the sidecar's image");
    let (source, tag) = (program.clone(), name.clone());
    let archive =
        tokio::task::spawn_blocking(move || archive(&source.bytes()?, source.architecture, &tag))
            .await;
    let archive = archive
        .map_err(anyhow::Error::from)
        .and_then(std::convert::identity)
        .map_err(|e| BackendError::failed("making the sidecar's image", e))?;
    let options = ImportImageOptionsBuilder::new().quiet(true).build();
    let patient = engine.patient();
    let stream = patient.import_image(options, body_full(archive.into()), None);
    follow(engine, &name, stream, drop).await?;
    let found = inspect(engine, &name).await?.and_then(|image| image.id);
    let id = found.ok_or_else(|| BackendError::Image {
        image: name.clone(),
        reason: "it was gone right after it came".to_owned(),
    })?;
    docker.with_cache(scope, |cache| {
        cache.remember_import(program.digest, &id);
        cache.store(scope);
    });
    Ok(id)
}

/// Removes an image of sidecars that no container stands on; in use, or gone already, or none of
/// ours ⇒ `Ok`.
pub(super) async fn remove(engine: &Engine, image: &str) -> Result<(), BackendError> {
    let names = inspect(engine, image).await?.and_then(|found| found.repo_tags);
    if !names.iter().flatten().any(|name| is_name(name)) {
        return Ok(());
    }
    image::remove(engine, image).await
}

/// A tar as `docker save` writes it, of one image with one layer. Nothing in it depends on when or
/// where it is made.
fn archive(program: &[u8], architecture: &str, tag: &str) -> anyhow::Result<Vec<u8>> {
    let layer = layer(program)?;
    let config = json!({
        "created": MADE,
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", SpecHash::of_bytes(&layer))] },
        "history": [{ "created": MADE, "created_by": "bottle" }],
    });
    let config = serde_json::to_vec(&config)?;
    let config_name = format!("{}.json", SpecHash::of_bytes(&config));
    let manifest = json!([{
        "Config": config_name,
        "RepoTags": [tag],
        "Layers": ["layer.tar"],
    }]);
    let mut tar = tar::Builder::new(Vec::with_capacity(layer.len() + 16 * 1024));
    add(&mut tar, "manifest.json", &Entry::file(0o644), &serde_json::to_vec(&manifest)?)?;
    add(&mut tar, &config_name, &Entry::file(0o644), &config)?;
    add(&mut tar, "layer.tar", &Entry::file(0o644), &layer)?;
    Ok(tar.into_inner()?)
}

/// The root: the program, and the folder that the tmpfs is mounted on. The runtime gives a tmpfs the
/// mode of the folder that it finds.
fn layer(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::with_capacity(program.len() + 8 * 1024));
    add(&mut tar, PROGRAM_PATH, &Entry::file(0o755), program)?;
    add(&mut tar, "/run", &Entry::folder(0o755, 0), &[])?;
    add(&mut tar, RUN, &Entry::folder(0o700, USER), &[])?;
    tar.into_inner()
}

struct Entry {
    kind: tar::EntryType,
    mode: u32,
    owner: u32,
}

impl Entry {
    fn file(mode: u32) -> Self {
        Self { kind: tar::EntryType::Regular, mode, owner: 0 }
    }

    fn folder(mode: u32, owner: u32) -> Self {
        Self { kind: tar::EntryType::Directory, mode, owner }
    }
}

fn add(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    entry: &Entry,
    content: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(entry.kind);
    header.set_mode(entry.mode);
    header.set_uid(entry.owner.into());
    header.set_gid(entry.owner.into());
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path.trim_start_matches('/'), content)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_same_program_is_the_same_image_and_its_date_is_that_of_the_version() {
        let made = archive(b"program", "amd64", "bottle-sidecar:x").unwrap();
        assert_eq!(made, archive(b"program", "amd64", "bottle-sidecar:x").unwrap());
        // A new version has a new date.
        assert_eq!((env!("CARGO_PKG_VERSION"), MADE), ("0.1.0", "2026-11-29T00:00:00Z"));
        let config = format!("\"created\":\"{MADE}\"");
        assert!(memchr::memmem::find(&made, config.as_bytes()).is_some());
        assert!(memchr::memmem::find(&made, b"1970").is_none());
    }

    #[test]
    fn the_root_holds_the_program_and_a_private_folder_and_nothing_else() {
        let bytes = layer(b"program").unwrap();
        assert_eq!(bytes, layer(b"program").unwrap());
        let mut archive = tar::Archive::new(bytes.as_slice());
        let found: Vec<(String, u32, u64, String)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                let (mode, uid) = (entry.header().mode().unwrap(), entry.header().uid().unwrap());
                let mut content = String::new();
                entry.read_to_string(&mut content).unwrap();
                (path, mode, uid, content)
            })
            .collect();
        let shown: Vec<_> =
            found.iter().map(|(p, m, u, c)| (p.as_str(), *m, *u, c.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("bottle", 0o755, 0, "program"),
                ("run", 0o755, 0, ""),
                ("run/bottle", 0o700, u64::from(USER), ""),
            ]
        );
    }
}
