//! `bottle cp`: an agent's work comes out, and files go in; what a guest planted does no harm.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Stdio;

use super::rig::Rig;
use crate::support::Ended;

impl Rig {
    fn cp(&self, args: &[&str]) -> Ended {
        let tree = self.tree.path().display().to_string();
        let mut all = vec!["--tree", &tree, "cp"];
        all.extend(args);
        self.cli.run(all)
    }

    /// One agent, and a folder beside the tree.
    fn at_work(&self) -> PathBuf {
        self.agents(1);
        self.apply(0);
        let folder = self.cli.home().join("out");
        std::fs::create_dir(&folder).unwrap();
        folder
    }
}

fn text(path: &std::path::Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub(super) fn a_tree_goes_out_and_in_again(rig: &Rig) {
    let out = rig.at_work();
    let script = "mkdir -p $HOME/w/sub && cd $HOME/w && echo one > a && echo '#!/bin/sh' > sub/run && \
                  chmod 755 sub/run && ln -s sub/run link && touch -d '2001-02-03 04:05:06' a && \
                  head -c 300000 /dev/zero > zeros && pwd";
    let inside = rig.inside("a0", script);
    let ended = rig.cp(&[&format!("a0:{inside}"), &text(&out)]).exits(0);
    assert!(ended.stderr.contains("6 entries"), "{}", ended.stderr);
    let at = |path: &str| out.join("w").join(path);
    assert_eq!(std::fs::read_to_string(at("a")).unwrap(), "one\n");
    assert_eq!(std::fs::read_to_string(at("link")).unwrap(), "#!/bin/sh\n");
    assert!(at("link").is_symlink());
    assert_eq!(std::fs::read(at("zeros")).unwrap(), vec![0; 300_000]);
    let found = std::fs::metadata(at("sub/run")).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o755);
    assert_eq!(found.uid(), rustix::process::geteuid().as_raw());
    assert_eq!(std::fs::metadata(at("a")).unwrap().mtime(), 981_173_106);

    // Under another name, only the content, one file, and over what is there.
    let named = text(&out.join("named"));
    rig.cp(&[&format!("a0:{inside}"), &named]).exits(0);
    rig.cp(&[&format!("a0:{inside}/."), &text(&out)]).exits(0);
    rig.cp(&[&format!("a0:{inside}/a"), &text(&out.join("b"))]).exits(0);
    std::fs::write(out.join("a"), "old").unwrap();
    rig.cp(&[&format!("a0:{inside}/a"), &text(&out)]).exits(0);
    for path in ["named/a", "a", "b"] {
        assert_eq!(std::fs::read_to_string(out.join(path)).unwrap(), "one\n", "{path}");
    }
    let document = rig.cp(&["-o", "json", &format!("a0:{inside}/a"), &text(&out)]).exits(0).json();
    assert_eq!((document["entries"].as_u64(), document["bytes"].as_u64()), (Some(1), Some(4)));

    // As an archive, through a pipe and back in.
    let tree = rig.tree.path().display().to_string();
    let mut from = rig.cli.command(["--tree", &tree, "cp", &format!("a0:{inside}"), "-"]);
    let mut from = from.stdout(Stdio::piped()).spawn().unwrap();
    rig.inside("a0", "mkdir $HOME/back");
    let home = inside.strip_suffix("/w").unwrap();
    let mut into = rig.cli.command(["--tree", &tree, "cp", "-", &format!("a0:{home}/back")]);
    let into = into.stdin(from.stdout.take().unwrap()).output().unwrap();
    assert!(into.status.success(), "{}", String::from_utf8_lossy(&into.stderr));
    assert!(from.wait().unwrap().success());
    assert_eq!(rig.inside("a0", "cd $HOME && diff -r w back/w && echo same"), "same");

    // In: it belongs to the sandbox's user, who can work on it.
    std::fs::create_dir_all(out.join("in/deep")).unwrap();
    std::fs::write(out.join("in/deep/f"), "in").unwrap();
    symlink("deep/f", out.join("in/l")).unwrap();
    std::fs::set_permissions(out.join("in/deep/f"), std::fs::Permissions::from_mode(0o640))
        .unwrap();
    rig.cp(&[&text(&out.join("in")), &format!("a0:{home}")]).exits(0);
    rig.cp(&[&text(&out.join("in/deep/f")), &format!("a0:{home}/renamed")]).exits(0);
    rig.cp(&[&format!("{}/.", text(&out.join("in"))), &format!("a0:{home}/back")]).exits(0);
    let looked = "cd $HOME && cat in/l renamed back/l && echo more >> in/deep/f && \
                  ls -ln in/deep/f | cut -c 1-10 && [ $(stat -c %u in) = $(id -u) ] && echo mine";
    assert_eq!(rig.inside("a0", looked), "ininin-rw-r-----\nmine");
    rig.converged();
}

