//! Images: what the program itself can fetch it is told by name; all else is handed over as one
//! plain archive of our own, made once for each content.
//!
//! It is a copy also where the operator's file would do: the program links that into its cache and
//! gives it to a process of another user, which an archive with private modes does not survive.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use sha2::{Digest, Sha256};

use super::parse::Row;
use super::{Smolmachines, labels, record};
use crate::backend::docker::{rootfs, tarball};
use crate::backend::oci::architecture;
use crate::backend::{BackendError, Progress, Scope};
use crate::model::{
    BackendKind, ImageRef, InstanceId, Leftover, LeftoverKind, MachineSpec, Ownership, SpecHash,
};

/// Where a machine's root comes from, as the program is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Nothing: the bare VM.
    Bare,
    /// `--image` with a reference.
    Registry(String),
    /// `--image` with an archive of ours.
    Archive {
        /// Absolute.
        path: PathBuf,
        /// What the label says.
        digest: SpecHash,
    },
    /// `--from`.
    Pack(PathBuf),
}

/// How the file of an image of the local Docker engine begins.
const DOCKER: &str = "docker-";

fn folder(scope: &Scope) -> PathBuf {
    record::folder(scope).join("images")
}

/// Sees to it that the image of `spec` can be handed over.
pub(super) async fn ready(
    backend: &Smolmachines,
    scope: &Scope,
    spec: &MachineSpec,
    progress: &Progress,
) -> Result<Source, BackendError> {
    let failed = |error: anyhow::Error| BackendError::Image {
        image: spec.image.to_string(),
        reason: format!("{error:#}"),
    };
    match &spec.image {
        ImageRef::Bare => Ok(Source::Bare),
        ImageRef::Registry(reference) => Ok(Source::Registry(reference.clone())),
        ImageRef::Host => Err(BackendError::Unsupported(
            "a microVM has a kernel and a root of its own: `image: host` works on the native \
             backend only"
                .to_owned(),
        )),
        ImageRef::Pack { path, digest } => {
            let (path, digest) = (path.clone(), *digest);
            blocking(move || check(&path, digest).map(|()| Source::Pack(path)))
                .await
                .map_err(failed)
        }
        ImageRef::Tar { path, digest } => {
            let (path, digest) = (path.clone(), *digest);
            let shown = path.display().to_string();
            let tag = format!("bottle/{}:latest", digest.short());
            archive(backend, scope, digest.to_string(), digest, progress, &shown, move |to| {
                let out = BufWriter::new(create(to)?);
                tarball::rewrite(&path, digest, &tag, architecture(), out)
                    .with_context(|| shown_of(&path))
            })
            .await
            .map_err(failed)
        }
        ImageRef::Folder { path, digest } => {
            let (path, digest) = (path.clone(), *digest);
            let shown = path.display().to_string();
            archive(backend, scope, digest.to_string(), digest, progress, &shown, move |to| {
                pack_root(&path, to).with_context(|| shown_of(&path))
            })
            .await
            .map_err(failed)
        }
        ImageRef::DockerLocal(name) => docker(backend, scope, name, progress).await,
        ImageRef::Built { digest, .. } => {
            // Exported already, it needs no engine.
            let path = folder(scope).join(format!("{digest}.tar"));
            if !path.is_file() {
                let name = backend.docker.build_image(scope, &spec.image, progress).await?;
                export(backend, scope, &name, &path, progress).await?;
            }
            Ok(Source::Archive { path, digest: *digest })
        }
    }
}

