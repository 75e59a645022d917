//! Images from files: a root folder, or a tar as `docker save` or an OCI layout writes it. Unpacked
//! once, under the digest of the source, and shared read-only by all sandboxes of the owner.

#![expect(clippy::disallowed_methods, reason = "images are files")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::call::Helper;
use super::inside::Inside;
use super::state::{self, Store, User};
use super::wire::Request;
use super::{copy, namespaces, remove_folder};
use crate::backend::Progress;
use crate::backend::durable::{self, Keep};
use crate::backend::oci::{Descriptor, Index, Manifest, architecture, clean};
use crate::backend::zstd;
use crate::model::{ImageRef, SpecHash};

/// What an image says about the programs in it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    #[serde(rename = "User", deserialize_with = "null_is_empty")]
    user: String,
    #[serde(rename = "Env", deserialize_with = "null_is_empty")]
    env: Vec<String>,
    #[serde(rename = "WorkingDir", deserialize_with = "null_is_empty")]
    workdir: String,
}

/// Engines write what an image does not set as `null`, or leave it out.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An unpacked image.
pub(super) struct Image {
    config: Config,
    root: PathBuf,
}

const CONFIG: &str = "config.json";
const ROOT: &str = "rootfs";

/// The unpacked image with this digest.
pub(super) fn read(store: &Store, digest: SpecHash) -> anyhow::Result<Image> {
    let folder = store.image(digest);
    let bytes = fs::read(folder.join(CONFIG))
        .with_context(|| format!("image {} is not unpacked", digest.short()))?;
    Ok(Image { config: serde_json::from_slice(&bytes)?, root: folder.join(ROOT) })
}

impl Image {
    pub(super) fn env(&self) -> Vec<(String, String)> {
        let pair = |line: &String| {
            line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        self.config.env.iter().filter_map(pair).collect()
    }

    pub(super) fn workdir(&self) -> Option<String> {
        Some(self.config.workdir.clone()).filter(|path| path.starts_with('/') && path.len() > 1)
    }

    /// The user that the bottle names, else the image's, else uid 1000 if it has it, else root.
    pub(super) fn user(&self, wanted: Option<&str>) -> anyhow::Result<User> {
        let inside = Inside::new(self.root.to_str().context("its path is not UTF-8")?)?;
        let file = |path: &str| -> String {
            let mut text = String::new();
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
            if let Ok(fd) = inside.open(path, flags) {
                let _ = File::from(fd).take(1 << 20).read_to_string(&mut text);
            }
            text
        };
        let (passwd, group) = (file("etc/passwd"), file("etc/group"));
        let named = wanted.or_else(|| Some(self.config.user.as_str()).filter(|u| !u.is_empty()));
        user(named, &passwd, &group)
    }
}

/// A number that is an id of a sandbox.
pub(super) fn id(text: &str) -> anyhow::Result<u32> {
    let highest = state::IDS - 3;
    text.parse()
        .ok()
        .filter(|id| *id <= highest)
        .with_context(|| format!("`{text}` is no user or group: expected a number up to {highest}"))
}

/// One line of `passwd`: name, uid, gid, home.
fn account(line: &str) -> Option<(&str, u32, u32, &str)> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
    Some((name, uid.parse().ok()?, gid.parse().ok()?, home))
}

fn user(named: Option<&str>, passwd: &str, groups: &str) -> anyhow::Result<User> {
    let accounts = || passwd.lines().filter_map(account);
    let (wanted, group) = match named.map(|text| text.split_once(':').unwrap_or((text, ""))) {
        Some((user, group)) => (user.to_owned(), group),
        None if accounts().any(|(_, uid, ..)| uid == 1000) => ("1000".to_owned(), ""),
        None => ("0".to_owned(), ""),
    };
    let number = wanted.parse::<u32>().ok();
    let found = accounts().find(|(name, uid, ..)| *name == wanted || number == Some(*uid));
    let mut user = match (found, number) {
        (Some((name, uid, gid, home)), _) => User {
            uid: id(&uid.to_string())?,
            gid: id(&gid.to_string())?,
            name: name.to_owned(),
            home: home.to_owned(),
        },
        (None, Some(_)) => {
            let uid = id(&wanted)?;
            let (name, home) = if uid == 0 { ("root", "/root") } else { ("agent", "/") };
            User { uid, gid: uid, name: name.into(), home: home.into() }
        }
        (None, None) => anyhow::bail!("the image has no user `{wanted}`"),
    };
    if !group.is_empty() {
        let by_name = groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(group)).then(|| fields.nth(1)).flatten()
        });
        user.gid = id(by_name.unwrap_or(group))?;
    }
    if !user.home.starts_with('/') {
        user.home = "/".to_owned();
    }
    Ok(user)
}

