//! Images that the engine builds.

use std::sync::Mutex;

use super::*;

/// A folder to build of, with what the Dockerfile says after its first line.
fn context(corner: &Corner, dockerfile: &str) -> std::path::PathBuf {
    let folder = corner.folder.path().join("context");
    std::fs::create_dir_all(folder.join("sub")).expect("it is ours");
    for (name, text) in [
        ("Dockerfile", format!("FROM {BUSYBOX}\n{dockerfile}")),
        (".dockerignore", "secret\n".to_owned()),
        ("secret", "top secret".to_owned()),
        ("sub/file", "sent".to_owned()),
    ] {
        std::fs::write(folder.join(name), text).expect("it is ours");
    }
    folder
}

/// The image, as a manifest that was read now would name it.
fn built(folder: &std::path::Path, args: &[(&str, &str)]) -> ImageRef {
    use bottle::model::build::{Content, Part};
    use std::os::unix::fs::PermissionsExt as _;
    let mut content = Content::default();
    for name in [".dockerignore", "Dockerfile", "sub", "sub/file"] {
        let found = std::fs::metadata(folder.join(name)).expect("it is there");
        let part = match std::fs::read(folder.join(name)) {
            Ok(bytes) => Part::File(SpecHash::of_bytes(&bytes)),
            Err(_) => Part::Folder,
        };
        content.add(name.as_bytes(), found.permissions().mode() & 0o7777, part);
    }
    let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ImageRef::built(folder.to_owned(), args.collect(), content.digest())
}

fn image_id(name: &str) -> String {
    docker(&["image", "inspect", "--format", "{{.Id}} {{.Created}}", name]).expect("it is there")
}

#[tokio::test]
async fn an_image_is_built_once_of_what_is_sent() {
    let Some(corner) = Corner::new("build") else { return };
    let folder = context(
        &corner,
        "ARG GREETING=none\nCOPY . /context\nRUN echo \"$GREETING\" > /greeting; stat -c %u /context/sub/file\n",
    );
    let image = built(&folder, &[("GREETING", "hello")]);
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = lines.clone();
    let progress = Progress::new(move |line| seen.lock().unwrap().push(line.to_owned()));
    let spec = machine(image.clone());
    corner.backend.prepare(&corner.scope, &spec, &progress).await.expect("it builds");
    let said = lines.lock().unwrap().join("\n");
    assert!(said.contains(&format!("building {}: Step 4/4", folder.display())), "{said}");
    let made = corner.run(&spec).await;
    assert_eq!(
        corner.says(&made, "cat /greeting; find /context -type f | sort").await,
        "hello\n/context/.dockerignore\n/context/Dockerfile\n/context/sub/file"
    );
    let name = format!("bottle-{}:{}", corner.scope.owner, image.digest().expect("one"));
    let before = image_id(&name);
    // The same again builds nothing, also where the folder is gone.
    lines.lock().unwrap().clear();
    std::fs::rename(&folder, corner.folder.path().join("elsewhere")).expect("it is ours");
    corner.backend.prepare(&corner.scope, &spec, &progress).await.expect("it is there");
    assert_eq!(*lines.lock().unwrap(), Vec::<String>::new());
    assert_eq!(image_id(&name), before);
    // Seen as what can go; in use it stays.
    let left = corner.observe(Depth::Listing).await.leftovers;
    assert_eq!(left.len(), 1, "{left:#?}");
    assert_eq!((left[0].kind, left[0].digest), (LeftoverKind::Image, image.digest()));
    corner.backend.prune(&corner.scope, &left[0]).await.expect("it stays");
    assert_eq!(image_id(&name), before);
    corner.backend.teardown(&corner.scope, &made).await.expect("it goes");
    corner.backend.prune(&corner.scope, &left[0]).await.expect("it goes");
    assert_eq!(corner.observe(Depth::Listing).await.leftovers, []);
}

#[tokio::test]
async fn a_build_that_fails_says_its_last_lines_and_leaves_nothing() {
    let Some(corner) = Corner::new("buildfails") else { return };
    let folder = context(&corner, "RUN printf '\\033[31mno such package\\033[0m\\n'; exit 7\n");
    let refused = corner.prepare(&machine(built(&folder, &[]))).await;
    let Err(BackendError::Image { image, reason }) = refused else { panic!("{refused:?}") };
    assert_eq!(image, folder.display().to_string());
    assert!(
        reason.contains("non-zero code: 7") && reason.contains("| no such package"),
        "{reason}"
    );
    assert!(!reason.contains('\x1b'), "{reason}");
    let folder = context(&corner, "RUN --mount=type=cache,target=/x true\n");
    let refused = text(corner.prepare(&machine(built(&folder, &[]))).await.expect_err("too new"));
    assert!(refused.contains("image: docker:NAME"), "{refused}");
    let folder = context(&corner, "NONSENSE\n");
    let refused = text(corner.prepare(&machine(built(&folder, &[]))).await.expect_err("nonsense"));
    assert!(refused.contains("NONSENSE"), "{refused}");
    // What was planned is built, and nothing else.
    let image = built(&folder, &[]);
    std::fs::write(folder.join("sub/file"), "other").expect("it is ours");
    let refused = text(corner.prepare(&machine(image)).await.expect_err("it changed"));
    assert!(refused.contains("changed since the plan was made"), "{refused}");
    assert_eq!(corner.observe(Depth::Listing).await.leftovers, []);
}
