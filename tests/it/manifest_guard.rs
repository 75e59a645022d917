//! What a bottle cannot ask for: folders that are the host's, and privileges.

use std::fs;
use std::os::unix::fs::symlink;

use crate::manifest::{Scratch, id, said};
use crate::support::Alias;

/// X05: each by its own name, by what is above it, and by a link to it.
#[test]
fn folders_that_give_the_host_away_are_refused() {
    let scratch = Scratch::with_good_agent();
    for folder in [
        ".ssh",
        ".ssh/keys",
        ".gnupg",
        ".aws",
        ".kube/cache",
        ".docker/run",
        ".config/gh",
        ".config/gcloud/x",
        ".local/share/keyrings",
        "work",
    ] {
        fs::create_dir_all(scratch.path("home").join(folder)).expect("folders");
    }
    let mut paths: Vec<String> = [
        "/",
        "/proc",
        "/proc/1",
        "/proc/self",
        "/sys",
        "/sys/fs/cgroup",
        "/dev",
        "/dev/shm",
        "/run",
        "/var/run",
        "/var",
        "/var/lib",
        "/etc",
        "/etc/ssl",
        "/tmp/..",
        "/var/../proc",
    ]
    .iter()
    .map(|path| (*path).to_owned())
    // Those that this machine has.
    .filter(|path| std::path::Path::new(path).is_dir())
    .collect();
    paths.extend(
        [
            "~",
            "~/.",
            "~/.ssh",
            "~/.ssh/keys",
            "~/work/../.ssh",
            "~/.gnupg",
            "~/.aws",
            "~/.kube",
            "~/.kube/cache",
            "~/.docker",
            "~/.docker/run",
            "~/.config",
            "~/.config/gh",
            "~/.config/gcloud/x",
            "~/.local",
            "~/.local/share",
        ]
        .map(str::to_owned),
    );
    for (number, target) in ["/proc", "/var/run", "/", "/dev"].iter().enumerate() {
        let link = scratch.path("home/work").join(format!("link{number}"));
        symlink(target, &link).expect("a link");
        paths.push(format!("~/work/link{number}"));
    }
    symlink(scratch.path("home/.ssh"), scratch.path("home/work/keys")).expect("a link");
    paths.push("~/work/keys".to_owned());
    for path in &paths {
        for yaml in [
            format!("workspace: {{path: \"{path}\"}}"),
            format!("workspace: {{path: \"{path}\", mode: mount}}"),
            format!("host_paths: [\"{path}\"]"),
        ] {
            scratch.write("tree/bottles/w.md", format!("---\n{yaml}\n---\n"));
            scratch.write("tree/agents/w.md", "---\nbottle: w\n---\n");
            let desired = scratch.load();
            assert!(desired.held.contains_key(&id("w")), "{yaml}: {:?}", said(&desired));
            assert!(!desired.sandboxes.contains_key(&id("w")), "{yaml}");
        }
    }
    // A socket, whichever it is, is no folder.
    let socket = scratch.path("home/work/docker.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    for path in ["~/work/docker.sock", "/var/run/docker.sock", "/run/docker.sock"] {
        scratch.write("tree/bottles/w.md", format!("---\nworkspace: {{path: {path}}}\n---\n"));
        assert!(scratch.load().held.contains_key(&id("w")), "{path}");
    }
    scratch.write("tree/bottles/w.md", "---\nworkspace: {path: ~/work}\n---\n");
    assert_eq!(said(&scratch.load()), Vec::<String>::new());
    for image in ["/proc", "/sys", "/"] {
        scratch.write("tree/bottles/w.md", format!("---\nimage: {image}\n---\n"));
        assert!(scratch.load().held.contains_key(&id("w")), "image: {image}");
    }
}

