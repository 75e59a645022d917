//! The edits of every day: none of them costs a file, and none ends a process.

use serde_json::Value;

use super::rig::{Rig, docker, verdicts};
use crate::support::left_out;

/// What a tree says of its one sandbox.
#[derive(Clone)]
struct Says {
    env: &'static str,
    memory: &'static str,
    role: &'static str,
    host: &'static str,
    prompt: &'static str,
    skill: &'static str,
}

impl Says {
    fn write(&self, rig: &Rig) {
        let Self { env, memory, role, host, prompt, skill } = self;
        let workspace = rig.cli.home().join("cwd");
        rig.bottle_with(
            &format!("memory: {memory}"),
            &format!(
                "{env}workspace:\n  path: {}\negress:\n  allowlist: [{host}]\ncred_proxy:\n  routes:\n    \
                 - path: /git/\n      upstream: https://git.example\n      auth_scheme: Bearer\n      \
                 token_ref: EVERYDAY_TOKEN\n{role}",
                workspace.display()
            ),
        );
        rig.tree.skill("greet", "SKILL.md", skill);
        let script = "echo $LEVEL > $HOME/level; echo $$ > $HOME/pid; exec sleep 100000";
        let command = format!("command: [sh, -c, {script:?}]");
        rig.tree.agent("ada", "dev", &format!("skills: [greet]\n{command}"), prompt);
    }
}

/// What must be there after every edit.
fn lives(rig: &Rig) -> String {
    let script = "cat $HOME/mine /workspace/mine && kill -0 $(cat $HOME/pid) && cat $HOME/pid";
    rig.inside("ada", script)
}

/// Applies an edit, which must be made in place.
fn in_place(rig: &Rig, what: &str) -> Value {
    let plan = rig.plan().exits(2).json();
    assert_eq!(verdicts(&plan), ["ada reprovision"], "{what}: {plan}");
    for change in plan["changes"].as_array().unwrap().iter().filter(|c| c["verdict"] != "keep") {
        assert_eq!(change["class"], "hot", "{what}: {change}");
    }
    let before = lives(rig);
    let done = rig.apply(0);
    for step in done["steps"].as_array().unwrap() {
        let action = step["action"].as_str().unwrap();
        assert!(["adjust", "load", "provision"].contains(&action), "{what}: {step}");
    }
    assert_eq!(lives(rig), before, "{what}");
    rig.converged();
    done
}

pub(super) fn they_lose_nothing(mut rig: Rig) {
    rig.cli.env("EVERYDAY_TOKEN", "t0ken-of-a-test");
    let mut says = Says {
        env: "env:\n  LEVEL: \"1\"\n  OTHER: it's $HOME\n",
        memory: "128M",
        role: "",
        host: "one.example",
        prompt: "You are ada.",
        skill: "say hi\n",
    };
    says.write(&rig);
    rig.apply(0);
    rig.converged();
    let value = |name: &str| rig.inside("ada", &format!("echo \"${name}\""));
    super::rig::wait_for("the command to run", || rig.exec("ada", "cat $HOME/pid").code == Some(0));
    rig.inside("ada", "echo mine | tee $HOME/mine > /workspace/mine");
    assert_eq!((value("LEVEL").as_str(), value("OTHER").as_str()), ("1", "it's $HOME"));
    let container = (rig.backend == "docker").then(|| rig.container("ada"));

    says.env = "env:\n  LEVEL: \"2\"\n  MORE: \"x\"\n";
    says.write(&rig);
    let done = in_place(&rig, "values");
    assert!(done["changes"].to_string().contains("env.OTHER"), "{done}");
    let values = ["LEVEL", "MORE", "OTHER"].map(value);
    assert_eq!(values, ["2", "x", ""], "one changed, one is new, one is gone");

    says.memory = "160M";
    says.write(&rig);
    let done = in_place(&rig, "memory");
    assert!(done["changes"].to_string().contains("resources.memory"), "{done}");
    if let Some(container) = &container {
        let limits = ["inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}"];
        let limits = || docker(&[&limits[..], &[container]].concat());
        assert_eq!(limits().trim(), "167772160 167772160");
        // What is changed from outside is set as it was wanted last.
        docker(&["update", "--memory", "300m", "--memory-swap", "300m", container]);
        let done = rig.apply_with(&["--deep"]).exits(0).json();
        assert_eq!(verdicts(&done), ["ada reprovision"], "{done}");
        assert_eq!(limits().trim(), "167772160 167772160");
    }

    says.role = "      role: git-insteadof\n";
    says.write(&rig);
    in_place(&rig, "a role");
    let config = rig.inside("ada", "cat $HOME/.config/git/config");
    assert!(config.contains("https://git.example"), "{config}");

    says.host = "two.example";
    says.write(&rig);
    in_place(&rig, "the allowlist");

    (says.prompt, says.skill) = ("You are somebody else.", "say bye\n");
    says.write(&rig);
    in_place(&rig, "prompt and skill");
    assert_eq!(rig.inside("ada", "cat /etc/bottle/prompt.md"), "You are somebody else.");

    says.env = "";
    says.write(&rig);
    in_place(&rig, "no values");
    assert_eq!(value("LEVEL"), "");
    // They outlive the run of the machine, and reach the next start of its command.
    says.env = "env:\n  LEVEL: \"3\"\n";
    says.write(&rig);
    in_place(&rig, "a value again");
    rig.crash("ada");
    rig.apply(0);
    super::rig::wait_for("the command to run", || {
        rig.exec("ada", "cat $HOME/level").stdout.trim() == "3"
    });
    if let Some(container) = container {
        assert_eq!(rig.container("ada"), container);
    }
}

