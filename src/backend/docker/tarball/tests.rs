use super::*;

fn archive(
    entries: &[(&str, &str)],
    links: &[(&str, &str)],
) -> (tempfile::NamedTempFile, SpecHash) {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in entries {
        append(&mut tar, name, text.len() as u64, text.as_bytes()).unwrap();
    }
    for (name, target) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, name, target).unwrap();
    }
    let bytes = tar.into_inner().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    (file, SpecHash::of_bytes(&bytes))
}

fn rewritten(file: &(tempfile::NamedTempFile, SpecHash)) -> anyhow::Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    rewrite(file.0.path(), file.1, "bottle-team:1", "amd64", &mut out)?;
    let mut archive = tar::Archive::new(out.as_slice());
    let entries = archive.entries()?.map(|entry| {
        let mut entry = entry?;
        let mut text = String::new();
        entry.read_to_string(&mut text)?;
        Ok((entry.path()?.display().to_string(), text))
    });
    entries.collect()
}

fn refused(file: &(tempfile::NamedTempFile, SpecHash)) -> String {
    format!("{:#}", rewritten(file).unwrap_err())
}

fn pairs(entries: &[(String, String)]) -> Vec<(&str, &str)> {
    entries.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect()
}

const OURS: &str = r#"[{"Config":"config.json","RepoTags":["bottle-team:1"],"Layers":["0/layer.tar","1/layer.tar"]}]"#;

#[test]
fn a_saved_image_loses_its_own_names() {
    let saved =
        r#"[{"Config":"c.json","RepoTags":["node:22"],"Layers":["a/layer.tar","b/layer.tar"]}]"#;
    let file = archive(
        &[
            ("manifest.json", saved),
            ("repositories", "{}"),
            ("c.json", "config"),
            ("a/layer.tar", "first"),
        ],
        &[("b/layer.tar", "../a/layer.tar")],
    );
    assert_eq!(
        pairs(&rewritten(&file).unwrap()),
        [
            ("manifest.json", OURS),
            ("config.json", "config"),
            ("0/layer.tar", "first"),
            ("1/layer.tar", "first"),
        ]
    );
}

#[test]
fn an_oci_layout_is_followed_to_this_engines_platform() {
    let file = archive(
        &[
            ("oci-layout", "{}"),
            (
                "index.json",
                r#"{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:1"}]}"#,
            ),
            (
                "blobs/sha256/1",
                r#"{"manifests":[
                    {"mediaType":"m","digest":"sha256:2","platform":{"os":"linux","architecture":"arm64"}},
                    {"mediaType":"m","digest":"sha256:3","platform":{"os":"linux","architecture":"amd64"}},
                    {"mediaType":"m","digest":"sha256:4","platform":{"os":"unknown","architecture":"unknown"}}]}"#,
            ),
            (
                "./blobs/sha256/3",
                r#"{"config":{"digest":"sha256:c"},"layers":[{"digest":"sha256:x"},{"digest":"sha256:y"}]}"#,
            ),
            ("blobs/sha256/c", "config"),
            ("blobs/sha256/x", "x"),
            ("blobs/sha256/y", "y"),
        ],
        &[],
    );
    assert_eq!(
        pairs(&rewritten(&file).unwrap()),
        [
            ("manifest.json", OURS),
            ("config.json", "config"),
            ("0/layer.tar", "x"),
            ("1/layer.tar", "y"),
        ]
    );
}

#[test]
fn what_is_no_image_says_what_it_lacks() {
    let root = archive(&[("bin/sh", "sh")], &[]);
    assert!(refused(&root).contains("neither a manifest.json"), "{}", refused(&root));
    let two = r#"[{"Config":"a","Layers":[]},{"Config":"b","Layers":[]}]"#;
    assert_eq!(
        refused(&archive(&[("manifest.json", two)], &[])),
        "it holds 2 images: save just one"
    );
    let torn = r#"[{"Config":"a","Layers":[]}]"#;
    assert_eq!(refused(&archive(&[("manifest.json", torn)], &[])), "it lacks its a");
    assert!(refused(&archive(&[("manifest.json", "{")], &[])).starts_with("its manifest.json: "));
    let arm =
        r#"{"manifests":[{"digest":"sha256:2","platform":{"os":"linux","architecture":"arm64"}}]}"#;
    assert_eq!(refused(&archive(&[("index.json", arm)], &[])), "it has no image for linux/amd64");
    let text = |text: &[u8]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        (file, SpecHash::of_bytes(text))
    };
    assert!(refused(&text(b"\x1f\x8b\x08")).contains("gzip"));
    assert!(refused(&text(&[b'x'; 2000])).contains("it is no tar"));
    assert!(refused(&text(b"")).contains("no image"));
}

#[test]
fn a_loop_of_links_and_a_changed_file_are_refused() {
    let saved = r#"[{"Config":"a","Layers":[]}]"#;
    let file = archive(&[("manifest.json", saved)], &[("a", "b"), ("b", "a")]);
    assert_eq!(refused(&file), "it lacks its a");
    let file = archive(&[("manifest.json", "[]")], &[]);
    let changed = (file.0, SpecHash::of_bytes(b"before"));
    assert!(refused(&changed).contains("changed since the plan"));
}

/// Engines before 23 load no layer that is compressed with zstd.
#[test]
fn a_layer_of_zstd_is_expanded() {
    let frame = |content: &[u8]| {
        let length = u8::try_from(content.len()).unwrap();
        let head = [0x28, 0xb5, 0x2f, 0xfd, 0x20, length, 1 | length << 3, length >> 5, 0];
        [&head[..], content].concat()
    };
    let saved = r#"[{"Config":"c.json","Layers":["a","b"]}]"#;
    let of = |layer: &[u8]| {
        let mut tar = tar::Builder::new(Vec::new());
        let entries: [(&str, &[u8]); 4] =
            [("manifest.json", saved.as_bytes()), ("c.json", b"{}"), ("a", layer), ("b", b"plain")];
        for (name, bytes) in entries {
            append(&mut tar, name, bytes.len() as u64, bytes).unwrap();
        }
        let bytes = tar.into_inner().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        (file, SpecHash::of_bytes(&bytes))
    };
    let whole = [frame(b"one "), frame(b"two")].concat();
    let entries = rewritten(&of(&whole)).unwrap();
    assert_eq!(pairs(&entries)[2..], [("0/layer.tar", "one two"), ("1/layer.tar", "plain")]);
    assert!(refused(&of(&whole[..whole.len() - 1])).contains("expanding its a"));
}
