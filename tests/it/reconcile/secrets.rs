//! A value given for `"?"` is inside, and nowhere else.

use super::rig::{Rig, docker, verdicts};
use std::process::Command;

pub(super) fn an_asked_for_value_is_found_nowhere(rig: &Rig) {
    let canary = format!("cAnArY'\"$x{}", crate::support::unique("value"));
    rig.bottle("env:\n  SECRET: \"?\"\n  PLAIN: visible\n");
    rig.agents(1);
    let tree = rig.tree.path().to_str().unwrap();
    let held = rig.apply(3);
    assert_eq!(verdicts(&held), ["a0 hold"]);
    assert!(held["changes"].to_string().contains("SECRET"), "{held}");
    let file = rig.cli.cwd().join("values.env");
    std::fs::write(&file, format!("SECRET={canary}\n")).unwrap();
    let file = file.to_str().unwrap();
    let done = rig.cli.run(["-vvv", "apply", tree, "--yes", "--env-file", file]).exits(0);
    assert_eq!(rig.inside("a0", "printf %s \"$SECRET $PLAIN\""), format!("{canary} visible"));
    rig.converged();
    // A part of it that no encoding of JSON or shell would change.
    let needle = canary.split("$x").last().unwrap().to_owned();
    assert!(!done.stdout.contains(&needle) && !done.stderr.contains(&needle));
    std::fs::remove_file(file).unwrap();
    let grep = Command::new("grep").args(["-rl", &needle]).arg(rig.cli.home()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "", "in the state folder");
    let ps = Command::new("ps").args(["axeww"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&ps.stdout).contains(&needle), "in the process list");
    if rig.backend == "docker" {
        let id = rig.container("a0");
        assert!(!docker(&["inspect", &id]).contains(&needle));
        assert!(!docker(&["logs", &id]).contains(&needle));
        assert!(!docker(&["diff", &id]).contains("/run/bottle/env"), "it is on tmpfs");
    }
    // A restart loses it; the next pass waits for it, and only for it.
    rig.crash("a0");
    assert_eq!(verdicts(&rig.apply(3)), ["a0 reprovision"]);
    assert_eq!(rig.inside("a0", "printf %s \"$SECRET\""), "");
    let waiting = rig.plan().exits(3).json();
    assert_eq!(verdicts(&waiting), ["a0 hold"]);
    let again = rig
        .cli
        .command(["apply", tree, "--yes"])
        .env("BOTTLE_ENV_SECRET", "another")
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(rig.inside("a0", "printf %s \"$SECRET\""), "another");
    rig.converged();
}