/// Another command takes the place of the one that runs, with all that this one started; whatever else runs
/// there runs on, and no file goes.
pub(super) fn another_command_ends_nothing_else(rig: &Rig) {
    rig.bottle("");
    let says = |script: &str, restart: &str| {
        let keys = format!("command: [sh, -c, {script:?}]\nrestart: {restart}");
        rig.tree.agent("ada", "dev", &keys, "You are ada.");
    };
    let there = |file: &str| {
        super::rig::wait_for(file, || rig.exec("ada", &format!("test -s {file}")).code == Some(0));
        rig.inside("ada", &format!("cat {file}"))
    };
    says("sleep 100001 & echo $! > $HOME/child; echo $$ > $HOME/one; wait", "never");
    rig.apply(0);
    rig.converged();
    let (one, child) = (there("$HOME/one"), there("$HOME/child"));
    rig.inside("ada", "sleep 100002 >/dev/null 2>&1 & echo $! > $HOME/run; echo mine > /tmp/mine");
    let run = there("$HOME/run");
    let edit = |script: &str, restart: &str, field: &str| {
        says(script, restart);
        let plan = rig.plan().exits(2).json();
        assert_eq!(verdicts(&plan), ["ada reprovision"], "{plan}");
        let changes = plan["changes"].as_array().unwrap();
        let guest = changes.iter().find(|change| change["class"] == "restart").unwrap();
        assert_eq!(guest["resource"], "guest", "{guest}");
        assert!(guest["fields"].to_string().contains(&format!("{field:?}")), "{guest}");
        let done = rig.apply(0);
        let steps = done["steps"].as_array().unwrap();
        assert!(steps.iter().all(|step| step["action"] == "provision"), "{done}");
        rig.converged();
        rig.inside("ada", &format!("kill -0 {run} && cat /tmp/mine"));
    };
    edit("echo $$ > $HOME/two; exec sleep 100003", "never", "command");
    there("$HOME/two");
    rig.inside("ada", &format!("! kill -0 {one} 2>/dev/null && ! kill -0 {child} 2>/dev/null"));
    edit("echo $$ >> $HOME/two; exit 3", "never", "command");
    super::rig::wait_for("its end", || rig.inside("ada", "wc -l < $HOME/two").trim() == "2");
    // It has failed, and is to run again.
    edit("echo $$ >> $HOME/two; exit 3", "on-failure", "restart");
    super::rig::wait_for("its next run", || rig.inside("ada", "wc -l < $HOME/two").trim() >= "4");
    rig.tree.agent("ada", "dev", "", "You are ada.");
    rig.apply(0);
    rig.converged();
    let runs = || rig.inside("ada", "wc -l < $HOME/two; cat /run/bottle/main");
    super::rig::wait_for("no command", || runs().ends_with("idle"));
    rig.inside("ada", &format!("kill -0 {run}"));
    says("echo $$ > $HOME/three; exec sleep 100004", "never");
    rig.apply(0);
    there("$HOME/three");
    rig.inside("ada", &format!("kill -0 {run} && cat /tmp/mine"));
}

