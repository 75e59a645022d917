//! `bottle diff`: what an agent changed in the copy of its workspace.

use std::path::Path;

use serde_json::{Value, json};

use super::copies::{COMMITS, git, repository};
use super::rig::Rig;
use crate::support::{Ended, TempTree};

fn diff(rig: &Rig, more: &[&str]) -> Ended {
    let tree = rig.tree_path();
    let mut args = vec!["--tree", &tree, "diff", "a0"];
    args.extend(more);
    rig.cli.run(args)
}

fn files(rig: &Rig) -> Vec<String> {
    let document = diff(rig, &["-o", "json"]).exits(0).json();
    let files = document["files"].as_array().unwrap().iter();
    let line = |file: &Value| {
        let text = |key: &str| file[key].as_str().unwrap().to_owned();
        format!("{} {} {}/{}", text("path"), text("status"), file["added"], file["removed"])
    };
    files.map(line).collect()
}

/// A folder that is no repository, in a machine that may have no git.
pub(super) fn a_folder_is_compared_file_by_file(rig: &Rig) {
    let folder = rig.cli.home().join("site");
    std::fs::create_dir_all(folder.join("deep")).unwrap();
    for (name, text) in
        [("a", "one\ntwo\n"), ("gone", "x\n"), ("deep/same", "same\n"), (".gitignore", "new\n")]
    {
        std::fs::write(folder.join(name), text).unwrap();
    }
    rig.bottle(&format!("workspace:\n  path: {}\n", folder.display()));
    rig.agents(1);
    rig.apply(0);
    let none = diff(rig, &[]).exits(0);
    assert_eq!(none.stdout, "");
    assert!(none.stderr.contains("a0 has no changes against"), "{}", none.stderr);
    rig.inside("a0", "cd /workspace && printf 'one\\n2\\n' > a && rm gone && echo new > new && chmod +x deep/same");
    // Nothing is ignored where nobody commits.
    let all = ["a changed 1/1", "deep/same changed 0/0", "gone removed 0/1", "new added 1/0"];
    assert_eq!(files(rig), all);
    let document = diff(rig, &["-o", "json"]).exits(0).json();
    assert_eq!((&document["base"], &document["sandbox"]), (&Value::Null, &json!("a0")));
    let stat = diff(rig, &["--stat"]).exits(0).stdout;
    assert!(stat.contains("4 files changed, 2 insertions(+), 2 deletions(-)"), "{stat}");
    // What comes out of a pipe can be applied.
    let patch = diff(rig, &[]).exits(0).stdout;
    assert!(patch.contains("-two\n+2\n") && patch.contains("new mode 100755"), "{patch}");
    std::fs::write(rig.cli.home().join("patch"), &patch).unwrap();
    git(&folder, &["apply", rig.cli.home().join("patch").to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(folder.join("a")).unwrap(), "one\n2\n");
    assert!(!folder.join("gone").exists());
    assert_eq!(files(rig), [""; 0]);
    rig.crash("a0");
    if rig.backend == "native" {
        let down = diff(rig, &[]).exits(1);
        assert!(down.stderr.contains("bottle start"), "{}", down.stderr);
    }
}

/// What was seen comes into the folder, when that is said.
pub(super) fn changed_files_come_when_that_is_said(rig: &Rig) {
    let folder = rig.cli.home().join("site");
    std::fs::create_dir_all(folder.join("deep")).unwrap();
    for (name, text) in [("a", "one\n"), ("gone", "x\n"), ("deep/b", "b\n")] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    rig.bottle(&format!("workspace:\n  path: {}\n", folder.display()));
    rig.agents(1);
    rig.apply(0);
    rig.sync(&["--files"]).exits(0);
    rig.inside(
        "a0",
        "cd /workspace && echo two >> a && rm gone && echo c > deep/c && ln -s /etc/passwd leak",
    );
    let plain = rig.sync(&[]).exits(1);
    assert!(plain.stderr.contains("--files"), "{}", plain.stderr);
    // Nobody is there to be asked.
    let asked = rig.sync(&["--files"]).exits(1);
    assert!(asked.stdout.contains("+two"), "{}", asked.stdout);
    assert!(asked.stderr.contains("nothing was changed"), "{}", asked.stderr);
    assert!(folder.join("gone").exists() && !folder.join("deep/c").exists());
    // A link of the operator's own is not written through.
    let outside = rig.cli.home().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::rename(folder.join("deep"), rig.cli.home().join("moved")).unwrap();
    std::os::unix::fs::symlink(&outside, folder.join("deep")).unwrap();
    rig.sync(&["--files", "--yes"]);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    if folder.join("deep").is_symlink() {
        std::fs::remove_file(folder.join("deep")).unwrap();
        std::fs::rename(rig.cli.home().join("moved"), folder.join("deep")).unwrap();
    }
    rig.sync(&["--files", "--yes"]).exits(0);
    assert_eq!(std::fs::read_to_string(folder.join("a")).unwrap(), "one\ntwo\n");
    assert_eq!(std::fs::read_to_string(folder.join("deep/c")).unwrap(), "c\n");
    assert!(!folder.join("gone").exists() && folder.join("leak").symlink_metadata().is_err());
    assert_eq!(files(rig), [""; 0]);
}

/// A folder that another sandbox can write is neither read nor written by path: what git looked at would be another
/// file when it is opened.
pub(super) fn what_a_sandbox_can_write_is_not_compared(rig: &Rig) {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().canonicalize().unwrap().join("x");
    let sub = folder.join("sub");
    std::fs::create_dir_all(sub.join("d")).unwrap();
    std::fs::write(folder.join("a"), "one\n").unwrap();
    rig.bottle(&format!("workspace:\n  path: {}\n", folder.display()));
    rig.agents(1);
    rig.apply(0);
    rig.inside("a0", "cd /workspace && echo two >> a && echo x > sub/d/x");
    let refused = |tree: &TempTree, path: &Path| {
        let (backend, image) = (rig.backend, rig.image());
        let text = format!(
            "backend: {backend}\nimage: {image}\nuser: 0\nresources:\n  pids: 64\n  memory: 128M\n\
             workspace: {{path: {}, mode: mount}}",
            path.display()
        );
        tree.bottle("bb", &text).agent("bb", "bb", "", "x");
        rig.cli.run(["apply", tree.path().to_str().unwrap(), "--yes"]).exits(0);
        let how = format!("{} contains {}, which", folder.display(), path.display());
        let whose = format!("bb of {}", tree.path().canonicalize().unwrap().display());
        let own = rig.tree_path();
        for args in [
            &["diff", "a0"][..],
            &["-o", "json", "diff", "a0"],
            &["sync", "--files", "--yes", "a0"],
        ] {
            let ended = rig.cli.run([&["--tree", &own][..], args].concat()).exits(1);
            for part in [&how, &whose, "bottle cp a0:"] {
                let said = format!("{}{}", ended.stdout, ended.stderr);
                assert!(said.contains(part), "{part}: {said}");
            }
        }
    };
    // One of another tree counts as well.
    let other = TempTree::new("other");
    refused(&other, &sub);
    assert_eq!(std::fs::read_to_string(folder.join("a")).unwrap(), "one\n");
    assert!(!sub.join("d/x").exists());
    rig.cli.run(["down", other.path().to_str().unwrap(), "--yes"]).exits(0);
    rig.sync(&["--files", "--yes"]).exits(0);
    assert_eq!(std::fs::read_to_string(folder.join("a")).unwrap(), "one\ntwo\n");
    assert_eq!(std::fs::read_to_string(sub.join("d/x")).unwrap(), "x\n");
    rig.inside("a0", "cd /workspace && echo three >> a");
    refused(&rig.tree, &sub.join("d"));
    assert_eq!(std::fs::read_to_string(folder.join("a")).unwrap(), "one\ntwo\n");
}

/// Nor are objects read that a sandbox can write: those of a linked worktree lie in another folder.
pub(super) fn objects_that_a_sandbox_can_write_are_not_read(rig: &Rig) {
    let place = tempfile::tempdir().unwrap();
    let place = place.path().canonicalize().unwrap();
    let (main, linked) = (place.join("main"), place.join("linked"));
    std::fs::create_dir(&main).unwrap();
    git(&main, &["init", "-q"]);
    std::fs::write(main.join("f"), "one\n").unwrap();
    git(&main, &["add", "f"]);
    git(&main, &["commit", "-qm", "f"]);
    git(&main, &["worktree", "add", "-q", "-b", "other", linked.to_str().unwrap()]);
    rig.bottle(&format!("workspace:\n  path: {}\n", linked.display()));
    rig.agents(1);
    rig.apply(0);
    rig.inside("a0", "cd /workspace && echo two >> f");
    assert_eq!(files(rig), ["f changed 1/0"]);
    let (backend, image) = (rig.backend, rig.image());
    let text = format!(
        "backend: {backend}\nimage: {image}\nuser: 0\nresources:\n  pids: 64\n  memory: 128M\n\
         workspace: {{path: {}, mode: mount}}",
        main.display()
    );
    rig.tree.bottle("bb", &text).agent("bb", "bb", "", "x");
    rig.apply(0);
    let refused = diff(rig, &[]).exits(1);
    let why = format!("main/.git/objects, and a sandbox can write {}: bb of ", main.display());
    assert!(refused.stderr.contains(&why), "{}", refused.stderr);
    assert_eq!(refused.stdout, "");
}

/// A `.git` in a folder hides nothing of what lies beside it; what is too long is named.
pub(super) fn what_lies_in_other_repositories_is_compared(rig: &Rig) {
    let folder = rig.cli.home().join("site");
    let (full, empty) = (folder.join("full"), folder.join("empty"));
    for repository in [&full, &empty] {
        std::fs::create_dir_all(repository).unwrap();
        git(repository, &["init", "-q"]);
        std::fs::write(repository.join("f"), "one\n").unwrap();
    }
    git(&full, &["add", "f"]);
    git(&full, &["commit", "-qm", "f"]);
    std::fs::write(full.join(".gitignore"), "out\n").unwrap();
    let large = |name: &str, size: u64| {
        std::fs::File::create(folder.join(name)).unwrap().set_len(size).unwrap();
    };
    large("same", (64 << 20) + 1);
    large("long", (64 << 20) + 1);
    rig.bottle(&format!("workspace:\n  path: {}\n", folder.display()));
    rig.agents(1);
    rig.apply(0);
    let none = diff(rig, &[]).exits(0);
    assert!(none.stderr.contains("a0 has no changes against"), "{}", none.stderr);
    rig.inside(
        "a0",
        "cd /workspace && echo two >> full/f && echo o > full/out && echo two >> empty/f && mkdir -p new/.git && \
         echo 'ref: x' > new/.git/HEAD && echo n > new/n",
    );
    let all =
        ["empty/f changed 1/0", "full/f changed 1/0", "full/out added 1/0", "new/n added 1/0"];
    assert_eq!(files(rig), all);
    rig.sync(&["--files", "--yes"]).exits(0);
    assert_eq!(std::fs::read_to_string(full.join("f")).unwrap(), "one\ntwo\n");
    assert_eq!(std::fs::read_to_string(folder.join("new/n")).unwrap(), "n\n");
    assert!(folder.join("full/.git").is_dir() && !folder.join("new/.git").exists());

    // As long as before, longer, and new.
    rig.inside(
        "a0",
        "cd /workspace && printf x | dd of=long bs=1 seek=1000 conv=notrunc 2>/dev/null && \
         dd if=/dev/null of=new/hole bs=1 seek=1200000000 2>/dev/null && echo three >> full/f",
    );
    let shown = diff(rig, &[]).exits(1);
    for name in ["long", "new/hole"] {
        let said = format!("{name}: over 64 MiB: not compared");
        assert!(shown.stderr.contains(&said), "{said}: {}", shown.stderr);
    }
    assert!(!shown.stderr.contains("same:") && shown.stdout.contains("+three"), "{shown:?}");
    assert!(shown.stdout.len() < 10_000);
    let document = diff(rig, &["-o", "json"]).exits(1).json();
    let left = |path: &str| json!({"path": path, "because": "over 64 MiB: not compared"});
    assert_eq!(document["not_compared"], json!([left("long"), left("new/hole")]));
    rig.sync(&["--files", "--yes"]).exits(1);
    assert_eq!(std::fs::read_to_string(full.join("f")).unwrap(), "one\ntwo\nthree\n");
    assert!(!folder.join("new/hole").exists());
    // None that is shown is not none at all.
    let rest = diff(rig, &[]).exits(1);
    assert!(rest.stderr.contains("no changes in what was compared"), "{}", rest.stderr);
}

/// What a guest says of its files, and what it calls them, changes nothing of what is shown and brought.
pub(super) fn attributes_and_odd_names_change_nothing(rig: &Rig) {
    let folder = rig.cli.home().join("site");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, text) in [("a.sh", "one\n"), ("c", "$Id$\n"), ("b.txt", "b\r\n")] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    rig.bottle(&format!("workspace:\n  path: {}\n", folder.display()));
    rig.agents(1);
    rig.apply(0);
    rig.inside(
        "a0",
        "cd /workspace && printf '*.sh -diff\n*.txt text eol=lf\nc ident\nodd working-tree-encoding=UTF-16LE\n' \
         > .gitattributes && echo 'rm -rf /' >> a.sh && printf 'c\\r\\n' >> b.txt && echo '$Id: 1 $' > c && \
         printf 'odd' > odd && echo 1 > '.git ' && echo 2 > 'git~1' && printf 3 > \"$(printf 'n\\nl\"\\303\\274')\" \
         && ln -s a.sh .gitmodules && ln -s a.sh link",
    );
    let shown = diff(rig, &[]).exits(1);
    for line in ["+rm -rf /\n", "+c\r\n", "-$Id$\n+$Id: 1 $\n", "+odd\n", "+a.sh\n"] {
        assert!(shown.stdout.contains(line), "{line:?}: {}", shown.stdout);
    }
    assert!(shown.stderr.contains(".gitmodules: a link"), "{}", shown.stderr);
    rig.inside("a0", "rm /workspace/.gitmodules");
    let all = [
        ".git  added 1/0",
        ".gitattributes added 4/0",
        "a.sh changed 1/0",
        "b.txt changed 1/0",
        "c changed 1/1",
        "git~1 added 1/0",
        "link added 1/0",
        "n\nl\"\u{fc} added 1/0",
        "odd added 1/0",
    ];
    assert_eq!(files(rig), all);
    rig.sync(&["--files", "--yes"]).exits(0);
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!((&*read("b.txt"), &*read("c"), &*read("odd")), ("b\r\nc\r\n", "$Id: 1 $\n", "odd"));
    assert_eq!((&*read(".git "), &*read("n\nl\"\u{fc}")), ("1\n", "3"));
    assert_eq!(std::fs::read_link(folder.join("link")).unwrap(), Path::new("a.sh"));
    assert_eq!(files(rig), [""; 0]);
}