pub(super) fn what_a_guest_planted_stays_inside(rig: &Rig) {
    let out = rig.at_work();
    let secret = rig.cli.home().join("secret");
    std::fs::write(&secret, "the host's").unwrap();
    let script = format!(
        "mkdir $HOME/w && cd $HOME/w && ln -s {secret} abs && ln -s ../../../../../../../..{secret} up && \
         ln -s / root && mkfifo fifo && echo x > setid && chmod 6755 setid && \
         echo x > \"$(printf 'esc\\033]0;owned\\007')\" && echo x > \"$(printf 'a\\nb\\303\\244%0120d' 1)\" && echo fine > z && pwd",
        secret = secret.display()
    );
    let inside = rig.inside("a0", &script);
    let ended = rig.cp(&[&format!("a0:{inside}"), &text(&out)]).exits(1);
    for (name, why) in [
        ("w/abs", "absolute path"),
        ("w/up", "leads out"),
        ("w/root", "absolute path"),
        ("w/fifo", "FIFO"),
    ] {
        let line = ended.stderr.lines().find(|line| line.contains(&format!("{name}:")));
        assert!(line.is_some_and(|line| line.contains(why)), "{name}: {}", ended.stderr);
        assert!(out.join(name).symlink_metadata().is_err(), "{name}");
    }
    assert!(!ended.stderr.contains('\u{1b}'), "{:?}", ended.stderr);
    assert_eq!(std::fs::read_to_string(out.join("w/z")).unwrap(), "fine\n");
    // A guest that may set no such bits has none to take off.
    let mode = std::fs::metadata(out.join("w/setid")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7000, 0);
    let document = rig.cp(&["-o", "json", &format!("a0:{inside}"), &text(&out)]).exits(1).json();
    assert!(document["refusals"].as_u64().unwrap() >= 4, "{document}");

    // What is there already keeps its owner and its mode.
    let vault = out.join("vault");
    std::fs::create_dir(&vault).unwrap();
    std::fs::set_permissions(&vault, std::fs::Permissions::from_mode(0o700)).unwrap();
    let home = rig.inside("a0", "mkdir -m 777 $HOME/vault && echo x > $HOME/vault/x && cd && pwd");
    rig.cp(&[&format!("a0:{home}/vault"), &text(&out)]).exits(0);
    assert_eq!(std::fs::metadata(&vault).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(std::fs::read_to_string(vault.join("x")).unwrap(), "x\n");

    // A folder that goes on changing is copied as far as it is there; what is too deep is listed.
    let script = "mkdir $HOME/churn && cd $HOME/churn && i=0; while [ $i -lt 300 ]; do echo x > f$i; \
                  i=$((i+1)); done; p=deep; mkdir $p; (cd $p; i=0; while [ $i -lt 300 ]; do mkdir d && \
                  cd d; i=$((i+1)); done); (i=0; while [ $i -lt 2000 ]; do rm -f f7; ln -s x f7; rm -rf f8; \
                  mkdir f8; rm -f f7; echo y > f7; rm -rf f8; i=$((i+1)); done) >/dev/null 2>&1 &";
    rig.inside("a0", script);
    for round in 0..3 {
        let dest = text(&out.join(format!("churn{round}")));
        let ended = rig.cp(&[&format!("a0:{home}/churn"), &dest]).exits(1);
        assert!(ended.stderr.contains("256 folders deep"), "{}", ended.stderr);
        assert!(ended.stderr.lines().all(|line| line.chars().count() < 250), "{}", ended.stderr);
        assert_eq!(std::fs::read_to_string(format!("{dest}/f299")).unwrap(), "x\n");
    }

    // A link on the way is followed inside, and nowhere else.
    rig.inside("a0", &format!("ln -s {} $HOME/way", rig.cli.home().display()));
    let home = inside.strip_suffix("/w").unwrap();
    let ended = rig.cp(&[&format!("a0:{home}/way/secret"), &text(&out)]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(!out.join("secret").exists());
    rig.cp(&[&text(&out.join("w/z")), &format!("a0:{home}/way")]);
    rig.cp(&[&text(&out.join("w/z")), &format!("a0:{home}/way/z")]);
    assert!(!rig.cli.home().join("z").exists());
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "the host's");
}

/// A disk image of a terabyte, of which next to nothing is there, and names that archives tell in odd ways.
pub(super) fn large_holes_and_odd_names_come_out(rig: &Rig) {
    let out = rig.at_work();
    // An engine has no word for holes: a small one there.
    let size = if rig.backend == "native" { 1u64 << 40 } else { 1 << 24 };
    let script = format!(
        "mkdir $HOME/w && cd $HOME/w && printf first > disk && truncate -s {size} disk && \
         printf last >> disk && truncate -s {size} empty && \
         echo odd > \"$(printf 'a\\nb\\303\\244')\" && echo long > \"$(printf 'a\\nb\\303\\244%0120d' 1)\" && \
         ln -s \"$(printf 'a\\nb\\303\\244%0120d' 1)\" link && pwd"
    );
    let inside = rig.inside("a0", &script);
    rig.cp(&[&format!("a0:{inside}"), &text(&out)]).exits(0);
    let at = |name: &str| out.join("w").join(name);
    for (name, length) in [("disk", size + 4), ("empty", size)] {
        let found = std::fs::metadata(at(name)).unwrap();
        assert_eq!(found.len(), length, "{name}");
        assert!(found.blocks() < 1024, "{name} takes {} blocks", found.blocks());
    }
    let disk = std::fs::File::open(at("disk")).unwrap();
    let mut piece = [0; 5];
    std::os::unix::fs::FileExt::read_exact_at(&disk, &mut piece, 0).unwrap();
    assert_eq!(&piece, b"first");
    std::os::unix::fs::FileExt::read_exact_at(&disk, &mut piece, size - 1).unwrap();
    assert_eq!(&piece, b"\0last");
    let long = format!("a\nb\u{e4}{:0120}", 1);
    assert_eq!(std::fs::read_to_string(at("a\nb\u{e4}")).unwrap(), "odd\n");
    assert_eq!(std::fs::read_to_string(at(&long)).unwrap(), "long\n");
    assert_eq!(std::fs::read_to_string(at("link")).unwrap(), "long\n");
    // And in again.
    let home = inside.strip_suffix("/w").unwrap();
    rig.inside("a0", "mkdir $HOME/back");
    rig.cp(&[&text(&at(&long)), &format!("a0:{home}/back")]).exits(0);
    assert_eq!(rig.inside("a0", "cat $HOME/back/*"), "long");
}

/// The folder of the host is its owner's there, whoever runs bottle: what comes in is that user's, too.
pub(super) fn files_go_into_a_mounted_workspace(rig: &Rig) {
    let folder = rig.cli.home().join("site");
    std::fs::create_dir(&folder).unwrap();
    let root = rustix::process::geteuid().is_root();
    let (uid, gid) = if root { (1234, 1235) } else { own(&folder) };
    std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).unwrap();
    rig.bottle(&format!("workspace:\n  path: {}\n  mode: mount\n", folder.display()));
    let out = rig.at_work();
    let from = out.join("from");
    std::fs::create_dir_all(from.join("sub")).unwrap();
    std::fs::write(from.join("sub/f"), "in\n").unwrap();
    symlink("sub/f", from.join("link")).unwrap();
    std::fs::write(from.join("run"), "#!/bin/sh\n").unwrap();
    let set_id = std::fs::Permissions::from_mode(0o4755);
    std::fs::set_permissions(from.join("run"), set_id).unwrap();
    for options in [&[][..], &["-a"]] {
        let (from, file) = (text(&from), text(&from.join("run")));
        for (src, dest) in [(&from, "a0:/workspace"), (&file, "a0:/workspace/renamed")] {
            let mut args = options.to_vec();
            args.extend([src.as_str(), dest]);
            rig.cp(&args).exits(0);
        }
        for (path, mode) in [("from/sub/f", 0o644), ("from/run", 0o755), ("renamed", 0o755)] {
            let at = folder.join(path);
            assert_eq!(own(&at), (uid, gid), "{path}");
            let found = std::fs::metadata(&at).unwrap().permissions().mode();
            assert_eq!(found & 0o7111, mode & 0o7111, "{path}: {found:o}");
        }
        assert_eq!(own(&folder.join("from")), (uid, gid));
        let looked =
            "cd /workspace/from && cat link && echo more >> sub/f && rm -r ../from ../renamed";
        assert_eq!(rig.inside("a0", looked), "in");
    }
    // Elsewhere it is as ever.
    rig.cp(&[&text(&from), "a0:/tmp"]).exits(0);
    assert_eq!(rig.inside("a0", "cat /tmp/from/link"), "in");
    rig.converged();
}

