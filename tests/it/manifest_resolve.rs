//! Agents in their bottles: what is resolved, what is held, what an overlay may.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use bottle::manifest::{LoadError, LoadOptions, identify, load};
use bottle::model::policy::{AuthScheme, DlpAction, HostPattern, RouteRole};
use bottle::model::{
    AgentsFolder, BackendChoice, BackendKind, Desired, ImageRef, Restart, WorkspaceMode,
};

use crate::manifest::{Scratch, id, said};

/// The first error that holds a sandbox, with its hint.
fn why(desired: &Desired, name: &str) -> String {
    assert!(!desired.sandboxes.contains_key(&id(name)), "{name} is declared");
    let held = desired.held.get(&id(name)).unwrap_or_else(|| panic!("{name} is absent"));
    let first = held.first().unwrap_or_else(|| panic!("{name} is held for no reason"));
    format!(
        "{}:{}:{}: {} [{}]",
        first.file,
        first.line,
        first.column,
        first.message,
        first.hint.as_deref().unwrap_or_default()
    )
}

#[test]
fn every_key_reaches_the_spec() {
    let scratch = Scratch::new();
    let work = scratch.path("home/work");
    fs::create_dir(&work).expect("a folder");
    let pem = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    scratch.write("home/.ssh/key", pem);
    fs::set_permissions(scratch.path("home/.ssh/key"), fs::Permissions::from_mode(0o600))
        .expect("its own file");
    scratch.write("tree/bottles/dev.md", "---
backend: docker
image: node:22-slim
env: {A: plain, TOKEN: \"?\", EMPTY: \"\", YES: yes}
resources: {cpus: 1.5, memory: 1.5G, pids: 100, disk: 10G}
workspace: {path: ~/work, mode: mount, target: /work}
user: 1000
git:
  - Name: origin
    Upstream: ssh://git@GitHub.com:2222/a/b.git
    IdentityFile: ~/.ssh/key
    KnownHostKey: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl
    ExtraHosts: {github.com: 10.1.2.3}
cred_proxy:
  routes:
    - {path: /gh/, upstream: https://api.github.com/x/, auth_scheme: Bearer, token_ref: GH, role: tea-login}
egress:
  allowlist:
    - Pkg.example.org
    - '*.example.net:8443'
    - {host: '**.corp.example', port: 80, methods: [GET], paths: [/a/**], cidr: 10.0.0.0/8}
  dlp_action: warn
supervise: true
---
Notes.
");
    scratch.write("tree/skills/review/SKILL.md", "Review.");
    scratch.write("home/.claude/skills/own/SKILL.md", "Own.");
    scratch.write(
        "tree/agents/ada.md",
        "---
bottle: dev
skills: [review, own]
command: [sleep, '10']
restart: always
run: [bash, -l]
suspend: true
name: {anything: [at, all]}
---

  You are Ada.
---
And so on.

",
    );
    let desired = scratch.load();
    assert_eq!(said(&desired), Vec::<String>::new());
    let spec = &desired.sandboxes[&id("ada")];
    assert_eq!(spec.backend, BackendChoice::Fixed(BackendKind::Docker));
    assert_eq!(spec.env.keys().collect::<Vec<_>>(), ["A", "EMPTY", "YES"]);
    assert_eq!(spec.env["YES"], "yes");
    assert_eq!(spec.asked_env.iter().collect::<Vec<_>>(), ["TOKEN"]);
    assert_eq!(spec.resources.millicpus, 1500);
    assert_eq!(spec.resources.memory, 3 << 29);
    assert_eq!(spec.resources.disk, Some(10 << 30));
    let workspace = spec.workspace.as_ref().expect("a workspace");
    assert_eq!(workspace.path, fs::canonicalize(&work).expect("it is there"));
    assert_eq!((workspace.mode, workspace.target.as_str()), (WorkspaceMode::Mount, "/work"));
    assert_eq!(spec.user.as_deref(), Some("1000"));
    let git = &spec.policy.git[0];
    assert_eq!((git.host.as_str(), git.port, git.path.as_str()), ("github.com", 2222, "/a/b.git"));
    assert_eq!(git.identity.file, scratch.path("home/.ssh/key"));
    let route = &spec.policy.routes[0];
    assert_eq!((route.host.as_str(), route.upstream_path.as_str()), ("api.github.com", "/x"));
    assert_eq!(
        (&route.auth_scheme, &route.roles[..]),
        (&AuthScheme::Bearer, &[RouteRole::TeaLogin][..])
    );
    let egress = &spec.policy.egress;
    assert_eq!(egress.allowlist[0].host, HostPattern::Exact("pkg.example.org".into()));
    assert_eq!(egress.allowlist[1].host, HostPattern::OneLabel("example.net".into()));
    assert_eq!((egress.allowlist[1].port, egress.allowlist[2].port), (8443, 80));
    assert_eq!(egress.dlp_action, DlpAction::Warn);
    assert_eq!(spec.policy.sections(), ["git", "cred_proxy", "egress", "supervise"]);
    assert_eq!(spec.command, ["sleep", "10"]);
    assert_eq!((spec.restart, spec.suspend), (Restart::Always, true));
    assert_eq!(spec.run, ["bash", "-l"]);
    assert_eq!(&*spec.prompt, "You are Ada.\n---\nAnd so on.");
    assert_eq!(spec.skills.keys().collect::<Vec<_>>(), ["own", "review"]);
}

#[test]
fn the_settings_name_the_tree_and_its_default_backend() {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/bottle.yaml", "name: team\nbackend: native\nnetwork_pool: 10.213.0.0/16\n");
    let desired = scratch.load();
    assert_eq!(desired.tree.owner.as_str(), "team");
    assert_eq!(desired.tree.network_pool.as_deref(), Some("10.213.0.0/16"));
    let auto = |kind| BackendChoice::Auto { default: Some(kind) };
    assert_eq!(desired.sandboxes[&id("good")].backend, auto(BackendKind::Native));
    let options = LoadOptions { default_backend: Some(BackendKind::Docker), ..scratch.options() };
    let desired = load(&options).expect("it loads");
    assert_eq!(desired.sandboxes[&id("good")].backend, auto(BackendKind::Docker));
}

#[test]
fn a_tree_without_a_name_is_known_by_its_path() {
    let scratch = Scratch::with_good_agent();
    let owner = scratch.load().tree.owner;
    assert_eq!(owner.as_str().len(), 13);
    assert!(owner.as_str().starts_with('t'));
    symlink(scratch.path("tree"), scratch.path("link")).expect("a link");
    let options = LoadOptions { tree: scratch.path("link"), ..scratch.options() };
    assert_eq!(load(&options).expect("it loads").tree.owner, owner);
    let other = Scratch::with_good_agent();
    assert_ne!(other.load().tree.owner, owner);
}

#[test]
fn whose_a_tree_is_needs_nothing_but_its_settings() {
    let scratch = Scratch::with_good_agent();
    assert_eq!(identify(&scratch.options()), Ok(scratch.load().tree));
    scratch.write("tree/bottle.yaml", "name: team\nnetwork_pool: 10.9.0.0/16\n");
    assert_eq!(identify(&scratch.options()), Ok(scratch.load().tree));
    fs::remove_dir_all(scratch.path("tree/bottles")).expect("it was there");
    fs::remove_dir_all(scratch.path("tree/agents")).expect("it was there");
    let tree = identify(&scratch.options()).expect("its settings hold");
    assert_eq!(tree.owner.as_str(), "team");
    scratch.write("tree/bottle.yaml", "nmae: team\n");
    assert!(matches!(identify(&scratch.options()), Err(LoadError::Settings { .. })));
    fs::remove_dir_all(scratch.path("tree")).expect("it was there");
    assert!(matches!(identify(&scratch.options()), Err(LoadError::Tree { .. })));
}

#[test]
fn broken_settings_yield_no_tree_and_every_finding() {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/bottle.yaml", "nmae: team\nname: Team\nbackend: podman\n");
    scratch.write("tree/agents/bad.md", "---\nbottle: dve\n---\n");
    let Err(LoadError::Settings { diagnostics }) = load(&scratch.options()) else { panic!() };
    let places: Vec<_> = diagnostics.iter().map(|d| (d.file.as_str(), d.line, d.column)).collect();
    assert_eq!(
        places,
        [
            ("agents/bad.md", 2, 9),
            ("bottle.yaml", 1, 1),
            ("bottle.yaml", 2, 7),
            ("bottle.yaml", 3, 10)
        ]
    );
    for broken in ["[", "a: &x 1", "- a", "text", "name: a\n---\nname: b\n", "\0"] {
        scratch.write("tree/bottle.yaml", broken);
        assert!(matches!(load(&scratch.options()), Err(LoadError::Settings { .. })), "{broken:?}");
    }
    fs::remove_file(scratch.path("tree/bottle.yaml")).expect("it was there");
    symlink("nowhere", scratch.path("tree/bottle.yaml")).expect("a link");
    assert!(matches!(load(&scratch.options()), Err(LoadError::Settings { .. })));
}

#[test]
fn a_tree_that_cannot_be_read_is_an_error() {
    let scratch = Scratch::new();
    let file = scratch.write("file", "x");
    for tree in [scratch.path("nowhere"), file] {
        let options = LoadOptions { tree, ..scratch.options() };
        assert!(matches!(load(&options), Err(LoadError::Tree { .. })));
    }
    let options = LoadOptions { overlay: Some(scratch.path("nowhere")), ..scratch.options() };
    assert!(matches!(load(&options), Err(LoadError::Overlay { .. })));
    for dir in ["skills", "/a/../b", "/", "/a/"] {
        let options = LoadOptions { skills_dir_override: Some(dir.into()), ..scratch.options() };
        assert!(matches!(load(&options), Err(LoadError::SkillsDir(_))), "{dir}");
    }
}

#[test]
fn the_folder_of_agents_says_how_it_was_found() {
    let scratch = Scratch::new();
    assert_eq!(scratch.load().agents, AgentsFolder::Empty);
    scratch.write("tree/agents/README.md", "# Agents");
    scratch.write("tree/agents/notes.txt", "x");
    assert_eq!(scratch.load().agents, AgentsFolder::Empty);
    scratch.write("tree/agents/broken.md", "x");
    assert_eq!(scratch.load().agents, AgentsFolder::Present);
    fs::remove_dir_all(scratch.path("tree/agents")).expect("it was there");
    assert_eq!(scratch.load().agents, AgentsFolder::Missing);
    symlink("nowhere", scratch.path("tree/agents")).expect("a link");
    assert!(matches!(scratch.load().agents, AgentsFolder::Unreadable(_)));
    fs::remove_file(scratch.path("tree/agents")).expect("it was there");
    scratch.write("tree/agents", "x");
    let desired = scratch.load();
    assert_eq!(desired.agents, AgentsFolder::Unreadable("it is a file, not a folder".into()));
    assert!(desired.has_errors());
}

#[test]
fn files_that_name_nothing_are_skipped_with_a_warning() {
    let scratch = Scratch::with_good_agent();
    for name in ["README", "_draft", "Ada", "1st", "a b", "a.b"] {
        scratch.write(&format!("tree/agents/{name}.md"), "---\nnot: [read\n---\n");
    }
    scratch.write(&format!("tree/agents/{}.md", "a".repeat(64)), "x");
    scratch.write("tree/agents/ada.yaml", "x");
    scratch.write("tree/agents/notes.txt", "x");
    scratch.write("tree/agents/sub/x.md", "x");
    let desired = scratch.load();
    assert_eq!(desired.sandboxes.len(), 1);
    assert!(desired.held.is_empty());
    assert_eq!(desired.diagnostics.len(), 8, "{:#?}", said(&desired));
    assert!(!desired.has_errors());
    let skipped =
        "agents/README.md:0:0 warning this file is skipped: `README` cannot name an agent";
    assert!(said(&desired).iter().any(|line| line == skipped), "{:#?}", said(&desired));
}

#[test]
fn a_bottle_that_does_not_validate_holds_its_agents_only() {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/bottles/bad.md", "---\nimage: alpine\nimge: x\n---\n");
    scratch.write("tree/bottles/unused.md", "---\nbackend: 5\n---\n");
    scratch.write("tree/agents/a.md", "---\nbottle: bad\n---\n");
    scratch.write("tree/agents/b.md", "---\n# two\nbottle: bad\n---\n");
    let desired = scratch.load();
    assert_eq!(desired.sandboxes.keys().collect::<Vec<_>>(), [&id("good")]);
    let hint = "[see bottles/bad.md:3:1: unknown key `imge`]";
    assert_eq!(
        why(&desired, "a"),
        format!("agents/a.md:2:9: the bottle `bad` does not validate {hint}")
    );
    assert_eq!(
        why(&desired, "b"),
        format!("agents/b.md:3:9: the bottle `bad` does not validate {hint}")
    );
    let places: Vec<_> =
        said(&desired).iter().map(|l| l.split(' ').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(
        places,
        ["agents/a.md:2:9", "agents/b.md:3:9", "bottles/bad.md:3:1", "bottles/unused.md:2:10"]
    );
}

#[test]
fn an_unknown_bottle_lists_those_that_exist() {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/bottles/prod.md", "---\nimage: alpine\n---\n");
    scratch.write("tree/agents/a.md", "---\nbottle: dve\n---\n");
    scratch.write("tree/agents/b.md", "---\nbottle: Dev\n---\n");
    let desired = scratch.load();
    assert_eq!(
        why(&desired, "a"),
        "agents/a.md:2:9: there is no bottle `dve` [bottles: dev, prod]"
    );
    assert_eq!(desired.held[&id("a")][0].label.as_deref(), Some("did you mean `dev`?"));
    fs::remove_dir_all(scratch.path("tree/bottles")).expect("it was there");
    let desired = scratch.load();
    assert!(why(&desired, "good").contains("the tree has no bottles"));
    scratch.write("tree/bottles", "x");
    let desired = scratch.load();
    assert!(why(&desired, "good").contains("the folder `bottles` cannot be read"));
}

#[test]
fn removed_keys_say_what_replaced_them() {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/bottles/old.md", "---\nruntime: runsc\nssh: {}\ntokens: []\n---\n");
    let hints: Vec<_> = scratch.load().diagnostics.into_iter().filter_map(|d| d.hint).collect();
    assert_eq!(hints.len(), 3);
    for (hint, word) in hints.iter().zip(["gVisor", "`git`", "`cred_proxy.routes`"]) {
        assert!(hint.contains(word), "{hint}");
    }
}

#[test]
fn every_mistake_of_a_file_is_told_at_once() {
    let scratch = Scratch::new();
    scratch.write(
        "tree/bottles/dev.md",
        "---
backend: dokcer
env: {A: 5, 1B: x, C: null, D: true}
resources: {memory: 512, cpus: 0, pids: 1, dsk: 1G}
workspace: {mode: rsync}
egress:
  allowlist: ['*', 'https://a.b', 10.0.0.0/8, '*.com', {host: a.b, prot: 1}]
supervise: yes
---
",
    );
    let fields: Vec<_> = scratch
        .load()
        .diagnostics
        .into_iter()
        .map(|d| (d.line, d.field.unwrap_or_default()))
        .collect();
    let expected = [
        (2, "backend"),
        (3, "env.A"),
        (3, "env.1B"),
        (3, "env.C"),
        (3, "env.D"),
        (4, "resources.memory"),
        (4, "resources.cpus"),
        (4, "resources.pids"),
        (4, "resources.dsk"),
        (5, "workspace"),
        (5, "workspace.mode"),
        (7, "egress.allowlist[0]"),
        (7, "egress.allowlist[1]"),
        (7, "egress.allowlist[2]"),
        (7, "egress.allowlist[3]"),
        (7, "egress.allowlist[4].prot"),
        (8, "supervise"),
    ];
    let fields: Vec<_> = fields.iter().map(|(line, field)| (*line, field.as_str())).collect();
    assert_eq!(fields, expected);
}

#[test]
fn a_workspace_keeps_away_from_what_the_operator_keeps() {
    let scratch = Scratch::with_good_agent();
    let tree = scratch.path("tree");
    fs::create_dir_all(scratch.path("home/work/sub")).expect("folders");
    symlink(&tree, scratch.path("home/link")).expect("a link");
    scratch.write("home/file", "x");
    let root = scratch.path(".");
    let cases = [
        ("/".to_owned(), "whole host"),
        (tree.display().to_string(), "is the tree"),
        (scratch.path("tree/agents").display().to_string(), "lies in the tree"),
        (root.display().to_string(), "contains the tree"),
        ("~/link".to_owned(), "is the tree"),
        ("~/link/../tree/bottles".to_owned(), "lies in the tree"),
        (scratch.path("state").display().to_string(), "the state folder"),
        ("~".to_owned(), "is your home folder"),
        ("/run".to_owned(), "container engine"),
        ("/var".to_owned(), "container engine"),
        ("~/nowhere".to_owned(), "does not exist"),
        ("~/file".to_owned(), "a file, not a folder"),
        ("work".to_owned(), "expected a path that starts with"),
        ("".to_owned(), "empty"),
    ];
    for (path, expected) in cases {
        for (key, yaml) in [
            ("workspace", format!("workspace: {{path: \"{path}\"}}")),
            ("host_paths", format!("host_paths: [\"{path}\"]")),
        ] {
            scratch.write("tree/bottles/w.md", format!("---\n{yaml}\n---\n"));
            let found = said(&scratch.load());
            assert_eq!(found.len(), 1, "{key} {path}: {found:?}");
            assert!(found[0].contains(expected), "{key} {path}: {found:?}");
        }
    }
    for path in ["~/work", "~/work/sub"] {
        scratch.write("tree/bottles/w.md", format!("---\nworkspace: {{path: {path}}}\n---\n"));
        assert_eq!(said(&scratch.load()), Vec::<String>::new());
    }
    for target in
        ["/", "/etc", "/etc/bottle/x", "/run", "/proc/1", "/dev", "/usr", "work", "/a/../b", "/a/"]
    {
        scratch.write(
            "tree/bottles/w.md",
            format!("---\nworkspace: {{path: ~/work, target: {target}}}\n---\n"),
        );
        assert_eq!(said(&scratch.load()).len(), 1, "{target}");
    }
    scratch
        .write("tree/bottles/w.md", "---\nworkspace: {path: ~/work, target: /usr/src/app}\n---\n");
    assert_eq!(said(&scratch.load()), Vec::<String>::new());
}

#[test]
fn backends_and_images_must_fit() {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/bottles/rootfs/bin/sh", "shell");
    for (yaml, errors) in [
        ("backend: docker", 1),
        ("backend: docker\nimage: host", 1),
        ("backend: smolmachines\nimage: host", 1),
        ("backend: smolmachines", 0),
        ("backend: native", 0),
        ("backend: native\nimage: host", 0),
        ("backend: native\nimage: node", 1),
        ("backend: native\nimage: docker:mine", 1),
        ("backend: native\nimage: ./rootfs", 0),
        ("image: docker:mine", 0),
        ("image: ./nowhere.tar", 1),
        ("image: node.tar", 0),
        ("image: Node", 1),
        ("image: /dev/null", 1),
        ("image: /", 1),
        ("image: ''", 1),
        ("image: ./rootfs", 0),
        ("image: ..", 1),
        ("image: x\nhost_paths: [/opt]", 1),
        ("user: root", 0),
        ("user: '0'", 0),
        ("user: 1000:1000", 1),
        ("user: -1", 1),
        ("user: 1.5", 1),
        ("user: 70000", 1),
        ("user: -r", 1),
    ] {
        scratch.write("tree/bottles/x.md", format!("---\n{yaml}\n---\n"));
        assert_eq!(said(&scratch.load()).len(), errors, "{yaml}: {:?}", said(&scratch.load()));
    }
}

#[test]
fn images_of_the_host_are_known_by_their_content() {
    let scratch = Scratch::with_good_agent();
    let tar = scratch.write("tree/bottles/root.tar", "one");
    scratch.write("rootfs/bin/sh", "shell");
    symlink("sh", scratch.path("rootfs/bin/bash")).expect("a link");
    scratch.write("tree/bottles/dev.md", "---\nimage: ./root.tar\n---\n");
    scratch.write(
        "tree/bottles/folder.md",
        format!("---\nimage: {}\n---\n", scratch.path("rootfs").display()),
    );
    scratch.write("tree/agents/f.md", "---\nbottle: folder\n---\n");
    let images = || {
        let desired = scratch.load();
        assert_eq!(said(&desired), Vec::<String>::new());
        ["good", "f"].map(|name| desired.sandboxes[&id(name)].image.clone().expect("an image"))
    };
    let before = images();
    assert!(matches!(&before[0], ImageRef::Tar { path, .. } if path.ends_with("bottles/root.tar")));
    assert!(matches!(&before[1], ImageRef::Folder { .. }));
    // A touch changes nothing.
    let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    for path in [tar.clone(), scratch.path("rootfs/bin/sh")] {
        let file = fs::File::options().write(true).open(path).expect("a file");
        file.set_times(old).expect("times");
    }
    assert_eq!(images(), before);
    // The same size, other content.
    fs::write(&tar, "two").expect("a file");
    fs::write(scratch.path("rootfs/bin/sh"), "shall").expect("a file");
    let after = images();
    assert_ne!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    let mut permissions =
        fs::metadata(scratch.path("rootfs/bin/sh")).expect("it is there").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o700);
    fs::set_permissions(scratch.path("rootfs/bin/sh"), permissions).expect("a mode");
    assert_ne!(images()[1], after[1]);
    fs::remove_file(scratch.path("rootfs/bin/bash")).expect("it was there");
    assert_ne!(images()[1], after[1]);
    // A broken cache costs time, nothing else.
    scratch.write("state/cache/inputs.json", "{{{");
    assert_eq!(images()[0], after[0]);
}

/// X01, X02: what else it brings is ignored, and it may use only bottles that say so.
#[test]
fn an_overlay_brings_agents_and_never_widens() {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/bottles/open.md", "---\nimage: alpine\noverlay: true\n---\n");
    scratch.write("tree/agents/ada.md", "---\nbottle: open\nsuspend: true\n---\ntree\n");
    scratch.write("tree/agents/closed.md", "---\nbottle: dev\n---\ntree\n");
    scratch.write("tree/agents/lost.md", "---\nskills: []\n---\ntree\n");
    scratch.write("project/agents/ada.md", "---\nbottle: dev\n---\nproject\n");
    scratch.write("project/agents/new.md", "---\nbottle: open\n---\nproject\n");
    scratch.write("project/agents/greedy.md", "---\nbottle: dev\n---\nproject\n");
    scratch.write("project/agents/closed.md", "---\nbottle: open\n---\nproject\n");
    scratch.write("project/agents/lost.md", "---\nbottle: open\n---\nproject\n");
    scratch.write("project/agents/typo.md", "---\nbottle: opne\n---\nproject\n");
    scratch.write("project/bottles/evil.md", "---\nimage: evil\n---\n");
    scratch.write("project/skills/x/SKILL.md", "x");
    scratch.write("project/bottle.yaml", "name: evil\n");
    let options = LoadOptions { overlay: Some(scratch.path("project")), ..scratch.options() };
    let desired = load(&options).expect("it loads");
    let folder =
        fs::canonicalize(scratch.path("project")).expect("it is there").display().to_string();
    assert_eq!(desired.overlays.iter().collect::<Vec<_>>(), [&folder]);

    let ada = &desired.sandboxes[&id("ada")];
    assert_eq!((&*ada.prompt, ada.bottle.as_str()), ("project", "open"));
    assert!(ada.suspend, "what the operator suspended stays suspended");
    assert_eq!(ada.overlay.as_deref(), Some(folder.as_str()));
    assert_eq!(ada.source, format!("{folder}/agents/ada.md"));
    assert_eq!(desired.sandboxes[&id("new")].overlay.as_deref(), Some(folder.as_str()));
    assert_eq!(desired.sandboxes[&id("good")].overlay, None);
    assert!(why(&desired, "greedy").contains("not for the agents of an overlay"));
    // It stands over an agent in a bottle that is not for overlays, and keeps that bottle.
    assert!(why(&desired, "closed").contains("`dev` is not for the agents of an overlay"));
    assert!(why(&desired, "lost").contains("does not say its bottle"));
    assert!(why(&desired, "typo").ends_with("[bottles: open]"));
    let warnings: Vec<_> = desired
        .diagnostics
        .iter()
        .filter(|d| d.message.starts_with("an overlay may bring agents only"))
        .map(|d| d.message.rsplit("ignored: ").next().unwrap_or_default())
        .collect();
    assert_eq!(warnings, ["bottle.yaml", "bottles/evil.md", "skills/x"]);
    assert_ne!(desired.tree.owner.as_str(), "evil");
}

#[test]
fn an_overlay_cannot_show_files_of_the_operator() {
    let scratch = Scratch::new();
    scratch.write("tree/bottles/open.md", "---\nimage: alpine\noverlay: true\n---\n");
    let secret = scratch.write("home/secret.md", "---\nbottle: open\n---\nsecret\n");
    fs::create_dir_all(scratch.path("project/agents")).expect("folders");
    symlink(&secret, scratch.path("project/agents/spy.md")).expect("a link");
    let options = LoadOptions { overlay: Some(scratch.path("project")), ..scratch.options() };
    let desired = load(&options).expect("it loads");
    assert!(why(&desired, "spy").contains("a symbolic link"));
    fs::remove_dir_all(scratch.path("project/agents")).expect("it was there");
    symlink(scratch.path("home"), scratch.path("project/agents")).expect("a link");
    let desired = load(&options).expect("it loads");
    assert!(desired.sandboxes.is_empty() && desired.held.is_empty());
    assert!(desired.overlays.is_empty() && desired.has_errors());
}

#[test]
fn an_overlay_that_shows_nothing_does_not_count_as_loaded() {
    let scratch = Scratch::with_good_agent();
    fs::create_dir_all(scratch.path("project/agents")).expect("folders");
    let options = LoadOptions { overlay: Some(scratch.path("project")), ..scratch.options() };
    let desired = load(&options).expect("it loads");
    assert!(desired.overlays.is_empty());
    assert_eq!(desired.diagnostics.len(), 1);
    fs::remove_dir(scratch.path("project/agents")).expect("it was there");
    assert!(load(&options).expect("it loads").overlays.is_empty());
    let same = LoadOptions { overlay: Some(scratch.path("tree")), ..scratch.options() };
    let desired = load(&same).expect("it loads");
    assert_eq!(desired.sandboxes[&id("good")].overlay, None);
    assert_eq!(said(&desired), Vec::<String>::new());
}

#[test]
fn many_agents_share_what_they_share() {
    let scratch = Scratch::new();
    scratch.write("tree/bottles/dev.md", "---\nimage: alpine\n---\n");
    scratch.write("tree/skills/s/SKILL.md", "s");
    for number in 0..1000 {
        scratch.write(
            &format!("tree/agents/a{number}.md"),
            "---\nbottle: dev\nskills: [s]\n---\nBe.\n",
        );
    }
    let desired = scratch.load();
    assert_eq!(desired.sandboxes.len(), 1000);
    let first = &desired.sandboxes[&id("a0")].skills["s"];
    assert!(
        desired.sandboxes.values().all(|spec| std::sync::Arc::ptr_eq(&spec.skills["s"], first))
    );
}

/// A file that Claude Code reads as a sub-agent is an agent's file once it names a bottle.
#[test]
fn a_sub_agent_of_claude_code_loads() {
    let scratch = Scratch::new();
    scratch.write("tree/bottles/b.md", "---\nbackend: native\n---\n");
    scratch.write("tree/skills/review/SKILL.md", "Review.");
    scratch.write("tree/skills/lint/SKILL.md", "Lint.");
    let all = "---
name: ada
description: Reviews code: use it after each change. <example>user: \"hi\"</example>
tools: *
disallowedTools: [Write]
model: opus
permissionMode: plan
maxTurns: 9
skills: review, lint
mcpServers: {a: {command: x}}
hooks:
  PreToolUse: [{matcher: Bash}]
memory: project
background: true
effort: high
isolation: worktree
color: red
initialPrompt: Go: on
bottle: b
---
You review.
";
    scratch.write("tree/agents/ada.md", all);
    scratch.write("tree/agents/ken.md", "---\nbottle: b\ntools: Read, Grep\n---\n");
    scratch.write("tree/agents/lin.md", "---\nbottle: b\nname: lin\n---\n");
    scratch.write("tree/agents/bad.md", "---\ndescription: a: b\nbottle: b\nmood: x\n---\n");
    let desired = scratch.load();
    let ada = &desired.sandboxes[&id("ada")];
    assert_eq!(ada.skills.keys().collect::<Vec<_>>(), ["lint", "review"]);
    assert_eq!(&*ada.prompt, "You review.");
    assert!(desired.sandboxes.contains_key(&id("ken")));
    // A key that is nobody's is still a mistake, told where it stands.
    assert!(why(&desired, "bad").starts_with("agents/bad.md:4:1: unknown key `mood`"));
    let warnings: Vec<&str> = desired
        .diagnostics
        .iter()
        .filter(|found| found.file == "agents")
        .map(|found| found.message.as_str())
        .collect();
    let keys = "`disallowedTools`, `hooks`, `isolation`, `maxTurns`, `permissionMode`, `tools`";
    assert_eq!(warnings, [format!("`bottle` does not enforce Claude Code's {keys}: ada, ken")]);
}

/// What public files of sub-agents have beside Claude Code's own keys and plain YAML: it loads, and is told once.
#[test]
fn what_public_sub_agents_have_loads() {
    let scratch = Scratch::new();
    scratch.write("tree/bottles/b.md", "---\nbackend: native\n---\n");
    let kinds = [
        (
            "idle",
            "name: a\ndescription: b\ncategory: c\ntags: [d]\nauthor: e\nversion: 1.0\ntype: f\n",
        ),
        ("faces", "name: a\ndescription: b\nemoji: \u{1f3a8}\nvibe: calm\nexpertise_level: high\n"),
        ("rights", "name: a\ndescription: b\nallowedTools: [read]\n"),
        (
            "dialogue",
            "name: a\ndescription: For reviews. Examples:\\n\\n<example>\\nContext: a change\n\
             user: \"Look at it\"\nassistant: \"I'll look\"\\nand more\n<note>\nNot indented.\n\
             </note>\nContext: another: one\nuser: \"Again\"\\nassistant: \"Yes\"\ncolor: red\n",
        ),
        ("colons", "name: a\ndescription: Use it: often, e.g. key: value\ntools: *\n"),
        ("block", "name: a\ndescription: |\n  Use it: often\n  user: \"x\"\n"),
        ("quoted", "name: a\ndescription: \"It \\\"reviews\\\": all\"\n"),
    ];
    for (name, keys) in kinds {
        scratch.write(
            &format!("tree/agents/{name}.md"),
            format!("---\nbottle: b\n{keys}---\n\nYou are {name}.\n"),
        );
    }
    // Mistakes stay mistakes: of words that bottle has, and of keys in the lines of a dialogue's neighbour.
    for (name, keys) in [
        ("typo", "description: a: b\nskils: [x]\n"),
        ("near", "name: a\ncategry: x\n"),
        ("user", "name: a\ndescription: b\nuser: root\n"),
        ("other", "description: a: b\nuser: \"x\"\nmood: bad\n"),
    ] {
        scratch.write(&format!("tree/agents/{name}.md"), format!("---\nbottle: b\n{keys}---\n"));
    }
    let desired = scratch.load();
    for (name, _) in kinds {
        let spec = desired.sandboxes.get(&id(name));
        let spec = spec.unwrap_or_else(|| panic!("{name}: {:?}", said(&desired)));
        assert_eq!(&*spec.prompt, format!("You are {name}."));
    }
    assert!(why(&desired, "typo").contains("unknown key `skils`"));
    assert!(why(&desired, "near").contains("unknown key `categry`"));
    assert!(why(&desired, "user").contains("unknown key `user`"));
    assert!(why(&desired, "other").contains("unknown key `mood`"));
    let told: Vec<&str> = desired
        .diagnostics
        .iter()
        .filter(|found| found.file == "agents")
        .map(|found| found.message.as_str())
        .collect();
    let keys = "`allowedTools`, `author`, `category`, `emoji`, `expertise_level`, `tags`, `type`, \
                `version`, `vibe`";
    let expected = [
        "`bottle` does not enforce Claude Code's `tools`: colons".to_owned(),
        format!("neither Claude Code nor `bottle` reads {keys}: faces, idle, 1 more"),
    ];
    assert_eq!(told, expected);
    // What is offered as a key, and as what was meant, is only what says something.
    let hint = desired.diagnostics.iter().find(|found| found.message.contains("`skils`"));
    let hint = format!("{hint:?}");
    assert!(hint.contains("did you mean `skills`?") && !hint.contains("category"), "{hint}");
}

#[test]
fn a_file_is_read_as_it_would_be_and_stays_as_it_is() {
    let scratch = Scratch::with_good_agent();
    let before = scratch.load();
    let mut options = scratch.options();
    let (name, text) = (
        "agents/good.md",
        fs::read_to_string(scratch.path("tree/agents/good.md")).expect("it is there"),
    );
    options.instead.insert(name.into(), text.replace("\n---\n", "\nsuspend: true\n---\n").into());
    options.instead.insert("bottle.yaml".into(), b"name: would\n".to_vec());
    // What is not there is not read.
    options.instead.insert("agents/none.md".into(), text.clone().into());
    let after = load(&options).expect("it loads");
    assert!(after.sandboxes[&id("good")].suspend && !before.sandboxes[&id("good")].suspend);
    assert_eq!(after.tree.owner, before.tree.owner, "there is no bottle.yaml");
    assert!(!after.sandboxes.contains_key(&id("none")));
    options.instead.insert(name.into(), b"no front matter".to_vec());
    assert!(load(&options).expect("it loads").held.contains_key(&id("good")));
    let now = fs::read_to_string(scratch.path("tree/agents/good.md")).expect("it is there");
    assert_eq!(now, text);
}