/// Roles come and go beside what the guest wrote into the same files: its lines stay byte by byte, with
/// their ends, and a file in which nothing changes is not written.
pub(super) fn what_the_guest_wrote_stays_byte_by_byte(mut rig: Rig) {
    rig.cli.env("EVERYDAY_TOKEN", "t0ken-of-a-test");
    let route = |path: &str, role: &str| {
        format!(
            "    - path: /{path}/\n      upstream: https://{path}.example\n      auth_scheme: Bearer\n      \
             token_ref: EVERYDAY_TOKEN\n{role}"
        )
    };
    let roles = |npm: bool, git: bool| {
        let role =
            |on: bool, name: &str| if on { format!("      role: {name}\n") } else { String::new() };
        let (npm, git) = (role(npm, "npm-registry"), role(git, "git-insteadof"));
        rig.bottle(&format!(
            "egress:\n  allowlist: [one.example]\ncred_proxy:\n  routes:\n{}{}",
            route("npm", &npm),
            route("git", &git)
        ));
        rig.apply(0);
        rig.converged();
    };
    rig.agent("ada", "You are ada.");
    roles(false, false);
    let theirs = "mkdir -p $HOME/.config/git && printf 'fund=false \\r\\n; mine\\r\\n' > $HOME/.npmrc && \
                  printf '[user]\\r\\n\\tname = Ada\\r\\n' > $HOME/.config/git/config && \
                  touch -d '2001-02-03 04:05:06' $HOME/.npmrc $HOME/.config/git/config";
    rig.inside("ada", theirs);
    let look = |file: &str| {
        let script = format!("cd $HOME; stat -c %Y {file}; od -An -c {file}");
        rig.inside("ada", &script)
    };
    let before = [".npmrc", ".config/git/config"].map(look);
    roles(true, false);
    let npm = look(".npmrc");
    assert_ne!(npm, before[0]);
    assert_eq!(look(".config/git/config"), before[1], "nothing of it has changed");
    let lines = "cd $HOME; [ $(grep -c '' .npmrc) -gt 4 ] && [ $(grep -c \"$(printf '\\r')\\$\" .npmrc) = \
                 $(grep -c '' .npmrc) ] && head -n 2 .npmrc | od -An -c";
    let first = rig.inside("ada", lines);
    assert!(before[0].ends_with(&first), "{first} in {}", before[0]);
    rig.inside("ada", "touch -d '2001-02-03 04:05:06' $HOME/.npmrc");
    roles(true, true);
    assert!(look(".npmrc").starts_with("981173106"), "it was written anew");
    let config = rig.inside("ada", "cat $HOME/.config/git/config");
    assert!(config.contains("git.example"), "{config}");
    roles(false, false);
    for (file, before) in [".npmrc", ".config/git/config"].iter().zip(&before) {
        let content = |text: &str| text.split_once('\n').map(|(_, content)| content.to_owned());
        assert_eq!(content(&look(file)), content(before), "{file}");
    }
}

/// What a plan says of an image that a bottle gets, loses or cannot have is what comes of it.
pub(super) fn an_image_comes_and_goes_as_planned(rig: &Rig) {
    let Some(images) = std::env::var_os("BOTTLE_TEST_IMAGES").filter(|value| !value.is_empty())
    else {
        return left_out("images of the native backend", "tests/run makes them");
    };
    let root = std::path::Path::new(&images).join("busybox-root").canonicalize().unwrap();
    // The backend is chosen once, and a sandbox of no image is a native one.
    let says = |image: &str| {
        rig.tree.bottle("dev", &format!("resources:\n  pids: 64\n  memory: 128M\n{image}"));
    };
    let replaced = |image: &str| {
        rig.inside("ada", "echo mine > /tmp/mine");
        says(image);
        assert_eq!(verdicts(&rig.plan().exits(2).json()), ["ada replace"], "{image}");
        assert_eq!(verdicts(&rig.apply(0)), ["ada replace"], "{image}");
        assert_eq!(rig.inside("ada", "ls /tmp/mine 2>/dev/null; echo none"), "none", "{image}");
        rig.converged();
    };
    rig.tree.agent("ada", "dev", "", "x");
    says("");
    rig.apply(0);
    rig.converged();
    let is_host = || rig.inside("ada", "[ -e /bin/busybox ] && echo image || echo host");
    let host = is_host();
    replaced(&format!("image: {}\n", root.display()));
    assert_eq!(is_host(), "image");
    replaced("");
    assert_eq!(is_host(), host);

    // What the backend that it is on cannot make is no replace that fails.
    rig.inside("ada", "echo mine > /tmp/mine");
    for image in ["registry.example/site:1", "docker:site"] {
        says(&format!("image: {image}\n"));
        let held = rig.plan().exits(3).json();
        assert_eq!(verdicts(&held), ["ada hold"], "{image}");
        let said = held["changes"].to_string();
        for word in ["asks no registry", "`backend: docker`", image] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert_eq!(verdicts(&rig.apply(3)), ["ada hold"], "{image}");
        assert_eq!(rig.inside("ada", "cat /tmp/mine"), "mine");
    }
    says("");
    rig.converged();
}
