//! Images: pulled, loaded or imported where they are missing, and looked into.

use std::collections::BTreeMap;
use std::path::Path;

use bollard::body_try_stream;
use bollard::errors::Error;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ImportImageOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures_util::{Stream, StreamExt};

use super::Docker;
use super::engine::Engine;
use super::facts::{Cache, ImageFacts, Probe, folders_of_interest};
use super::user::User;
use super::{auth, build, error, feed, labels, rootfs, tarball};
use crate::backend::{BackendError, Progress, Scope};
use crate::model::{ImageRef, MachineSpec, SpecHash};

/// An image that is there and fits a machine.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    /// The name that the engine knows it by.
    pub name: String,
    /// The machine's user in it.
    pub user: User,
    /// Whether these folders are in it.
    pub dirs: BTreeMap<String, bool>,
    /// It says which language its programs speak.
    pub has_language: bool,
}

/// Sees to it that the image of `spec` is there and that a machine can be made of it.
pub(super) async fn ready(
    docker: &Docker,
    engine: &Engine,
    scope: &Scope,
    spec: &MachineSpec,
    progress: &Progress,
) -> Result<Ready, BackendError> {
    let not_to_be_had =
        |reason: String| BackendError::Image { image: spec.image.to_string(), reason };
    let name = match &spec.image {
        ImageRef::Registry(reference) | ImageRef::DockerLocal(reference) => reference.clone(),
        ImageRef::Tar { digest, .. }
        | ImageRef::Folder { digest, .. }
        | ImageRef::Built { digest, .. } => labels::imported(scope, *digest),
        ImageRef::Host | ImageRef::Bare | ImageRef::Pack { .. } => {
            return Err(BackendError::Unsupported(format!(
                "the docker backend cannot make a machine of image `{}`: name a registry \
                 reference, an image tar, a root folder or a folder to build",
                spec.image
            )));
        }
    };
    // Sandboxes that share an image wait for one of them to fetch it.
    let lock = docker.image_lock(&name);
    let _one = lock.lock().await;
    let image = fetch(docker, engine, scope, &spec.image, &name, progress).await?;
    let id = image.id.clone().unwrap_or_else(|| name.clone());
    let home = spec.env.get("HOME").map(String::as_str);
    let known = docker.with_cache(scope, |cache| cache.image(&id).cloned());
    let has_language = image_variable(&image, "LANG").is_some();
    let resolve = |facts: &ImageFacts| {
        if !facts.shell {
            return Err(not_to_be_had(
                "it has no /bin/sh, which a machine's main process needs".to_owned(),
            ));
        }
        facts.accounts.resolve(spec.user.as_deref(), home).map_err(not_to_be_had)
    };
    let wanted = |user: &User| folders_of_interest(&user.identity.home, spec.workdir.as_deref());
    if let Some(facts) = &known {
        let user = resolve(facts)?;
        if wanted(&user).iter().all(|path| facts.dirs.contains_key(path)) {
            note_root(docker, scope, spec, &user);
            return Ok(Ready { name, user, dirs: facts.dirs.clone(), has_language });
        }
    }
    let probe = Probe::open(engine, scope, &name).await?;
    let looked = async {
        let mut facts = match known {
            Some(facts) => facts,
            None => probe.facts(image_user(&image), image_variable(&image, "HOME")).await?,
        };
        // Remembered also when it does not fit: the next bottle may ask for another user.
        if let Ok(user) = resolve(&facts) {
            let missing = wanted(&user).into_iter().filter(|path| !facts.dirs.contains_key(path));
            let missing: Vec<String> = missing.collect();
            for path in missing {
                let exists = probe.exists(&path).await?;
                facts.dirs.insert(path, exists);
            }
        }
        Ok(facts)
    };
    let looked = looked.await;
    probe.close().await;
    let facts = looked?;
    docker.with_cache(scope, |cache| {
        cache.remember_image(&id, facts.clone());
        cache.store(scope);
    });
    let user = resolve(&facts)?;
    note_root(docker, scope, spec, &user);
    Ok(Ready { name, user, dirs: facts.dirs, has_language })
}

/// So that the next plan can say it.
fn note_root(docker: &Docker, scope: &Scope, spec: &MachineSpec, user: &User) {
    if spec.user.is_some() {
        return;
    }
    docker.with_cache(scope, |cache| {
        if cache.remember_root(&spec.image.to_string(), user.root_by_default) {
            cache.store(scope);
        }
    });
}

