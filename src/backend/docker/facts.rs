//! What is known of an image: who may be in it, whether it has a shell, which folders it has. Read
//! once per image out of a container that is never started, and remembered on disk.
#![expect(clippy::disallowed_methods, reason = "the backend's own cache, in its own folder")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, CreateContainerOptionsBuilder,
    DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::user::{Accounts, parse_group, parse_passwd};
use super::{error, labels};
use crate::backend::durable::{self, Keep};
use crate::backend::{BackendError, Scope, guest_path};
use crate::model::SpecHash;

/// Images that are remembered; an image costs one probe if it was forgotten.
const REMEMBERED: usize = 64;

/// No `/etc/passwd` that people made is longer.
const LONGEST_FILE: u64 = 1 << 20;

/// Symlinks followed from one path before it counts as missing.
const LINKS: usize = 8;

/// What is known of one image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageFacts {
    pub accounts: Accounts,
    /// There is a `/bin/sh`.
    pub shell: bool,
    /// Whether these folders are in the image.
    pub dirs: BTreeMap<String, bool>,
}

/// The cache, as it stands on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Cache {
    /// By the engine's id of the image.
    #[serde(default)]
    images: BTreeMap<String, ImageFacts>,
    /// The engine's ids of the images that we imported, by the digest of their source.
    #[serde(default)]
    imports: BTreeMap<SpecHash, String>,
    /// Images, as manifests name them, whose machines run as root because nothing else is named.
    #[serde(default)]
    root_images: BTreeSet<String>,
}

impl Cache {
    fn path(scope: &Scope) -> PathBuf {
        scope.data.join("docker-images.json")
    }

    /// What is remembered; nothing, where nothing can be read.
    pub(super) fn load(scope: &Scope) -> Self {
        durable::read_json(&Self::path(scope)).ok().flatten().unwrap_or_default()
    }

    pub(super) fn image(&self, id: &str) -> Option<&ImageFacts> {
        self.images.get(id)
    }

    pub(super) fn import(&self, digest: SpecHash) -> Option<&str> {
        self.imports.get(&digest).map(String::as_str)
    }

    /// The ids of all that we loaded or imported.
    pub(super) fn imported(&self) -> BTreeSet<String> {
        self.imports.values().cloned().collect()
    }

    pub(super) fn remember_image(&mut self, id: &str, facts: ImageFacts) {
        while self.images.len() >= REMEMBERED && !self.images.contains_key(id) {
            self.images.pop_first();
        }
        self.images.insert(id.to_owned(), facts);
    }

    pub(super) fn root_images(&self) -> BTreeSet<String> {
        self.root_images.clone()
    }

    /// Whether it is known by now; `false` where that was known already.
    pub(super) fn remember_root(&mut self, image: &str, root: bool) -> bool {
        if root {
            self.root_images.insert(image.to_owned())
        } else {
            self.root_images.remove(image)
        }
    }

    pub(super) fn remember_import(&mut self, digest: SpecHash, id: &str) {
        self.imports.insert(digest, id.to_owned());
    }

    /// Losing it costs a probe, so a failure is only worth a line in the log.
    pub(super) fn store(&self, scope: &Scope) {
        if let Err(e) = self.try_store(scope) {
            tracing::warn!(error = %e, "cannot remember what is known of images");
        }
    }

    fn try_store(&self, scope: &Scope) -> std::io::Result<()> {
        std::fs::create_dir_all(&scope.data)?;
        let path = Self::path(scope);
        durable::write_json(&path, self, Keep::Durably)
    }
}

/// Folders that provisioning asks about, for a user with this home.
pub(super) fn folders_of_interest(home: &str, workdir: Option<&str>) -> BTreeSet<String> {
    let base = home.trim_end_matches('/');
    let etc = guest_path::PROMPT.rsplit_once('/').map_or("/etc", |(folder, _)| folder);
    [home.to_owned(), format!("{base}/.claude"), format!("{base}/.claude/skills"), etc.to_owned()]
        .into_iter()
        .chain(workdir.map(str::to_owned))
        .collect()
}

/// A container of an image that is never started: a window onto its files.
pub(super) struct Probe<'a> {
    engine: &'a Engine,
    id: String,
}

impl<'a> Probe<'a> {
    /// An interrupted run leaves the probe behind; its labels make it a leftover that is pruned.
    pub(super) async fn open(
        engine: &'a Engine,
        scope: &Scope,
        image: &str,
    ) -> Result<Probe<'a>, BackendError> {
        let mut random = [0u8; 6];
        getrandom::fill(&mut random)
            .map_err(|e| BackendError::failed("naming a probe", anyhow::anyhow!("{e}")))?;
        let name = format!("bottle_probe_{}_{}", scope.owner, hex::encode(random));
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            // Never run; an image without a command is refused otherwise.
            entrypoint: Some(vec!["/bin/sh".to_owned()]),
            labels: Some(labels::of_probe(scope)),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                cap_drop: Some(vec!["ALL".to_owned()]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let made = engine.client.create_container(Some(options), body).await;
        let made = made.map_err(|e| engine.failed(format!("looking into image {image}"), e))?;
        Ok(Probe { engine, id: made.id })
    }

