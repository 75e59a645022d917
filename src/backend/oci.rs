//! What an image archive says about itself, as an OCI layout writes it. Pure.

use std::path::{Component, Path};

use anyhow::Context;
use serde::Deserialize;

/// What one layer may unpack to: an archive of megabytes can hold terabytes of zeros. The largest
/// public images have layers of some 20 GiB.
pub(super) const LAYER_BYTES: u64 = 64 << 30;

/// What is wrong with a layer that has more, and what to do.
pub(super) fn too_large() -> String {
    format!(
        "unpacks to more than {} GiB, which is the limit: build it as several layers, or unpack it \
         yourself and name the folder as the image",
        LAYER_BYTES >> 30
    )
}

/// `index.json`, and what it points to when that is an index again.
#[derive(Deserialize)]
pub(super) struct Index {
    pub manifests: Vec<Descriptor>,
}

/// One image: its configuration, and its layers from the lowest up.
#[derive(Deserialize)]
pub(super) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// Something in the archive, by its digest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

impl Descriptor {
    /// Where the archive keeps it.
    pub(super) fn place(&self) -> anyhow::Result<String> {
        let (algorithm, hex) = self.digest.split_once(':').context("a digest in it is none")?;
        Ok(format!("blobs/{algorithm}/{hex}"))
    }

    /// Whether it runs there: what names no platform runs anywhere.
    pub(super) fn fits(&self, architecture: &str) -> bool {
        self.platform
            .as_ref()
            .is_none_or(|platform| platform.os == "linux" && platform.architecture == architecture)
    }
}

/// This machine's architecture, as images name it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A name in an archive without `.` and `..`; nothing on the host is ever opened by it.
pub(super) fn clean(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for (name, cleaned) in
            [("b/../a/layer.tar", "a/layer.tar"), ("./x", "x"), ("../../etc/passwd", "etc/passwd")]
        {
            assert_eq!(clean(Path::new(name)), cleaned);
        }
    }

    #[test]
    fn a_platform_that_is_not_named_fits() {
        let read = |text: &str| serde_json::from_str::<Descriptor>(text).unwrap();
        let any = read(r#"{"digest": "sha256:00"}"#);
        assert!(any.fits("amd64"));
        assert_eq!(any.place().unwrap(), "blobs/sha256/00");
        let arm = r#"{"digest": "x", "platform": {"os": "linux", "architecture": "arm64"}}"#;
        assert!(read(arm).fits("arm64") && !read(arm).fits("amd64"));
        assert!(read(arm).place().is_err());
    }
}