/// The files of a submodule, against its commit.
pub(super) fn a_submodule_is_compared_as_well(rig: &Rig) {
    let folder = rig.cli.home().join("with");
    let sub = folder.join("sub");
    std::fs::create_dir_all(&sub).unwrap();
    for repository in [&folder, &sub] {
        git(repository, &["init", "-q"]);
        std::fs::write(repository.join("f"), "one\n").unwrap();
    }
    for repository in [&sub, &folder] {
        git(repository, &["add", "-A"]);
        git(repository, &["commit", "-qm", "f"]);
    }
    assert!(git(&folder, &["ls-files", "-s", "sub"]).starts_with("160000 "));
    rig.bottle(&format!("workspace:\n  path: {}\n", folder.display()));
    rig.agents(1);
    rig.apply(0);
    assert_eq!(files(rig), [""; 0]);
    rig.inside("a0", "cd /workspace && echo two >> sub/f && echo n > sub/n && echo two >> f");
    assert_eq!(files(rig), ["f changed 1/0", "sub/f changed 1/0", "sub/n added 1/0"]);
    // Its commits are not there any more.
    std::fs::rename(sub.join(".git"), rig.cli.home().join("moved")).unwrap();
    let shown = diff(rig, &[]).exits(1);
    assert!(shown.stderr.contains("sub: is a repository of its own"), "{}", shown.stderr);
    assert!(shown.stdout.contains("b/f\n") && !shown.stdout.contains("sub/"), "{}", shown.stdout);
}