    pub(super) async fn close(self) {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        if let Err(e) = self.engine.client.remove_container(&self.id, Some(options)).await
            && !error::is_status(&e, 404)
        {
            tracing::warn!(container = %self.id, error = %e, "cannot remove a probe");
        }
    }

    /// Reads all but the folders.
    pub(super) async fn facts(
        &self,
        user: Option<String>,
        home: Option<String>,
    ) -> Result<ImageFacts, BackendError> {
        let (passwd, group, shell) = tokio::try_join!(
            self.file("/etc/passwd"),
            self.file("/etc/group"),
            self.exists("/bin/sh")
        )?;
        let accounts =
            Accounts { user, home, accounts: parse_passwd(&passwd), groups: parse_group(&group) };
        Ok(ImageFacts { accounts, shell, dirs: BTreeMap::new() })
    }

    /// Whether something that is not a dangling symlink stands there.
    pub(super) async fn exists(&self, path: &str) -> Result<bool, BackendError> {
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let options = ContainerArchiveInfoOptionsBuilder::new().path(&path).build();
            let found =
                self.engine.client.get_container_archive_info(&self.id, Some(options)).await;
            match found {
                // The engine gives the target as a path from the container's root.
                Ok(stat) if !stat.link_target.is_empty() && stat.link_target != path => {
                    path = stat.link_target;
                }
                Ok(_) => return Ok(true),
                Err(e) if error::is_status(&e, 404) => return Ok(false),
                Err(e) => return Err(self.engine.failed(format!("looking for {path}"), e)),
            }
        }
        Ok(false)
    }

    /// The text of a file; empty where there is none.
    async fn file(&self, path: &str) -> Result<String, BackendError> {
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let options = DownloadFromContainerOptionsBuilder::new().path(&path).build();
            let mut stream = self.engine.client.download_from_container(&self.id, Some(options));
            let mut archive = Vec::new();
            while let Some(chunk) = stream.next().await {
                match chunk {
                    Ok(chunk) if (archive.len() as u64) < LONGEST_FILE => archive.extend(&chunk),
                    Ok(_) => break,
                    Err(e) if error::is_status(&e, 404) => return Ok(String::new()),
                    Err(e) => return Err(self.engine.failed(format!("reading {path}"), e)),
                }
            }
            match first_entry(&archive) {
                Entry::Text(text) => return Ok(text),
                Entry::Link(target) => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    path =
                        if target.starts_with('/') { target } else { format!("{folder}/{target}") };
                }
                Entry::Other => return Ok(String::new()),
            }
        }
        Ok(String::new())
    }
}

enum Entry {
    Text(String),
    Link(String),
    Other,
}

fn first_entry(archive: &[u8]) -> Entry {
    let mut tar = tar::Archive::new(archive);
    let entry = tar.entries().ok().and_then(|mut entries| entries.next()).and_then(Result::ok);
    let Some(entry) = entry else { return Entry::Other };
    match entry.header().entry_type() {
        tar::EntryType::Regular => {
            let mut bytes = Vec::new();
            // What is there of a file that is too long will do.
            drop(entry.take(LONGEST_FILE).read_to_end(&mut bytes));
            Entry::Text(String::from_utf8_lossy(&bytes).into_owned())
        }
        tar::EntryType::Symlink => match entry.link_name() {
            Ok(Some(target)) => Entry::Link(target.to_string_lossy().into_owned()),
            _ => Entry::Other,
        },
        _ => Entry::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::labels::tests::scope;
    use super::*;

    #[test]
    fn the_cache_survives_and_its_loss_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut scope = scope();
        scope.data = folder.path().join("owner");
        assert!(Cache::load(&scope).image("sha256:a").is_none());
        let mut cache = Cache::default();
        cache.remember_image("sha256:a", ImageFacts { shell: true, ..ImageFacts::default() });
        cache.remember_import(SpecHash::of_bytes(b"x"), "sha256:b");
        cache.store(&scope);
        let cache = Cache::load(&scope);
        assert!(cache.image("sha256:a").unwrap().shell);
        assert_eq!(cache.import(SpecHash::of_bytes(b"x")), Some("sha256:b"));
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(Cache::path(&scope)).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&scope.data).unwrap().count(), 1);
        std::fs::write(Cache::path(&scope), "{").unwrap();
        assert!(Cache::load(&scope).image("sha256:a").is_none());
        // Whatever is in its place: nobody waits for it.
        let path = Cache::path(&scope);
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        assert!(Cache::load(&scope).image("sha256:a").is_none());
        cache.store(&scope);
        assert!(Cache::load(&scope).image("sha256:a").is_some());
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut cache = Cache::default();
        for n in 0..REMEMBERED + 10 {
            cache.remember_image(&format!("{n:04}"), ImageFacts::default());
        }
        assert_eq!(cache.images.len(), REMEMBERED);
        assert!(cache.image(&format!("{:04}", REMEMBERED + 9)).is_some());
    }

    #[test]
    fn the_first_entry_of_an_archive() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "passwd", "../usr/passwd").unwrap();
        let archive = builder.into_inner().unwrap();
        assert!(matches!(first_entry(&archive), Entry::Link(target) if target == "../usr/passwd"));
        assert!(matches!(first_entry(b"no tar"), Entry::Other));
    }
}
