//! Which files of which cgroups get which values: on trees of folders that look like the kernel's.

use super::*;

/// A tree of cgroups: folders, each with what it hands down to those in it.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(cgroups: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for (path, controllers) in cgroups {
            fs::create_dir_all(tree.path(path)).unwrap();
            tree.file(path, "cgroup.procs", "");
            tree.file(path, "cgroup.subtree_control", controllers);
        }
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        assert!(!path.starts_with('/'), "{path} is not in the tree");
        self.0.path().join(path)
    }

    fn file(&self, cgroup: &str, name: &str, text: &str) {
        fs::write(self.path(cgroup).join(name), text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// The line of `mountinfo` that says that this part of the unified hierarchy is mounted here.
    fn mounted(&self, root: &str) -> String {
        format!("30 23 0:26 {root} {} rw shared:9 - cgroup2 cgroup2 rw", self.0.path().display())
    }

    /// What `own` can make cgroups by, where it may write to what is in `delegated`.
    fn found(&self, root: &str, own: &str, delegated: &str) -> Cgroups {
        let delegated = self.path(delegated);
        let writable = |path: &Path| path.starts_with(&delegated);
        Cgroups::among(&self.mounted(root), own, &Rights { root: false, writable: &writable })
    }

    fn found_as_root(&self) -> Cgroups {
        let rights = Rights { root: true, writable: &|_| true };
        Cgroups::among(&self.mounted("/"), "0::/system.slice/x.service\n", &rights)
    }
}

const RESOURCES: Resources = Resources { millicpus: 1500, memory: 64 << 20, pids: 32, disk: None };

/// The files of a cgroup of a sandbox with the id `x`, as the kernel makes them.
const FILES: [(&str, &str); 6] = [
    ("cgroup.procs", ""),
    ("memory.max", "max"),
    ("memory.swap.max", "max"),
    ("memory.events", "low 0\nhigh 0\nmax 4\noom 3\noom_kill 2\noom_group_kill 0\n"),
    ("pids.max", "max"),
    ("cpu.max", "max 100000"),
];

fn made_by_the_kernel(tree: &Tree, parent: &str, except: &str) {
    let cgroup = format!("{parent}/bottle-x");
    let cgroup = cgroup.trim_start_matches('/');
    fs::create_dir(tree.path(cgroup)).unwrap();
    for (name, text) in FILES.iter().filter(|(name, _)| *name != except) {
        tree.file(cgroup, name, text);
    }
}

#[test]
fn on_v2_root_makes_them_at_the_top() {
    let tree = Tree::new(&[("", "cpu memory pids"), ("system.slice/x.service", "")]);
    let cgroups = tree.found_as_root();
    assert_eq!(cgroups.unenforced().len(), 1, "the disk alone: {:?}", cgroups.unenforced());
    made_by_the_kernel(&tree, "", "");
    let own = cgroups.of("x");
    let drift: Vec<String> = own.drift(&RESOURCES).into_iter().map(|(field, ..)| field).collect();
    assert_eq!(drift, ["resources.memory", "resources.memory", "resources.pids", "resources.cpus"]);
    own.make(&RESOURCES).unwrap();
    assert_eq!(tree.read("bottle-x/memory.max"), "67108864");
    assert_eq!(tree.read("bottle-x/memory.swap.max"), "0");
    assert_eq!(tree.read("bottle-x/pids.max"), "32");
    assert_eq!(tree.read("bottle-x/cpu.max"), "150000 100000");
    assert_eq!(own.drift(&RESOURCES), []);
    assert_eq!(own.oom_counter().unwrap().read(), 2);
    for mut door in own.doors().unwrap() {
        door.write_all(b"4711").unwrap();
    }
    assert_eq!(tree.read("bottle-x/cgroup.procs"), "4711");
    assert_eq!(tree.read("cgroup.subtree_control"), "cpu memory pids", "nothing was missing");
}

#[test]
fn on_v2_root_asks_for_what_is_not_handed_down() {
    let tree = Tree::new(&[("", "memory pids")]);
    tree.found_as_root();
    assert_eq!(tree.read("cgroup.subtree_control"), "+cpu");
}

#[test]
fn a_kernel_without_swap_has_no_file_for_it() {
    let tree = Tree::new(&[("", "cpu memory pids")]);
    made_by_the_kernel(&tree, "", "memory.swap.max");
    tree.found_as_root().of("x").make(&RESOURCES).unwrap();
    assert_eq!(tree.read("bottle-x/memory.max"), "67108864");
    assert!(!tree.path("bottle-x/memory.swap.max").exists());
}

#[test]
fn a_limit_that_cannot_be_set_is_an_error() {
    let tree = Tree::new(&[("", "cpu memory pids")]);
    made_by_the_kernel(&tree, "", "pids.max");
    let error = tree.found_as_root().of("x").make(&RESOURCES).unwrap_err();
    assert!(error.to_string().contains("bottle-x/pids.max"), "{error}");
}

/// As systemd delegates to a user what its own manager hands down.
fn of_a_user() -> Tree {
    Tree::new(&[
        ("", "cpu memory pids"),
        ("user.slice/user-1000.slice", "cpu memory pids"),
        ("user.slice/user-1000.slice/session-3.scope", ""),
        ("user.slice/user-1000.slice/user@1000.service", "cpu memory pids"),
        ("user.slice/user-1000.slice/user@1000.service/app.slice", "memory pids"),
        ("user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope", ""),
    ])
}

const DELEGATED: &str = "user.slice/user-1000.slice/user@1000.service";

#[test]
fn a_user_has_the_nearest_that_was_delegated_and_hands_something_down() {
    let tree = of_a_user();
    let own = format!("1:name=systemd:/x\n0::/{DELEGATED}/app.slice/run-1.scope\n");
    let cgroups = tree.found("/", &own, DELEGATED);
    let sentences = cgroups.unenforced();
    assert!(!sentences.iter().any(|s| s.starts_with("resources.memory")), "{sentences:?}");
    assert!(sentences.iter().any(|s| s.starts_with("resources.cpus")), "{sentences:?}");
    let parent = format!("{DELEGATED}/app.slice");
    made_by_the_kernel(&tree, &parent, "");
    cgroups.of("x").make(&RESOURCES).unwrap();
    assert_eq!(tree.read(&format!("{parent}/bottle-x/pids.max")), "32");
    assert_eq!(tree.read(&format!("{parent}/bottle-x/cpu.max")), "max 100000", "not handed down");
}

#[test]
fn a_user_has_nothing_that_was_not_delegated() {
    let tree = of_a_user();
    // The session of a login is not the manager's: what is above both belongs to root.
    let session = "0::/user.slice/user-1000.slice/session-3.scope\n";
    assert_eq!(tree.found("/", session, DELEGATED).unenforced().len(), 3);
    // The folder may be ours and the right to move a process into it not.
    let own = format!("0::/{DELEGATED}/app.slice/run-1.scope\n");
    let writable = |path: &Path| !path.ends_with("cgroup.procs");
    let rights = Rights { root: false, writable: &writable };
    assert_eq!(Cgroups::among(&tree.mounted("/"), &own, &rights).unenforced().len(), 3);
}

#[test]
fn only_what_is_mounted_is_looked_at() {
    let tree = Tree::new(&[("", "pids"), ("inner", "")]);
    let pids = |root: &str, own: &str| tree.found(root, own, "").limits(Controller::Pids);
    assert!(pids("/docker/abc", "0::/docker/abc/inner\n"));
    assert!(pids("/", "0::/inner\n"));
    assert!(!pids("/docker/abc", "0::/docker/abcdef/inner\n"));
    assert!(!pids("/", "0::/../inner\n"), "beyond the cgroup namespace");
}

#[test]
fn what_v1_limits_is_not_limited_twice() {
    let (v1, v2) = (Tree::new(&[("bottle-x", "")]), Tree::new(&[("", "cpu memory pids")]));
    let point = v1.0.path().display();
    let mounts = format!("40 30 0:30 / {point} rw - cgroup cgroup rw,memory\n{}", v2.mounted("/"));
    let rights = Rights { root: true, writable: &|_| true };
    let cgroups = Cgroups::among(&mounts, "4:memory:/\n0::/\n", &rights);
    for name in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] {
        v1.file("bottle-x", name, "9223372036854771712");
    }
    made_by_the_kernel(&v2, "", "");
    cgroups.of("x").make(&RESOURCES).unwrap();
    assert_eq!(v1.read("bottle-x/memory.limit_in_bytes"), "67108864");
    assert_eq!(v1.read("bottle-x/memory.memsw.limit_in_bytes"), "67108864");
    assert_eq!(v2.read("bottle-x/memory.max"), "max");
    assert_eq!(v2.read("bottle-x/pids.max"), "32");
}

#[test]
fn both_kinds_of_mount_are_read() {
    let v1 = "34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct";
    let mount = CgroupMount::parse(v1).unwrap();
    assert_eq!(mount.controllers, [Controller::Cpu]);
    assert_eq!(mount.point, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    let v2 = "30 23 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate";
    assert!(CgroupMount::parse(v2).unwrap().unified);
    assert!(CgroupMount::parse("22 27 0:21 / /proc rw - proc proc rw").is_none());
}

#[test]
fn a_machine_without_cgroups_says_so() {
    let sentences = Cgroups::default().unenforced();
    assert!(sentences.iter().any(|s| s.starts_with("resources.memory")), "{sentences:?}");
    assert!(sentences.iter().any(|s| s.starts_with("resources.cpus")), "{sentences:?}");
}