/// A repository: commits, changes and untracked files together, against what was copied.
pub(super) fn a_repository_is_compared_with_its_commit(rig: &Rig) {
    let folder = repository(rig);
    let base = git(&folder, &["rev-parse", "HEAD"]);
    // What the operator did since is no change of the agent's.
    std::fs::write(folder.join("b"), "later\n").unwrap();
    git(&folder, &["add", "-A"]);
    git(&folder, &["commit", "-qm", "later"]);
    rig.inside(
        "a0",
        &format!(
            "{COMMITS} && echo committed > c && git add c && git commit -qm c && echo two >> a && echo new > n && \
             echo out > .gitignore && echo ignored > out && printf 'x\\0y' > bin"
        ),
    );
    let all = [
        ".gitignore added 1/0",
        "a changed 1/0",
        "bin added null/null",
        "c added 1/0",
        "n added 1/0",
    ];
    assert_eq!(files(rig), all);
    assert_eq!(diff(rig, &["-o", "json"]).exits(0).json()["base"], json!(base));
    let shown = diff(rig, &[]).exits(0);
    assert!(shown.stderr.contains(&format!("at {}", &base[..10])), "{}", shown.stderr);
    assert!(shown.stdout.contains("+committed\n") && shown.stdout.contains("GIT binary patch"));
    // What `sync` brings changes nothing of it.
    rig.sync(&[]).exits(0);
    assert_eq!(files(rig), all);
    let before = git(&folder, &["count-objects", "-v"]);

    // Nothing of the guest's repository runs here, or is believed.
    let ran = rig.cli.home().join("ran");
    let run = format!("touch {}", ran.display());
    let planted = format!(
        "cd /workspace && rm -f .git/index && echo '* filter=x diff=x' > .gitattributes && \
         for key in core.fsmonitor filter.x.clean filter.x.smudge diff.x.command diff.x.textconv; do \
         git config $key '{run}'; done && git config core.hooksPath /workspace && printf '#!/bin/sh\\n{run}\\n' > \
         post-index-change && chmod +x post-index-change && mkdir -p sub/.git && echo 'ref: x' > sub/.git/HEAD && \
         printf '[core]\\nfsmonitor = {run}\\n' > sub/.git/config && echo s > sub/s && echo 'gitdir: /etc' > .GIT"
    );
    rig.inside("a0", &planted);
    let now = files(rig);
    for file in [
        ".gitattributes added 1/0",
        "post-index-change added 2/0",
        "sub/s added 1/0",
        "a changed 1/0",
    ] {
        assert!(now.contains(&file.to_owned()), "{file}: {now:?}");
    }
    assert!(!now.iter().any(|file| file.contains(".git/") || file.starts_with(".GIT")), "{now:?}");
    diff(rig, &[]).exits(0);
    assert!(!ran.exists());
    assert_eq!(git(&folder, &["count-objects", "-v"]), before, "nothing is written there");
    assert_eq!(git(&folder, &["status", "--porcelain"]), "");
    // A commit that only the guest has is nothing to compare with.
    rig.inside("a0", "cd /workspace && rm -rf .git");
    let head = git(&folder, &["rev-parse", "HEAD"]);
    assert_eq!(diff(rig, &["-o", "json"]).exits(0).json()["base"], json!(head));
    assert!(files(rig).contains(&"b removed 0/1".to_owned()));
}