fn own(path: &std::path::Path) -> (u32, u32) {
    let found = std::fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

/// Killed in the middle of a file: nobody inside has half of it, under whatever name.
pub(super) fn a_copy_that_is_killed_leaves_nothing_inside(rig: &Rig) {
    rig.at_work();
    let home = rig.inside("a0", "mkdir $HOME/in && cd $HOME/in && pwd");
    let tree = rig.tree.path().display().to_string();
    let into = format!("a0:{home}");
    let mut copying = rig.cli.command(["--tree", &tree, "cp", "-", &into]);
    let mut copying = copying.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    for (name, size) in [("whole", 3u64), ("half", 1 << 30)] {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_mode(0o644);
        header.set_size(size);
        header.set_cksum();
        let content = vec![b'x'; usize::try_from(size.min(8 << 20)).unwrap()];
        tar.append(&header, content.as_slice()).unwrap();
    }
    let mut pipe = copying.stdin.take().unwrap();
    let bytes = tar.into_inner().unwrap();
    std::io::Write::write_all(&mut pipe, &bytes[..bytes.len() - 1024]).unwrap();
    super::rig::wait_for("the first file", || rig.exec("a0", "cat $HOME/in/whole").code == Some(0));
    // All that was sent has been read by now, or will be written nowhere.
    assert_eq!(rig.inside("a0", "ls -A $HOME/in"), "whole");
    copying.kill().unwrap();
    copying.wait().unwrap();
    drop(pipe);
    assert_eq!(rig.inside("a0", "ls -A $HOME/in"), "whole");
}

pub(super) fn what_cannot_be_copied_says_why(rig: &Rig) {
    let out = rig.at_work();
    let out_text = text(&out);
    let link = rig.cli.home().join("to-passwd");
    symlink("/etc/passwd", &link).unwrap();
    for (args, said) in [
        (["a0:/none", &*out_text], "none"),
        (["a0:relative", &out_text], "absolute path"),
        (["a0:/tmp/../etc", &out_text], "`..`"),
        (["a0:/", &out_text], "whole root"),
        (["a0:/etc", "a0:/tmp"], "both sides"),
        (["/etc/hostname", "/tmp/x"], "neither side"),
        (["nobody:/etc", &out_text], "nobody"),
        (["a0:/etc/passwd", &format!("{out_text}/no/where")], "make it first"),
        (["/nothing/there", "a0:/tmp"], "/nothing/there"),
        (["/etc/hostname", "a0:/no/such/folder"], "no folder /no/such"),
        (["/etc/hostname", "a0:/none/"], "no folder /none"),
        // An engine does not see what is mounted inside.
        (
            ["a0:/dev/null", &out_text],
            if rig.backend == "docker" { "there is no" } else { "device" },
        ),
        ([&*text(&link), "a0:/tmp"], "is a link"),
        (["/dev/null", "a0:/tmp"], "neither a file nor a folder"),
    ] {
        let ended = rig.cp(&args).exits(1);
        assert!(ended.stderr.contains(said), "{args:?}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{args:?}");
    }
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
    // Nobody reads on, or there is no room: that is the reason, and not what it did to the other side.
    let tree = rig.tree.path().display().to_string();
    rig.inside("a0", "head -c 3000000 /dev/zero > /tmp/zeros");
    let mut full = rig.cli.command(["--tree", &tree, "cp", "a0:/tmp/zeros", "-"]);
    let full = full.stdout(std::fs::File::create("/dev/full").unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&full.stderr);
    assert!(!full.status.success() && said.contains("No space left"), "{said}");
    let mut gone = rig.cli.command(["--tree", &tree, "cp", "a0:/tmp/zeros", "-"]);
    let mut gone = gone.stdout(Stdio::piped()).spawn().unwrap();
    drop(gone.stdout.take());
    assert!(gone.wait().unwrap().success());
    rig.crash("a0");
    let ended = rig.cp(&["a0:/etc", &out_text]);
    // An engine reads a stopped machine too.
    if rig.backend == "native" {
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains("bottle start"), "{}", ended.stderr);
    }
}