fn image_user(image: &ImageInspect) -> Option<String> {
    image.config.as_ref()?.user.clone().filter(|user| !user.is_empty())
}

fn image_variable(image: &ImageInspect, name: &str) -> Option<String> {
    let env = image.config.as_ref()?.env.iter().flatten();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
    env.filter_map(|line| value(line)).next_back()
}

/// The image, fetched where it is missing.
pub(super) async fn fetch(
    docker: &Docker,
    engine: &Engine,
    scope: &Scope,
    wanted: &ImageRef,
    name: &str,
    progress: &Progress,
) -> Result<ImageInspect, BackendError> {
    let remembered = wanted.digest().and_then(|digest| {
        docker.with_cache(scope, |cache| cache.import(digest).map(str::to_owned))
    });
    if let Some(image) = inspect(engine, name).await? {
        // Our name may have been given to something else.
        if remembered.is_none() || remembered == image.id {
            return Ok(image);
        }
    }
    let not_to_be_had = |reason: String| BackendError::Image { image: wanted.to_string(), reason };
    match wanted {
        ImageRef::Registry(reference) => pull(docker, engine, reference, progress).await?,
        ImageRef::Tar { path, digest } => {
            progress.say(&format!("loading {}", path.display()));
            load(engine, scope, path, *digest).await.map_err(|e| located(e, wanted, path))?;
        }
        ImageRef::Folder { path, digest } => {
            progress.say(&format!("importing {}", path.display()));
            import(engine, scope, path, *digest).await.map_err(|e| located(e, wanted, path))?;
        }
        ImageRef::Built { path, args, content, .. } => {
            let build = build::Build { path, args, content: *content, name };
            build::build(docker, engine, &build, progress).await?;
        }
        _ => {
            return Err(not_to_be_had(
                "the engine has no image of that name, and it is not pulled".to_owned(),
            ));
        }
    }
    let image = inspect(engine, name)
        .await?
        .ok_or_else(|| not_to_be_had("it was gone right after it came".to_owned()))?;
    if let (Some(digest), Some(id)) = (wanted.digest(), &image.id) {
        docker.with_cache(scope, |cache: &mut Cache| {
            cache.remember_import(digest, id);
            cache.store(scope);
        });
    }
    Ok(image)
}

/// Messages name the file: its digest says nothing to a person.
fn located(error: BackendError, wanted: &ImageRef, path: &Path) -> BackendError {
    match error {
        BackendError::Image { reason, .. } => {
            BackendError::Image { image: path.display().to_string(), reason }
        }
        BackendError::Failed { source, .. } => BackendError::Image {
            image: path.display().to_string(),
            reason: format!("{source:#} ({wanted})"),
        },
        other => other,
    }
}

pub(super) async fn inspect(
    engine: &Engine,
    name: &str,
) -> Result<Option<ImageInspect>, BackendError> {
    match engine.client.inspect_image(name).await {
        Ok(image) => Ok(Some(image)),
        Err(e) if error::is_status(&e, 404) => Ok(None),
        Err(e) => Err(engine.failed(format!("inspecting image {name}"), e)),
    }
}

/// Removes a name, or with an id the image. In use, or gone already ⇒ `Ok`.
pub(super) async fn remove(engine: &Engine, name: &str) -> Result<(), BackendError> {
    let options = RemoveImageOptionsBuilder::new().force(false).build();
    match engine.client.remove_image(name, Some(options), None).await {
        Ok(_) => Ok(()),
        Err(e) if error::is_status(&e, 404) || error::is_status(&e, 409) => Ok(()),
        // Of two that remove one image at once, an engine answers the later with 500, "unrecognized
        // image ID": what counts is that it is gone.
        Err(e) if error::answer(&e).is_some() && inspect(engine, name).await?.is_none() => Ok(()),
        Err(e) => Err(engine.failed(format!("removing image {name}"), e)),
    }
}

/// Without a tag the engine would pull every tag that there is.
fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if last.contains([':', '@']) { reference.to_owned() } else { format!("{reference}:latest") }
}

async fn pull(
    docker: &Docker,
    engine: &Engine,
    reference: &str,
    progress: &Progress,
) -> Result<(), BackendError> {
    let credentials = auth::credentials(docker.settings.config_dir.as_deref(), reference).await;
    let options = CreateImageOptionsBuilder::new().from_image(&with_tag(reference)).build();
    progress.say(&format!("pulling {reference}"));
    let stream = engine.client.create_image(Some(options), None, credentials);
    let mut layers = Layers::default();
    follow(engine, reference, stream, |info| {
        if let Some(line) = layers.line(reference, &info) {
            progress.say(&line);
        }
    })
    .await
}