fn shown_of(path: &Path) -> String {
    path.display().to_string()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// The archive of this name, made where it is missing.
async fn archive(
    backend: &Smolmachines,
    scope: &Scope,
    name: String,
    digest: SpecHash,
    progress: &Progress,
    shown: &str,
    make: impl FnOnce(&Path) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<Source> {
    let path = folder(scope).join(format!("{name}.tar"));
    // Sandboxes that share an image wait for one of them to make it.
    let lock = backend.lock(&path.display().to_string());
    let _one = lock.lock().await;
    if !path.is_file() {
        progress.say(&format!("reading {shown}"));
        let (to, new) = (path.clone(), path.with_extension("new"));
        blocking(move || {
            record::make(new.parent().unwrap_or(&new))?;
            clear(&new)?;
            make(&new).and_then(|()| Ok(std::fs::rename(&new, &to)?)).inspect_err(|_| {
                drop(std::fs::remove_file(&new));
            })
        })
        .await?;
    }
    Ok(Source::Archive { path, digest })
}

fn clear(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Readable by all, in a folder that is not: the program links it into its own cache, where the
/// machine's process, which may be another user's, reads it.
fn create(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    Ok(options.write(true).create_new(true).mode(0o644).open(path)?)
}

fn check(path: &Path, digest: SpecHash) -> anyhow::Result<()> {
    let found = sha256(path).with_context(|| shown_of(path))?;
    anyhow::ensure!(found == digest, "it changed since the plan was made: plan again");
    Ok(())
}

fn sha256(path: &Path) -> anyhow::Result<SpecHash> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(SpecHash::from_digest(hasher.finalize().into()));
        }
        hasher.update(&buffer[..count]);
    }
}

/// A root folder as an image of one layer, the way `docker save` writes one.
fn pack_root(root: &Path, to: &Path) -> anyhow::Result<()> {
    let layer = to.with_extension("layer.new");
    clear(&layer)?;
    let packed = pack_layer(root, &layer, to);
    drop(std::fs::remove_file(&layer));
    packed
}

fn pack_layer(root: &Path, layer: &Path, to: &Path) -> anyhow::Result<()> {
    let mut out = BufWriter::new(create(layer)?);
    rootfs::write(root, &mut out)?;
    out.flush()?;
    let digest = sha256(layer)?;
    let config = serde_json::json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = serde_json::json!([
        { "Config": "config.json", "RepoTags": ["bottle/root:latest"], "Layers": ["layer.tar"] }
    ]);
    let mut tar = tar::Builder::new(BufWriter::new(create(to)?));
    for (name, value) in [("manifest.json", &manifest), ("config.json", &config)] {
        let bytes = serde_json::to_vec(value)?;
        append(&mut tar, name, bytes.len() as u64, bytes.as_slice())?;
    }
    let file = File::open(layer)?;
    append(&mut tar, "layer.tar", file.metadata()?.len(), file)?;
    tar.into_inner()?.flush()?;
    Ok(())
}

fn append(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    bytes: impl Read,
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    tar.append_data(&mut header, name, bytes)
}

/// An image that only the local Docker engine has, exported once for each of its ids.
async fn docker(
    backend: &Smolmachines,
    scope: &Scope,
    name: &str,
    progress: &Progress,
) -> Result<Source, BackendError> {
    let failed = |reason: String| BackendError::Image { image: format!("docker:{name}"), reason };
    let told = |error: BackendError| failed(format!("{:#}", anyhow::Error::from(error)));
    let id = backend.docker.image_id(name).await.map_err(told)?;
    let id = id.ok_or_else(|| failed("the Docker engine has no image of that name".to_owned()))?;
    let digest: SpecHash =
        id.strip_prefix("sha256:").unwrap_or(&id).parse().map_err(|_| {
            failed(format!("the Docker engine calls it `{id}`, which is no digest"))
        })?;
    let path = folder(scope).join(format!("{DOCKER}{digest}.tar"));
    export(backend, scope, name, &path, progress).await?;
    Ok(Source::Archive { path, digest })
}

/// Writes an image of the engine to the archive `path`, if that is missing.
async fn export(
    backend: &Smolmachines,
    scope: &Scope,
    name: &str,
    path: &Path,
    progress: &Progress,
) -> Result<(), BackendError> {
    let failed = |reason: String| BackendError::Image { image: format!("docker:{name}"), reason };
    let lock = backend.lock(&path.display().to_string());
    let _one = lock.lock().await;
    if path.is_file() {
        return Ok(());
    }
    progress.say(&format!("exporting {name} from the Docker engine"));
    let new = path.with_extension("new");
    let making = |error: std::io::Error| failed(error.to_string());
    record::make(&folder(scope)).map_err(making)?;
    clear(&new).map_err(making)?;
    if let Err(error) = backend.docker.save_image(name, &new).await {
        drop(std::fs::remove_file(&new));
        return Err(failed(format!("{:#}", anyhow::Error::from(error))));
    }
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&new, readable).map_err(making)?;
    std::fs::rename(&new, path).map_err(making)
}