/// A repository of the operator's, as the workspace of one agent.
pub(super) fn repository(rig: &Rig) -> PathBuf {
    let folder = rig.cli.home().join("site");
    std::fs::create_dir(&folder).unwrap();
    git(&folder, &["init", "-q", "-b", "main"]);
    std::fs::write(folder.join("a"), "one\n").unwrap();
    git(&folder, &["add", "-A"]);
    git(&folder, &["commit", "-qm", "one"]);
    rig.bottle(&format!("workspace:\n  path: {}\n  mode: copy\n", folder.display()));
    rig.agents(1);
    rig.apply(0);
    folder
}

pub(super) fn git(folder: &std::path::Path, args: &[&str]) -> String {
    let ended = std::process::Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["-c", "user.name=t", "-c", "user.email=t@example.com"])
        .args(args)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", "/nonexistent")
        .output()
        .expect("git can be run");
    assert!(ended.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap().trim().to_owned()
}

impl Rig {
    pub(super) fn sync(&self, more: &[&str]) -> Ended {
        let tree = self.tree.path().display().to_string();
        let mut args = vec!["--tree", &tree, "sync", "a0"];
        args.extend(more);
        self.cli.run(args)
    }
}

pub(super) const COMMITS: &str =
    "cd /workspace && git config user.name a && git config user.email a@example.com";