/// Reads a stream of progress to its end.
pub(super) async fn follow<T>(
    engine: &Engine,
    image: &str,
    mut stream: impl Stream<Item = Result<T, Error>> + Unpin,
    mut each: impl FnMut(T),
) -> Result<(), BackendError> {
    while let Some(item) = stream.next().await {
        match item {
            Ok(item) => each(item),
            Err(e) if error::unreachable(&e).is_some() => {
                return Err(engine.failed(format!("fetching {image}"), e));
            }
            Err(e) => {
                return Err(BackendError::Image {
                    image: image.to_owned(),
                    reason: error::words(&e),
                });
            }
        }
    }
    Ok(())
}

/// How far a pull is, over all its layers.
#[derive(Default)]
struct Layers {
    sizes: BTreeMap<String, (i64, i64)>,
    last: String,
}

impl Layers {
    fn line(&mut self, reference: &str, info: &CreateImageInfo) -> Option<String> {
        let (id, detail) = (info.id.as_ref()?, info.progress_detail.as_ref()?);
        if info.status.as_deref() != Some("Downloading") {
            return None;
        }
        let (current, total) = (detail.current?, detail.total?);
        self.sizes.insert(id.clone(), (current, total));
        let sum = |pick: fn(&(i64, i64)) -> i64| self.sizes.values().map(pick).sum::<i64>() >> 20;
        let line =
            format!("pulling {reference}, {} of {} MiB", sum(|size| size.0), sum(|size| size.1));
        (line != self.last).then(|| {
            self.last.clone_from(&line);
            line
        })
    }
}

async fn load(
    engine: &Engine,
    scope: &Scope,
    path: &Path,
    digest: SpecHash,
) -> Result<(), BackendError> {
    let name = labels::imported(scope, digest);
    let (path, architecture) = (path.to_owned(), engine.traits().await?.architecture.clone());
    let tag = name.clone();
    let (body, writer) =
        feed::channel(move |out| tarball::rewrite(&path, digest, &tag, &architecture, out));
    let options = ImportImageOptionsBuilder::new().quiet(true).build();
    let stream = engine.patient().import_image(options, body_try_stream(body), None);
    feed::finish(writer, follow(engine, &name, stream, drop)).await
}

async fn import(
    engine: &Engine,
    scope: &Scope,
    path: &Path,
    digest: SpecHash,
) -> Result<(), BackendError> {
    let name = labels::imported(scope, digest);
    let path = path.to_owned();
    let (body, writer) = feed::channel(move |out| rootfs::write(&path, out));
    let options = CreateImageOptionsBuilder::new()
        .from_src("-")
        .repo(&labels::repository(scope))
        .tag(&digest.to_string())
        .build();
    let client = engine.patient();
    let stream = client.create_image(Some(options), Some(body_try_stream(body)), None);
    feed::finish(writer, follow(engine, &name, stream, drop)).await
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn a_reference_without_a_tag_means_one_image() {
        for (reference, full) in [
            ("node", "node:latest"),
            ("node:22", "node:22"),
            ("registry:5000/a/node", "registry:5000/a/node:latest"),
            ("registry:5000/node:1", "registry:5000/node:1"),
            ("node@sha256:00", "node@sha256:00"),
        ] {
            assert_eq!(with_tag(reference), full);
        }
    }

    #[test]
    fn progress_adds_up_the_layers() {
        let info = |id: &str, status: &str, current, total| CreateImageInfo {
            id: Some(id.into()),
            status: Some(status.into()),
            progress_detail: Some(ProgressDetail { current: Some(current), total: Some(total) }),
            ..CreateImageInfo::default()
        };
        let mut layers = Layers::default();
        let mut line = |info| layers.line("node:22", &info);
        assert_eq!(
            line(info("a", "Downloading", 1 << 20, 4 << 20)).unwrap(),
            "pulling node:22, 1 of 4 MiB"
        );
        assert_eq!(line(info("a", "Downloading", (1 << 20) + 5, 4 << 20)), None);
        assert_eq!(line(info("a", "Extracting", 9, 10)), None);
        assert_eq!(
            line(info("b", "Downloading", 2 << 20, 8 << 20)).unwrap(),
            "pulling node:22, 3 of 12 MiB"
        );
    }
}