/// X05: What is mounted a second time is the same folder.
#[test]
fn a_second_mount_gives_the_host_away_as_well() {
    let scratch = Scratch::with_good_agent();
    for folder in ["home/.ssh/keys", "home/work", "tree/skills"] {
        fs::create_dir_all(scratch.path(folder)).expect("folders");
    }
    for (of, below, why) in [
        ("tree", "", "is the tree"),
        ("tree", "skills", "lies in the tree"),
        ("", "", "contains the tree"),
        ("home", "", "is your home folder"),
        ("home", ".ssh/keys", "gives access to your keys"),
        ("/proc", "1", "belongs to the kernel"),
    ] {
        let alias = scratch.path("home/work/alias");
        let Some(_alias) = Alias::new(&scratch.path(of), &alias) else { return };
        let path = alias.join(below).display().to_string();
        for yaml in
            [format!("workspace: {{path: \"{path}\"}}"), format!("host_paths: [\"{path}\"]")]
        {
            scratch.write("tree/bottles/w.md", format!("---\n{yaml}\n---\n"));
            scratch.write("tree/agents/w.md", "---\nbottle: w\n---\n");
            let desired = scratch.load();
            let said = said(&desired);
            assert!(desired.held.contains_key(&id("w")), "{of}: {yaml}: {said:?}");
            assert!(said.iter().any(|text| text.contains(why)), "{of}: {yaml}: {said:?}");
        }
    }
    // A second mount of what may be given may be given, too.
    fs::create_dir_all(scratch.path("site")).expect("a folder");
    let alias = scratch.path("home/work/alias");
    let Some(_alias) = Alias::new(&scratch.path("site"), &alias) else { return };
    let yaml = format!("workspace: {{path: \"{}\"}}", alias.display());
    scratch.write("tree/bottles/w.md", format!("---\n{yaml}\n---\n"));
    assert_eq!(said(&scratch.load()), Vec::<String>::new());
}

/// X06: there is no word for a privilege.
#[test]
fn there_is_no_key_for_a_privilege() {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/agents/w.md", "---\nbottle: w\n---\n");
    let keys = [
        "privileged: true",
        "cap_add: [SYS_ADMIN]",
        "capabilities: [ALL]",
        "devices: [/dev/kvm]",
        "device_cgroup_rules: [a]",
        "gpus: all",
        "pid: host",
        "ipc: host",
        "net: host",
        "network: host",
        "network_mode: host",
        "uts: host",
        "userns: host",
        "userns_mode: host",
        "cgroupns: host",
        "security_opt: [seccomp=unconfined]",
        "seccomp: unconfined",
        "apparmor: unconfined",
        "sysctls: {net.ipv4.ip_forward: 1}",
        "cgroup_parent: /",
        "cgroup: host",
        "volumes: [\"/:/host\"]",
        "volumes_from: [x]",
        "mounts: [{source: /, target: /host}]",
        "binds: [\"/:/host\"]",
        "tmpfs: [/x]",
        "ports: [\"80:80\"]",
        "expose: [80]",
        "extra_hosts: [\"a:1.2.3.4\"]",
        "dns: [1.1.1.1]",
        "runtime: runc",
        "group_add: [docker]",
        "shm_size: 1G",
        "ulimits: {nofile: 1}",
        "oom_kill_disable: true",
        "init: false",
        "entrypoint: [sh]",
        "docker_args: [--privileged]",
        "args: [--privileged]",
        "labels: {io.bottle.owner: x}",
    ];
    for key in keys {
        scratch.write("tree/bottles/w.md", format!("---\nimage: alpine\n{key}\n---\n"));
        let desired = scratch.load();
        let found = said(&desired);
        assert!(found.iter().any(|text| text.contains("key")), "{key}: {found:?}");
        assert!(desired.held.contains_key(&id("w")), "{key}: {found:?}");
        scratch.write("tree/bottles/w.md", "---\nimage: alpine\n---\n");
        scratch.write("tree/agents/w.md", format!("---\nbottle: w\n{key}\n---\n"));
        assert!(scratch.load().held.contains_key(&id("w")), "in an agent: {key}");
        scratch.write("tree/agents/w.md", "---\nbottle: w\n---\n");
    }
    for key in ["privileged", "cap_add", "devices"] {
        let yaml = format!("image: alpine\nresources: {{{key}: 1}}\n");
        scratch.write("tree/bottles/w.md", format!("---\n{yaml}---\n"));
        assert!(scratch.load().held.contains_key(&id("w")), "{yaml}");
    }
}

/// X14: what the sidecar adds is not given to the agent as well.
#[test]
fn a_credential_is_not_asked_for_the_agent_too() {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/agents/w.md", "---\nbottle: w\n---\n");
    let route = "cred_proxy:\n  routes:\n    - {path: /gh/, upstream: 'https://api.example.com', \
                 auth_scheme: Bearer, token_ref: GH_TOKEN}\n";
    for (env, held) in [
        ("GH_TOKEN: '?'", true),
        ("OTHER: '?', GH_TOKEN: '?'", true),
        ("OTHER: '?'", false),
        ("GH_TOKEN: added-by-the-sidecar", false),
    ] {
        let bottle = format!("---\nimage: alpine\nenv: {{{env}}}\n{route}---\n");
        scratch.write("tree/bottles/w.md", bottle);
        let desired = scratch.load();
        assert_eq!(desired.held.contains_key(&id("w")), held, "{env}: {:?}", said(&desired));
    }
}