pub(super) fn commits_come_out_into_refs_of_their_own(rig: &Rig) {
    let folder = repository(rig);
    let first = git(&folder, &["rev-parse", "HEAD"]);
    let script = format!(
        "{COMMITS} && echo two >> a && git commit -qam two && git checkout -qb side && echo s > s && \
         git add s && git commit -qm side && echo loose > loose && git rev-parse main side"
    );
    let commits = rig.inside("a0", &script);
    let commits: Vec<&str> = commits.lines().collect();
    let status = git(&folder, &["status", "--porcelain"]);
    let ended = rig.sync(&[]).exits(0);
    assert!(ended.stdout.contains("refs/bottle/a0/main"), "{}", ended.stdout);
    assert!(ended.stdout.contains("1 new commit"), "{}", ended.stdout);
    assert!(ended.stderr.contains("1 file is not committed"), "{}", ended.stderr);
    let at = |name: &str| git(&folder, &["rev-parse", name]);
    assert_eq!([at("refs/bottle/a0/main"), at("refs/bottle/a0/side")], commits[..]);
    // What is the operator's own did not move.
    assert_eq!(at("HEAD"), first);
    assert_eq!(
        git(&folder, &["for-each-ref", "--format=%(refname)", "refs/heads"]),
        "refs/heads/main"
    );
    assert_eq!(git(&folder, &["status", "--porcelain"]), status);
    assert_eq!(std::fs::read_to_string(folder.join("a")).unwrap(), "one\n");
    assert!(!folder.join(".git/FETCH_HEAD").exists());
    assert_eq!(rig.inside("a0", "ls -A /tmp | grep -c bottle-sync || true"), "0");

    // Again, one branch, and commits that no branch has.
    let again = rig.sync(&[]).exits(0);
    assert!(again.stdout.lines().all(|line| line.contains("as before")), "{}", again.stdout);
    let script =
        format!("{COMMITS} && git checkout -q --detach && git commit -qm three -a --allow-empty");
    rig.inside("a0", &format!("{script} && git rev-parse HEAD > /tmp/three"));
    rig.sync(&["--branch", "main"]).exits(0);
    let document = rig.sync(&["-o", "json"]).exits(0).json();
    let names: Vec<&str> =
        document["refs"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["refs/bottle/a0/HEAD", "refs/bottle/a0/main", "refs/bottle/a0/side"]);
    assert_eq!(at("refs/bottle/a0/HEAD"), rig.inside("a0", "cat /tmp/three"));
    let ended = rig.sync(&["--branch", "none"]).exits(1);
    assert!(ended.stderr.contains("no branch `none`"), "{}", ended.stderr);
    rig.converged();
}

