//! An image tar of the operator's, rewritten so that loading it gives our name to its one image and
//! moves no other name on the engine.
#![expect(clippy::disallowed_methods, reason = "reads the operator's image tar")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::backend::oci::{Descriptor, Index, LAYER_BYTES, Manifest, clean, too_large};
use crate::backend::zstd;
use crate::model::SpecHash;

/// No manifest or index that a program made is larger.
const LARGEST_JSON: u64 = 4 << 20;

/// Links from one layer to another that are followed.
const LINKS: usize = 8;

/// One image of `manifest.json`, as `docker save` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Where an entry's bytes lie in the file.
enum Place {
    Bytes { start: u64, size: u64 },
    Link(String),
}

struct Contents {
    file: File,
    places: HashMap<String, Place>,
}

/// Writes the image in the tar at `path` to `out` as a tar of `docker save`, under the one name
/// `tag`. `digest` is what the tar was when the plan was made.
pub(in crate::backend) fn rewrite(
    path: &Path,
    digest: SpecHash,
    tag: &str,
    architecture: &str,
    out: impl Write,
) -> anyhow::Result<()> {
    let mut file = File::open(path).context("opening it")?;
    ensure!(digest_of(&mut file)? == digest, "it changed since the plan was made: plan again");
    let mut contents = Contents::of(file)?;
    let image = contents.image(architecture)?;
    let mut tar = tar::Builder::new(out);
    let layers: Vec<String> = (0..image.layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let renamed = Image {
        config: "config.json".to_owned(),
        repo_tags: Some(vec![tag.to_owned()]),
        layers: layers.clone(),
    };
    let manifest = serde_json::to_vec(&[renamed])?;
    append(&mut tar, "manifest.json", manifest.len() as u64, manifest.as_slice())?;
    contents.copy(&image.config, "config.json", &mut tar)?;
    for (from, to) in image.layers.iter().zip(&layers) {
        contents.layer(from, to, &mut tar)?;
    }
    tar.finish()?;
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

/// The digest of what is left to read.
pub(super) fn digest_of(file: &mut File) -> std::io::Result<SpecHash> {
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

impl Contents {
    fn of(mut file: File) -> anyhow::Result<Self> {
        file.rewind()?;
        let mut magic = [0; 6];
        let count = file.read(&mut magic)?;
        let compressed = match &magic[..count] {
            [0x1f, 0x8b, ..] => Some("gzip"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
            [0xfd, b'7', b'z', ..] => Some("xz"),
            [b'B', b'Z', b'h', ..] => Some("bzip2"),
            _ => None,
        };
        if let Some(how) = compressed {
            bail!("it is compressed with {how}: expand it to a plain tar");
        }
        file.rewind()?;
        let mut places = HashMap::new();
        let mut archive = tar::Archive::new(&file);
        let no_tar = "it is no tar";
        for entry in archive.entries_with_seek().context(no_tar)? {
            let entry = entry.context(no_tar)?;
            let name = clean(&entry.path().context(no_tar)?);
            let kind = entry.header().entry_type();
            let place = if kind.is_file() {
                Place::Bytes { start: entry.raw_file_position(), size: entry.size() }
            } else if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name().context(no_tar)?.unwrap_or_default();
                let folder = Path::new(&name).parent().unwrap_or(Path::new(""));
                let base = if kind.is_symlink() { folder } else { Path::new("") };
                Place::Link(clean(&base.join(target)))
            } else {
                continue;
            };
            places.insert(name, place);
        }
        Ok(Self { file, places })
    }

    fn place(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = clean(Path::new(name));
        for _ in 0..LINKS {
            match self.places.get(&name)? {
                Place::Bytes { start, size } => return Some((*start, *size)),
                Place::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    fn json<T: for<'de> Deserialize<'de>>(&mut self, name: &str) -> anyhow::Result<Option<T>> {
        let Some((start, size)) = self.place(name) else { return Ok(None) };
        ensure!(size <= LARGEST_JSON, "its {name} is too large");
        self.file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        (&self.file).take(size).read_to_end(&mut bytes)?;
        let parsed = serde_json::from_slice(&bytes).with_context(|| format!("its {name}"))?;
        Ok(Some(parsed))
    }

    fn copy(
        &mut self,
        from: &str,
        to: &str,
        tar: &mut tar::Builder<impl Write>,
    ) -> anyhow::Result<()> {
        let (start, size) = self.place(from).with_context(|| format!("it lacks its {from}"))?;
        self.file.seek(SeekFrom::Start(start))?;
        append(tar, to, size, (&self.file).take(size))?;
        Ok(())
    }

    /// As `copy`, but expanded where it is compressed with zstd: engines before 23 do not know that.
    fn layer(
        &mut self,
        from: &str,
        to: &str,
        tar: &mut tar::Builder<impl Write>,
    ) -> anyhow::Result<()> {
        let (start, size) = self.place(from).with_context(|| format!("it lacks its {from}"))?;
        self.file.seek(SeekFrom::Start(start))?;
        let mut magic = Vec::new();
        (&self.file).take(size.min(zstd::MAGIC.len() as u64)).read_to_end(&mut magic)?;
        if magic != zstd::MAGIC {
            return self.copy(from, to, tar);
        }
        let expanding = || format!("expanding its {from}");
        // Twice, because a tar says how long an entry is before it.
        let expanded = |file: &mut File| {
            file.seek(SeekFrom::Start(start))?;
            let part = std::io::BufReader::new(file.try_clone()?.take(size));
            anyhow::Ok(zstd::Frames::new(part))
        };
        let mut counted = expanded(&mut self.file)?.take(LAYER_BYTES + 1);
        let length = std::io::copy(&mut counted, &mut std::io::sink()).with_context(expanding)?;
        ensure!(length <= LAYER_BYTES, "its {from} {}", too_large());
        append(tar, to, length, expanded(&mut self.file)?.take(length)).with_context(expanding)
    }

    /// The one image in it: by `docker save`'s manifest, else by the index of an OCI layout.
    fn image(&mut self, architecture: &str) -> anyhow::Result<Image> {
        if let Some(mut images) = self.json::<Vec<Image>>("manifest.json")? {
            let count = images.len();
            return match (images.pop(), count) {
                (Some(image), 1) => Ok(image),
                _ => bail!("it holds {count} images: save just one"),
            };
        }
        let index = self.json::<Index>("index.json")?.context(
            "it is no image: it has neither a manifest.json (docker save) nor an index.json \
             (OCI). A root file system is given as a folder",
        )?;
        let manifest = self.oci_manifest(index, architecture, 0)?;
        Ok(Image {
            config: manifest.config.place()?,
            repo_tags: None,
            layers: manifest.layers.iter().map(Descriptor::place).collect::<anyhow::Result<_>>()?,
        })
    }

    fn oci_manifest(
        &mut self,
        index: Index,
        architecture: &str,
        depth: usize,
    ) -> anyhow::Result<Manifest> {
        ensure!(depth <= LINKS, "its indexes are nested too deeply");
        let mut entries: Vec<Descriptor> = index.manifests;
        entries.retain(|entry| entry.fits(architecture));
        let Some(entry) = entries.pop() else {
            bail!("it has no image for linux/{architecture}");
        };
        ensure!(entries.is_empty(), "it holds {} images: save just one", entries.len() + 1);
        let name = entry.place()?;
        let lacks = || format!("it lacks its {name}");
        if entry.media_type.contains("index") || entry.media_type.contains("manifest.list") {
            let inner = self.json::<Index>(&name)?.with_context(lacks)?;
            return self.oci_manifest(inner, architecture, depth + 1);
        }
        self.json::<Manifest>(&name)?.with_context(lacks)
    }
}

#[cfg(test)]
mod tests;