/// Makes sure that an image from a file or folder is unpacked. Blocks.
pub(super) fn ensure(
    helper: &Helper,
    store: &Store,
    image: &ImageRef,
    progress: &Progress,
) -> anyhow::Result<()> {
    let (path, digest, is_tar) = match image {
        ImageRef::Tar { path, digest } => (path, digest, true),
        ImageRef::Folder { path, digest } => (path, digest, false),
        _ => return Ok(()),
    };
    let folder = store.image(*digest);
    match durable::read_json::<Config>(&folder.join(CONFIG)) {
        Ok(Some(_)) => return Ok(()),
        // Unpacked once more: a crash of the host may have left it half-written.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
        found => drop(found?),
    }
    store.make()?;
    let scratch = store.scratch("making")?;
    progress.say(&format!("unpacking {}", path.display()));
    let unpacked = unpack(helper, path, is_tar, &scratch).and_then(|()| {
        // Nothing is made meanwhile that stands on what is there, and nobody prunes: whoever does
        // removes the folder of images with the last of them.
        let _lock = store.lock(true)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(store.images())?;
        match durable::read_json::<Config>(&folder.join(CONFIG)) {
            // Another sandbox of the same run was as quick.
            Ok(Some(_)) => return Ok(()),
            Err(_) if stands_on(store, *digest)? => {
                // Sandboxes have its files in use: only what was damaged is put right.
                let config: Option<Config> = durable::read_json(&scratch.join(CONFIG))?;
                let config = config.context("the image has no configuration")?;
                return Ok(durable::write_json(&folder.join(CONFIG), &config, Keep::Durably)?);
            }
            _ if folder.exists() => super::discard(store, &folder)?,
            _ => {}
        }
        fs::rename(&scratch, &folder)?;
        Ok(File::open(store.images())?.sync_all()?)
    });
    let _ = remove_folder(&scratch);
    unpacked
}

/// Whether a sandbox has this image, or may have it.
fn stands_on(store: &Store, digest: SpecHash) -> io::Result<bool> {
    for name in super::observe::names(store.path())? {
        let Some((_, folder, _)) = store.known(&name) else { continue };
        match folder.record() {
            Ok(record) if record.as_ref().and_then(|record| record.image) == Some(digest) => {
                return Ok(true);
            }
            Ok(_) => {}
            Err(_) => return Ok(true),
        }
    }
    Ok(false)
}

fn unpack(helper: &Helper, path: &Path, is_tar: bool, scratch: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(scratch)?;
    let root = scratch.join(ROOT);
    fs::create_dir(&root)?;
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
    let config = if is_tar {
        let tar = Tar::open(path)?;
        let (config, layers) = tar.plan()?;
        for layer in layers {
            let source = tar.layer(&layer)?;
            stream(helper, &root, true, move |out| copy_all(source, out))
                .with_context(|| format!("unpacking layer {layer}"))?;
        }
        config
    } else {
        let folder = rustix::fs::open(
            path,
            rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .with_context(|| format!("opening {}", path.display()))?;
        stream(helper, &root, false, move |out| {
            copy::pack(&folder, Path::new("."), Path::new("."), u64::MAX, out)
        })?;
        Config::default()
    };
    // The configuration says that all of the rest is there.
    rustix::fs::syncfs(File::open(scratch)?)?;
    Ok(durable::write_json(&scratch.join(CONFIG), &config, Keep::Durably)?)
}

fn copy_all(mut from: impl Read, mut to: File) -> anyhow::Result<()> {
    io::copy(&mut from, &mut to)?;
    Ok(())
}

/// Has the helper unpack what `write` writes.
fn stream(
    helper: &Helper,
    root: &Path,
    archived: bool,
    write: impl FnOnce(File) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let (read, out) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let writer = std::thread::spawn(move || write(File::from(out)));
    let request = Request::Unpack { archived, folder: root.to_owned() };
    let within = Some(namespaces::mode());
    let done =
        helper.call("unpacking an image", &request, &[read.as_fd()], within, Some(UNPACKING));
    drop(read);
    let written =
        writer.join().map_err(|_| anyhow::anyhow!("reading the image ended in a panic"))?;
    // If the reader gave up, its reason is the one that says why; else the writer's.
    match done {
        Ok(_) => written,
        Err(error) => Err(anyhow::Error::msg(
            std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string),
        )),
    }
}

/// How long a layer may take: one of 64 GiB on a disk of 10 MB/s.
const UNPACKING: std::time::Duration = std::time::Duration::from_secs(7200);

/// A tar that is read here and there.
struct Tar {
    path: PathBuf,
    /// Where the content of each file in it lies: offset and length.
    files: BTreeMap<String, (u64, u64)>,
}

#[derive(Deserialize)]
struct DockerEntry {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    config: Option<Config>,
}