/// Git's lists of paths are split at it, and so are the sides of a copy.
pub(super) fn a_colon_in_a_path_is_a_letter(rig: &Rig) {
    let outer = rig.cli.home().join("a0:out");
    let folder = outer.join("b:c d");
    std::fs::create_dir_all(&folder).unwrap();
    // It lies in a repository, too.
    for (at, name) in [(&outer, "outer"), (&folder, "inner")] {
        git(at, &["init", "-q", "-b", "main"]);
        std::fs::write(at.join("name"), name).unwrap();
        git(at, &["add", "name"]);
        git(at, &["commit", "-qm", name]);
    }
    let workspace = |path: &std::path::Path| {
        let path = path.display();
        rig.bottle(&format!("workspace:\n  path: \"{path}\"\n  mode: copy\n"));
    };
    workspace(&folder);
    rig.agents(1);
    rig.apply(0);
    rig.converged();
    let commit = "git commit -qam more && git rev-parse HEAD";
    let made = rig.inside("a0", &format!("{COMMITS} && echo more >> name && {commit}"));
    rig.sync(&[]).exits(0);
    assert_eq!(git(&folder, &["rev-parse", "refs/bottle/a0/main"]), made);
    assert_eq!(git(&outer, &["for-each-ref", "refs/bottle"]), "");
    // Copies, by a whole path and from the folder that it lies in.
    let tree = rig.tree.path().display().to_string();
    let cp = |src: &str, dest: &str| {
        let args = ["--tree", &tree, "cp", src, dest];
        rig.cli.command(args).current_dir(rig.cli.home()).output().unwrap()
    };
    let name = folder.join("name").display().to_string();
    for (src, dest) in [
        (&*name, "a0:/tmp/whole:1"),
        ("./a0:out/b:c d/name", "a0:/tmp/near:1"),
        ("a0:/tmp/whole:1", "./a0:out/back:1"),
    ] {
        let done = cp(src, dest);
        assert!(done.status.success(), "{src} {dest}: {done:?}");
    }
    assert_eq!(rig.inside("a0", "cat /tmp/whole:1 /tmp/near:1"), "innerinner");
    assert_eq!(std::fs::read_to_string(outer.join("back:1")).unwrap(), "inner");
    // What merely lies in such a repository is none.
    let part = outer.join("p:q");
    std::fs::create_dir(&part).unwrap();
    workspace(&part);
    rig.agent("a1", "You are a1.");
    rig.apply(0);
    rig.inside(
        "a1",
        &format!("cd /workspace && git init -q && {COMMITS} && git commit -q --allow-empty -m x"),
    );
    let ended = rig.cli.run(["--tree", &tree, "sync", "a1"]).exits(1);
    assert!(ended.stderr.contains("not the root"), "{}", ended.stderr);
}

