//! Skills: what is read, what is refused, and that nothing outside is ever read.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use bottle::manifest::load;
use bottle::model::{SkillFiles, SkillNode};

use crate::manifest::{Scratch, id, said};

fn with_skill() -> Scratch {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/agents/good.md", "---\nbottle: dev\nskills: [s]\n---\n");
    scratch.write("tree/skills/s/SKILL.md", "content");
    scratch
}

fn read(scratch: &Scratch) -> Result<std::sync::Arc<SkillFiles>, String> {
    let desired = scratch.load();
    match desired.sandboxes.get(&id("good")) {
        Some(spec) => Ok(spec.skills["s"].clone()),
        None => Err(desired.held[&id("good")][0].message.clone()),
    }
}

/// X11: set-id bits are not among them.
#[test]
fn a_skill_is_its_files_modes_and_inner_links() {
    let scratch = with_skill();
    let script = scratch.write("tree/skills/s/bin/run", "#!/bin/sh\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o4755)).expect("a mode");
    fs::create_dir(scratch.path("tree/skills/s/empty")).expect("a folder");
    for (target, link) in [
        ("../SKILL.md", "bin/doc"),
        ("bin", "tools"),
        ("tools/../nowhere", "dangling"),
        (".", "dot"),
    ] {
        symlink(target, scratch.path("tree/skills/s").join(link)).expect("a link");
    }
    let skill = read(&scratch).expect("it is fine");
    let paths: Vec<_> = skill.entries().iter().map(|e| e.path.as_str()).collect();
    assert_eq!(
        paths,
        ["SKILL.md", "bin", "bin/doc", "bin/run", "dangling", "dot", "empty", "tools"]
    );
    let run = &skill.entries()[3];
    assert_eq!((run.mode, &run.node), (0o755, &SkillNode::File((*b"#!/bin/sh\n").into())));
    assert_eq!(skill.entries()[2].node, SkillNode::Symlink("../SKILL.md".into()));
    let before = skill.hash();
    fs::remove_file(&script).expect("it was there");
    assert_ne!(read(&scratch).expect("it is fine").hash(), before);
}

#[test]
fn the_trees_skill_stands_before_the_homes() {
    let scratch = with_skill();
    scratch.write("home/.claude/skills/s/SKILL.md", "of the home folder");
    assert_eq!(
        read(&scratch).expect("it is fine").entries()[0].node,
        SkillNode::File((*b"content").into())
    );
    fs::remove_dir_all(scratch.path("tree/skills/s")).expect("it was there");
    assert_eq!(
        read(&scratch).expect("it is fine").entries()[0].node,
        SkillNode::File((*b"of the home folder").into())
    );
    fs::remove_dir_all(scratch.path("home/.claude")).expect("it was there");
    let desired = scratch.load();
    let held = &desired.held[&id("good")][0];
    assert_eq!((held.line, held.column), (3, 10));
    assert_eq!(held.message, "the skill `s` cannot be used: there is no such folder");
    assert!(held.hint.as_deref().is_some_and(|hint| hint.contains("~/.claude/skills/s/")));
}

/// X11, X12: links that lead out, however long the way.
#[test]
fn what_leaves_the_folder_is_refused() {
    for target in [
        "/etc/passwd",
        "../../../home/secret",
        "..",
        "../s",
        "bin/../../x",
        "dot/../x",
        "deep/../../../x",
        "loop",
        "self/x",
    ] {
        let scratch = with_skill();
        let folder = scratch.path("tree/skills/s");
        fs::create_dir_all(folder.join("bin")).expect("a folder");
        symlink(".", folder.join("dot")).expect("a link");
        symlink("bin", folder.join("deep")).expect("a link");
        if target == "loop" {
            symlink("loop", folder.join("loop")).expect("a link");
        } else {
            symlink(target, folder.join("self")).expect("a link");
        }
        let error = read(&scratch).expect_err(target);
        assert!(error.contains("symbolic link"), "{target}: {error}");
    }
}

/// X11: devices, sockets and pipes.
#[test]
fn what_is_no_file_is_refused() {
    let scratch = with_skill();
    let path = scratch.path("tree/skills/s/x");
    let fifo = Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(fifo.success());
    assert!(read(&scratch).expect_err("a FIFO").contains("x: it is a FIFO"));
    fs::remove_file(&path).expect("it was there");
    let socket = UnixListener::bind(&path).expect("a socket");
    assert!(read(&scratch).expect_err("a socket").contains("x: it is a socket"));
    drop(socket);
    fs::remove_file(&path).expect("it was there");
    let secret = scratch.path("home");
    fs::remove_dir_all(scratch.path("tree/skills/s")).expect("it was there");
    symlink(secret, scratch.path("tree/skills/s")).expect("a link");
    // A link to what is no skill: the home folder, say.
    assert!(read(&scratch).expect_err("a link").contains("where there is no SKILL.md"));
    fs::remove_file(scratch.path("tree/skills/s")).expect("it was there");
    scratch.write("tree/skills/s", "a file");
    assert!(read(&scratch).expect_err("a file").contains("it is a file, not a folder"));
}

/// As `npx skills` and stow install them.
#[test]
fn a_skill_may_be_a_link_to_a_folder_of_the_operators() {
    for (at, link) in
        [("tree/_src/s", "../_src/s"), ("home/.agents/skills/s", "../../home/.agents/skills/s")]
    {
        let scratch = with_skill();
        fs::remove_dir_all(scratch.path("tree/skills/s")).expect("it was there");
        symlink(link, scratch.path("tree/skills/s")).expect("a link");
        let error = read(&scratch).expect_err("a link to nothing");
        assert!(error.contains("a symbolic link to nothing"), "{error}");
        scratch.write(&format!("{at}/SKILL.md"), "linked");
        assert_eq!(
            read(&scratch).expect("it is fine").entries()[0].node,
            SkillNode::File((*b"linked").into())
        );
        // What lies in it may still not lead out of it, nor be what others can change.
        symlink("/etc/passwd", scratch.path(at).join("out")).expect("a link");
        assert!(read(&scratch).expect_err("a link that leaves").contains("symbolic link"));
        fs::remove_file(scratch.path(at).join("out")).expect("it was there");
        fs::set_permissions(scratch.path(at), fs::Permissions::from_mode(0o777)).expect("chmod");
        assert!(read(&scratch).expect_err("others").contains("others can change it"));
    }
}

/// X11: in bytes, in entries and in depth.
#[test]
fn a_skill_has_bounds() {
    let scratch = with_skill();
    let big = fs::File::create(scratch.path("tree/skills/s/big")).expect("a file");
    big.set_len((64 << 20) + 1).expect("a length");
    assert!(read(&scratch).expect_err("too large").contains("more than 64 MiB"));
    fs::remove_file(scratch.path("tree/skills/s/big")).expect("it was there");
    let deep = format!("tree/skills/s/{}x", "d/".repeat(40));
    scratch.write(&deep, "x");
    assert!(read(&scratch).expect_err("too deep").contains("folders deep"));
    fs::remove_dir_all(scratch.path("tree/skills/s/d")).expect("it was there");
    for number in 0..10_001 {
        fs::write(scratch.path("tree/skills/s").join(number.to_string()), "").expect("a file");
    }
    assert!(read(&scratch).expect_err("too many").contains("entries"));
}

#[test]
fn names_of_skills_are_plain() {
    for name in ["..", ".", "a/b", "../s", "/etc", "-a", "''", "a\\0b", "~", "5"] {
        let scratch = with_skill();
        scratch.write("tree/agents/bad.md", format!("---\nbottle: dev\nskills: [{name}]\n---\n"));
        let desired = scratch.load();
        assert!(desired.held.contains_key(&id("bad")), "{name}: {:?}", said(&desired));
        assert!(desired.sandboxes.contains_key(&id("good")));
    }
}

/// X12: while a reader reads, a file and a folder are swapped for links to a secret: whatever the
/// moment, either the old content is read or the skill is refused.
#[test]
fn a_swap_in_the_middle_shows_nothing_of_the_target() {
    let scratch = with_skill();
    let secret = scratch.write("home/secret/file", "the secret");
    scratch.write("tree/skills/s/inner/file", "fine");
    let (file, inner) =
        (scratch.path("tree/skills/s/SKILL.md"), scratch.path("tree/skills/s/inner"));
    let aside = scratch.path("aside");
    let stop = AtomicBool::new(false);
    let options = scratch.options();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::remove_file(&file);
                let _ = symlink(&secret, &file);
                let _ = fs::rename(&inner, &aside);
                let _ = symlink(secret.parent().expect("a folder"), &inner);
                let _ = fs::remove_file(&file);
                let _ = fs::write(&file, "content");
                let _ = fs::remove_file(&inner);
                let _ = fs::rename(&aside, &inner);
            }
        });
        for _ in 0..500 {
            let desired = load(&options).expect("the tree can be read");
            for spec in desired.sandboxes.values() {
                for entry in spec.skills["s"].entries() {
                    if let SkillNode::File(bytes) = &entry.node {
                        assert_ne!(&**bytes, b"the secret", "{}", entry.path);
                    }
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