/// The archives that are kept, and what an interrupted run left of one.
pub(super) fn leftovers(scope: &Scope) -> Vec<Leftover> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder(scope)).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let leftover = |kind, name: String, digest| Leftover {
            backend: BackendKind::Smolmachines,
            kind,
            id: InstanceId(file.clone()),
            name,
            digest,
        };
        if file.ends_with(".new") {
            let name = format!("half of an image archive, {file}");
            found.push(leftover(LeftoverKind::Scratch, name, None));
        } else if let Some(digest) = digest_of(&file) {
            let name = format!("image archive {}", digest.short());
            found.push(leftover(LeftoverKind::Image, name, Some(digest)));
        }
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found
}

fn digest_of(file: &str) -> Option<SpecHash> {
    file.strip_prefix(DOCKER).unwrap_or(file).strip_suffix(".tar")?.parse().ok()
}

fn in_use(scope: &Scope, rows: &[Row], digest: SpecHash) -> bool {
    rows.iter().any(|row| {
        let labels = labels::Labels::of(&row.labels);
        labels.ownership(scope) != Ownership::Foreign && labels.image() == Some(digest)
    })
}

/// Removes an archive that nothing stands on, here and in the program's cache.
pub(super) async fn prune(
    backend: &Smolmachines,
    scope: &Scope,
    leftover: &Leftover,
) -> Result<(), BackendError> {
    let file = &leftover.id.0;
    let ours = digest_of(file);
    if file.contains('/') || (ours.is_none() && !file.ends_with(".new")) {
        return Err(BackendError::Conflict { name: leftover.name.clone() });
    }
    let removing = |error| BackendError::failed(format!("removing {}", leftover.name), error);
    let path = folder(scope).join(file);
    // The program files its copy under the digest of these very bytes. It takes a while to tell, and so
    // it is known before is looked at who uses it.
    let bytes = path.clone();
    let copy = blocking(move || {
        let there = ours.is_some() && bytes.is_file();
        Ok(if there { Some(sha256(&bytes)?.to_string()) } else { None })
    });
    let copy = copy.await.map_err(removing)?;
    let rows = super::observe::rows(backend).await?;
    if ours.is_some_and(|digest| in_use(scope, &rows, digest)) {
        return Ok(());
    }
    let place = copy.and_then(|copy| {
        let local = format!("{LOCAL}{copy}");
        let used = rows.iter().any(|row| row.image.as_deref() == Some(&local));
        copy_of(backend, &copy).filter(|_| !used)
    });
    let removed = blocking(move || {
        if let Some(place) = place {
            clear(&place.join("archive.tar"))?;
            // It stays where somebody else keeps something beside it.
            drop(std::fs::remove_dir(place));
        }
        Ok(clear(&path)?)
    });
    removed.await.map_err(removing)
}

/// How a listing names an image that was an archive; its digest follows.
const LOCAL: &str = "local:";

/// Where the program keeps its copy of an archive.
fn copy_of(backend: &Smolmachines, digest: &str) -> Option<PathBuf> {
    Some(backend.settings.cache.as_ref()?.join("smolvm-image-archives").join(digest))
}

/// Whether the program's copy of a machine's archive is gone: it cannot be started any more.
pub(super) fn is_lost(backend: &Smolmachines, row: &Row) -> bool {
    let digest = row.image.as_deref().and_then(|image| image.strip_prefix(LOCAL));
    let place = digest.and_then(|digest| copy_of(backend, digest));
    place.is_some_and(|place| place.parent().is_some_and(Path::exists) && !place.exists())
}