/// The bottle names another repository by now, and one that the first lies in is not meant either.
pub(super) fn a_sync_goes_where_the_copy_came_from(rig: &Rig) {
    let folder = repository(rig);
    let other = rig.cli.home().join("other");
    std::fs::create_dir(&other).unwrap();
    git(&other, &["init", "-q", "-b", "main"]);
    git(&other, &["commit", "-q", "--allow-empty", "-m", "other"]);
    rig.bottle(&format!("workspace:\n  path: {}\n  mode: copy\n", other.display()));
    let refs =
        |at: &std::path::Path| git(at, &["for-each-ref", "--format=%(refname)", "refs/bottle"]);
    for applied in [false, true] {
        if applied {
            rig.apply(0);
        }
        rig.inside("a0", &format!("{COMMITS} && git commit -q --allow-empty -m {applied}"));
        let document = rig.sync(&["-o", "json"]).exits(0).json();
        assert_eq!(document["repository"], folder.to_str().unwrap(), "{document}");
        assert_eq!((refs(&folder), refs(&other)), ("refs/bottle/a0/main".into(), String::new()));
    }
    // A ref that an earlier branch has left keeps one branch from coming, and no other.
    git(&folder, &["update-ref", "refs/bottle/a0/feat/one", "main"]);
    rig.inside(
        "a0",
        &format!("{COMMITS} && git branch feat && git commit -q --allow-empty -m more"),
    );
    let ended = rig.sync(&[]).exits(1);
    assert!(
        ended.stdout.contains("refs/bottle/a0/main  ") && ended.stdout.contains("1 new commit")
    );
    let said = "git update-ref -d refs/bottle/a0/feat/one";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    assert_eq!(refs(&folder), "refs/bottle/a0/feat/one\nrefs/bottle/a0/main");
    git(&folder, &["update-ref", "-d", "refs/bottle/a0/feat/one"]);
    rig.sync(&[]).exits(0);
    assert_eq!(refs(&folder), "refs/bottle/a0/feat\nrefs/bottle/a0/main");
    // Names that a guest's git would not make either; what has no such name comes all the same.
    // (One that is longer than a file's name its git leaves out of the bundle.)
    let long = "x".repeat(252);
    let script = format!(
        "{COMMITS} && git commit -q --allow-empty -m odd && git pack-refs --all && c=$(git rev-parse HEAD) && \
         printf '%s refs/heads/sp\\303ace\\n' $c >> .git/packed-refs && \
         echo \"$c refs/heads/{long}\" >> .git/packed-refs && echo $c"
    );
    let odd = rig.inside("a0", &script);
    let ended = rig.sync(&[]).exits(1);
    let said = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("xxx: its name is longer than that of a file can be"), "{said}");
    assert!(said.contains("its name is not UTF-8"), "{said}");
    assert_eq!(git(&folder, &["rev-parse", "refs/bottle/a0/main"]), odd);
    assert_eq!(refs(&folder), "refs/bottle/a0/feat\nrefs/bottle/a0/main");
    let document = rig.sync(&["-o", "json"]).exits(1).json();
    assert_eq!(document["skipped"].as_array().map(Vec::len), Some(2), "{document}");
    // What lies in a repository is none.
    let inner = other.join("inner");
    std::fs::create_dir(&inner).unwrap();
    rig.bottle(&format!("workspace:\n  path: {}\n  mode: copy\n", inner.display()));
    rig.agent("a1", "You are a1.");
    rig.apply(0);
    rig.inside(
        "a1",
        "cd /workspace && git init -q && git config user.name a && \
                      git config user.email a@example.com && git commit -q --allow-empty -m inner",
    );
    let tree = rig.tree.path().display().to_string();
    let ended = rig.cli.run(["--tree", &tree, "sync", "a1"]).exits(1);
    for words in [inner.to_str().unwrap(), "not the root", other.to_str().unwrap()] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
    assert_eq!(refs(&other), "");
}