impl Tar {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let mut files = BTreeMap::new();
        let mut links = Vec::new();
        let mut archive = tar::Archive::new(io::BufReader::new(file));
        for entry in archive.entries_with_seek().context("reading it as a tar")? {
            let entry = entry.context("reading it as a tar")?;
            let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            match entry.link_name()? {
                // Older `docker save` links equal layers to each other.
                Some(to) => links.push((name, to.to_string_lossy().into_owned())),
                None => {
                    files.insert(name, (entry.raw_file_position(), entry.size()));
                }
            }
        }
        for (name, to) in links {
            let base = Path::new(&name).parent().unwrap_or(Path::new(""));
            if let Some(place) = files.get(&clean(&base.join(&to))).or_else(|| files.get(&to)) {
                files.insert(name, *place);
            }
        }
        Ok(Self { path: path.to_owned(), files })
    }

    fn part(&self, name: &str) -> anyhow::Result<io::Take<File>> {
        let (offset, length) =
            *self.files.get(name).with_context(|| format!("there is no {name} in it"))?;
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file.take(length))
    }

    fn json<T: for<'a> Deserialize<'a>>(&self, name: &str) -> anyhow::Result<T> {
        let mut bytes = Vec::new();
        self.part(name)?.take(16 << 20).read_to_end(&mut bytes)?;
        serde_json::from_slice(&bytes).with_context(|| format!("reading {name} in it"))
    }

    /// The image's configuration, and its layers from the lowest up.
    fn plan(&self) -> anyhow::Result<(Config, Vec<String>)> {
        let (config, layers) = if self.files.contains_key("manifest.json") {
            let entries: Vec<DockerEntry> = self.json("manifest.json")?;
            let [entry] = <[DockerEntry; 1]>::try_from(entries).map_err(|entries| {
                anyhow::anyhow!("it holds {} images; expected one", entries.len())
            })?;
            (entry.config, entry.layers)
        } else if self.files.contains_key("index.json") {
            let manifest = self.oci_manifest()?;
            let layers = manifest.layers.iter().map(Descriptor::place);
            (manifest.config.place()?, layers.collect::<Result<_, _>>()?)
        } else {
            anyhow::bail!(
                "it is no image: neither manifest.json (`docker save`) nor index.json (OCI layout) \
                 is in it"
            );
        };
        let config: ConfigFile = self.json(&config)?;
        Ok((config.config.unwrap_or_default(), layers))
    }

    /// Of several, that of this machine's architecture.
    fn oci_manifest(&self) -> anyhow::Result<Manifest> {
        let architecture = architecture();
        let mut name = "index.json".to_owned();
        // An index may point to another.
        for _ in 0..4 {
            let index: Index = self.json(&name)?;
            let chosen = index
                .manifests
                .iter()
                .find(|found| found.fits(architecture))
                .with_context(|| format!("it holds no image for linux/{architecture}"))?;
            name = chosen.place()?;
            if let Ok(manifest) = self.json::<Manifest>(&name) {
                return Ok(manifest);
            }
        }
        anyhow::bail!("its index leads to no manifest")
    }

    /// The plain tar of a layer.
    fn layer(&self, name: &str) -> anyhow::Result<Box<dyn Read + Send>> {
        let mut magic = [0; 4];
        let length = self.part(name)?.read(&mut magic)?;
        match &magic[..length] {
            [0x1f, 0x8b, ..] => Ok(Box::new(flate2::read::MultiGzDecoder::new(
                io::BufReader::new(self.part(name)?),
            ))),
            zstd::MAGIC => Ok(Box::new(zstd::Frames::new(io::BufReader::new(self.part(name)?)))),
            _ => Ok(Box::new(self.part(name)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1001::/home/node:/bin/sh\n";

    #[test]
    fn the_user_is_the_bottles_or_the_images_or_1000() {
        let found = |named| user(named, PASSWD, "staff:x:50:\n").unwrap();
        assert_eq!((found(None).uid, found(None).home), (1000, "/home/node".to_owned()));
        assert_eq!(found(Some("root")).uid, 0);
        assert_eq!(found(Some("node:staff")).gid, 50);
        assert_eq!((found(Some("4321:55")).uid, found(Some("4321:55")).gid), (4321, 55));
        assert_eq!(user(None, "root:x:0:0::/root:\n", "").unwrap().uid, 0);
        assert!(user(Some("nobody-here"), PASSWD, "").is_err());
        assert!(user(Some("99999999"), PASSWD, "").is_err());
    }

    #[test]
    fn what_an_image_does_not_set_may_be_null() {
        let text = r#"{"config": {"User": "", "Env": null, "Cmd": null, "WorkingDir": null}}"#;
        let config = serde_json::from_str::<ConfigFile>(text).unwrap().config.unwrap();
        assert!(config.env.is_empty() && config.workdir.is_empty());
    }
}
