//! `image: {build: …}`: what an engine is sent, what a change of it is, and what is refused.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use bottle::model::{ImageRef, SpecHash};

use crate::manifest::{Scratch, id, said};

fn scratch() -> Scratch {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/images/dev/Dockerfile", "FROM a\nARG V\nCOPY . /x\n");
    scratch.write("tree/images/dev/main", "one");
    scratch.write("tree/images/dev/.dockerignore", "*.log\n");
    bottle(&scratch, "");
    scratch
}

fn bottle(scratch: &Scratch, args: &str) {
    let yaml = format!("---\nimage:\n  build: ../images/dev\n  args: {{{args}}}\n---\n");
    scratch.write("tree/bottles/dev.md", yaml);
}

fn digest(scratch: &Scratch) -> SpecHash {
    let desired = scratch.load();
    assert_eq!(said(&desired), Vec::<String>::new());
    let image = desired.sandboxes[&id("good")].image.clone().expect("an image");
    let ImageRef::Built { path, digest, .. } = &image else { panic!("{image:?}") };
    assert!(path.ends_with("tree/images/dev"), "{}", path.display());
    assert_eq!(image.to_string(), format!("build sha256:{digest}"));
    *digest
}

#[test]
fn a_build_is_known_by_what_is_sent() {
    let scratch = scratch();
    let first = digest(&scratch);
    // What is ignored, a touch and who owns a file change nothing.
    scratch.write("tree/images/dev/build.log", "much");
    let main = scratch.path("tree/images/dev/main");
    let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    fs::File::options().write(true).open(&main).expect("a file").set_times(old).expect("times");
    assert_eq!(digest(&scratch), first);
    let mut seen = BTreeSet::from([first]);
    let mut other = |scratch: &Scratch, what: &str| {
        assert!(seen.insert(digest(scratch)), "{what}");
    };
    scratch.write("tree/images/dev/main", "two");
    other(&scratch, "content");
    fs::set_permissions(&main, fs::Permissions::from_mode(0o755)).expect("a mode");
    other(&scratch, "mode");
    scratch.write("tree/images/dev/Dockerfile", "FROM b\n");
    other(&scratch, "Dockerfile");
    symlink("/nowhere", scratch.path("tree/images/dev/link")).expect("a link");
    other(&scratch, "link");
    bottle(&scratch, "V: \"1\"");
    other(&scratch, "an argument");
    bottle(&scratch, "V: \"2\"");
    other(&scratch, "its value");
    scratch.write("tree/images/dev/.dockerignore", "");
    other(&scratch, "what is ignored");
}

#[test]
fn what_cannot_be_built_says_why() {
    let scratch = scratch();
    let said = |yaml: &str| {
        scratch.write("tree/bottles/dev.md", format!("---\nimage: {yaml}\n---\n"));
        said(&scratch.load()).join("\n")
    };
    let built = "{build: ../images/dev}";
    let expect = |yaml: &str, words: &str| {
        let said = said(yaml);
        assert!(said.contains(words), "{yaml}: {said}");
    };
    expect("{}", "needs the key `build`");
    expect("{build: ../images/none}", "it does not exist");
    expect("{build: images/dev}", "expected a path that starts with");
    expect("{build: ../images}", "there is no Dockerfile in it");
    expect("{build: ../images/dev/main}", "not a directory");
    expect("{build: ..}", "is or contains the tree");
    expect("{build: ../images/dev, target: x}", "unknown key `target`");
    expect("{build: ../images/dev, args: {V: \"?\"}}", "would stay in the image");
    expect("{build: ../images/dev, args: {V: 1}}", "found the number");
    expect("{build: ../images/dev, args: {a-b: x}}", "cannot name an argument");
    expect(&format!("{built}\nbackend: native"), "is built by a Docker engine");
    // What others can change, or what cannot be sent.
    let main = scratch.path("tree/images/dev/main");
    fs::set_permissions(&main, fs::Permissions::from_mode(0o666)).expect("a mode");
    expect(built, "main: others can change it");
    scratch.write("tree/images/dev/.dockerignore", "main");
    assert_eq!(said(built), "");
    fs::remove_file(&main).expect("it is there");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        scratch.path("tree/images/dev/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("a FIFO");
    expect(built, "pipe: it is a FIFO");
    scratch.write("tree/images/dev/.dockerignore", "pipe\n[z-a]\n");
    expect(built, "line 2: is no pattern");
    scratch.write("tree/images/dev/.dockerignore", "pipe\n");
    assert_eq!(said(built), "");
    let dockerfile = scratch.path("tree/images/dev/Dockerfile");
    fs::remove_file(&dockerfile).expect("it is there");
    symlink("/etc/hostname", &dockerfile).expect("a link");
    expect(built, "Dockerfile: it is a symbolic link");
}