/// Whatever the guest has put into its repository, and whatever it calls a bundle.
pub(super) fn nothing_of_a_planted_repository_runs_or_stays(rig: &Rig) {
    let folder = repository(rig);
    let ran = rig.cli.home().join("ran");
    std::fs::write(&ran, "").unwrap();
    // Inside there is no such folder, and no hook may fail for that.
    let run = format!("{{ echo x >> {}; }} 2>/dev/null || true", ran.display());
    let script = format!(
        "{COMMITS} && for hook in post-checkout post-merge reference-transaction pre-auto-gc post-commit; do \
         printf '#!/bin/sh\\n{run}\\n' > .git/hooks/$hook; chmod 755 .git/hooks/$hook; done && \
         git config core.fsmonitor '{run}' && git config core.sshCommand '{run}' && \
         git config filter.x.smudge '{run}' && git config filter.x.clean '{run}' && \
         echo '* filter=x' > .gitattributes && mkdir -p .git/objects/info && \
         echo /etc > .git/objects/info/alternates && \
         git -c core.fsmonitor= -c filter.x.clean=cat add -A && \
         git -c core.fsmonitor= -c filter.x.clean=cat -c core.hooksPath=/dev/null commit -qm planted && \
         git -c core.fsmonitor= update-ref refs/replace/$(git rev-parse HEAD) HEAD~1"
    );
    rig.inside("a0", &script);
    let config = std::fs::read_to_string(folder.join(".git/config")).unwrap();
    rig.sync(&[]).exits(0);
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "");
    assert_eq!(std::fs::read_to_string(folder.join(".git/config")).unwrap(), config);
    assert_eq!(git(&folder, &["for-each-ref", "refs/replace"]), "");
    assert!(!folder.join(".git/objects/info/alternates").exists());
    assert!(!folder.join(".gitattributes").exists());

    // A submodule whose address is an option: git's check of objects refuses it, and no ref moves.
    let before = git(&folder, &["rev-parse", "refs/bottle/a0/main"]);
    let script = format!(
        "{COMMITS} && git config --unset core.fsmonitor && rm .git/objects/info/alternates && \
         printf '[submodule \"m\"]\\n\\tpath = m\\n\\turl = -u./run\\n' > .gitmodules && \
         git -c filter.x.clean=cat -c core.hooksPath=/dev/null add -A && \
         git -c filter.x.clean=cat -c core.hooksPath=/dev/null commit -qm modules"
    );
    rig.inside("a0", &script);
    let ended = rig.sync(&[]).exits(1);
    assert!(ended.stderr.contains("fsck"), "{}", ended.stderr);
    assert_eq!(git(&folder, &["rev-parse", "refs/bottle/a0/main"]), before);
}

/// A repository that keeps git waiting for ever: it is given up, by itself and by whoever waits.
pub(super) fn a_repository_that_hangs_is_given_up(rig: &Rig) {
    let folder = repository(rig);
    // The first thing that is not in a file of its own is looked for there.
    rig.inside("a0", "cd /workspace && rm -f .git/packed-refs && mkfifo .git/packed-refs");
    let tree = rig.tree.path().display().to_string();
    let mut waiting = rig.cli.command(["--tree", &tree, "sync", "a0"]);
    let mut waiting = waiting.stderr(Stdio::piped()).spawn().unwrap();
    let at_work = || {
        let script =
            "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'for-each[-]ref'";
        rig.exec("a0", script).stdout.trim() != "0"
    };
    super::rig::wait_for("git", at_work);
    let pid = waiting.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(waiting.wait().unwrap().code(), Some(130));
    super::rig::wait_for("the end of git", || !at_work());
    let mut patient = rig.cli.command(["--tree", &tree, "sync", "a0"]);
    let ended = patient.env("BOTTLE_TEST_SILENCE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("nothing has moved") && said.contains("bottle cp"), "{said}");
    super::rig::wait_for("the end of git", || !at_work());
    rig.inside("a0", "rm /workspace/.git/packed-refs");
    assert_eq!(rig.inside("a0", "ls -A /tmp | grep -c bottle-sync || true"), "0");
    rig.sync(&[]).exits(0);
    assert_eq!(
        git(&folder, &["rev-parse", "refs/bottle/a0/main"]),
        git(&folder, &["rev-parse", "main"])
    );
}

pub(super) fn what_is_no_repository_says_so(rig: &Rig) {
    let folder = rig.cli.home().join("plain");
    std::fs::create_dir(&folder).unwrap();
    rig.agents(1);
    let said = |what: &str| {
        rig.apply(0);
        let ended = rig.sync(&[]).exits(1);
        assert!(ended.stderr.contains(what), "{what}: {}", ended.stderr);
    };
    said("has no workspace");
    rig.bottle(&format!("workspace:\n  path: {}\n  mode: copy\n", folder.display()));
    said("is no git repository that can be used");
    // Made one since, of which the copy knows nothing.
    git(&folder, &["init", "-q"]);
    said(if rig.backend == "docker" { "there is no git" } else { "is no git repository" });
    rig.bottle(&format!("workspace:\n  path: {}\n  mode: mount\n", folder.display()));
    rig.apply(0);
    let ended = rig.sync(&[]).exits(0);
    assert!(ended.stderr.contains("works in"), "{}", ended.stderr);
}
